"""The strengths of many models from comparisons of two at a time: Bradley and Terry with ties, and Elo."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from truing.errors import DataError, did_you_mean
from truing.statistics.climbing import climb
from truing.statistics.intervals import CONFIDENCE, Array, Interval, Places, numbered, quantile, same_length, wilson

RESAMPLES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Ratings:
    """What `bradley_terry` found of K models.

    strength [K]: natural log-odds, 0 on average; times 400 / ln 10 they are Elo points. covariance [K, K]: of these.
    tie: how often two equal models tie. games [K]: comparisons of each.
    """

    names: tuple[Hashable, ...]
    strength: Array
    covariance: Array
    tie: Interval
    games: tuple[int, ...]
    confidence: float

    @property
    def table(self) -> dict[Hashable, Interval]:
        """The strength of each model against the average one, the strongest first."""
        return {
            self.names[place]: self._along(np.eye(len(self.names))[place], self.games[place]) for place in self._order
        }

    def difference(self, first: Hashable, second: Hashable) -> Interval:
        """How much stronger the first is: the natural log-odds of its winning where there is no tie.

        Narrower than the two intervals of `table` suggest, for what both have in common drops out.
        """
        contrast = np.zeros(len(self.names))
        contrast[self._place(first)] += 1
        contrast[self._place(second)] -= 1
        return self._along(contrast, min(self.games[self._place(first)], self.games[self._place(second)]))

    def win_chance(self, first: Hashable, second: Hashable) -> Interval:
        """How often the first wins, of those comparisons with the second that are no tie."""
        odds = self.difference(first, second)
        value, low, high = (float(special.expit(one)) for one in (odds.value, odds.low, odds.high))
        return Interval(value, low, high, odds.n, self.confidence)

    @property
    def _order(self) -> list[int]:
        return sorted(range(len(self.names)), key=lambda place: -self.strength[place])

    def _place(self, name: Hashable) -> int:
        if name not in self.names:
            raise DataError(f"nothing was compared with {name!r}{did_you_mean(str(name), map(str, self.names))}")
        return self.names.index(name)

    def _along(self, contrast: Array, games: int) -> Interval:
        value = float(contrast @ self.strength)
        half = quantile(self.confidence) * math.sqrt(max(0.0, float(contrast @ self.covariance @ contrast)))
        return Interval(value, value - half, value + half, games, self.confidence)


def bradley_terry(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    outcomes: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> Ratings:
    """Strengths by maximum likelihood: Bradley and Terry (1952) with ties after Davidson (1970).

        P(win), P(tie), P(loss) are as exp(d / 2), nu, exp(-d / 2)        d: strength of the first less the second's

    first, second, outcomes: [n], who was compared, and 1 where the first won, 1/2 for a tie, 0 where it lost. Without
    ties nu is 0, and the model is that of Bradley and Terry. Which of two stands first changes nothing.

    Assumes one strength for each model, whatever the prompt and the opponent, and a readiness to tie that depends on
    d alone. Intervals are normal, with the observed information; comparisons are then independent. With `prompts`
    those of one prompt are not, and the variance is the sandwich over prompts, of which there should be some dozens.

    The maximum must exist, or it is an error that says why: not if all comparisons are ties, nor if some models never
    won against, or tied with, any of the others (Ford 1957), nor if there are ties and nothing contradicts one order.
    """
    names, one, other = _players(first, second, outcomes)
    won, count = np.asarray(outcomes, dtype=np.float64), len(names)
    _rated(names, one, other, won)
    arena = _Arena.of(count, one, other, won)
    place, curvature = climb(arena.log_likelihood, arena.start)
    covariance: Array = np.asarray(np.linalg.inv(curvature), dtype=np.float64)
    if prompts is not None:
        covariance = _sandwich(covariance, arena.slopes(place, won), prompts)
    if arena.tied:
        tie = _tie_share(place[count], covariance[count, count], won.size, confidence)
    else:
        tie = Interval(0.0, 0.0, wilson(0.0, won.size, confidence)[1], won.size, confidence)
    # The 1 that fixes the mean strength left 1 / K^2 in each entry, the mean of a block that else adds up to 0.
    own = covariance[:count, :count] - covariance[:count, :count].mean()
    return Ratings(names, place[:count], own, tie, _games_of_each(one, other, count), confidence)


def elo(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    outcomes: Sequence[float],
    *,
    seed: int,
    k: float = 4.0,
    start: float = 1000.0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> dict[Hashable, Interval]:
    """Elo's ratings (1978) after all comparisons, in the order in which they were made; a tie is half a win.

        rating += k (outcome - 1 / (1 + 10^((other's rating - rating) / 400)))

    first, second, outcomes: [n], as for `bradley_terry`. k: points that one comparison can move; start: everyone's
    rating before.

    For models that change while they are compared. For models that do not, `bradley_terry` uses each comparison fully
    and in any order; Elo forgets what lies some 700 / k of a model's comparisons back, and after few it has moved only
    part of the way from `start`. The interval is a percentile bootstrap that draws comparisons and keeps their order;
    it says what other comparisons would have given, not how far the ratings still have to go.

    Degenerate: of no comparison it is an error; who wins everything has a finite rating, which k and n decide.
    """
    names, one, other = _players(first, second, outcomes)
    if k <= 0:
        raise DataError(f"k is the number of points that a comparison moves: it must be above 0, not {k}")
    won, count, reach = np.asarray(outcomes, dtype=np.float64), len(outcomes), confidence / 2
    quantile(confidence)
    drawn = np.sort(np.random.default_rng(seed).integers(count, size=(resamples, count)), axis=1)
    order = np.concatenate([np.arange(count)[None], drawn])  # the first row is what happened
    ratings = np.full((resamples + 1, len(names)), start)
    rows = np.arange(resamples + 1)
    for games in order.T:
        ours, theirs = ratings[rows, one[games]], ratings[rows, other[games]]
        gain = k * (won[games] - special.expit((ours - theirs) * math.log(10) / 400))
        ratings[rows, one[games]] = ours + gain
        ratings[rows, other[games]] = theirs - gain
    low, high = np.quantile(ratings[1:], [0.5 - reach, 0.5 + reach], axis=0)
    low, high = np.minimum(low, ratings[0]), np.maximum(high, ratings[0])
    each = _games_of_each(one, other, len(names))
    return {
        names[place]: Interval(float(ratings[0, place]), float(low[place]), float(high[place]), each[place], confidence)
        for place in sorted(range(len(names)), key=lambda place: -ratings[0, place])
    }


@dataclass(frozen=True, slots=True)
class _Arena:
    """The comparisons of P ordered pairs of K models, which are all that the likelihood needs of n comparisons.

    design [P, K]: 1 for the first and -1 for the second model. games, ties [P]: how many. lead [P]: half of wins less
    losses. pair [n]: which pair each comparison is of. A place has the strengths [K], then log nu where there are ties.
    """

    design: Array
    games: Array
    ties: Array
    lead: Array
    pair: Places

    @classmethod
    def of(cls, count: int, one: Places, other: Places, won: Array) -> _Arena:
        pairs, pair = np.unique(one * count + other, return_inverse=True)
        design = np.eye(count)[pairs // count] - np.eye(count)[pairs % count]
        games = np.bincount(pair).astype(np.float64)
        ties, lead = (np.bincount(pair, own).astype(np.float64) for own in (won == 0.5, won - 0.5))
        return cls(design, games, ties, lead, pair)

    @property
    def tied(self) -> bool:
        return bool(self.ties.any())

    @property
    def start(self) -> Array:
        """Equal strengths, and ties as often as they were."""
        equal = np.zeros(self.design.shape[1])
        ties, all_games = float(self.ties.sum()), float(self.games.sum())
        return np.append(equal, math.log(2 * ties / (all_games - ties))) if self.tied else equal

    def chances(self, place: Array) -> tuple[Array, Array, Array]:
        """Of each pair [P], the chance that the first wins and of a tie, and the logarithm of what both are over."""
        half, log_nu = self._half_gap(place), place[-1] if self.tied else -np.inf
        total = np.logaddexp(np.logaddexp(half, -half), log_nu)
        return np.exp(half - total), np.exp(log_nu - total), total

    def log_likelihood(self, place: Array) -> tuple[float, Array, Array]:
        """In nats, with its slope and curvature."""
        win, tie, total = self.chances(place)
        ahead = win - (1 - tie) / 2  # half of win less loss, whose square has the mean (1 - tie) / 4
        value = float(2 * self.lead @ self._half_gap(place) - self.games @ total)
        slope = self.design.T @ (self.lead - self.games * ahead)
        spread = self.games * ((1 - tie) / 4 - ahead**2)
        # Strengths may all rise together; adding 1 to each entry fixes their mean at 0 and changes nothing else.
        curvature = self.design.T @ (self.design * spread[:, None]) + 1.0
        if not self.tied:
            return value, slope, curvature
        cross = -self.design.T @ (self.games * ahead * tie)
        corner = float((self.games * tie * (1 - tie)).sum())
        return (
            value + float(self.ties.sum()) * float(place[-1]),
            np.append(slope, float((self.ties - self.games * tie).sum())),
            np.block([[curvature, cross[:, None]], [cross[None, :], np.array([[corner]])]]),
        )

    def slopes(self, place: Array, won: Array) -> Array:
        """The slope of each comparison's own log-likelihood, [n, K] or [n, K + 1]."""
        win, tie, _ = self.chances(place)
        slopes = self.design[self.pair] * (won - win[self.pair] - tie[self.pair] / 2)[:, None]
        if not self.tied:
            return slopes
        return np.concatenate([slopes, ((won == 0.5) - tie[self.pair])[:, None]], axis=1)

    def _half_gap(self, place: Array) -> Array:
        return self.design @ place[: self.design.shape[1]] / 2


def _games_of_each(one: Places, other: Places, count: int) -> tuple[int, ...]:
    return tuple(np.bincount(np.concatenate([one, other]), minlength=count).tolist())


def _players(
    first: Sequence[Hashable], second: Sequence[Hashable], outcomes: Sequence[float]
) -> tuple[tuple[Hashable, ...], Places, Places]:
    """The models in the order in which they come, and the number of the first and second one of each comparison."""
    same_length(first, second)
    same_length(first, outcomes)
    if not len(outcomes):
        raise DataError("there is no comparison to find strengths from")
    if not set(outcomes) <= {0, 0.5, 1}:
        raise DataError("outcomes must be 1 where the first won, 0.5 for a tie and 0 where it lost")
    alone = next((place for place, (a, b) in enumerate(zip(first, second, strict=True)) if a == b), None)
    if alone is not None:
        raise DataError(f"comparison {alone + 1} of {len(first)} is of {first[alone]!r} with itself: leave it out")
    every = [*first, *second]
    number = numbered(every)
    return tuple(dict.fromkeys(every)), number[: len(first)], number[len(first) :]


def _rated(names: tuple[Hashable, ...], one: Places, other: Places, won: Array) -> None:
    """An error where the likelihood has no maximum, which names the models, or says what is missing."""
    count = len(names)
    if (won == 0.5).all():
        raise DataError(
            f"all {won.size} comparisons are ties: all are equally strong, and how readily they tie has no limit"
        )
    beat, tied = np.zeros((count, count), dtype=bool), np.zeros((count, count), dtype=bool)
    beat[one[won == 1], other[won == 1]] = beat[other[won == 0], one[won == 0]] = True
    tied[one[won == 0.5], other[won == 0.5]] = tied[other[won == 0.5], one[won == 0.5]] = True
    below, above = _reached(beat | tied), _reached((beat | tied).T)
    weak = np.flatnonzero(below) if not below.all() else np.flatnonzero(~above)
    if weak.size:
        raise DataError(
            f"{', '.join(str(names[place]) for place in weak)} never won against, or tied with, any of the others, so "
            "how far behind they are has no limit: make more comparisons, or leave them out"
        )
    if tied.any() and _in_steps(beat, tied):
        raise DataError(
            "no comparison contradicts one order of the models, with ties between neighbours only: how far they are "
            "apart has no limit: make more comparisons"
        )


def _reached(edges: np.typing.NDArray[np.bool_]) -> np.typing.NDArray[np.bool_]:
    """What can be reached from the first along the edges."""
    seen = np.zeros(len(edges), dtype=bool)
    seen[0] = True
    while True:
        further = seen | edges[seen].any(axis=0)
        if (further == seen).all():
            return seen
        seen = further


def _in_steps(beat: np.typing.NDArray[np.bool_], tied: np.typing.NDArray[np.bool_]) -> bool:
    """Whether models can be put at heights such that each winner stood at least 1 higher, and ties were within 1.

    Then the likelihood grows for ever as the heights do. Heights are raised until nothing demands more (Bellman-Ford).
    """
    rise = np.where(beat.T, 1.0, np.where(tied, -1.0, -np.inf))  # from the one in the row to the one in the column
    height = np.zeros(len(beat))
    for _ in range(len(beat) + 1):
        raised = np.maximum(height, (height[:, None] + rise).max(axis=0))
        if (raised == height).all():
            return True
        height = raised
    return False


def _sandwich(covariance: Array, slopes: Array, prompts: Sequence[Hashable]) -> Array:
    """The covariance where only prompts are independent: slopes [n, k] of comparisons are summed over each prompt."""
    place = numbered(prompts)
    same_length(slopes.tolist(), place.tolist())
    groups = int(place.max()) + 1
    if groups < 2:
        raise DataError(
            "all comparisons are of one prompt, which says nothing of how prompts differ: leave prompts out"
        )
    total = np.zeros((groups, slopes.shape[1]))
    np.add.at(total, place, slopes)
    return np.asarray(covariance @ (total.T @ total) @ covariance * groups / (groups - 1))


def _tie_share(log_nu: float, variance: float, n: int, confidence: float) -> Interval:
    """How often equal models tie: nu / (2 + nu), with an interval on the log-odds."""
    middle, half = log_nu - math.log(2), quantile(confidence) * math.sqrt(variance)
    value, low, high = (float(special.expit(middle + way * half)) for way in (0, -1, 1))
    return Interval(value, low, high, n, confidence)
