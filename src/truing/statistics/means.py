"""Means, differences and ratios, with intervals that know which values belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from scipy import special

from truing.errors import DataError
from truing.statistics.intervals import (
    CONFIDENCE,
    Array,
    Interval,
    Places,
    finite,
    numbered,
    per_prompt,
    quantile,
    same_length,
    standard_error,
    student,
)

RESAMPLES = 2000


def mean(
    values: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean with Student's t interval. One value says nothing of its own scatter: its interval is infinite."""
    units, counts = per_prompt(values, prompts, weights)
    if units.size == 0:
        raise DataError("the mean of no values does not exist")
    value = float(np.average(units, weights=counts))
    half = _half_width(units, counts, confidence)
    return Interval(value, value - half, value + half, len(values), confidence)


def mean_of(estimates: Sequence[Interval]) -> Interval:
    """The plain mean of independent estimates, such as the accuracies of several files.

    Its ends lie as far away as theirs do in the root of the sum of squares (MOVER, Zou and Donner 2008), so it is as
    lopsided as they are.
    """
    if not estimates:
        raise DataError("the mean of no estimates does not exist")
    count, value = len(estimates), sum(one.value for one in estimates) / len(estimates)
    below = math.hypot(*(one.value - one.low for one in estimates)) / count
    above = math.hypot(*(one.high - one.value for one in estimates)) / count
    return Interval(value, value - below, value + above, sum(one.n for one in estimates), estimates[0].confidence)


def paired_difference(
    after: Sequence[float],
    before: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of after - before, pair by pair: what both share, such as a hard prompt, drops out."""
    same_length(after, before)
    differences = [a - b for a, b in zip(after, before, strict=True)]
    return mean(differences, prompts=prompts, weights=weights, confidence=confidence)


def paired_bootstrap(
    after: Sequence[float],
    before: Sequence[float],
    *,
    seed: int,
    statistic: Callable[[Array], float] = np.mean,
    prompts: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """statistic(after) - statistic(before), with the BCa bootstrap interval over pairs (Efron 1987).

    statistic: any function of an array [n], such as np.median or a share; both sides of a pair are drawn together, so
    what they share drops out. With `prompts` all pairs of a prompt are drawn together. seed: the same gives the same
    interval. For means, `paired_difference` needs no drawing and covers better where prompts are few.

    Degenerate: of no pairs it is an error; one prompt alone says nothing of scatter, so its interval is infinite; where
    no resample differs, as with one and the same difference everywhere, the interval has no width.
    """
    same_length(after, before)
    one, other = finite(after), finite(before)
    if one.size == 0:
        raise DataError("the difference of no pairs does not exist")
    place = numbered(range(one.size) if prompts is None else prompts)
    same_length(after, place.tolist())
    units = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    count = len(units)

    def difference(drawn: Places) -> float:
        rows = drawn if count == one.size else np.concatenate([units[unit] for unit in drawn])
        return float(statistic(one[rows])) - float(statistic(other[rows]))

    value = difference(np.arange(count))
    if count == 1:
        return Interval(value, -math.inf, math.inf, one.size, confidence)
    chosen = np.random.default_rng(seed).integers(count, size=(resamples, count))
    drawn = finite([difference(row) for row in chosen])
    without = finite([difference(np.delete(np.arange(count), unit)) for unit in range(count)])
    low, high = np.quantile(drawn, _corrected(value, drawn, without, quantile(confidence)))
    return Interval(value, min(float(low), value), max(float(high), value), one.size, confidence)


def ratio_of_means(
    numerator: Sequence[float],
    denominator: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """mean(numerator) / mean(denominator) of positive pairs, with a t interval on the logarithm (delta method).

    log r = log mean(a) - log mean(b) moves with a / mean(a) - b / mean(b), so the interval knows that long prompts
    lengthen both answers, stays positive, and turns into its own reciprocal when the two are exchanged.
    """
    same_length(numerator, denominator)
    (a, counts), (b, _) = per_prompt(numerator, prompts), per_prompt(denominator, prompts)
    if a.size == 0 or a.min() < 0 or b.min() < 0 or a.mean() == 0 or b.mean() == 0:
        raise DataError("a ratio of means needs pairs of positive values")
    ratio = float(a.mean() / b.mean())
    half = _half_width(a / a.mean() - b / b.mean(), counts, confidence)
    return Interval(ratio, ratio * math.exp(-half), ratio * math.exp(half), len(numerator), confidence)


def _half_width(values: Array, weights: Array, confidence: float) -> float:
    """Half of Student's interval around the weighted mean of independent values."""
    if values.size < 2:
        return math.inf
    return student(confidence, values.size - 1) * standard_error(values, weights)


def _corrected(value: float, drawn: Array, without: Array, reach: float) -> list[float]:
    """Which quantiles of the resamples are the ends: Efron's correction of bias, and of scatter that grows with size.

    drawn [resamples]: the differences of the resamples; without [units]: the differences with one unit left out.
    """
    below = float(((drawn < value) + (drawn == value) / 2).mean())
    half_a_step = 0.5 / drawn.size
    bias = float(special.ndtri(min(max(below, half_a_step), 1 - half_a_step)))
    away = without.mean() - without
    size = float((away**2).sum()) ** 1.5
    growth = float((away**3).sum()) / (6 * size) if size > 0 else 0.0
    return [float(special.ndtr(bias + (bias + z) / (1 - growth * (bias + z)))) for z in (-reach, reach)]
