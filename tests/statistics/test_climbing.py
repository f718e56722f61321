"""Newton's method where a full step is right, where it is too long, and where there is no maximum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from truing.errors import DataError
from truing.statistics.climbing import climb


def test_a_parabola_takes_one_step():
    curvature, top = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([3.0, -4.0])
    calls = []

    def parabola(place):
        calls.append(place)
        away = place - top
        return float(-away @ curvature @ away / 2), -curvature @ away, curvature

    place, found = climb(parabola, np.zeros(2))
    assert place == pytest.approx(top)
    assert found is curvature
    assert len(calls) == 2


def test_a_step_that_is_too_long_is_halved():
    """-log cosh is nearly straight away from 0: from 3 a full step of Newton's lands at -98, and never comes back."""

    def roof(place):
        x = float(place[0])
        return -math.log(math.cosh(x)), np.array([-math.tanh(x)]), np.array([[1 / math.cosh(x) ** 2]])

    place, _ = climb(roof, np.array([3.0]))
    assert place == pytest.approx([0.0], abs=1e-9)


def test_what_has_no_maximum():
    def root(place):
        x = float(place[0])
        return math.sqrt(x), np.array([0.5 / math.sqrt(x)]), np.array([[0.25 / x**1.5]])

    with pytest.raises(DataError, match="no maximum of the likelihood"):
        climb(root, np.array([1.0]))
