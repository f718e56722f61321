"""Budgets that are proposed, and rows that are made up."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from rich.console import Console

from truing import measuring, models
from truing.costs import Lengths, Load, Shape, operations
from truing.fitting import Room, Speed
from truing.pipeline import make_recipe, plan
from truing.progress import Reporter

SHAPE = Shape(layers=1, width=4, inner=8, heads=2, groups=1, head_width=2, vocabulary=10)


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


def test_an_audit_is_measured_by_one_training_on_all_its_rows(tmp_path: Path) -> None:
    """Really measured: the probe must not take the first of many models for the whole."""
    model, pairs = tiny_model.save(tmp_path / "model"), tiny_model.write_pairs(tmp_path / "pairs.jsonl", 12)
    stage = {"use": "audit", "batch_size": 4, "members": 2, "folds": 3}
    recipe = make_recipe({"model": str(model), "data": {"path": str(pairs)}, "stage": [stage, {"use": "preference"}]})
    found = measuring.measure(recipe, plan(recipe), Reporter(console=Console(file=io.StringIO())))
    audit = found["audit"]
    assert audit["steps"] == 2 * 2 * 3
    assert found["preference"]["steps"] == 2


@pytest.mark.parametrize(("stage", "trainings", "looks", "readings"), [
    ({"use": "audit", "members": 2, "folds": 3}, 4, 0, 2),
    ({"use": "reward_model", "members": 3}, 3, 6, 0),
    ({"use": "reward_model", "measure_every": 1}, 1, 3, 0),
    ({"use": "reward_model", "measure_every": 2}, 1, 2, 0),
])  # fmt: skip
def test_all_trainings_looks_and_readings_are_in_the_time(
    tmp_path: Path, stage: dict[str, Any], trainings: int, looks: int, readings: int
) -> None:
    """With a speed given, the seconds are a sum that one can write down."""
    model, pairs = tiny_model.save(tmp_path / "model"), tiny_model.write_pairs(tmp_path / "pairs.jsonl", 16)
    table = {"model": str(model), "data": {"path": str(pairs), "held_out": 0.3}, "stage": [{**stage, "batch_size": 7}]}
    recipe = make_recipe(table)
    (planned,) = plan(recipe)
    measured = measuring._Measured.of(recipe, [planned], planned)
    shape = Shape.of(models.read_config(str(model)))
    found = measured._times(Speed(0.5, 0.0, 3e-9), [], shape)
    held_out = planned.inputs.get("held_out")
    held = [] if held_out is None else [measured.renderer.render(group) for group in held_out.read()]
    steps = -(-len(measured.rows) // 7)
    assert steps == 2
    every, watched = (operations(shape, map(Lengths.of, rows)) for rows in (measured.rows, held))
    expected = trainings * (steps * 0.5 + 3e-9 * every) + 1e-9 * (readings * every + looks * watched)
    assert found["seconds"] == pytest.approx(expected, rel=1e-9)
