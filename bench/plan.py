"""What `truing plan --measure` predicts beside what the run then takes: peak memory and seconds of a step."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import process, results
from bench.scaling import comparisons
from bench.training import Settings, say
from truing import formats
from truing.measuring import measure
from truing.models import locate
from truing.pipeline import make_recipe, plan, run_recipe
from truing.progress import Reporter
from truing.recipe import Recipe
from truing.store import Run

CASES: dict[str, dict[str, Any]] = {
    "dpo": {"use": "preference"},
    "dpo-lora": {"use": "preference", "lora": {"rank": 16}},
    "sft": {"use": "sft"},
}
TOKENS = (512, 1024)
WITHIN = {"memory": 0.15, "time": 0.25}
STEPS = 6
WORDS = 80


def run(settings: Settings, case: str = "all", tokens: int = 0, words: int = WORDS) -> None:
    """Every case at every forest budget, or those named, into the results file."""
    for name in CASES if case == "all" else (case,):
        for budget in (tokens,) if tokens else TOKENS:
            spec = {**_plain(settings), "name": f"plan {name} {budget}", "case": name, "tokens": budget, "words": words}
            predicted = process.run("bench.plan:predicted", spec)
            measured = process.run("bench.plan:measured", spec)
            entry = {"predicted": predicted, "measured": measured, "off": _off(predicted, measured), "within": WITHIN}
            say(f"{spec['name']}: " + ", ".join(f"{what} off by {100 * by:.0f} %" for what, by in entry["off"].items()))
            results.store(settings.out, "plan", f"{name}-{budget}", entry, settings.device)


def predicted(spec: Mapping[str, Any]) -> dict[str, float]:
    """What the plan says."""
    recipe = _recipe(spec)
    (found,) = measure(recipe, plan(recipe), _quiet()).values()
    return {"memory": found["peak_bytes"], "time": found["step_seconds"]}


def measured(spec: Mapping[str, Any]) -> dict[str, float]:
    """What the run takes: its largest resident size, and the mean of its steps after the first, which warms up."""
    folder = run_recipe(_recipe(spec), out=Path(spec["folder"]) / "run", reporter=_quiet())
    events = list(Run.read(folder).events())
    at = [float(event["time"]) for event in events if event["kind"] == "step"]
    (end,) = (event for event in events if event["kind"] == "end")
    return {"memory": float(end["peak_memory_bytes"]), "time": (at[-1] - at[0]) / (len(at) - 1)}


def _off(predicted: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """By which share of what was measured the prediction is off."""
    return {name: abs(predicted[name] - measured[name]) / measured[name] for name in WITHIN}


def _recipe(spec: Mapping[str, Any]) -> Recipe:
    path = Path(spec["folder"]) / "rows.jsonl"
    formats.write_data(comparisons(STEPS * spec["batch"], spec["words"]), path, format="group")
    stage = CASES[spec["case"]] | {"batch_size": spec["batch"], "forest_tokens": spec["tokens"]}
    table = {"model": locate(spec["model"]), "device": spec["device"], "data": {"path": str(path)}, "stage": [stage]}
    return make_recipe(table)


def _quiet() -> Reporter:
    return Reporter(Console(file=io.StringIO()))


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name in ("model", "device", "batch")}
