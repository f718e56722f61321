"""How sure one may be: rates, means and ratios with their intervals, and tests against a coin.

Every interval is a closed form, so the same data gives the same interval on every machine and no seed is needed.
Several answers to one prompt are not independent: pass `prompts`, one key per value, and each prompt counts once,
by the mean of its values. With `weights`, one per value, that mean is weighted, and a prompt counts by their sum.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from truing.errors import DataError

CONFIDENCE = 0.95
NEAR = 0.05
"""A win rate nearer to 50 % than this is planned for as if it were this far away."""

FEWEST = 6
"""Of fewer comparisons than these a coin wins or loses all in more than one try out of twenty."""

Array = NDArray[np.float64]


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


def proportion(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The share of successes, with Wilson's score interval (1927).

    Of no trials nothing is known: the value is 1/2 and the interval [0, 1], Wilson's own limit as n goes to 0.
    """
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes in {n} trials: successes must lie between 0 and the trials")
    if n == 0:
        return Interval(0.5, 0.0, 1.0, 0, confidence)
    low, high = _wilson(successes / n, n, confidence)
    return Interval(successes / n, low, high, n, confidence)


def win_rate(
    outcomes: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of wins (1), ties (1/2) and losses (0), with Wilson's interval on an effective number of prompts.

    Ties scatter less than wins and losses do, and the means of several answers less than single ones, so k prompts are
    worth more than k coin flips: k times the coin's variance over the measured one. One win and one loss are added
    before that variance is measured, so it is never zero; at 0 % and 100 % the prompts count once each, and without
    ties or repeats the interval is exactly Wilson's. Of unequal weights k prompts are worth less, as in Kish's rule.
    """
    if not set(outcomes) <= {0, 0.5, 1}:
        raise DataError("outcomes must be 1 for a win, 0.5 for a tie and 0 for a loss")
    rates, counts = _per_prompt(outcomes, prompts, weights)
    if rates.size == 0:
        return Interval(0.5, 0.0, 1.0, 0, confidence)
    smoothed, usual = np.append(rates, (0.0, 1.0)), np.append(counts, (counts.mean(), counts.mean()))
    middle = float(np.average(smoothed, weights=usual))
    variance = float((((smoothed - middle) * usual) ** 2).sum()) / float(usual.sum()) ** 2
    effective = middle * (1 - middle) / variance * rates.size / smoothed.size
    rate = float(np.average(rates, weights=counts))
    low, high = _wilson(rate, effective, confidence)
    return Interval(rate, low, high, len(outcomes), confidence)


def mean(
    values: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean with Student's t interval. One value says nothing of its own scatter: its interval is infinite."""
    units, counts = _per_prompt(values, prompts, weights)
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
    _same_length(after, before)
    differences = [a - b for a, b in zip(after, before, strict=True)]
    return mean(differences, prompts=prompts, weights=weights, confidence=confidence)


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
    _same_length(numerator, denominator)
    (a, counts), (b, _) = _per_prompt(numerator, prompts), _per_prompt(denominator, prompts)
    if a.size == 0 or a.min() < 0 or b.min() < 0 or a.mean() == 0 or b.mean() == 0:
        raise DataError("a ratio of means needs pairs of positive values")
    ratio = float(a.mean() / b.mean())
    half = _half_width(a / a.mean() - b / b.mean(), counts, confidence)
    return Interval(ratio, ratio * math.exp(-half), ratio * math.exp(half), len(numerator), confidence)


def sign_test(wins: int, losses: int) -> float:
    """The chance that a fair coin falls at least this unevenly: exact, two-sided. Ties say nothing and are left out."""
    one_side = float(special.bdtr(min(wins, losses), wins + losses, 0.5))
    return min(1.0, 2 * one_side)


def comparisons_needed(rate: float, *, power: float = 0.8, confidence: float = CONFIDENCE) -> int:
    """How many comparisons tell a true win rate from 50 %, in `power` of all experiments (normal approximation)."""
    if not 0 <= rate <= 1 or rate == 0.5:
        raise DataError(f"a win rate of {rate} cannot be told from 0.5: give another one between 0 and 1")
    by_chance = _quantile(confidence) * 0.5
    by_sampling = float(special.ndtri(power)) * math.sqrt(rate * (1 - rate))
    return math.ceil(((by_chance + by_sampling) / (rate - 0.5)) ** 2)


def reading(rate: Interval) -> str:
    """What a win rate allows one to say, in one plain line."""
    if rate.n == 0:
        return "no comparison was made, so nothing is known"
    if rate.n < FEWEST:
        return f"too few to tell: a coin, too, often wins all of {_counted(rate.n)}"
    if rate.low > 0.5:
        return f"better: the whole interval lies above 50 %, over {_counted(rate.n)}"
    if rate.high < 0.5:
        return f"worse: the whole interval lies below 50 %, over {_counted(rate.n)}"
    return f"not distinguishable from a coin: {_what_would_tell(rate)}"


def _what_would_tell(rate: Interval) -> str:
    """How far away an answer is, planned for the rate that was seen."""
    distance = max(abs(rate.value - 0.5), NEAR)
    aim = 0.5 + math.copysign(distance, rate.value - 0.5)
    missing = comparisons_needed(aim, confidence=rate.confidence) - rate.n
    if missing <= 0:
        return f"{_counted(rate.n)} would likely have shown {100 * aim:.0f} %"
    return f"about {_counted(missing, 'more ')} would tell {100 * aim:.0f} % from 50 %"


def _wilson(rate: float, n: float, confidence: float) -> tuple[float, float]:
    """Where |rate - p| = z sqrt(p (1 - p) / n) for p."""
    z = _quantile(confidence)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    # At 0 % and 100 % an end is exactly the rate; rounding must not push it past.
    return min(max(centre - half, 0.0), rate), max(min(centre + half, 1.0), rate)


def _half_width(values: Array, weights: Array, confidence: float) -> float:
    """Half of Student's interval around the weighted mean of independent values."""
    if values.size < 2:
        return math.inf
    away = (values - np.average(values, weights=weights)) * weights / weights.sum()
    error = math.sqrt(float((away**2).sum()) * values.size / (values.size - 1))
    return float(special.stdtrit(values.size - 1, 0.5 + confidence / 2)) * error


def _per_prompt(
    values: Sequence[float], prompts: Sequence[Hashable] | None, weights: Sequence[float] | None = None
) -> tuple[Array, Array]:
    """The mean of each prompt's values and how much it counts. Values that count nothing are left out."""
    own = np.asarray(values, dtype=np.float64)
    if prompts is None and weights is None:
        return own, np.ones_like(own)
    _same_length(values, prompts if prompts is not None else values)
    _same_length(values, weights if weights is not None else values)
    counted = np.ones_like(own) if weights is None else np.asarray(weights, dtype=np.float64)
    number: dict[Hashable, int] = {}
    keys = range(own.size) if prompts is None else prompts
    place = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.intp)
    total = np.bincount(place, counted).astype(np.float64)
    kept = total > 0
    means = np.bincount(place, counted * own)[kept] / total[kept]
    return means, np.ones_like(means) if weights is None else total[kept]


def _same_length(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise DataError(f"values must come in pairs, but there are {len(first)} of one and {len(second)} of the other")


def _quantile(confidence: float) -> float:
    """How many standard errors a two-sided interval reaches."""
    return float(special.ndtri(0.5 + confidence / 2))


def _decimals(width: float) -> int:
    """Decimals that show two significant digits of a width; two where the width says nothing."""
    if width <= 0 or not math.isfinite(width):
        return 2
    return max(0, 1 - math.floor(math.log10(width)))


def _counted(n: int, more: str = "") -> str:
    return f"{n} {more}comparison" if n == 1 else f"{n} {more}comparisons"
