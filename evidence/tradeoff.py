"""Frontiers of reward and KL: points of trainings, what lies between them, and a bootstrap over prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evidence.found import Found
from evidence.frontier import BEST_OF, METHODS
from truing.statistics import CONFIDENCE, Interval

Array = NDArray[np.float64]
DRAWS = 1000
"""Of the bootstrap."""


class Point(NamedTuple):
    """One setting of a method. reward, kl: of each seed and held-out opening, [seeds, openings]."""

    value: str
    reward: Array
    kl: Array


class Place(NamedTuple):
    """Where a point lies: KL in nats an answer, and true reward."""

    kl: float
    reward: float


Curves = Mapping[str, Sequence[Point]]
"""The points of each method."""


def curves(found: Found) -> dict[str, list[Point]]:
    """The methods that were measured, each with the settings of which at least one training came to its end."""
    made: dict[str, list[Point]] = {}
    for method in METHODS:
        values = dict.fromkeys(value for (value, _), _ in found.under("frontier", method.name))
        for value in values:
            runs = [run for _, run in found.under("frontier", method.name, value) if "broke" not in run]
            if runs:
                point = Point(value, *(np.array([run[name] for run in runs]) for name in ("reward", "kl")))
                made.setdefault(method.name, []).append(point)
    best = found.pieces.get("frontier/best-of-n", {})
    for name in BEST_OF if best else ():
        # the KL of the best of n is at most log n - (n - 1) / n, and this where no two answers are alike
        rewards = ((n, np.array([values])) for n, values in best[name].items())
        made[name] = [
            Point(n, some, np.full_like(some, math.log(int(n)) - (int(n) - 1) / int(n))) for n, some in rewards
        ]
    return made


def broken(found: Found) -> list[str]:
    """The trainings that did not come to their end."""
    return ["/".join(rest) for rest, run in found.under("frontier") if "broke" in run]


def places(some: Curves) -> dict[str, list[Place]]:
    """Where the points lie: means over seeds and openings."""
    return {
        name: [Place(float(one.kl.mean()), float(one.reward.mean())) for one in points] for name, points in some.items()
    }


def drawn(some: Curves, draws: int = DRAWS) -> list[dict[str, list[Place]]]:
    """Where the points might have lain: openings drawn anew, the same for all, and the seeds of each point."""
    source = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        count = next(iter(some.values()))[0].reward.shape[1]
        asked = source.integers(count, size=count)
        again: dict[str, list[Place]] = {}
        for name, points in some.items():
            for point in points:
                seeds = source.integers(len(point.reward), size=len(point.reward))
                kl, reward = (float(values[seeds][:, asked].mean()) for values in (point.kl, point.reward))
                again.setdefault(name, []).append(Place(kl, reward))
        found.append(again)
    return found


def at(points: Sequence[Place], base: float, budget: float) -> float:
    """The most reward at a KL: on the best straight line between two points, of which the reference is one.

    Whoever draws by lot which of two policies answers has a mean of their rewards, and at most that mean of their KLs,
    which is convex. Not a number beyond the last point. base: the reward of the reference.
    """
    known = [Place(0.0, base), *points]
    below, above = ([one for one in known if side * (budget - one.kl) >= 0] for side in (1, -1))
    return max((_between(one, other, budget) for one in below for other in above), default=math.nan)


def _between(one: Place, other: Place, budget: float) -> float:
    share = (budget - one.kl) / (other.kl - one.kl) if other.kl > one.kl else 0.0
    return (1 - share) * one.reward + share * other.reward


def interval(value: float, others: Sequence[float]) -> Interval:
    """A value with the range of what it might have been; those that are no numbers count for nothing."""
    known = [one for one in others if not math.isnan(one)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail]).tolist() if known else (-math.inf, math.inf)
    return Interval(value, low, high, len(others))


def spread(some: Curves, again: Sequence[Mapping[str, Sequence[Place]]]) -> dict[str, list[tuple[Interval, Interval]]]:
    """The KL and the reward of each point, with their ranges."""
    return {
        name: [
            (
                interval(one.kl, [draw[name][place].kl for draw in again]),
                interval(one.reward, [draw[name][place].reward for draw in again]),
            )
            for place, one in enumerate(points)
        ]
        for name, points in places(some).items()
    }


def ahead(
    some: Curves, again: Sequence[Mapping[str, Sequence[Place]]], first: str, second: str, budget: float
) -> Interval | None:
    """How much more reward one method has than another at the same KL; None where one of them never went as far."""

    def lead(where: Mapping[str, Sequence[Place]]) -> float:
        base = reference_of(where)
        return at(where[first], base, budget) - at(where[second], base, budget)

    value = lead(places(some))
    return None if math.isnan(value) else interval(value, [lead(draw) for draw in again])


def reference_of(where: Mapping[str, Sequence[Place]]) -> float:
    """The reward of the reference: the best of one answer."""
    return where[next(iter(BEST_OF))][0].reward
