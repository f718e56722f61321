"""Loss curves in bf16 with fp32 masters beside plain fp32: the same rows in the same order, over several seeds.

The first steps of one seed are run by TRL in bf16 as well, whose autocast rounds the weights to the nearest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import process, results
from bench.ours import DTYPES
from bench.rows import NotThereError, as_json, first_answers, pool
from bench.training import BETA, LEARNING_RATES, Settings, say
from truing.models import locate

STEPS, SEEDS, BATCH = 200, 3, 4
SHORT = 48
"""Longest row in tokens: so short that all curves take minutes."""
SEARCHED = 10000
"""Rows among which short ones are looked for."""
WINDOW = 20
"""Steps over which a curve is smoothed."""
TRL_STEPS = 40


def run(settings: Settings, steps: int = STEPS, seeds: int = SEEDS) -> None:
    """SFT on short rows, real ones where they are at hand, into the results file."""
    model = locate(settings.model)
    source, rows = _rows(model)
    usual: dict[str, Any] = {"task": "sft", "model": model, "device": settings.device, "rows": as_json(rows)}
    usual |= {"warm_up": 0, "lora": False, "learning_rate": LEARNING_RATES["sft"], "beta": BETA}
    usual |= {"reference_pass": False, "forest_tokens": settings.forest_tokens}
    curves: dict[str, list[list[float]]] = {name: [] for name in DTYPES}
    for seed in range(seeds):
        for name, found in curves.items():
            own = {"name": f"{name}, seed {seed}", "steps": _steps(len(rows), seed, steps), "precision": name}
            found.append(process.run("bench.ours:train", usual | own)["loss"])
    spec: dict[str, Any] = {
        "name": "TRL in bf16",
        "steps": _steps(len(rows), 0, min(steps, TRL_STEPS)),
        "precision": "bf16",
    }
    spec |= {"options": {"micro_batch": BATCH, "gradient_checkpointing": False}, "log_all": True}
    trl: list[float] = process.run("bench.theirs:train", usual | spec)["loss"]
    beginning = {"truing": _mean_distance(curves["bf16"][0], curves["fp32"][0])}
    beginning |= {"trl": _mean_distance(trl, curves["fp32"][0])}
    entry: dict[str, Any] = {"rows": source, "curves": curves, "verdict": verdict(curves)}
    entry |= {"trl": trl, "beginning": beginning | {"steps": len(trl)}}
    results.store(settings.out, "curves", "sft", entry, settings.device)
    say(f"curves: {entry['verdict']}")


def verdict(curves: dict[str, list[list[float]]]) -> dict[str, float | bool | None]:
    """Smoothed curves: how far bf16 is from fp32 at the same seed, and how far seeds are from each other in fp32.

    within_noise: the mean distance between the widths is below the mean spread (standard deviation) of the seeds.
    """
    narrow, wide = (np.array([_smoothed(curve) for curve in curves[name]]) for name in ("bf16", "fp32"))
    apart = float(np.abs(narrow - wide).mean())
    if len(wide) < 2:
        return {"apart": apart, "seed_spread": None, "within_noise": None}
    noise = float(wide.std(axis=0, ddof=1).mean())
    return {"apart": apart, "seed_spread": noise, "within_noise": apart < noise}


def _steps(rows: int, seed: int, count: int) -> list[list[int]]:
    order = random.Random(seed)
    return [order.sample(range(rows), BATCH) for _ in range(count)]


def _mean_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Over the first TRL_STEPS steps."""
    pairs = list(zip(one, other, strict=False))[:TRL_STEPS]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def _rows(model: str) -> tuple[str, list[Any]]:
    for source in ("real", "tiny"):
        try:
            short = [row for row in first_answers(pool(source, model, SEARCHED)) if len(row) <= SHORT]
        except NotThereError as reason:
            say(f"curves on synthetic rows: {reason}")
            continue
        if len(short) >= 2 * BATCH:
            return source, short
    raise NotThereError(f"no {2 * BATCH} rows of at most {SHORT} tokens")


def _smoothed(curve: Sequence[float]) -> Any:
    width = min(WINDOW, len(curve))
    return np.convolve(curve, np.ones(width) / width, mode="valid")
