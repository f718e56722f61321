"""Looks at held-out rows: they change nothing, and what they measure is of prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model

from truing.records import assistant
from truing.signatures import validated
from truing.stages.preference import Preference, preference
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


@pytest.mark.parametrize("objective", ["plackett_luce", "dpo"])
def test_accuracy_on_held_out_rankings_counts_prompts(folder: Path, runs: Callable[[], Run], objective: str) -> None:
    """Three answers to each prompt: a share of three comparisons, which is no win or loss, and n is the prompts'."""
    ranked = [
        replace(g, completions=(*g.completions, replace(g.completions[0], messages=(assistant("no, no"),), rank=2)))
        for g in tiny_model.pairs(5)
    ]
    run = runs()
    settings = validated(Preference, {"objective": objective, "max_steps": 1, "learning_rate": 1e-2}, "test")
    model = tiny_model.model_of(folder)
    preference(
        tiny_model.context(run, "p"), settings, model, tiny_model.given(ranked), tiny_model.given(ranked, "held")
    )
    after = list(run.events(kind="held_out"))[-1]["accuracy"]
    assert 0 <= after["low"] <= after["value"] <= after["high"]
    assert after["n"] in (5, 15)
