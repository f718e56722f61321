"""Medians and ratios of repeated measurements, with intervals: bootstrapped where there are enough of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

RESAMPLES = 4000
ENOUGH = 6
"""Measurements from which resampling says more than the smallest and the largest of them."""


class Interval(TypedDict):
    """A median of n measurements and its 95 % interval; of fewer than ENOUGH their range, of one nothing."""

    value: float
    low: float | None
    high: float | None
    n: int


def median(values: Sequence[float]) -> Interval:
    """The median, and where it falls in 95 % of the resamplings of the measurements, or their range."""
    if not values:
        raise ValueError("a median needs at least one measurement")
    measured = np.asarray(values, dtype=np.float64)
    value = float(np.median(measured))
    if len(measured) == 1:
        return Interval(value=value, low=None, high=None, n=1)
    if len(measured) < ENOUGH:
        return Interval(value=value, low=float(measured.min()), high=float(measured.max()), n=len(measured))
    chosen = np.random.default_rng(0).integers(len(measured), size=(RESAMPLES, len(measured)))
    low, high = np.percentile(np.median(measured[chosen], axis=1), [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high), n=len(measured))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The median of a / b over measurements that belong together: the same rows in the same round."""
    return median([a / b for a, b in zip(numerators, denominators, strict=True)])
