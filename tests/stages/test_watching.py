"""Looks at held-out rows: they change nothing, and what they measure is of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model

from truing.formats import FORMATS
from truing.records import Group, assistant
from truing.signatures import validated
from truing.stages.preference import Preference, preference
from truing.stages.reward_model import RewardModel, reward_model
from truing.store import Run

SHORT = {"batch_size": 4, "learning_rate": 3e-3, "epochs": 2}


def test_looks_at_held_out_rows_on_the_way_change_nothing(folder: Path, runs: Callable[[], Run]) -> None:
    found = []
    for every in (None, 2):
        run = runs()
        settings = validated(Preference, SHORT | {"measure_every": every}, "test")
        data, held_out = tiny_model.given(tiny_model.pairs()), tiny_model.given(tiny_model.pairs(4, start=40))
        preference(tiny_model.context(run, "dpo"), settings, tiny_model.model_of(folder), data, held_out)
        found.append(
            (
                tiny_model.weights_hash(run.checkpoints()[-1].path),
                [event["step"] for event in run.events("dpo", "held_out")],
            )
        )
    (plain, ends), (watched, steps) = found
    assert plain == watched
    assert ends == [0, steps[-1]]
    assert steps == [0, 2, 4, 6]


def ranked(count: int) -> list[Group]:
    """Three answers to each prompt."""
    return [
        replace(g, completions=(*g.completions, replace(g.completions[0], messages=(assistant("no, no"),), rank=2)))
        for g in tiny_model.pairs(count)
    ]


def in_steps(labels: Sequence[bool], prompt: str) -> Group:
    """An answer in as many steps."""
    words = [f"so {prompt} {number}" for number in range(len(labels))]
    return FORMATS["stepwise"].read({"prompt": f"{prompt}?", "completions": words, "labels": list(labels)})


def loss_after_a_step(run: Run, folder: Path, objective: str, data: list[Group], held_out: list[Group]) -> float:
    """Of held-out rows, four at a time; the model does not depend on them."""
    stage, kind = (preference, Preference) if objective in ("dpo", "aot_unpaired") else (reward_model, RewardModel)
    settings = {"objective": objective, "max_steps": 1, "learning_rate": 1e-2, "warmup": 0.0, "batch_size": 4}
    stage(
        tiny_model.context(run, "s"),
        validated(kind, settings, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(data),
        tiny_model.given(held_out, "held"),
    )
    return float(list(run.events("s", "held_out"))[-1]["loss"])


@pytest.mark.parametrize("objective", ["simcse", "aot_unpaired"])
def test_rows_that_meet_meet_as_many_as_in_a_step(folder: Path, runs: Callable[[], Run], objective: str) -> None:
    """Whatever the number of held-out rows: the loss is the mean of what each four of them have by themselves."""
    rows = [*ranked(4), *tiny_model.pairs(4, start=30)]

    def loss(held_out: list[Group]) -> float:
        return loss_after_a_step(runs(), folder, objective, tiny_model.pairs(), held_out)

    first, second = loss(rows[:4]), loss(rows[4:])
    assert abs(first - second) > 1e-3, "the order of rows must matter, or this test proves nothing"
    assert loss(rows) == pytest.approx((first + second) / 2, rel=1e-4)
    assert loss(rows * 3) == pytest.approx(loss(rows), rel=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "process"])
def test_a_held_out_row_counts_as_in_training(folder: Path, runs: Callable[[], Run], objective: str) -> None:
    """Its pairs or steps share its weight; one of no weight is left out."""
    if objective == "dpo":
        data, rows = tiny_model.pairs(), [ranked(1)[0], tiny_model.pairs(1, start=30)[0]]
    else:
        data = [in_steps([n % 2 == 0, n % 3 == 0], f"q {n}") for n in range(4)]
        rows = [in_steps([True, False, True, True], "a"), in_steps([False], "b")]
    rows = [rows[0], replace(rows[1], weight=2.0)]

    def loss(held_out: list[Group]) -> float:
        return loss_after_a_step(runs(), folder, objective, data, held_out)

    many, one = loss(rows[:1]), loss(rows[1:])
    assert abs(many - one) > 1e-3, "the two must differ, or this test proves nothing"
    assert loss([*rows, replace(rows[0], weight=0.0)]) == pytest.approx((many + 2 * one) / 3, rel=1e-5)


def test_rows_that_count_nothing_are_not_looked_at(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    held_out = [replace(group, weight=0.0) for group in tiny_model.pairs(3, start=40)]
    settings, model = validated(Preference, SHORT, "test"), tiny_model.model_of(folder)
    data = tiny_model.given(tiny_model.pairs())
    preference(tiny_model.context(run, "dpo"), settings, model, data, tiny_model.given(held_out, "held"))
    assert list(run.events("dpo", "held_out")) == []


@pytest.mark.parametrize("objective", ["plackett_luce", "dpo"])
def test_accuracy_on_held_out_rankings_counts_prompts(folder: Path, runs: Callable[[], Run], objective: str) -> None:
    """Three answers to each prompt: a share of three comparisons, which is no win or loss, and n is the prompts'."""
    run = runs()
    settings = validated(Preference, {"objective": objective, "max_steps": 1, "learning_rate": 1e-2}, "test")
    model = tiny_model.model_of(folder)
    preference(
        tiny_model.context(run, "p"), settings, model, tiny_model.given(ranked(5)), tiny_model.given(ranked(5), "held")
    )
    after = list(run.events(kind="held_out"))[-1]["accuracy"]
    assert 0 <= after["low"] <= after["value"] <= after["high"]
    assert after["n"] in (5, 15)
