"""Budgets that are proposed, and rows that are made up."""

from __future__ import annotations

import io
from pathlib import Path

import tiny_model
from rich.console import Console

from truing import measuring, models
from truing.costs import Load, Shape
from truing.fitting import Room
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
    # reading the votes takes no time that two probes of a tiny model could always see
    assert audit["seconds"] >= 0.999 * audit["steps"] * audit["step_seconds"]
    assert found["preference"]["steps"] == 2
