"""Means, differences and ratios against values worked by hand, independent implementations, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from covering import coverage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from truing.errors import DataError
from truing.statistics import (
    Interval,
    mean,
    mean_of,
    paired_bootstrap,
    paired_difference,
    proportion,
    ratio_of_means,
    win_rate,
)


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


def gap_of_averages(one, other, axis):
    return one.mean(axis) - other.mean(axis)


def gap_of_medians(one, other, axis):
    return np.median(one, axis) - np.median(other, axis)


class TestPairedBootstrap:
    @pytest.mark.parametrize(
        ("statistic", "gap"), [(np.mean, gap_of_averages), (np.median, gap_of_medians)], ids=["mean", "median"]
    )
    def test_agrees_with_scipy(self, statistic, gap):
        """The same method with other draws: ends differ by the noise of the resamples alone."""
        rng = np.random.default_rng(20)
        shared = rng.gamma(2, 1, 80)
        after, before = shared + rng.gamma(1, 0.4, 80), shared
        expected = stats.bootstrap(
            (after, before), gap, paired=True, vectorized=True, method="BCa", n_resamples=9000,
            rng=np.random.default_rng(21),
        ).confidence_interval  # fmt: skip
        found = paired_bootstrap(after, before, statistic=statistic, seed=1, resamples=9000)
        width = expected.high - expected.low
        assert found.value == pytest.approx(float(statistic(after) - statistic(before)))
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)

    def test_all_resamples_by_hand(self):
        """Differences 0 and 6: four equally likely resamples have means 0, 3, 3, 6, and nothing needs correction."""
        found = paired_bootstrap([1, 7], [1, 1], seed=0, resamples=4000)
        assert (found.value, found.low, found.high, found.n) == (3, 0, 6, 2)

    def test_the_same_seed_the_same_interval(self):
        rng = np.random.default_rng(22)
        after, before = rng.normal(1, 1, 40).tolist(), rng.normal(0, 1, 40).tolist()
        assert paired_bootstrap(after, before, seed=3) == paired_bootstrap(after, before, seed=3)
        assert paired_bootstrap(after, before, seed=3) != paired_bootstrap(after, before, seed=4)

    def test_what_both_share_drops_out(self):
        found = paired_bootstrap([2, 101, 1001], [1, 100, 1000], seed=0)
        assert (found.value, found.low, found.high) == (1, 1, 1)

    @given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=9))
    @settings(max_examples=30)
    def test_holds_its_value(self, pairs):
        after, before = [a for a, _ in pairs], [b for _, b in pairs]
        found = paired_bootstrap(after, before, statistic=np.median, seed=5, resamples=50)
        assert found.low <= found.value <= found.high

    def test_copies_of_a_prompt_add_nothing(self):
        after, before = [3.0, 1.0, 4.0, 1.0, 5.0], [2.0, 7.0, 1.0, 8.0, 2.0]
        once = paired_bootstrap(after, before, seed=6)
        copied = paired_bootstrap(after * 3, before * 3, prompts=list("abcde") * 3, seed=6)
        assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high))
        assert copied.n == 15

    def test_one_pair_and_none(self):
        assert paired_bootstrap([3], [1], seed=0) == Interval(2, -math.inf, math.inf, 1)
        with pytest.raises(DataError, match="no pairs"):
            paired_bootstrap([], [], seed=0)

    def test_a_statistic_that_is_no_number(self):
        with pytest.raises(DataError, match="nan"):
            paired_bootstrap([1, 2, 3], [1, 1, 1], statistic=lambda values: math.nan, seed=0)

    def test_coverage(self):
        rng = np.random.default_rng(23)

        def make():
            return paired_bootstrap(rng.gamma(2, 1, 60), rng.gamma(1, 1, 60), seed=0, resamples=300)

        assert 0.91 <= coverage(make, 1.0, runs=150) <= 0.985


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_named(bad):
    with pytest.raises(DataError, match="value 2 of 3 is"):
        mean([1, bad, 3])


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_none(confidence):
    with pytest.raises(DataError, match=r"such as 0\.95"):
        mean([1, 2, 3], confidence=confidence)
    with pytest.raises(DataError, match=r"such as 0\.95"):
        win_rate([1, 0, 1], confidence=confidence)
