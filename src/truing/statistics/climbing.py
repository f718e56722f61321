"""The maximum of a concave function, for the models that are fitted to comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from truing.errors import DataError
from truing.statistics.intervals import Array

Concave = Callable[[Array], tuple[float, Array, Array]]
"""At a place [k]: the value, the slope [k], and the curvature [k, k], which is the negative second derivative."""

MOST_STEPS = 200


def climb(function: Concave, start: Array) -> tuple[Array, Array]:
    """The place [k] of the maximum and the curvature [k, k] there, by Newton's method.

    A step is halved until it no longer descends, which for a strictly concave function with a maximum always arrives.
    """
    place = start
    value, slope, curvature = function(place)
    for _ in range(MOST_STEPS):
        step = np.linalg.solve(curvature, slope)
        if float(slope @ step) < 1e-20:  # twice what is left to gain
            return place, curvature
        there = function(place + step)
        while there[0] < value - 1e-12 * abs(value):
            step = step / 2
            there = function(place + step)
        place, (value, slope, curvature) = place + step, there
    raise DataError(f"no maximum of the likelihood was found in {MOST_STEPS} steps: some values are too large to fit")
