"""A card says where its own checkpoint comes from and what was measured on it, and nothing of its neighbours."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_model

from truing import pipeline
from truing.store import Run


def test_each_card_speaks_of_its_own_checkpoint(tmp_path: Path) -> None:
    model = tiny_model.save(tmp_path / "tiny")
    data = tiny_model.write_pairs(tmp_path / "pairs.jsonl", 24)
    small = {"max_steps": 1, "batch_size": 4}
    table = {
        "model": str(model),
        "device": "cpu",
        "precision": "fp32",
        "data": {"path": str(data), "held_out": 0.3},
        "stage": [
            {"use": "sft", **small},
            {"use": "preference", "lora": {"rank": 2}, **small},
            {"use": "evaluate", "max_new_tokens": 4},
        ],
    }
    folder = pipeline.run_recipe(pipeline.make_recipe(table), out=tmp_path / "run", reporter=tiny_model.quiet())
    run = Run.read(folder)
    first, second = [(checkpoint.path / "README.md").read_text() for checkpoint in run.checkpoints()]
    verdict = pipeline.last_verdict(folder)
    assert verdict is not None
    assert verdict not in first
    assert "nothing: no stage of the run evaluated this checkpoint" in first
    assert verdict in second
    assert "held-out comparisons" in second
    assert f"\nbase_model: {json.dumps(str(model))}\n" in first
    assert '\nbase_model: "checkpoint-1"\n' in second
    assert f"- base: `checkpoint-1`, in a run that began with `{model}`" in second
