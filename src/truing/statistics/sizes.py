"""How many comparisons it takes to tell two models apart, and what those that were made allow one to say.

All sizes are normal approximations: right to some per cent from a few dozen on.
"""

from __future__ import annotations

import math

from scipy import special

from truing.errors import DataError
from truing.statistics.intervals import CONFIDENCE, Interval, quantile

NEAR = 0.05
"""A difference of shares smaller than this, as of a win rate from 50 %, is planned for as if it were this large."""

FEWEST = 6
"""Of fewer comparisons than these a coin wins or loses all in more than one try out of twenty."""

POWER = 0.8
"""The share of experiments in which a difference that exists is to be told."""


def comparisons_needed(rate: float, *, power: float = POWER, confidence: float = CONFIDENCE) -> int:
    """How many comparisons tell a true win rate from 50 %, in `power` of all experiments.

    For two models that are judged side by side; what ties leave out has to be added.
    """
    if not 0 <= rate <= 1 or rate == 0.5:
        raise DataError(f"a win rate of {rate} cannot be told from 0.5: give another one between 0 and 1")
    by_chance = quantile(confidence) * 0.5
    by_sampling = _reach(power) * math.sqrt(rate * (1 - rate))
    return math.ceil(((by_chance + by_sampling) / (rate - 0.5)) ** 2)


def paired_prompts_needed(
    first_only: float, second_only: float, *, power: float = POWER, confidence: float = CONFIDENCE
) -> int:
    """How many prompts, each answered by both models, tell their accuracies or win rates apart by McNemar's test.

    first_only, second_only: the shares of prompts on which only the first, or only the second, model does well. The
    difference of the rates is that of these shares; prompts on which the models agree cost but do not help (Miettinen
    1968). Two equal shares can never be told apart, which is an error.
    """
    if not (first_only >= 0 and second_only >= 0 and first_only + second_only <= 1) or first_only == second_only:
        raise DataError(
            f"shares of {first_only} and {second_only} of the prompts: give two different ones from 0 on that do not "
            "exceed 1 together"
        )
    apart, difference = first_only + second_only, first_only - second_only
    by_chance = quantile(confidence) * math.sqrt(apart)
    by_sampling = _reach(power) * math.sqrt(apart - difference**2)
    return math.ceil(((by_chance + by_sampling) / difference) ** 2)


def unpaired_prompts_needed(
    first: float, second: float, *, power: float = POWER, confidence: float = CONFIDENCE
) -> int:
    """How many prompts *for each model*, all different, tell two true rates apart (Fleiss 1981).

    For two win rates against the same base, or two accuracies, that were not measured on the same prompts: the test of
    two proportions without a correction for continuity. Two equal rates are an error.
    """
    if not (0 <= first <= 1 and 0 <= second <= 1) or first == second:
        raise DataError(f"rates of {first} and {second} cannot be told apart: give two different ones from 0 to 1")
    middle = (first + second) / 2
    by_chance = quantile(confidence) * math.sqrt(2 * middle * (1 - middle))
    by_sampling = _reach(power) * math.sqrt(first * (1 - first) + second * (1 - second))
    return math.ceil(((by_chance + by_sampling) / (first - second)) ** 2)


def more_needed(difference: Interval, *, smallest: float = NEAR, power: float = POWER) -> int:
    """How many more values tell a measured difference from 0, if it is as large as it looks.

    difference: of any kind, paired or not, whose interval is about symmetric and shrinks with the root of n, such as
    `paired_difference`. smallest: what looks smaller than this is planned for as if it were this large. 0 where the
    values at hand would likely have shown it. An infinite interval is an error: it says nothing of scatter.
    """
    if not math.isfinite(difference.high - difference.low):
        raise DataError("one value alone says nothing of scatter: measure a few before you plan how many are needed")
    if smallest <= 0:
        raise DataError(f"the smallest difference to be told must be above 0, not {smallest}")
    reach = quantile(difference.confidence)
    error = (difference.high - difference.low) / 2 / reach
    aim = max(abs(difference.value), smallest)
    return max(0, math.ceil(difference.n * (((reach + _reach(power)) * error / aim) ** 2 - 1)))


def too_few(rate: Interval) -> bool:
    """Whether a coin may well win all comparisons of a win rate; those of one prompt are not independent tries."""
    return min(rate.n, _independent(rate)) < FEWEST


def reading(rate: Interval) -> str:
    """What a win rate allows one to say, in one plain line.

    More comparisons are counted as those at hand come, such as several to a prompt.
    """
    if rate.n == 0:
        return "no comparison was made, so nothing is known"
    if rate.n < FEWEST:
        return f"too few to tell: a coin, too, often wins all of {_counted(rate.n)}"
    if too_few(rate):
        worth = f"{_counted(rate.n)} say as much as {math.floor(_independent(rate))} of as many prompts would"
        return f"too few to tell: {worth}, and a coin, too, often wins all of those"
    if rate.low > 0.5:
        return f"better: the whole interval lies above 50 %, over {_counted(rate.n)}"
    if rate.high < 0.5:
        return f"worse: the whole interval lies below 50 %, over {_counted(rate.n)}"
    return f"not distinguishable from a coin: {_what_would_tell(rate)}"


def reading_of_difference(difference: Interval, *, smallest: float = NEAR) -> str:
    """What a difference of two models allows one to say, in one plain line."""
    if not math.isfinite(difference.high - difference.low):
        return f"too few to tell: {_counted(difference.n)}, of one prompt, which says nothing of scatter"
    if difference.low > 0:
        return f"higher: the whole interval lies above 0, over {_counted(difference.n)}"
    if difference.high < 0:
        return f"lower: the whole interval lies below 0, over {_counted(difference.n)}"
    aim = math.copysign(max(abs(difference.value), smallest), difference.value)
    missing = more_needed(difference, smallest=smallest)
    if missing == 0:
        return f"not distinguishable: {_counted(difference.n)} would likely have shown a difference of {aim:.2g}"
    return f"not distinguishable: about {_counted(missing, 'more ')} would tell a difference of {aim:.2g}"


def _what_would_tell(rate: Interval) -> str:
    """How far away an answer is, planned for the rate that was seen."""
    distance = max(abs(rate.value - 0.5), NEAR)
    aim = 0.5 + math.copysign(distance, rate.value - 0.5)
    times = comparisons_needed(aim, confidence=rate.confidence) / _independent(rate)
    missing = math.ceil(round(rate.n * (times - 1), 6))
    if missing <= 0:
        return f"{_counted(rate.n)} would likely have shown {100 * aim:.0f} %"
    return f"about {_counted(missing, 'more ')} would tell {100 * aim:.0f} % from 50 %"


def _independent(rate: Interval) -> float:
    """How many comparisons of as many prompts, without ties, would give an interval this wide.

    Wilson's half width h at rate r is that of the u = z^2 / n with
    (1/4 - h^2) u^2 + (r (1 - r) - 2 h^2) u - h^2 = 0; an interval over half of all rates or more is worth none.
    """
    half = (rate.high - rate.low) / 2
    square, middle = 0.25 - half**2, rate.value * (1 - rate.value) - 2 * half**2
    if half == 0 or square <= 0:
        return 0.0 if half else math.inf
    root = (-middle + math.sqrt(middle**2 + 4 * square * half**2)) / (2 * square)
    return round(quantile(rate.confidence) ** 2 / root, 6)


def _reach(power: float) -> float:
    """How many standard errors a difference must lie beyond the threshold to be told with this power."""
    if not 0 < power < 1:
        raise DataError(f"a power of {power} is none: give a number between 0 and 1, such as 0.8")
    return float(special.ndtri(power))


def _counted(n: int, more: str = "") -> str:
    return f"{n} {more}comparison" if n == 1 else f"{n} {more}comparisons"
