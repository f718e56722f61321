"""Medians and ratios of repeated measurements, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

RESAMPLES = 4000


class Interval(TypedDict):
    """A median of n measurements and its 95 % interval; one measurement has none."""

    value: float
    low: float | None
    high: float | None
    n: int


def median(values: Sequence[float]) -> Interval:
    """The median, and where it falls in 95 % of the resamplings of the measurements."""
    if not values:
        raise ValueError("a median needs at least one measurement")
    measured = np.asarray(values, dtype=np.float64)
    value = float(np.median(measured))
    if len(measured) == 1:
        return Interval(value=value, low=None, high=None, n=1)
    chosen = np.random.default_rng(0).integers(len(measured), size=(RESAMPLES, len(measured)))
    low, high = np.percentile(np.median(measured[chosen], axis=1), [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high), n=len(measured))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The median of a / b over measurements that belong together: the same rows in the same round."""
    return median([a / b for a, b in zip(numerators, denominators, strict=True)])
