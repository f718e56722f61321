"""Sizes against the power that they promise, and the words that results are given."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from truing.errors import DataError
from truing.statistics import (
    Interval,
    comparisons_needed,
    mean,
    more_needed,
    paired_difference,
    paired_prompts_needed,
    reading,
    reading_of_difference,
    too_few,
    unpaired_prompts_needed,
    win_rate,
)


class TestComparisonsNeeded:
    def test_by_hand(self):
        """((1.95996 * 0.5 + 0.84162 * 0.49749) / 0.05)^2 = 782.5."""
        assert comparisons_needed(0.55) == 783
        assert comparisons_needed(0.45) == 783

    def test_the_promised_power(self):
        n = comparisons_needed(0.7)
        wins = np.arange(n + 1)
        found = np.array([abs(w / n - 0.5) > stats.norm.ppf(0.975) * 0.5 / math.sqrt(n) for w in wins])
        assert stats.binom.pmf(wins, n, 0.7)[found].sum() == pytest.approx(0.8, abs=0.05)

    @pytest.mark.parametrize("rate", [0.5, -0.1, 1.1])
    def test_impossible(self, rate):
        with pytest.raises(DataError, match="cannot be told from"):
            comparisons_needed(rate)

    @pytest.mark.parametrize("power", [0, 1, 80])
    def test_a_power_that_is_none(self, power):
        with pytest.raises(DataError, match=r"such as 0\.8"):
            comparisons_needed(0.6, power=power)


class TestPaired:
    def test_by_hand(self):
        """(1.95996 sqrt(0.3) + 0.84162 sqrt(0.29))^2 / 0.01 = 233.1."""
        assert paired_prompts_needed(0.2, 0.1) == 234
        assert paired_prompts_needed(0.1, 0.2) == 234

    def test_where_all_prompts_decide_it_is_the_win_rate(self):
        assert paired_prompts_needed(0.6, 0.4) == comparisons_needed(0.6)

    def test_the_promised_power(self):
        """Over all numbers of prompts that may differ, and all ways they may fall."""
        first, second = 0.2, 0.1
        n = paired_prompts_needed(first, second)
        power = 0.0
        for apart in range(n + 1):
            wins = np.arange(apart + 1)
            told = np.abs(2 * wins - apart) > stats.norm.ppf(0.975) * math.sqrt(apart)
            power += stats.binom.pmf(apart, n, first + second) * stats.binom.pmf(wins, apart, first / 0.3)[told].sum()
        assert power == pytest.approx(0.8, abs=0.02)

    @pytest.mark.parametrize("shares", [(0.2, 0.2), (0.7, 0.6), (-0.1, 0.2), (math.nan, 0.2)])
    def test_impossible(self, shares):
        with pytest.raises(DataError, match="two different ones"):
            paired_prompts_needed(*shares)


class TestUnpaired:
    def test_by_hand(self):
        """(1.95996 sqrt(2 * 0.65 * 0.35) + 0.84162 sqrt(0.24 + 0.21))^2 / 0.01 = 355.9."""
        assert unpaired_prompts_needed(0.6, 0.7) == 356
        assert unpaired_prompts_needed(0.7, 0.6) == 356

    def test_the_promised_power(self):
        first, second = 0.6, 0.8
        n = unpaired_prompts_needed(first, second)
        a, b = np.arange(n + 1)[:, None] / n, np.arange(n + 1)[None] / n
        middle = (a + b) / 2
        told = np.abs(a - b) > stats.norm.ppf(0.975) * np.sqrt(2 * middle * (1 - middle) / n)
        chance = (
            stats.binom.pmf(np.arange(n + 1), n, first)[:, None] * stats.binom.pmf(np.arange(n + 1), n, second)[None]
        )
        assert chance[told].sum() == pytest.approx(0.8, abs=0.02)

    @pytest.mark.parametrize("rates", [(0.5, 0.5), (1.1, 0.5), (0.5, math.nan)])
    def test_impossible(self, rates):
        with pytest.raises(DataError, match="two different ones"):
            unpaired_prompts_needed(*rates)


class TestMoreNeeded:
    def test_by_hand(self):
        """A deviation of 1 and a difference of 0.2 take (1.95996 + 0.84162)^2 / 0.04 = 196.2 values; 100 are there."""
        half = 1.959964 / math.sqrt(100)
        assert more_needed(Interval(0.2, 0.2 - half, 0.2 + half, 100)) == 97
        assert more_needed(Interval(-0.2, -0.2 - half, -0.2 + half, 100)) == 97
        assert more_needed(Interval(0.2, 0.2 - half / 2, 0.2 + half / 2, 400)) == 0

    def test_a_difference_near_none_is_planned_for_as_the_smallest(self):
        half = 1.959964 / math.sqrt(100)
        assert more_needed(Interval(0.0, -half, half, 100), smallest=0.1) == 685

    def test_that_many_do_tell(self):
        """Simulated: as many as are said find the difference in four of five experiments."""
        rng = np.random.default_rng(40)
        n = 50 + more_needed(mean(stats.norm.ppf((np.arange(50) + 0.5) / 50, loc=0.3).tolist()), smallest=0.01)
        told = sum(mean(rng.normal(0.3, 1, n).tolist()).low > 0 for _ in range(400))
        assert told / 400 == pytest.approx(0.8, abs=0.06)

    def test_what_says_nothing(self):
        with pytest.raises(DataError, match="scatter"):
            more_needed(mean([3]))
        with pytest.raises(DataError, match="above 0"):
            more_needed(mean([3, 4]), smallest=0)


class TestReading:
    @pytest.mark.parametrize(
        ("wins", "losses", "says"),
        [
            (0, 0, "no comparison was made"),
            (1, 0, "too few to tell: a coin, too, often wins all of 1 comparison"),
            (5, 0, "too few to tell"),
            (6, 0, "better: the whole interval"),
            (45, 15, "better: the whole interval lies above 50 %, over 60 comparisons"),
            (15, 45, "worse: the whole interval lies below 50 %, over 60 comparisons"),
            (31, 29, "not distinguishable from a coin: about 723 more comparisons would tell 55 % from 50 %"),
            (29, 31, "not distinguishable from a coin: about 723 more comparisons would tell 45 % from 50 %"),
            (900, 890, "not distinguishable from a coin: 1790 comparisons would likely have shown 55 %"),
        ],
    )
    def test_says(self, wins, losses, says):
        assert reading(win_rate([1] * wins + [0] * losses)).startswith(says)

    def test_copies_of_an_answer_say_nothing_more(self):
        """Each of 60 prompts answered three times alike: 3 * (783 - 60) comparisons are missing, as they are made."""
        outcomes = [1.0] * 31 * 3 + [0.0] * 29 * 3
        rate = win_rate(outcomes, prompts=[place // 3 for place in range(180)])
        assert "about 2169 more comparisons would tell 55 %" in reading(rate)
        assert "about 603 more comparisons would tell 55 %" in reading(win_rate(outcomes)), "of 180 prompts"

    def test_all_won_on_few_prompts_is_too_few(self):
        rate = win_rate([1.0] * 10, prompts=[place // 2 for place in range(10)])
        assert rate.low > 0.5, "which Wilson's interval says of five too"
        assert too_few(rate)
        assert not too_few(win_rate([1.0] * 6))
        assert reading(rate) == (
            "too few to tell: 10 comparisons say as much as 5 of as many prompts would, "
            "and a coin, too, often wins all of those"
        )

    def test_that_many_do_tell(self):
        """Simulated: two answers to a prompt, of like worth; as many comparisons as are said tell the rate seen."""
        rng = np.random.default_rng(3)

        def drawn(prompts):
            worth = rng.beta(0.6 * 2, 0.4 * 2, prompts)
            outcomes = (rng.random((prompts, 2)) < worth[:, None]).astype(float).ravel().tolist()
            return win_rate(outcomes, prompts=np.repeat(np.arange(prompts), 2).tolist())

        found = next(rate for rate in (drawn(40) for _ in range(999)) if rate.value == 0.6 and rate.low < 0.5)
        more = int(re.findall("about ([0-9]+) more", reading(found))[0])
        told = [drawn((found.n + more) // 2).low > 0.5 for _ in range(400)]
        assert np.mean(told) == pytest.approx(0.8, abs=0.07)
        assert np.mean([drawn(comparisons_needed(0.6) // 2).low > 0.5 for _ in range(400)]) < 0.72, "if independent"


class TestReadingOfDifference:
    @pytest.mark.parametrize(
        ("wins", "losses", "rest", "says"),
        [
            (1, 0, 0, "too few to tell: 1 comparison"),
            (20, 2, 10, "higher: the whole interval lies above 0, over 32 comparisons"),
            (2, 20, 10, "lower: the whole interval lies below 0, over 32 comparisons"),
            (20, 14, 66, "not distinguishable: about 660 more comparisons would tell a difference of 0.06"),
            (0, 0, 40, "not distinguishable: 40 comparisons would likely have shown a difference of 0.05"),
        ],
    )
    def test_says(self, wins, losses, rest, says):
        difference = paired_difference([1] * wins + [0] * losses + [1] * rest, [0] * wins + [1] * (losses + rest))
        assert reading_of_difference(difference).startswith(says)
