"""The equality gate: both sides must do the same work, or there is no ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

ROWS, STEPS = 2, 4
LOSS, NORM = 1e-4, 1e-3
"""Largest relative difference of a loss, and of a gradient norm before clipping, in fp32."""


class Verdict(TypedDict):
    """Whether two sides agree, how far apart they are, and in words what disagreed."""

    agreed: bool
    differences: dict[str, float]
    disagreed: list[str]


def training(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Verdict:
    """Losses and gradient norms of the same steps, each with optimizer steps in between."""
    differences: dict[str, float] = {}
    disagreed: list[str] = []
    for name, tolerance in (("loss", LOSS), ("gradient_norm", NORM)):
        mine, other = ours[name], theirs[name]
        if len(mine) != len(other) or not mine:
            disagreed.append(f"{name}: {len(mine)} steps against {len(other)}")
            continue
        apart = [_relative(a, b) for a, b in zip(mine, other, strict=True)]
        differences[name] = max(apart)
        disagreed += [
            f"{name} of step {step}: {mine[step - 1]:.8g} against {other[step - 1]:.8g}, "
            f"apart by {distance:.1e} where {tolerance:.0e} is allowed"
            for step, distance in enumerate(apart, start=1)
            if not distance <= tolerance  # so that a nan is refused
        ]
    return Verdict(agreed=not disagreed, differences=differences, disagreed=disagreed)


def sampling(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> Verdict:
    """Greedy answers in fp32, token for token."""
    disagreed = [] if len(ours) == len(theirs) else [f"{len(ours)} answers against {len(theirs)}"]
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False), start=1):
        if list(mine) != list(other):
            same = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), "the shorter's end")
            disagreed.append(f"greedy answer {number} differs at token {same}")
    return Verdict(agreed=not disagreed, differences={}, disagreed=disagreed)


def _relative(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-12)
