"""An estimate with its interval, and the arithmetic that the estimates share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from truing.errors import DataError

CONFIDENCE = 0.95

Array = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the range that holds the truth in `confidence` of all such samples.

    n: how many values it was made from.
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        """`1.42 [1.31, 1.53]`, with as many decimals as the width deserves."""
        digits = _decimals(self.high - self.low)
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    @property
    def plain(self) -> dict[str, float]:
        """As it is stored in files."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    @property
    def percent(self) -> str:
        """A share as `74 % [66, 81]`, with a decimal where the interval is narrower than two points."""
        digits = 1 if self.high - self.low < 0.02 else 0
        value, low, high = (f"{100 * x:.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} % [{low}, {high}]"


def quantile(confidence: float) -> float:
    """How many standard errors a two-sided normal interval reaches."""
    return float(special.ndtri(0.5 + _checked(confidence) / 2))


def student(confidence: float, degrees: int) -> float:
    """How many standard errors Student's two-sided interval reaches, of so many degrees of freedom."""
    return float(special.stdtrit(degrees, 0.5 + _checked(confidence) / 2))


def wilson(rate: float, n: float, confidence: float) -> tuple[float, float]:
    """Where |rate - p| = z sqrt(p (1 - p) / n) for p."""
    z = quantile(confidence)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    # At 0 % and 100 % an end is exactly the rate; rounding must not push it past.
    return min(max(centre - half, 0.0), rate), max(min(centre + half, 1.0), rate)


def per_prompt(
    values: Sequence[float], prompts: Sequence[Hashable] | None, weights: Sequence[float] | None = None
) -> tuple[Array, Array]:
    """The mean of each prompt's values and how much it counts. Values that count nothing are left out."""
    own = finite(values)
    if prompts is None and weights is None:
        return own, np.ones_like(own)
    same_length(values, prompts if prompts is not None else values)
    same_length(values, weights if weights is not None else values)
    counted = np.ones_like(own) if weights is None else np.asarray(weights, dtype=np.float64)
    place = numbered(range(own.size) if prompts is None else prompts)
    total = np.bincount(place, counted).astype(np.float64)
    kept = total > 0
    means = np.bincount(place, counted * own)[kept] / total[kept]
    return means, np.ones_like(means) if weights is None else total[kept]


def numbered(keys: Sequence[Hashable]) -> Places:
    """A number for each key, equal ones alike, counted from 0 in the order in which they first come."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.intp)


def finite(values: Sequence[float]) -> Array:
    """The values as an array, or an error that says which of them is no number."""
    own = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(own))
    if bad.size:
        raise DataError(f"value {bad[0] + 1} of {own.size} is {own[bad[0]]}: only finite numbers can be counted")
    return own


def standard_error(values: Array, weights: Array) -> float:
    """Of the weighted mean of independent values, of which there are at least two."""
    away = (values - np.average(values, weights=weights)) * weights / weights.sum()
    return math.sqrt(float((away**2).sum()) * values.size / (values.size - 1))


def same_length(first: Sequence[object], second: Sequence[object]) -> None:
    """An error where values that belong together are not equally many."""
    if len(first) != len(second):
        raise DataError(f"values must come in pairs, but there are {len(first)} of one and {len(second)} of the other")


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise DataError(f"a confidence of {confidence} is none: give a number between 0 and 1, such as 0.95")
    return confidence


def _decimals(width: float) -> int:
    """Decimals that show two significant digits of a width; two where the width says nothing."""
    if width <= 0 or not math.isfinite(width):
        return 2
    return max(0, 1 - math.floor(math.log10(width)))
