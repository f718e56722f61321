"""Whether two scores put things in the same order: Spearman's and Kendall's correlation, each with an interval.

Pairs must be independent, such as scores of answers to different prompts. The intervals are those of Bonett and Wright
(2000), on Fisher's scale: right for scores that are normal up to any monotone change and correlate below about 0.9
(Spearman) or 0.8 (Kendall), somewhat too wide where many values are tied. A perfect order would have no width there; it
gets the lower end that it would have with one pair of neighbours exchanged. Of four pairs or fewer any correlation may
be true, [-1, 1]. Where all values of one side are equal nothing is known: the value is 0, the interval [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from truing.statistics.intervals import CONFIDENCE, Array, Interval, finite, quantile, same_length

FEWEST_PAIRS = 5


def spearman(first: Sequence[float], second: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Spearman's rho (1904): the linear correlation of ranks [n], ties at their mean rank."""
    same_length(first, second)
    n, (a, b) = len(first), (ranks(finite(values)) - (len(first) + 1) / 2 for values in (first, second))
    size = math.sqrt(float((a**2).sum() * (b**2).sum()))
    value = _possible(float((a * b).sum()) / size) if size else 0.0
    if n < FEWEST_PAIRS or not size:
        return Interval(value, -1.0, 1.0, n, confidence)
    inside = _inside(value, 12 / (n**3 - n))
    return _fisher(value, inside, (1 + inside**2 / 2) / (n - 3), n, confidence)


def kendall(first: Sequence[float], second: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Kendall's tau-b (1945): pairs in one order less pairs in opposite order, over the pairs that are not tied.

    first, second: [n]. Over the geometric mean, to be exact, of the pairs that either side does not tie.
    """
    same_length(first, second)
    a, b, n = finite(first), finite(second), len(first)
    alike = ours = theirs = 0.0
    for place in range(n):
        one, other = np.sign(a[place + 1 :] - a[place]), np.sign(b[place + 1 :] - b[place])
        alike, ours, theirs = alike + float(one @ other), ours + float(one @ one), theirs + float(other @ other)
    value = _possible(alike / math.sqrt(ours * theirs)) if ours * theirs else 0.0
    if n < FEWEST_PAIRS or not ours * theirs:
        return Interval(value, -1.0, 1.0, n, confidence)
    return _fisher(value, _inside(value, 4 / (n**2 - n)), 0.437 / (n - 4), n, confidence)


def ranks(values: Array) -> Array:
    """The rank of each value from 1 on, equal ones at their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place], dtype=np.float64)


def _possible(value: float) -> float:
    """The correlation; rounding may have passed either end."""
    return min(max(value, -1.0), 1.0)


def _inside(value: float, exchange: float) -> float:
    """The correlation, or, of a perfect one, what is left of it with two neighbours exchanged."""
    return math.copysign(min(abs(value), 1 - exchange), value)


def _fisher(value: float, inside: float, variance: float, n: int, confidence: float) -> Interval:
    """tanh(atanh(inside) +- z sqrt(variance)), widened to hold the value."""
    half = quantile(confidence) * math.sqrt(variance)
    low, high = (math.tanh(math.atanh(inside) + way * half) for way in (-1, 1))
    return Interval(value, min(low, value), max(high, value), n, confidence)
