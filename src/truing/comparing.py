"""Several objectives on the same data, seeds and budget, and one page that says whether they can be told apart."""

from __future__ import annotations

import json
import math
import re
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from truing import formats, models, report
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError
from truing.models.precision import best_device, compute_dtype
from truing.objectives import Bound, bind
from truing.packing import pack
from truing.pipeline import run_recipe
from truing.progress import Reporter
from truing.recipe import StageSpec, make_recipe
from truing.records import Group
from truing.signatures import asks_for
from truing.stages.arranging import judged_rows
from truing.stages.preference import Preference
from truing.stages.sft import Sft, arranged
from truing.stages.training import render_rows
from truing.store.files import make_folders, write_atomic

BUDGET = "budget.json"
MOST_EPOCHS = 3
"""A budget that would take more passes over the data is cut to this many: the rows would be known by heart."""


def compare_objectives(
    data: str,
    names: Sequence[str],
    *,
    budget: str,
    model: str,
    out: Path,
    held_out: float | str = 0.2,
    principle: Path | None = None,
    prompts: int = 100,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> Path:
    """Trains the model with each objective, evaluates all on the same held-out prompts, and returns the page.

    One run folder holds everything: the same command goes on where it stopped, and another objective named with the
    earlier ones costs only its own training.

    budget: training time of DPO on this machine, such as 5m, from which the number of steps follows once; or the steps
        themselves, such as 40steps. Every objective gets the same number.
        csft makes two rows of a comparison, and sees half as many in them.
    principle: a TOML file with a [principle] that judges the answers; without one their likelihood under the base does.
    """
    bounds = [bind({"name": name}) for name in _old_first(dict.fromkeys(names), out)]
    if len(bounds) < 2:
        raise ConfigError("name at least two different objectives, such as --objectives dpo,ipo")
    groups = formats.read_groups(data)
    _check_data(bounds, groups, data)
    table: dict[str, Any] = {
        "name": "objectives",
        "model": model,
        "seed": seed,
        "data": {"path": data, "held_out": held_out},
        "stage": [entry for bound in bounds for entry in _stages(bound, model, prompts)],
    }
    if principle is not None:
        table["principle"] = _principle(principle)
    recipe = make_recipe(table, overrides)
    training = [spec for spec in recipe.stage if isinstance(spec, StageSpec) and spec.use in ("preference", "sft")]
    rows = len(groups) * (1 - held_out if isinstance(held_out, float) else 1)
    batch = int(training[0].settings.get("batch_size", Preference().batch_size))
    steps = _steps(budget, data, model, batch, out)
    most = MOST_EPOCHS * math.ceil(rows / batch)
    if steps > most:
        Reporter().say(f"{most} steps instead of {steps}: {MOST_EPOCHS} passes over the data are enough")
        steps = most
    limits = [
        f"{spec.name}.{key}={value}"
        for spec in training
        for key, value in (("max_steps", steps), ("epochs", steps))  # the steps alone decide
    ]
    return report.contest(run_recipe(make_recipe(table, [*limits, *overrides]), out=out))


def _stages(bound: Bound, model: str, prompts: int) -> list[dict[str, Any]]:
    """Training from the base, and evaluation, of one objective."""
    train: dict[str, Any]
    if bound.kind == "token":
        train = {"use": "sft", "name": bound.name, "model": model, "objective": bound.name}
    else:
        train = {"use": "preference", "name": bound.name, "model": model, "objective": {"name": bound.name}}
    evaluate = {"use": "evaluate", "name": f"{bound.name}-evaluation", "model": bound.name, "limit": prompts}
    if asks_for(bound.function)["policy"] in ("Conditioned", "Hindsight"):
        evaluate["instruction"] = Sft().good
    return [train, evaluate | {"max_new_tokens": 96}]


def _old_first(names: Iterable[str], out: Path) -> list[str]:
    """Objectives that the folder already holds keep their order, so that what they made still stands."""
    kept = out / "recipe.resolved.toml"
    known = [s["name"] for s in tomllib.loads(kept.read_text(encoding="utf-8"))["stage"]] if kept.is_file() else []
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def _check_data(bounds: Sequence[Bound], groups: Sequence[Group], data: str) -> None:
    """Rows that an objective cannot use are told before the first one trains."""
    for bound in bounds:
        try:
            if bound.kind == "token":
                arranged(Sft(objective=bound.name), groups, 0)
            else:
                judged_rows(bound, groups)
        except DataError as error:
            raise DataError(f"objective '{bound.name}' cannot use {data}: {error}") from error


def _principle(path: Path) -> Mapping[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no principle can be read from it: {error}") from None
    found: Mapping[str, Any] = table.get("principle", table)
    return found


def _steps(budget: str, data: str, model: str, batch: int, out: Path) -> int:
    """Optimizer steps that the budget allows. A time is measured once and kept, so that going on stays the same run."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(steps?|s|m|h)", budget.strip())
    if match is None:
        raise ConfigError(f"budget '{budget}' is not understood: write a time such as 5m, 90s or 1h, or 40steps")
    amount, unit = float(match[1]), match[2]
    if unit.startswith("step"):
        return max(1, round(amount))
    kept = out / BUDGET
    asked = {"budget": budget, "model": model, "data": formats.content_hash(data), "batch_size": batch}
    if kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if all(known.get(key) == value for key, value in asked.items()):
            return int(known["steps"])
    seconds = amount * {"s": 1, "m": 60, "h": 3600}[unit]
    one = _step_seconds(data, model, batch)
    steps = max(1, int(seconds / one))
    make_folders(out)
    write_atomic(kept, json.dumps({**asked, "seconds_per_step": one, "steps": steps}).encode())
    return steps


def _step_seconds(data: str, model: str, batch: int) -> float:
    """Seconds of one DPO step on the first rows of the data, its share of the reference included."""
    device = best_device()
    loaded = models.load(models.locate(model), dtype=torch.float32, device=device)
    engine = LocalEngine(loaded, dtype=compute_dtype("auto", device))
    groups = formats.read_groups(data, limit=2 * batch)
    rows, _, _ = render_rows(loaded.renderer, groups, Preference())
    taken = 0.0
    for some in (rows[:batch], rows[:batch]):  # the first step warms up
        began = time.monotonic()
        for forest in pack(some, Preference().forest_tokens):
            engine.backward(engine.logprobs(forest).token.mean())
        engine.step(1e-12, 1.0)
        taken = time.monotonic() - began
    return taken * 4 / 3  # a pass with gradient costs as much as three without
