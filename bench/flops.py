"""The arithmetic that training needs: no padding, no prompt twice, no recomputation, the head on scored rows only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from truing.costs import Lengths, Shape, operations
from truing.rendering import Row

__all__ = ["Shape", "forward", "training", "useful_tokens"]


def forward(shape: Shape, rows: Iterable[Row], *, scores: bool = False) -> float:
    """FLOPs of one forward pass: body, attention, head.

    scores: the head gives one number for each answer, in place of the vocabulary for each scored token.
    """
    lengths = map(Lengths.of, rows)
    if not scores:
        return operations(shape, lengths)
    return operations(replace(shape, vocabulary=1), (row._replace(scored=len(row.answers)) for row in lengths))


def training(
    shape: Shape, rows: Iterable[Row], *, reference_pass: bool = False, scores: bool = False, lora: bool = False
) -> float:
    """FLOPs of one optimizer step: the backward pass takes twice the forward pass, or as much with frozen weights.

    lora: what the adapter itself takes, below a hundredth, is left out.
    """
    backward = 1 if lora else 2
    return (1 + backward + reference_pass) * forward(shape, rows, scores=scores)


def useful_tokens(rows: Iterable[Row]) -> int:
    """Tokens without padding, each prompt counted once."""
    return sum(len(row) for row in rows)
