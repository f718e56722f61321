"""Correlations of ranks against an independent implementation, closed forms, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from covering import coverage
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from truing.errors import DataError
from truing.statistics import Interval, kendall, spearman

BOTH = pytest.mark.parametrize("correlation", [spearman, kendall])
pairs = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=20)


@pytest.mark.parametrize(("correlation", "peer"), [(spearman, stats.spearmanr), (kendall, stats.kendalltau)])
@pytest.mark.parametrize("size", [2, 3, 5, 9, 40])
def test_equals_scipy_ties_and_all(correlation, peer, size):
    draw = np.random.default_rng(size)
    for _ in range(20):
        a, b = draw.integers(0, 4, size).tolist(), draw.integers(0, 4, size).tolist()
        if len(set(a)) > 1 and len(set(b)) > 1:
            assert correlation(a, b).value == pytest.approx(peer(a, b).statistic)


def test_kendall_by_hand():
    """Of six pairs five are in one order, one in opposite order: 4 / 6."""
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]).value == pytest.approx(4 / 6)


def test_the_intervals_by_hand():
    """Bonett and Wright on Fisher's scale: variance (1 + rho^2 / 2) / (n - 3), and 0.437 / (n - 4) for tau."""
    a, b = list(range(20)), [3, 0, 1, 5, 2, 9, 4, 8, 6, 7, 14, 10, 12, 19, 11, 13, 15, 18, 16, 17]
    for found, variance in (
        (spearman(a, b), (1 + spearman(a, b).value ** 2 / 2) / 17),
        (kendall(a, b), 0.437 / 16),
    ):
        for end, way in ((found.low, -1), (found.high, 1)):
            assert math.atanh(end) == pytest.approx(math.atanh(found.value) + way * 1.959964 * math.sqrt(variance))


@BOTH
@given(pairs)
def test_one_mirrors_the_other(correlation, pairs):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found, swapped = correlation(first, second), correlation(second, first)
    turned = correlation(first, [-b for b in second])
    stretched = correlation([math.exp(a) for a in first][::-1], second[::-1])
    mirror = (-found.value, -found.high, -found.low)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (swapped.value, swapped.low) == pytest.approx((found.value, found.low))
    assert (turned.value, turned.low, turned.high) == pytest.approx(mirror)
    assert (stretched.value, stretched.low) == pytest.approx((found.value, found.low))


@BOTH
def test_a_perfect_order_is_not_beyond_doubt(correlation):
    order = list(range(12))
    found, exchanged = correlation(order, order), correlation(order, [1, 0, *order[2:]])
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(exchanged.low)
    backwards = correlation(order, order[::-1])
    assert (backwards.value, backwards.low, backwards.high) == pytest.approx((-1, -1, -found.low))


@BOTH
def test_what_says_nothing(correlation):
    assert correlation([], []) == Interval(0.0, -1.0, 1.0, 0)
    assert correlation([3], [4]) == Interval(0.0, -1.0, 1.0, 1)
    assert correlation([1] * 9, list(range(9))) == Interval(0.0, -1.0, 1.0, 9)
    few = correlation([1, 2, 3, 4], [1, 2, 3, 4])
    assert (few.value, few.low, few.high) == (pytest.approx(1), -1, 1)
    with pytest.raises(DataError, match="2 of one and 1 of the other"):
        correlation([1, 2], [1])
    with pytest.raises(DataError, match="value 2 of 2 is nan"):
        correlation([1, 2], [1, math.nan])


@pytest.mark.parametrize(
    ("correlation", "truth"),
    [(spearman, 6 / math.pi * math.asin(0.3)), (kendall, 2 / math.pi * math.asin(0.6))],
    ids=["spearman", "kendall"],
)
def test_coverage(correlation, truth):
    """Normal scores that correlate by 0.6, whose rank correlations are known."""
    rng = np.random.default_rng(80)

    def make():
        first = rng.normal(size=60)
        return correlation(first, 0.6 * first + 0.8 * rng.normal(size=60))

    assert 0.93 <= coverage(make, truth, runs=500) <= 0.98
