"""Fits against hand values, rows that are made up, and errors of the measuring process in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model

from truing import measuring, models
from truing.costs import Load, Shape, logit_bytes
from truing.errors import TruingError
from truing.measuring import Probe, Room, Speed, Work, fit_room, fit_speed
from truing.pipeline import make_recipe, plan

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


def test_the_largest_budget_that_fits_is_proposed() -> None:
    room = Room(loading=0, base=1000, token=10, shape=SHAPE, itemsize=4)
    load = Load(1024, 0)
    bytes_of = {tokens: room.peak(Load(tokens, 0)) for tokens in (256, 1024, 2048)}
    found = measuring._proposal(room, load, 100, bytes_of[1024], 0.1)
    assert (found["fits"], found["fitting_forest_tokens"]) == (True, 1024)
    assert found["fitting_with_checkpointing"] == 8192
    found = measuring._proposal(room, load, 300, bytes_of[256], 0.1)
    assert (found["fits"], found["fitting_forest_tokens"]) == (False, None), "a row of 300 tokens is never cut"
    assert found["fitting_with_checkpointing"] == 2048


def test_rows_that_a_stage_has_yet_to_write_are_as_long_as_they_may_become(tmp_path: Path) -> None:
    model = tiny_model.save(tmp_path / "model")
    prompts = tiny_model.write_rows(tmp_path / "p.jsonl", ({"prompt": f"{i:03}?"} for i in range(5)))
    principle = {"text": "short", "positive": ["Be brief."], "negative": ["Ramble."]}
    stages = [{"use": "contrast", "max_new_tokens": 40}, {"use": "preference"}, {"use": "sft", "name": "next"}]
    table = {"model": str(model), "data": {"path": str(prompts)}, "principle": principle, "stage": stages}
    planned = plan(make_recipe(table))
    renderer = models.read_renderer(str(model))
    groups = measuring._groups(planned[1].inputs["data"], planned, renderer)
    assert len(groups) == 5
    for row in map(renderer.render, groups):
        assert all(30 <= len(answer.tokens) <= 50 for answer in row.answers)
    assert measuring._root(planned[2].inputs["model"], planned) == str(model)


def test_an_error_of_the_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(TruingError, match=r"sft: 8 tokens: .*spec\.json"):
        measuring._run(tmp_path, "sft: 8 tokens")
