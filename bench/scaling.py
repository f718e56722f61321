"""Cost of a useful token as the data grow from 50 to 5,000 pairs, and as steps grow from 4 to 64 rows.

Everything a stage does for each row is done for all rows: judging, rendering, packing the reference, choosing and
packing the rows of every step. Of the passes through the model a spread sample is run, and counted for all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bench import flops, ours, process, results
from bench.rows import MAX_LENGTH, SIGMA
from bench.statistics import median
from bench.training import BETA, LEARNING_RATES, Settings, say
from truing.compute.engine.local import LocalEngine
from truing.models import load, locate
from truing.packing import pack
from truing.records import Completion, Group, assistant, comparison, user
from truing.rendering import Row
from truing.stages.arranging import judged_rows
from truing.stages.preference import Preference
from truing.stages.training import render_rows, step_count, step_rows

PAIRS = (50, 500, 5000)
BATCHES = (4, 8, 16, 32, 64)
SAMPLED_ROWS = 64


def run(settings: Settings, pairs: Sequence[int] = PAIRS, batches: Sequence[int] = BATCHES, words: int = 100) -> None:
    """Both curves, into the results file. words: of a mean prompt; answers have half as many."""
    middle = pairs[len(pairs) // 2]
    points = _points(
        settings, [*((count, settings.batch) for count in pairs), *((middle, of) for of in batches)], words
    )
    entry: dict[str, Any] = {"by_pairs": points[: len(pairs)], "by_batch": points[len(pairs) :]}
    entry["spread"] = {"pairs": _spread(entry["by_pairs"]), "batch": _spread(entry["by_batch"])}
    for name, found in entry["spread"].items():
        say(f"scaling over {name}: {100 * found:.0f} % between the cheapest and the dearest token")
    results.store(settings.out, "scaling", "hh", entry, settings.device)


def _points(settings: Settings, shapes: Sequence[tuple[int, int]], words: int) -> list[dict[str, Any]]:
    """Medians over all rounds for each (pairs, rows of a step), measured in turn."""
    measured: list[list[dict[str, Any]]] = [[] for _ in shapes]
    for number in range(settings.rounds):
        say(f"scaling: round {number + 1} of {settings.rounds}")
        for place, (count, batch) in enumerate(shapes):
            spec = {"name": f"{count} pairs, steps of {batch}", "model": locate(settings.model), "words": words}
            spec |= {"device": settings.device, "pairs": count, "batch": batch}
            measured[place].append(process.run("bench.scaling:whole_stage", spec))
    return [
        {
            "pairs": count,
            "batch": batch,
            "seconds_per_token": median([one["seconds_per_token"] for one in some]),
            "parts": {name: median([one["parts"][name] for one in some]) for name in some[0]["parts"]},
        }
        for (count, batch), some in zip(shapes, measured, strict=True)
    ]


def _spread(points: Sequence[Mapping[str, Any]]) -> float:
    """How much more the dearest token costs than the cheapest; 0 is flat."""
    values = [point["seconds_per_token"]["value"] for point in points]
    return float(max(values) / min(values) - 1)


def whole_stage(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds for each useful token of a `preference` stage over all its pairs."""
    device = torch.device(spec["device"])
    engine = LocalEngine(load(spec["model"], dtype=torch.float32, device=device), dtype=torch.bfloat16)
    settings = Preference(batch_size=spec["batch"], max_length=MAX_LENGTH)
    groups = comparisons(spec["pairs"], spec["words"])
    began = time.perf_counter()
    judged = judged_rows(settings.bound(), groups, settings.pairs)
    rows, _, _ = render_rows(engine.renderer, [one.group for one in judged], settings)
    rendered = time.perf_counter()
    reference = pack(rows, settings.forest_tokens)
    steps = [
        [rows[index] for index in step_rows(len(rows), number, settings, 0)]
        for number in range(1, step_count(len(rows), settings) + 1)
    ]
    for step in steps:
        pack(step, settings.forest_tokens)
    planned = time.perf_counter()
    tokens = flops.useful_tokens(rows)
    parts = {
        "rendering": (rendered - began) / tokens,
        "packing": (planned - rendered) / tokens,
        "reference": _reference_cost(engine, reference),
        "steps": _step_cost(engine, rows, steps, spec["batch"], settings.forest_tokens),
    }
    return {"seconds_per_token": sum(parts.values()), "parts": parts}


def _reference_cost(engine: LocalEngine, forests: Sequence[Any]) -> float:
    """Seconds a token of the reference's pass takes, after a warm-up, over forests spread evenly."""
    some = _spread_evenly(forests, 4)
    with torch.no_grad():
        engine.logprobs(some[0])
        began = time.perf_counter()
        for forest in some:
            engine.logprobs(forest)
    return (time.perf_counter() - began) / sum(map(len, some))


def _step_cost(
    engine: LocalEngine, rows: Sequence[Row], steps: Sequence[Sequence[Row]], batch: int, budget: int
) -> float:
    """Seconds a token of training takes, after a warm-up step, over steps spread evenly."""
    method = ours.Dpo(engine, BETA, live=False, budget=budget)
    some = _spread_evenly([step for step in steps if len(step) == batch] or steps, max(1, SAMPLED_ROWS // batch))
    method.prepare([row for step in some for row in step])
    phases = ours.Phases(engine.device)
    given = {"learning_rate": LEARNING_RATES["dpo"], "forest_tokens": budget}
    ours.optimize(engine, method, some[0], given, phases)
    began = time.perf_counter()
    for step in some:
        ours.optimize(engine, method, step, given, phases)
    return (time.perf_counter() - began) / sum(map(flops.useful_tokens, some))


def _spread_evenly(things: Sequence[Any], count: int) -> list[Any]:
    count = min(count, len(things))
    return [things[int((number + 0.5) / count * len(things))] for number in range(count)]


def comparisons(count: int, words: int) -> list[Group]:
    """Comparisons of random words whose lengths are log-normal; a word is about a token."""
    rng = np.random.default_rng(0)
    vocabulary = ["time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school"]

    def some(mean: int) -> str:
        length = round(float(rng.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA)))
        return " ".join(rng.choice(vocabulary, min(max(length, 1), 400)))

    def answer(place: int) -> Completion:
        return Completion((assistant(f"{some(words // 2)} {place}"),))  # never twice the same

    return [comparison((user(f"{some(words)} {place}"),), answer(1), answer(2)) for place in range(count)]
