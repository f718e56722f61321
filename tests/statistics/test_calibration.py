"""Reliability curves of probabilities of any kind; those of reward models are tried in scoring/test_agreement."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from truing.errors import DataError
from truing.statistics import calibration_error, calibration_error_by_chance, reliability_curve


def test_by_hand():
    """Said 0.2 and 0.8, so 0.25 and 1 of four each: off by 0.05 and 0.2."""
    curve = reliability_curve([0.2] * 4 + [0.8] * 4, [0, 0, 0, 1] + [1] * 4, bins=2)
    assert [(one.predicted, one.observed.value, one.weight) for one in curve] == [
        (pytest.approx(0.2), 0.25, 4), (pytest.approx(0.8), 1, 4),
    ]  # fmt: skip
    assert calibration_error(curve) == pytest.approx(0.125)
    assert calibration_error_by_chance(curve) == pytest.approx(math.sqrt(2 / math.pi * 0.16 / 4))


def test_equals_a_plain_loop():
    rng = np.random.default_rng(90)
    said = np.round(rng.random(200), 2)
    was = (rng.random(200) < said**2) * 1.0
    curve = reliability_curve(said.tolist(), was.tolist(), bins=8)
    order = sorted(range(200), key=lambda place: said[place])
    cuts = [0, *(next(i for i in range(200) if said[order[i]] == said[order[200 * k // 8]]) for k in range(1, 8)), 200]
    total = sum(
        abs(sum(said[i] - was[i] for i in order[start:end])) for start, end in pairwise(cuts)
    )  # fmt: skip
    assert calibration_error(curve) == pytest.approx(total / 200)


def test_weights_and_prompts():
    """A prompt counts by its weight: 3 of 4 said so is 0.75, whatever the number of its rows."""
    curve = reliability_curve([0.5, 0.5, 0.5], [1, 1, 0], bins=1, prompts=["a", "a", "b"], weights=[1, 2, 1])
    assert curve[0].observed.value == pytest.approx(0.75)
    assert curve[0].weight == 4


@pytest.mark.parametrize(("said", "was"), [([], []), ([1.2], [1]), ([-0.1, 0.5], [1, 0])])
def test_what_is_no_probability(said, was):
    with pytest.raises(DataError, match="between 0 and 1, one or more"):
        reliability_curve(said, was, bins=3)


def test_what_is_no_number_or_missing():
    with pytest.raises(DataError, match="nan"):
        reliability_curve([math.nan], [1], bins=1)
    with pytest.raises(DataError, match="2 of one and 1 of the other"):
        reliability_curve([0.2, 0.3], [1], bins=1)
