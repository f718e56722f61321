"""One number for each answer of many rows, whatever an engine says of a forest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from truing.compute import Engine
from truing.errors import DataError
from truing.packing import pack
from truing.records import Group
from truing.rendering import Row
from truing.scoring.score import Score
from truing.tensors import Forest


def of_answers(
    rows: Sequence[Row],
    say: Callable[[Forest], Tensor],
    *,
    budget: int,
    on_scored: Callable[[int], None] = lambda _: None,
) -> list[tuple[float, ...]]:
    """What `say` gives the answers of each forest, [C], sorted by row and answer; no gradient is kept.

    budget: tokens run at once. on_scored: called with the number of rows scored so far.
    """
    found: list[list[float]] = [[] for _ in rows]
    done = 0
    with torch.no_grad():
        for forest in pack([replace(row, index=place) for place, row in enumerate(rows)], budget):
            for tree, value in zip(forest.group.tolist(), say(forest).tolist(), strict=True):
                found[forest.rows[tree]].append(value)
            done += len(forest.rows)
            on_scored(done)
    return [tuple(values) for values in found]


def rewards(
    engine: Engine, rows: Sequence[Row], *, budget: int, on_scored: Callable[[int], None] = lambda _: None
) -> list[tuple[float, ...]]:
    """What a reward model gives every answer of every row, at the token that ended it."""
    return of_answers(rows, lambda forest: engine.scores(forest)[0].last, budget=budget, on_scored=on_scored)


def rendered(render: Callable[[Group], Row], group: Group, max_length: int) -> Row | Score:
    """The row, or why it cannot be scored."""
    try:
        row = render(group)
    except DataError as error:
        return Score.failed(str(error))
    return row if row.longest <= max_length else Score.failed(f"{row.longest} tokens, and max_length is {max_length}")
