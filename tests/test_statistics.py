"""Every interval against a value worked by hand, an independent implementation, and what it promises: coverage."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from truing.errors import DataError
from truing.statistics import (
    Interval,
    comparisons_needed,
    mean,
    mean_of,
    paired_difference,
    proportion,
    ratio_of_means,
    reading,
    sign_test,
    win_rate,
)

outcome_lists = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)


def coverage(make, truth, runs=400):
    """The share of simulated intervals that hold the truth."""
    hits = 0
    for _ in range(runs):
        interval = make()
        hits += interval.low <= truth <= interval.high
    return hits / runs


class TestInterval:
    def test_plain(self):
        assert Interval(0.5, 0.4, 0.6, 9).plain == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}

    def test_text(self):
        assert str(Interval(1.4213, 1.3118, 1.5307, 60)) == "1.42 [1.31, 1.53]"
        assert str(Interval(0.01234, 0.01111, 0.01357, 60)) == "0.0123 [0.0111, 0.0136]"
        assert str(Interval(221.0, -81.4, 523.4, 3)) == "221 [-81, 523]"
        assert str(Interval(2.0, 2.0, 2.0, 3)) == "2.00 [2.00, 2.00]"

    def test_percent(self):
        assert Interval(0.742, 0.661, 0.809, 120).percent == "74 % [66, 81]"
        assert Interval(0.742, 0.734, 0.75, 12000).percent == "74.2 % [73.4, 75.0]"


class TestProportion:
    def test_by_hand(self):
        """8 of 10 with z = 1.96: (0.8 + 0.19208) / 1.38416 and a half width of 0.22662..."""
        interval = proportion(8, 10)
        assert interval.value == 0.8
        assert interval.low == pytest.approx(0.4901, abs=1e-4)
        assert interval.high == pytest.approx(0.9433, abs=1e-4)

    @pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 30), (1, 30), (17, 40), (40, 40), (999, 1000)])
    @pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
    def test_equals_scipy(self, successes, n, confidence):
        expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
        interval = proportion(successes, n, confidence=confidence)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)

    def test_no_trials(self):
        assert proportion(0, 0) == Interval(0.5, 0.0, 1.0, 0)

    def test_impossible_counts(self):
        with pytest.raises(DataError, match="5 successes in 4 trials"):
            proportion(5, 4)


class TestWinRate:
    @given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40))
    def test_without_ties_is_wilson(self, outcomes):
        expected = proportion(int(sum(outcomes)), len(outcomes))
        interval = win_rate(outcomes)
        assert (interval.value, interval.n) == (expected.value, expected.n)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)

    def test_all_ties_by_hand(self):
        """Ten ties, a win and a loss scatter by 1/24; a coin by 1/4: six times less, so they count as sixty."""
        expected = stats.binomtest(30, 60).proportion_ci(method="wilson")
        interval = win_rate([0.5] * 10)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)

    @given(outcome_lists)
    def test_exchanging_the_sides_mirrors(self, outcomes):
        interval, mirrored = win_rate(outcomes), win_rate([1 - outcome for outcome in outcomes])
        mirror = (1 - interval.value, 1 - interval.high, 1 - interval.low)
        assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(mirror, abs=1e-12)

    @given(outcome_lists)
    def test_holds_its_value_and_never_collapses(self, outcomes):
        interval = win_rate(outcomes)
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
        assert interval.high - interval.low > 0.02

    @given(outcome_lists, st.integers(2, 5))
    def test_copies_of_an_answer_add_nothing(self, outcomes, copies):
        once = win_rate(outcomes)
        copied = win_rate(outcomes * copies, prompts=list(range(len(outcomes))) * copies)
        assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high), abs=1e-12)
        assert copied.n == copies * len(outcomes)

    def test_independent_answers_do_add(self):
        rng = np.random.default_rng(0)
        outcomes = list((rng.random(400) < 0.6) * 1.0)
        prompts = [i % 100 for i in range(400)]
        clustered, plain = win_rate(outcomes, prompts=prompts), win_rate(outcomes)
        assert clustered.high - clustered.low == pytest.approx(plain.high - plain.low, rel=0.15)

    def test_plain_floats(self):
        """A numpy scalar would print itself as such in a stored file or a message."""
        interval = win_rate(list(np.array([1.0, 0.5])))
        assert {type(x) for x in (interval.value, interval.low, interval.high)} == {float}

    def test_nothing(self):
        assert win_rate([]) == Interval(0.5, 0.0, 1.0, 0)

    def test_other_outcomes_are_refused(self):
        with pytest.raises(DataError, match="1 for a win"):
            win_rate([1, 0.25])

    @pytest.mark.parametrize("rate", [0.5, 0.75, 0.9])
    def test_coverage(self, rate):
        rng = np.random.default_rng(1)
        assert 0.92 <= coverage(lambda: win_rate(list((rng.random(60) < rate) * 1.0)), rate) <= 0.98

    @pytest.mark.parametrize("ties", [0.3, 0.7])
    def test_coverage_with_ties(self, ties):
        rng = np.random.default_rng(2)
        chances = [0.7 * (1 - ties), ties, 0.3 * (1 - ties)]
        truth = chances[0] + ties / 2
        assert 0.92 <= coverage(lambda: win_rate(list(rng.choice([1, 0.5, 0], 60, p=chances))), truth) <= 0.98

    def test_coverage_needs_the_prompts(self):
        """Four answers a prompt that largely agree: with the prompts it covers, without them it would not."""
        rng = np.random.default_rng(3)
        prompts = list(np.repeat(np.arange(60), 4))

        def outcomes():
            chances = np.repeat(rng.beta(0.7, 0.3, 60), 4)
            return list((rng.random(240) < chances) * 1.0)

        assert 0.92 <= coverage(lambda: win_rate(outcomes(), prompts=prompts), 0.7) <= 0.98
        assert coverage(lambda: win_rate(outcomes()), 0.7) < 0.85


class TestWeights:
    def test_equal_weights_change_nothing(self):
        outcomes, values = [1, 0, 0.5, 1, 1, 0, 1], [3, 1, 4, 1, 5, 9, 2]
        for weight in (1, 0.2, 7):
            weights = [weight] * 7
            for found, plain in (
                (win_rate(outcomes, weights=weights), win_rate(outcomes)),
                (mean(values, weights=weights), mean(values)),
            ):
                assert (found.value, found.low, found.high, found.n) == pytest.approx(
                    (plain.value, plain.low, plain.high, plain.n), abs=1e-12
                )

    def test_the_weighted_mean_by_hand(self):
        """1 and 4 with weights 1 and 2: 3; deviations -2/3 and 2/3 of the weight, standard error sqrt(8/9 * 2)."""
        interval = mean([1, 4], weights=[1, 2])
        assert interval.value == 3
        assert interval.high - 3 == pytest.approx(12.7062 * math.sqrt(16 / 9), rel=1e-5)

    def test_a_prompt_counts_by_the_sum(self):
        split = win_rate([1, 0, 1, 0], prompts=["a", "a", "b", "c"], weights=[0.75, 0.25, 2, 1])
        assert split.value == pytest.approx((0.75 + 2) / 4)
        assert mean([1, 0, 2], prompts=["a", "a", "b"], weights=[1, 3, 4]).value == pytest.approx(
            (0.25 * 4 + 2 * 4) / 8
        )

    def test_what_counts_nothing_is_not_there(self):
        rest = [1, 0, 1, 1]
        found, plain = win_rate([*rest, 0], weights=[1, 1, 1, 1, 0]), win_rate(rest)
        assert (found.low, found.high) == pytest.approx((plain.low, plain.high))

    def test_a_weight_for_each(self):
        with pytest.raises(DataError, match="2 of one and 1 of the other"):
            mean([1, 2], weights=[1])

    def test_coverage(self):
        rng = np.random.default_rng(11)
        weights = list(np.repeat([0.3, 1.0, 3.0], 40))
        chances = np.repeat([0.9, 0.6, 0.5], 40)
        truth = float(np.average(chances, weights=weights))
        assert (
            0.92 <= coverage(lambda: win_rate(list((rng.random(120) < chances) * 1.0), weights=weights), truth) <= 0.985
        )
        assert 0.92 <= coverage(lambda: mean(list(rng.normal(chances, 1)), weights=weights), truth) <= 0.98


class TestMeanOf:
    def test_one_is_itself(self):
        one = proportion(7, 10)
        found = mean_of([one])
        assert (found.value, found.low, found.high, found.n) == pytest.approx((one.value, one.low, one.high, one.n))

    def test_by_hand(self):
        """Distances 0.3 and 0.4 below, 0 and 0.2 above."""
        found = mean_of([Interval(0.6, 0.3, 0.6, 5), Interval(0.8, 0.4, 1.0, 7)])
        assert (found.value, found.low, found.high, found.n) == pytest.approx((0.7, 0.45, 0.8, 12))
        with pytest.raises(DataError, match="no estimates"):
            mean_of([])

    def test_coverage(self):
        rng = np.random.default_rng(12)
        sizes, rates = (20, 40, 80), (0.95, 0.7, 0.55)

        def make():
            return mean_of([proportion(int(rng.binomial(n, p)), n) for n, p in zip(sizes, rates, strict=True)])

        assert 0.92 <= coverage(make, sum(rates) / 3) <= 0.98


class TestMean:
    def test_by_hand(self):
        """1, 2, 3: standard error 1/sqrt(3), t(2) = 4.3027."""
        interval = mean([1, 2, 3])
        assert interval.value == 2
        assert interval.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
        assert interval.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)

    def test_equals_scipy(self):
        values = np.random.default_rng(4).gamma(2, 1, 30)
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        interval = mean(list(values), confidence=0.9)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)

    def test_one_value_and_none(self):
        assert mean([3]) == Interval(3, -math.inf, math.inf, 1)
        with pytest.raises(DataError, match="no values"):
            mean([])

    def test_copies_of_an_answer_add_nothing(self):
        once, copied = mean([1, 5, 9]), mean([1, 5, 9] * 3, prompts=["a", "b", "c"] * 3)
        assert (copied.low, copied.high, copied.n) == pytest.approx((once.low, once.high, 9), abs=1e-12)

    def test_prompts_must_match(self):
        with pytest.raises(DataError, match="2 of one and 1 of the other"):
            mean([1, 2], prompts=["a"])

    @pytest.mark.parametrize("n", [5, 60])
    def test_coverage(self, n):
        rng = np.random.default_rng(5)
        assert 0.92 <= coverage(lambda: mean(list(rng.gamma(4, 1, n))), 4) <= 0.98


class TestPairedDifference:
    def test_what_both_share_drops_out(self):
        before = [1, 100, 1000]
        interval = paired_difference([2, 101, 1001], before)
        assert (interval.value, interval.low, interval.high) == (1, 1, 1)

    def test_equals_scipy(self):
        rng = np.random.default_rng(6)
        after, before = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
        expected = stats.ttest_rel(after, before).confidence_interval()
        interval = paired_difference(list(after), list(before))
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)

    def test_pairs_must_match(self):
        with pytest.raises(DataError, match="3 of one and 1 of the other"):
            paired_difference([1, 2, 3], [1])


class TestRatioOfMeans:
    def lengths(self, rng, n=60):
        """Answers to the same prompts: long prompts lengthen both; truly the first are 1.4 times as long."""
        shared = rng.lognormal(4, 0.6, n)
        return list(1.4 * shared * rng.lognormal(0, 0.3, n)), list(shared * rng.lognormal(0, 0.3, n))

    def test_value(self):
        assert ratio_of_means([2, 4], [1, 3]).value == 1.5

    def test_exact_proportion_has_no_width(self):
        interval = ratio_of_means([2, 4, 6], [1, 2, 3])
        assert (interval.low, interval.high) == pytest.approx((2, 2))

    def test_exchanging_gives_the_reciprocal(self):
        a, b = self.lengths(np.random.default_rng(7))
        interval, swapped = ratio_of_means(a, b), ratio_of_means(b, a)
        assert (swapped.low, swapped.high) == pytest.approx((1 / interval.high, 1 / interval.low))

    def test_agrees_with_the_bootstrap(self):
        a, b = self.lengths(np.random.default_rng(8))
        bootstrap = stats.bootstrap(
            (a, b),
            lambda x, y, axis: x.mean(axis) / y.mean(axis),
            paired=True,
            vectorized=True,
            n_resamples=2000,
            rng=np.random.default_rng(9),
        ).confidence_interval
        interval = ratio_of_means(a, b)
        width = bootstrap.high - bootstrap.low
        assert interval.low == pytest.approx(bootstrap.low, abs=0.12 * width)
        assert interval.high == pytest.approx(bootstrap.high, abs=0.12 * width)

    @pytest.mark.parametrize(("a", "b"), [([], []), ([1, 2], [0, 0]), ([0], [1]), ([1, -1], [1, 1])])
    def test_no_ratio(self, a, b):
        with pytest.raises(DataError, match="positive"):
            ratio_of_means(a, b)

    def test_coverage(self):
        rng = np.random.default_rng(10)
        assert 0.92 <= coverage(lambda: ratio_of_means(*self.lengths(rng)), 1.4) <= 0.98


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
