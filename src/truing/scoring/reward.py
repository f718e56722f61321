"""Scores of answers by a reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from truing.compute import Engine
from truing.packing import pack
from truing.rendering import Row


def rewards(
    engine: Engine, rows: Sequence[Row], *, budget: int, on_scored: Callable[[int], None] = lambda _: None
) -> list[tuple[float, ...]]:
    """What the reward model gives every answer of every row, at the token that ended it.

    on_scored: called with the number of rows scored so far.
    """
    found: dict[int, list[float]] = {place: [] for place in range(len(rows))}
    placed = [Row(row.prompt, row.answers, place) for place, row in enumerate(rows)]
    done = 0
    with torch.no_grad():
        for forest in pack(placed, budget):
            values = engine.scores(forest)[0].last.tolist()
            for tree, value in zip(forest.group.tolist(), values, strict=True):
                found[forest.rows[tree]].append(value)
            done += len(forest.rows)
            on_scored(done)
    return [tuple(found[place]) for place in range(len(rows))]
