"""Tests of chance against counting everything that can happen."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.errors import DataError
from truing.statistics import holm, mcnemar, sign_test


class TestSignTest:
    def test_by_hand(self):
        assert sign_test(5, 0) == pytest.approx(2 / 32)
        assert sign_test(6, 1) == pytest.approx(2 * 8 / 128)

    @pytest.mark.parametrize(("wins", "losses"), [(9, 3), (3, 9), (7, 7), (1, 0), (20, 41)])
    def test_equals_counting(self, wins, losses):
        n = wins + losses
        tail = sum(math.comb(n, k) for k in range(max(wins, losses), n + 1))
        assert sign_test(wins, losses) == pytest.approx(float(min(Fraction(1), Fraction(2 * tail, 2**n))))

    def test_only_ties(self):
        assert sign_test(0, 0) == 1

    def test_fewer_than_none(self):
        with pytest.raises(DataError, match="fewer than none"):
            sign_test(-1, 2)


class TestMcNemar:
    def test_by_hand(self):
        """The first alone is right on 5, the second alone on 1: 2 (1 + 6) / 64."""
        first = [True] * 5 + [False] + [True] * 9 + [False] * 2
        second = [False] * 5 + [True] + [True] * 9 + [False] * 2
        found = mcnemar(first, second)
        assert (found.first_only, found.second_only) == (5, 1)
        assert found.chance == pytest.approx(14 / 64)

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=7))
    def test_equals_exchanging_the_models_in_every_way(self, pairs):
        """Were the models equal, an item's two answers might as well be exchanged: how many ways are as uneven."""
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        gap = [a - b for a, b in pairs]
        ways = [abs(sum(map(int.__mul__, gap, signs))) for signs in itertools.product((1, -1), repeat=len(gap))]
        assert mcnemar(first, second).chance == pytest.approx(sum(way >= abs(sum(gap)) for way in ways) / len(ways))

    def test_models_that_never_differ(self):
        assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)
        assert mcnemar([], []) == (0, 0, 1.0)
        with pytest.raises(DataError, match="2 of one and 1 of the other"):
            mcnemar([True, False], [True])


class TestHolm:
    def test_by_hand(self):
        """Smallest times three, next times two, last times one, never falling."""
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert holm([0.5, 0.9]) == [1.0, 1.0]
        assert holm([]) == []

    @given(st.lists(st.floats(0, 1), max_size=8))
    def test_refuses_what_stepping_down_refuses(self, chances):
        """Holm's own words: while the smallest that is left is below 5 % over their number, call it real."""
        left, real = sorted(range(len(chances)), key=lambda place: chances[place]), set()
        while left and chances[left[0]] <= 0.05 / len(left):
            real.add(left.pop(0))
        found = holm(chances)
        assert all(
            (found[place] <= 0.05) == (place in real)
            for place in range(len(chances))
            if abs(found[place] - 0.05) > 1e-9
        )

    @pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan])
    def test_what_is_no_chance(self, bad):
        with pytest.raises(DataError, match="between 0 and 1"):
            holm([0.5, bad])
