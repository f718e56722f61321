"""The critic's warm-up: when it is over, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny_model
import torch

from truing.stages.warmup import Warmup
from truing.store import Run


def begins(errors: list[float], *, most: int = 20, settled: float | None = 0.1, window: int = 2) -> int:
    """The rollout, counted from 0, with which the policy begins to learn. Nothing after it turns that round."""
    warmup = Warmup(most, settled, window, {})
    over = [warmup.is_over(number, error) for number, error in enumerate(errors)]
    first = over.index(True)
    assert all(over[first:])
    return first


FALLING = [8.0, 8.0, 4.0, 4.0, 2.0, 2.0, 1.9, 1.9, 0.1, 0.1, 0.1, 0.1]


def test_it_is_over_where_the_error_no_longer_falls_from_one_window_to_the_next() -> None:
    assert begins(FALLING) == 7, "the first two windows that differ by less than a tenth are 2.0, 2.0 and 1.9, 1.9"
    assert begins(FALLING, settled=0.04) == 11
    assert begins(FALLING, settled=0.51) == 3
    assert begins(FALLING, window=1) == 1
    assert begins(FALLING, window=4, settled=0.67) == 9, "falls of .675, .672 and .667"


def test_an_error_that_rises_or_was_always_0_has_settled() -> None:
    assert begins([1.0, 1.0, 2.0, 2.0]) == 3
    assert begins([0.0] * 4) == 3


def test_it_is_over_at_last_after_the_most_rollouts() -> None:
    halving = [2.0**-number for number in range(12)]
    assert begins(halving, most=9) == 9
    assert begins(FALLING, most=5, settled=None) == 5
    assert begins(FALLING, most=0, settled=None) == 0


def test_without_a_critic_there_is_none() -> None:
    assert Warmup(0, None, 4, {}).is_over(0, None)


@pytest.mark.parametrize("again", range(10))
def test_gone_on_with_it_is_over_at_the_same_rollout(again: int) -> None:
    """What it remembers is in the memory; a rollout that is judged twice counts once."""
    memory: dict[str, torch.Tensor] = {}
    warmup = Warmup(20, 0.1, 2, memory)
    over = [warmup.is_over(number, error) for number, error in enumerate(FALLING[: again + 1])]
    other: dict[str, torch.Tensor] = {}
    going_on = Warmup(20, 0.1, 2, other)
    other |= memory
    over += [going_on.is_over(number, FALLING[number]) for number in range(again, len(FALLING))][1:]
    assert over.index(True) == 7


def test_why_it_is_over_is_told_once(runs: Callable[[], Run]) -> None:
    told = {}
    for most in (20, 6):
        run = runs()
        warmup = Warmup(most, 0.1, 2, {})
        for number, error in enumerate(FALLING):
            warmup.is_over(number, error)
            warmup.tell(tiny_model.context(run), number, step=number + 1)
        (told[most],) = run.events("stage", "critic_warmed_up")
        words = [event["message"] for event in run.events("stage", "warning")]
        assert bool(words) is (most == 6)
    assert (told[20]["rollout"], told[20]["settled"], told[20]["errors"]) == (8, True, FALLING[:8])
    assert (told[6]["rollout"], told[6]["settled"]) == (7, False)
    assert "still fell by 35% from one window of 2 rollouts to the next" in words[0]
