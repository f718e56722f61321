"""Lines through what a few steps took: seconds by work, bytes by the size of a forest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from truing.costs import Load, Shape, logit_bytes

LEAST = 256
"""The smallest forest budget that is proposed, and the least by which two must differ for a line through them."""


class Probe(NamedTuple):
    """What one process measured: its steps with their work, the pass of the reference, and bytes at most.

    loading: before the first pass. training: since then.
    """

    steps: list[Work]
    seconds: list[float]
    reference: tuple[float, float]
    load: Load
    loading: float
    training: float
    checkpointing: bool


class Work(NamedTuple):
    """A step's forests, and the FLOPs of one forward pass over them."""

    forests: int
    operations: float


@dataclass(frozen=True, slots=True)
class Speed:
    """seconds of a step = once + forest * forests + operation * FLOPs of a forward pass."""

    once: float
    forest: float
    operation: float

    def seconds(self, work: Work) -> float:
        """Of one step."""
        return self.once + self.forest * work.forests + self.operation * work.operations


@dataclass(frozen=True, slots=True)
class Room:
    """bytes = max(loading, base + token * tokens + logits), the logits by formula."""

    loading: float
    base: float
    token: float
    shape: Shape
    itemsize: int

    def peak(self, load: Load, saved: float = 1.0) -> float:
        """The most that is held at forests of this size. saved: share of a token's bytes that is still kept."""
        logits = logit_bytes(self.shape, self.itemsize, load.scored)
        return max(self.loading, self.base + saved * self.token * load.tokens + logits)


def fit_speed(steps: Sequence[Work], seconds: Sequence[float]) -> Speed:
    """Least squares of relative errors; nothing takes less than no time."""
    table = np.array([[1.0, work.forests, work.operations] for work in steps])
    scale = table.max(axis=0)
    found, _ = nnls(table / scale / np.array(seconds)[:, None], np.ones(len(steps)))
    return Speed(*(float(value) for value in found / scale))


def fit_room(probes: Sequence[Probe], shape: Shape, itemsize: int, token: float) -> Room:
    """Through two forests of different size. token: bytes of a token by formula, where the two are of one size."""
    first, last = min(probes, key=lambda p: p.load.tokens), max(probes, key=lambda p: p.load.tokens)
    held = [p.training - logit_bytes(shape, itemsize, p.load.scored) for p in (first, last)]
    apart = last.load.tokens - first.load.tokens
    each = max(0.0, (held[1] - held[0]) / apart) if apart >= LEAST else token
    return Room(max(p.loading for p in probes), held[1] - each * last.load.tokens, each, shape, itemsize)
