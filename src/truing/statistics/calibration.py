"""Whether what is said with some probability happens that often: reliability curves and their mean error."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from truing.errors import DataError
from truing.statistics.intervals import Array, Interval, Places, finite, same_length
from truing.statistics.rates import win_rate


class Reliability(NamedTuple):
    """Predictions with like probabilities: their mean, how often what they speak of was so, and their weight."""

    predicted: float
    observed: Interval
    weight: float

    @property
    def plain(self) -> dict[str, Any]:
        """As it is stored in files."""
        return {"predicted": self.predicted, "observed": self.observed.plain}


def equal_mass(values: Array, bins: int) -> list[Places]:
    """Places of the values in order, cut into so many pieces of like size. Equal values stay together."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    cuts = {int(np.searchsorted(ordered, ordered[len(order) * k // bins])) for k in range(1, bins) if len(order)}
    return [piece for piece in np.split(order, sorted(cuts)) if piece.size]


def reliability_curve(
    predicted: Sequence[float],
    happened: Sequence[float],
    *,
    bins: int,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
) -> list[Reliability]:
    """How often what is said with some probability is so, in bins of like size.

    predicted: [n], probabilities; happened: [n], 1 where it was so and 0 where not. Equal probabilities stay in one
    bin, so there may be fewer. Of no prediction, or of something that is no probability, it is an error.
    """
    same_length(predicted, happened)
    said = finite(predicted)
    if said.size == 0 or said.min() < 0 or said.max() > 1:
        raise DataError("a reliability curve needs probabilities between 0 and 1, one or more")
    names: Sequence[Hashable] = range(said.size) if prompts is None else prompts
    counted = np.ones_like(said) if weights is None else finite(weights)
    same_length(predicted, names)
    same_length(predicted, counted.tolist())
    curve = []
    for places in equal_mass(said, bins):
        observed = win_rate(
            [happened[place] for place in places],
            prompts=[names[place] for place in places],
            weights=counted[places].tolist(),
        )
        weight = float(counted[places].sum())
        curve.append(Reliability(float(np.average(said[places], weights=counted[places])), observed, weight))
    return curve


def calibration_error(curve: Sequence[Reliability]) -> float:
    """Mean distance of predicted and observed share over the bins (ECE, arXiv:1706.04599), between 0 and 1."""
    apart = [abs(one.predicted - one.observed.value) for one in curve]
    return float(np.average(apart, weights=[one.weight for one in curve]))


def calibration_error_by_chance(curve: Sequence[Reliability]) -> float:
    """What `calibration_error` would be, on average, were each probability right: the mean of |normal| in each bin.

    Each prediction counts as independent and each bin by its number of predictions.
    """
    errors = [math.sqrt(2 / math.pi * one.predicted * (1 - one.predicted) / one.observed.n) for one in curve]
    return float(np.average(errors, weights=[one.weight for one in curve]))
