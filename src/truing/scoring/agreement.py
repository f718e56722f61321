"""How far a scorer agrees with what people said of answers: accuracy, calibration and length, each with an interval.

Pure functions of numbers, without torch. Comparisons of one prompt are not independent: every interval counts prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from truing import statistics
from truing.errors import DataError
from truing.statistics import Interval, Reliability

Array = NDArray[np.float64]
Places = NDArray[np.intp]

STRENGTHS = 5
"""Pieces of like size into which comparisons are cut by strength."""
LENGTHS = 3
"""Pieces of like size of the comparisons with the longer answer chosen, and of those with the shorter one."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A row's answers, best first, with what a scorer gave them.

    weight: of the row; its comparisons share it. tokens: length of each answer, in tokens or words. pairs: (chosen,
    rejected) as places among the answers. strength: one for each pair, where the data say it. source: where the row is
    from.
    """

    prompt: str
    scores: tuple[float, ...]
    tokens: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    strength: tuple[float, ...] | None = None
    weight: float = 1.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The comparisons of many rows side by side, all of one length.

    gap: score of the chosen answer less that of the rejected one. longer: its tokens less those of the rejected one.
    strength: NaN where the data do not say it.
    """

    prompt: tuple[str, ...]
    weight: Array
    gap: Array
    longer: Array
    strength: Array
    source: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Scored]) -> Comparisons:
        """Every comparison of every row. Those of rows that count nothing are left out."""
        pairs = [(row, number, *pair) for row in rows if row.weight > 0 for number, pair in enumerate(row.pairs)]
        return cls(
            tuple(row.prompt for row, *_ in pairs),
            np.array([row.weight / len(row.pairs) for row, *_ in pairs], dtype=np.float64),
            np.array([row.scores[chosen] - row.scores[rejected] for row, _, chosen, rejected in pairs], np.float64),
            np.array([row.tokens[chosen] - row.tokens[rejected] for row, _, chosen, rejected in pairs], np.float64),
            np.array([math.nan if row.strength is None else row.strength[n] for row, n, *_ in pairs], np.float64),
            tuple(row.source for row, *_ in pairs),
        )

    def __len__(self) -> int:
        return len(self.prompt)

    def take(self, places: Places) -> Comparisons:
        """Some of them."""
        return Comparisons(
            tuple(self.prompt[place] for place in places),
            self.weight[places],
            self.gap[places],
            self.longer[places],
            self.strength[places],
            tuple(self.source[place] for place in places),
        )

    @property
    def outcomes(self) -> Array:
        """1 where the scorer prefers the chosen answer, 0 where the rejected one, one half where it sees none ahead."""
        return _outcomes(self.gap)

    @property
    def of_longer(self) -> Array:
        """The outcomes of a scorer that prefers the longer answer."""
        return _outcomes(self.longer)


class Bin(NamedTuple):
    """Comparisons that are near each other in something: its lowest, highest and mean value, and their accuracy."""

    low: float
    high: float
    mean: float
    accuracy: Interval
    ties: int

    @property
    def plain(self) -> dict[str, Any]:
        """As it is stored in files."""
        return {**self._asdict(), "accuracy": self.accuracy.plain}


def findings(rows: Sequence[Scored], *, bins: int, seed: int) -> dict[str, Any]:
    """All figures on one set of rows, as they are stored in files.

    bins: of the reliability curve. seed: of the order in which the answers of each comparison are put.
    """
    every = Comparisons.of(rows)
    if not len(every):
        raise DataError("there is no comparison to measure on: each row needs two answers, one of them preferred")
    sources = by_source(every)
    return {
        "rows": len(rows),
        "prompts": len(set(every.prompt)),
        "comparisons": len(every),
        "ties": int((every.gap == 0).sum()),
        "accuracy": accuracy(every).plain,
        "by_strength": [one.plain for one in by_strength(every)],
        "by_length": [one.plain for one in by_length(every)],
        "by_source": {name: sources[name].plain for name in sources},
        "calibration": _calibration(every, bins, seed),
        "length": _length(rows, every),
        "scores": _scores(rows, every),
    }


def accuracy(some: Comparisons) -> Interval:
    """How often the scorer orders two answers as people did; a tie counts one half."""
    return statistics.win_rate(some.outcomes.tolist(), prompts=some.prompt, weights=some.weight.tolist())


def of_rankings(rows: Sequence[Scored], highest: float | None) -> dict[str, Any] | None:
    """How far a scorer ranks a row's answers as people did: the measures of self-rewarding models (arXiv:2401.10020).

    rows: with every pair of answers that people tell apart. highest: the most points that a judge may give, if any.
    exact: the share of rows with all answers that people tell apart in their order, none tied. best_of_highest: of the
    answers with the most points, the share of those that people rank first. spearman, kendall: means over rows, in
    which answers that people do not tell apart are tied, and a row whose answers the scorer gives all the same has 0;
    left out where it does so everywhere. None of fewer than two prompts.
    """
    counting = [row for row in rows if row.weight > 0 and row.pairs]
    prompts = [row.prompt for row in counting]
    if len(set(prompts)) < 2:
        return None
    preferred = [_preferred_to(row) for row in counting]
    exact = [float(all(row.scores[better] > row.scores[worse] for better, worse in row.pairs)) for row in counting]
    at_top = [
        (float(count == max(counts)), row.prompt)
        for row, counts in zip(counting, preferred, strict=True)
        for score, count in zip(row.scores, counts, strict=True)
        if score == highest
    ]
    found = {
        "exact": statistics.win_rate(exact, prompts=prompts),
        "best_of_highest": statistics.win_rate([one for one, _ in at_top], prompts=[prompt for _, prompt in at_top]),
    }
    if not at_top:
        del found["best_of_highest"]
    if any(len(set(row.scores)) > 1 for row in counting):
        found["spearman"] = _mean_over(counting, preferred, statistics.spearman)
        found["kendall"] = _mean_over(counting, preferred, statistics.kendall)
    return {name: one.plain for name, one in found.items()}


def _preferred_to(row: Scored) -> list[float]:
    """For each answer to how many others people prefer it."""
    return [float(sum(better == place for better, _ in row.pairs)) for place in range(len(row.scores))]


def _mean_over(
    rows: Sequence[Scored], preferred: Sequence[Sequence[float]], correlation: Callable[..., Interval]
) -> Interval:
    values = [correlation(row.scores, counts).value for row, counts in zip(rows, preferred, strict=True)]
    return statistics.bounded_mean(values, -1, 1, prompts=[row.prompt for row in rows])


def by_strength(some: Comparisons) -> list[Bin]:
    """Accuracy by how strongly the chosen answer is preferred, weakest first, where the data say it."""
    known = np.flatnonzero(np.isfinite(some.strength))
    return _bins(some, some.strength, known, STRENGTHS)


def by_length(some: Comparisons) -> list[Bin]:
    """Accuracy by how many tokens longer the chosen answer is; no bin holds both signs."""
    shorter, equal, longer = (np.flatnonzero(np.sign(some.longer) == sign) for sign in (-1, 0, 1))
    return [
        *_bins(some, some.longer, shorter, LENGTHS),
        *_bins(some, some.longer, equal, 1),
        *_bins(some, some.longer, longer, LENGTHS),
    ]


def by_source(some: Comparisons) -> dict[str, Interval]:
    """Accuracy on the comparisons of each source, in the order in which they first come."""
    names = np.array(some.source)
    return {name: accuracy(some.take(np.flatnonzero(names == name))) for name in dict.fromkeys(some.source)}


def reliability(some: Comparisons, *, bins: int, seed: int) -> list[Reliability]:
    """How often what is said with some probability is so.

    A label always says "chosen", so each comparison is put in an order drawn by `seed`: the scorer says with
    probability sigmoid(score of the first less that of the second) that the first answer is the chosen one.
    """
    chosen_first = np.random.default_rng(seed).random(len(some)) < 0.5
    predicted = special.expit(np.where(chosen_first, some.gap, -some.gap))
    return statistics.reliability_curve(
        predicted.tolist(),
        chosen_first.astype(float).tolist(),
        bins=bins,
        prompts=some.prompt,
        weights=some.weight.tolist(),
    )


def log_losses(some: Comparisons, temperature: float = 1.0) -> Array:
    """-log sigmoid(gap / temperature) of each comparison, in nats; a coin has ln 2."""
    return np.logaddexp(0.0, -some.gap / temperature)


def best_temperature(some: Comparisons) -> Interval | None:
    """The number to divide all scores by so that the log-loss is least; above 1 the scorer is too sure of itself.

    None where there is no such number: no comparison is ordered wrongly, or the scorer is no better than a coin, which
    no temperature but infinity mends. The interval is that of a logistic regression without a constant, on the
    logarithm, with a sandwich variance over prompts.
    """

    def slope(inverse: float) -> float:
        return float((some.weight * some.gap * special.expit(-inverse * some.gap)).sum())

    if (some.gap >= 0).all() or (some.gap <= 0).all() or slope(0.0) <= 0:
        return None
    above = 1.0
    while slope(above) > 0:
        above *= 2
    inverse = float(optimize.brentq(slope, 0.0, above, xtol=1e-12 * above))
    wrong = special.expit(-inverse * some.gap)
    curvature = float((some.weight * some.gap**2 * wrong * (1 - wrong)).sum())
    number = {prompt: place for place, prompt in enumerate(dict.fromkeys(some.prompt))}
    slopes = np.bincount([number[prompt] for prompt in some.prompt], some.weight * some.gap * wrong)
    error = math.sqrt(float((slopes**2).sum())) / curvature / inverse
    reach = math.exp(float(special.ndtri(0.5 + statistics.CONFIDENCE / 2)) * error)
    return Interval(1 / inverse, 1 / inverse / reach, reach / inverse, len(some))


def length_correlation(rows: Sequence[Scored]) -> Interval | None:
    """Spearman's correlation of score and length among the answers of a row, in the mean over rows, by prompt.

    Rows whose answers are equally long say nothing of it and are left out; equal scores follow no length and give 0.
    None where the scores of every row are equal, or of fewer than two prompts.
    """
    counted = [row for row in rows if row.weight > 0 and len(set(row.tokens)) > 1]
    prompts, weights = [row.prompt for row in counted], [row.weight for row in counted]
    if len(set(prompts)) < 2 or all(len(set(row.scores)) == 1 for row in counted):
        return None
    values = [statistics.spearman(row.scores, row.tokens).value for row in counted]
    return statistics.bounded_mean(values, -1, 1, prompts=prompts, weights=weights)


def balanced_accuracy(some: Comparisons) -> Interval | None:
    """Accuracy where "the longer one" is right half of the time: both kinds of comparison count alike in all.

    Comparisons of equally long answers are left out; None where one kind is missing. The interval takes the scatter
    about the common rate, so it is too wide rather than too narrow where the two kinds differ much.
    """
    unequal = some.take(np.flatnonzero(some.longer != 0))
    longer = unequal.longer > 0
    if longer.all() or not longer.any():
        return None
    total = np.where(longer, unequal.weight[longer].sum(), unequal.weight[~longer].sum())
    weights = len(unequal) * unequal.weight / total / 2
    return statistics.win_rate(unequal.outcomes.tolist(), prompts=unequal.prompt, weights=weights.tolist())


def over_longer(some: Comparisons) -> Interval:
    """Accuracy less that of "the longer one is better" on the same comparisons, between -1 and 1."""
    gaps = (some.outcomes - some.of_longer).tolist()
    return statistics.bounded_mean(gaps, -1, 1, prompts=some.prompt, weights=some.weight.tolist())


def verdict(found: Mapping[str, Any]) -> str:
    """One line on findings; all numbers measured.

    Of a scorer that is no reward model the differences are no log-odds, so nothing is said of probabilities.
    """
    rate, lead = _interval(found["accuracy"]), _interval(found["length"]["over_longer"])
    many, scorer = found["comparisons"], found.get("scorer")
    who = f"the scorer '{scorer}'" if scorer else "the reward model"
    line = f"{who} orders {rate.percent} of {many:,} held-out comparisons as people did"
    if statistics.too_few(rate):
        return f"{line}; these are too few to tell anything"
    if rate.low <= 0.5:
        line += ", which a coin may do too" if rate.high >= 0.5 else ", worse than a coin"
    longer = f"'the longer one' ({100 * found['length']['longer']['value']:.0f} %)"
    parts = [f"{line}, {_beside(lead)} {longer}"]
    if found["length"]["balanced"] is not None:
        parts.append(f"{_interval(found['length']['balanced']).percent} where length does not tell")
    if not scorer:
        parts.append(_sureness(found["calibration"]))
    if found["ties"]:
        parts.append(f"{found['ties']:,} ties")
    if found.get("orders"):
        parts.append(f"it says the same in both orders of {_interval(found['orders']).percent}")
    unread = sum(found["replies"]["unread"].values()) if scorer else 0
    if unread:
        parts.append(f"{unread:,} of its {found['replies']['asked']:,} replies say nothing that counts")
    if found.get("categories"):
        mean, count = _interval(found["categories"]["mean"]), len(found["categories"]["accuracy"])
        parts.append(f"{mean.percent} in the mean of {count} {'category' if count == 1 else 'categories'}")
    return "; ".join(parts)


def _beside(lead: Interval) -> str:
    if lead.low > 0:
        return "better than"
    return "worse than" if lead.high < 0 else "not to be told from"


def _sureness(found: Mapping[str, Any]) -> str:
    points, chance = 100 * found["error"], 100 * found["error_by_chance"]
    off = f"its probabilities are off by {points:.0f} points ({chance:.0f} by chance alone)"
    if found["temperature"] is None:
        return off
    mends = _interval(found["temperature"])
    if mends.low > 1:
        return f"{off}: too sure of itself, scores divided by {mends.value:.1f} would be right"
    if mends.high < 1:
        return f"{off}: not sure enough, scores times {1 / mends.value:.1f} would be right"
    if mends.high > 4 * max(mends.low, 0.01):
        return f"{off}; whether it is too sure or not sure enough, so few do not tell"
    return f"{off}, neither too sure nor too unsure"


def _interval(plain: Mapping[str, Any]) -> Interval:
    return Interval(plain["value"], plain["low"], plain["high"], plain["n"])


def _calibration(some: Comparisons, bins: int, seed: int) -> dict[str, Any]:
    curve = reliability(some, bins=bins, seed=seed)
    mends = best_temperature(some)

    def mean(values: Array) -> dict[str, float]:
        return statistics.mean(values.tolist(), prompts=some.prompt, weights=some.weight.tolist()).plain

    return {
        "error": statistics.calibration_error(curve),
        "error_by_chance": statistics.calibration_error_by_chance(curve),
        "curve": [one.plain for one in curve],
        "log_loss": mean(log_losses(some)),
        "brier": mean(special.expit(-some.gap) ** 2),
        "temperature": None if mends is None else mends.plain,
        "log_loss_mended": None if mends is None else mean(log_losses(some, mends.value)),
    }


def _length(rows: Sequence[Scored], some: Comparisons) -> dict[str, Any]:
    correlation, balanced = length_correlation(rows), balanced_accuracy(some)
    longer = statistics.win_rate(some.of_longer.tolist(), prompts=some.prompt, weights=some.weight.tolist())
    return {
        "correlation": None if correlation is None else correlation.plain,
        "balanced": None if balanced is None else balanced.plain,
        "longer": longer.plain,
        "constant": float(np.average(_outcomes(np.zeros(len(some))), weights=some.weight)),
        "over_longer": over_longer(some).plain,
    }


def _scores(rows: Sequence[Scored], some: Comparisons) -> dict[str, Any]:
    """Mean and deviation over all answers, and how far chosen and rejected ones are apart."""
    scores = np.array([score for row in rows for score in row.scores])
    gap = statistics.mean(some.gap.tolist(), prompts=some.prompt, weights=some.weight.tolist())
    return {"answers": scores.size, "mean": float(scores.mean()), "deviation": float(scores.std()), "gap": gap.plain}


def _bins(some: Comparisons, values: Array, places: Places, bins: int) -> list[Bin]:
    found = []
    for piece in statistics.equal_mass(values[places], bins):
        own = places[piece]
        part, value = some.take(own), values[own]
        ties = int((part.gap == 0).sum())
        found.append(Bin(float(value.min()), float(value.max()), float(value.mean()), accuracy(part), ties))
    return found


def _outcomes(gaps: Array) -> Array:
    return np.where(gaps == 0, 0.5, np.where(gaps > 0, 1.0, 0.0))
