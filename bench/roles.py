"""Memory of PPO: policy, reference, critic and reward model as four models, and as roles over one base.

One iteration of stage `online`: answers to eight prompts are drawn, scored, read by all roles and learnt from.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench import process, results
from bench.machine import Memory
from bench.rows import NotThereError
from bench.scaling import comparisons
from bench.statistics import median
from bench.training import Settings, say
from truing import formats
from truing.models import locate
from truing.pipeline import check, make_recipe, plan, run_recipe
from truing.progress import Reporter, Task
from truing.recipe import Recipe
from truing.store import Run

LORA = {"rank": 16}
WAYS: dict[str, dict[str, Any]] = {
    "four models, all weights trained": {},
    "adapters, each on a base of its own": {"lora": LORA, "one_base": False},
    "adapters over one base": {"lora": LORA},
    "adapters over one base in 8 bits": {"lora": LORA, "base_bits": 8},
    "adapters over one base in 4 bits": {"lora": LORA, "base_bits": 4},
}
PROMPTS, WORDS = 8, 80
"""Prompts of the rollout, and their mean length in words, which are about tokens."""
NEW_TOKENS = 64
"""Length limit of an answer."""


def run(settings: Settings, new_tokens: int = NEW_TOKENS) -> None:
    """Every way in a process of its own, in turn, into the results file."""
    if find_spec("bitsandbytes") is None:
        raise NotThereError("bitsandbytes is not there: pip install 'truing[quantised]'")
    with tempfile.TemporaryDirectory() as name:
        shared = {"model": settings.model, "device": settings.device, "tokens": settings.forest_tokens}
        shared |= {"new_tokens": new_tokens, "at": name}
        for kind, lora in (("whole", None), ("adapter", LORA)):
            process.run("bench.roles:judge", {**shared, "name": f"reward model, {kind}", "kind": kind, "lora": lora})
        runs: dict[str, list[Any]] = {way: [] for way in WAYS}
        for number in range(settings.rounds):
            say(f"roles: round {number + 1} of {settings.rounds}")
            for way, own in WAYS.items():
                runs[way].append(process.run("bench.roles:iteration", {**shared, "name": way, "settings": own}))
    systems = {
        way: {
            "memory": {part: median([one["memory"][part] for one in own]) for part in own[0]["memory"]},
            "planned": own[0]["planned"],
            "step": own[0]["step"],
        }
        for way, own in runs.items()
    }
    how = {name: str(value) for name, value in asdict(settings).items() if name in ("model", "rounds", "forest_tokens")}
    entry = {"ways": systems, "apart": apart_by(systems), "settings": how | {"max_new_tokens": str(new_tokens)}}
    results.store(settings.out, "roles", "ppo", entry, settings.device)
    for way, one in systems.items():
        say(f"{way}: {one['memory']['iteration']['value'] / 1e9:.2f} GB")


def apart_by(systems: Mapping[str, Mapping[str, Any]]) -> float:
    """How far the first step over one base is from that on bases apart, as a share."""
    one, other = (systems[way]["step"] for way in ("adapters over one base", "adapters, each on a base of its own"))
    return max(float(abs(one[name] - other[name]) / max(abs(other[name]), 1e-6)) for name in other)


def judge(spec: Mapping[str, Any]) -> None:
    """A reward model after one step, with all its weights or an adapter, into the shared folder."""
    stage = {"use": "reward_model", "max_steps": 1, "batch_size": PROMPTS, "lora": spec["lora"], "checkpointing": True}
    folder = run_recipe(_recipe(spec, stage), out=_judge(spec, spec["kind"]), reporter=Reporter(_nowhere()))
    assert Run.read(folder).artifacts()


def iteration(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Peaks of memory of one rollout and its updates, in bytes; what the plan says; and numbers of the first step."""
    own = spec["settings"]
    source = locate(str(_judge(spec, "adapter" if "lora" in own else "whole")), "reward")
    stage = {
        "use": "online", "algorithm": "ppo", "scorer": {"name": "reward_model", "model": source}, "reward": source,
        "rollouts": 1, "prompts": PROMPTS, "batch_size": PROMPTS, "max_new_tokens": spec["new_tokens"],
        "forest_tokens": spec["tokens"], "checkpointing": True, "held_out_prompts": 1, **own,
    }  # fmt: skip
    recipe = _recipe(spec, stage)
    planned = check(recipe, plan(recipe))["training"]["online"]["memory_bytes"]
    device = torch.device(spec["device"])
    before = Memory(device)
    reporter = _Watched(device)
    folder = run_recipe(recipe, out=Path(spec["folder"]) / spec["name"], reporter=reporter)
    assert reporter.memory is not None, "the loop over steps was entered"
    metrics = next(event["metrics"] for event in Run.read(folder).events("online", "step"))
    iterated = reporter.memory.taken()
    return {
        "memory": {
            "libraries": before.baseline,
            "loaded": iterated["baseline"],
            "iteration": reporter.memory.baseline + iterated["above"],
            "whole": iterated["peak"],
        },
        "planned": planned,
        "step": {name: metrics[name] for name in ("loss", "reward", "length")},
    }


class _Watched(Reporter):
    """Memory is watched from the moment at which the loop over steps begins: everything is loaded then."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(_nowhere())
        self.device = device
        self.memory: Memory | None = None

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[Task]:
        """As a reporter's."""
        self.memory = Memory(self.device)
        with super().task(what, total, done) as task:
            yield task


def _recipe(spec: Mapping[str, Any], stage: Mapping[str, Any]) -> Recipe:
    path = Path(spec["folder"]) / "rows.jsonl"
    formats.write_data(comparisons(PROMPTS, WORDS), path, format="group")
    data = {"path": str(path), "held_out": 0.0}
    table = {"model": locate(spec["model"]), "device": spec["device"], "data": data, "stage": [stage]}
    return make_recipe(table)


def _judge(spec: Mapping[str, Any], kind: str) -> Path:
    return Path(spec["at"]) / kind


def _nowhere() -> Console:
    return Console(file=io.StringIO())
