"""What is killed: an algorithm a row, each as a recipe's stages on a tiny model and a few rows of data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny
import tiny_model

from truing.pipeline import Recipe, make_recipe

Stages = Sequence[dict[str, Any]]

TRAINED = {"batch_size": 2, "learning_rate": 3e-3, "epochs": 2, "max_steps": 6, "save_every": 2}
"""Checkpoints in the middle of an epoch, and a second one that ends before its end."""
WATCHED = {**TRAINED, "measure_every": 3}
ONLINE = {
    "use": "online", "scorer": {"name": "function", "path": "REWARDS:vowels"}, "rollouts": 3, "prompts": 4,
    "batch_size": 2, "max_new_tokens": 4, "learning_rate": 3e-3, "forest_tokens": 90, "save_every": 3,
}  # fmt: skip
"""Two updates of each rollout, and checkpoints between them."""
SHAPED = {"reward_scaling": "standard", "reward_kl": 0.1, "reward_kl_target": 0.5, "reward_kl_horizon": 20.0}
LOOP = {
    "use": "loop", "name": "self", "rounds": 2, "stage": [
        {"use": "sample", "answers": 3, "max_new_tokens": 4, "temperature": 1.5},
        {"use": "score", "scorer": {"name": "length", "unit": "characters"}, "keep": "best_and_worst"},
        {"use": "preference", **TRAINED, "epochs": 1},
    ],
}  # fmt: skip

ALGORITHMS: dict[str, Stages] = {
    "sft": [{"use": "sft", **TRAINED, "schedule": "cosine"}],
    "dpo": [
        {"use": "preference", **WATCHED, "forest_tokens": 60},
        {"use": "evaluate", "max_new_tokens": 4, "temperature": 1.0},
    ],
    "dpo_lora": [{"use": "preference", **WATCHED, "lora": {"rank": 4}, "forest_tokens": 60}],
    "kto": [{"use": "preference", **WATCHED, "objective": "kto"}],
    "reward_model": [{"use": "reward_model", **WATCHED}],
    "ppo": [{**ONLINE, "algorithm": {"name": "ppo_max", "epochs": 1, **SHAPED}, "critic_warmup": 1}],
    "grpo": [{**ONLINE, "algorithm": {"name": "grpo", "epochs": 1, "group_size": 3}}],
    "loop": [LOOP],
}
"""`forest_tokens` so low that the gradient of a step is gathered over several forests."""


def prepare(folder: Path) -> None:
    """Puts the model, the data and the reward function there."""
    config = tiny.config(num_hidden_layers=1, hidden_size=16, intermediate_size=24)
    tiny.plain_model(of=config).save_pretrained(folder / "model")
    tiny.tokenizer(tiny.NEWLINE_TEMPLATE).save_pretrained(folder / "model")
    tiny_model.write_pairs(folder / "pairs.jsonl", 12)
    tiny_model.write_demonstrations(folder / "demonstrations.jsonl", 9)
    thumbs = (
        {"prompt": pair.prompt[0].content, "completion": answer.text, "label": good}
        for pair in tiny_model.pairs(6)
        for answer, good in zip(pair.completions, (True, False), strict=True)
    )
    tiny_model.write_rows(folder / "thumbs.jsonl", thumbs)
    (folder / "rewards.py").write_text(
        "def vowels(prompt, answer):\n    return sum(letter in 'aeiou' for letter in answer) / max(len(answer), 1)\n"
    )


def recipe(algorithm: str, folder: Path) -> Recipe:
    """The recipe of an algorithm, with what lies in the folder."""
    file, held_out = {"sft": ("demonstrations", 0.0), "kto": ("thumbs", 0.3)}.get(algorithm, ("pairs", 0.3))
    stages = json.loads(json.dumps(ALGORITHMS[algorithm]).replace("REWARDS", str(folder / "rewards.py")))
    about = {"name": algorithm, "model": str(folder / "model"), "device": "cpu", "precision": "fp32"}
    data = {"path": str(folder / f"{file}.jsonl"), "held_out": held_out}
    return make_recipe({**about, "data": data, "stage": stages})
