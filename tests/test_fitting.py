"""Fits against hand values."""

from __future__ import annotations

import pytest

from truing.costs import Load, Shape, logit_bytes
from truing.fitting import Probe, Speed, Work, fit_room, fit_speed

SHAPE = Shape(layers=1, width=4, inner=8, heads=2, groups=1, head_width=2, vocabulary=10)


def probe(tokens: int, training: float, loading: float = 0.0) -> Probe:
    return Probe([], [], (0.0, 0.0), Load(tokens, tokens // 2), loading, training, checkpointing=False)


def test_seconds_are_fitted_exactly_where_they_are_a_line() -> None:
    true = Speed(once=0.3, forest=0.05, operation=2e-11)
    works = [Work(1, 1e11), Work(2, 2e11), Work(1, 3e11), Work(2, 5e11), Work(3, 4e11)]
    found = fit_speed(works, [true.seconds(work) for work in works])
    assert found.once == pytest.approx(0.3)
    assert found.forest == pytest.approx(0.05)
    assert found.operation == pytest.approx(2e-11)
    assert found.seconds(Work(4, 1e12)) == pytest.approx(0.3 + 0.2 + 20)


def test_nothing_takes_less_than_no_time() -> None:
    found = fit_speed([Work(1, 1e9), Work(1, 2e9)], [2.0, 1.9])
    assert min(found.once, found.forest, found.operation) >= 0


def test_bytes_are_a_line_through_two_sizes_with_logits_by_formula() -> None:
    def training(tokens: int) -> float:
        return 1e6 + 300 * tokens + logit_bytes(SHAPE, 4, tokens // 2)

    room = fit_room([probe(1024, training(1024)), probe(512, training(512))], SHAPE, 4, 7.0)
    assert (room.base, room.token) == (pytest.approx(1e6), pytest.approx(300))
    assert room.peak(Load(4096, 2048)) == pytest.approx(training(4096))
    assert room.peak(Load(4096, 2048), saved=0.5) == pytest.approx(training(4096) - 150 * 4096)
    assert fit_room([probe(100, 5e6), probe(100, 5e6)], SHAPE, 4, 7.0).token == 7.0
    assert fit_room([probe(512, 2e6, 9e9), probe(1024, 3e6)], SHAPE, 4, 7.0).peak(Load(512, 256)) == 9e9
