"""Shares and win rates against values worked by hand, independent implementations, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from covering import coverage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from truing.errors import DataError
from truing.statistics import (
    Interval,
    bounded_mean,
    exact_proportion,
    length_controlled_win_rate,
    proportion,
    swap_consistency,
    win_rate,
    win_tie_loss,
)

outcome_lists = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)
compared = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 90), st.integers(1, 90)), min_size=2, max_size=40
)


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


class TestExactProportion:
    def test_by_hand(self):
        """None of 10: (1 - p)^10 = 0.025 at the upper end."""
        interval = exact_proportion(0, 10)
        assert (interval.value, interval.low, interval.high) == (0, 0, pytest.approx(1 - 0.025**0.1))

    @pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 30), (1, 30), (17, 40), (40, 40), (999, 1000)])
    @pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
    def test_equals_scipy(self, successes, n, confidence):
        expected = stats.binomtest(successes, n).proportion_ci(confidence, method="exact")
        interval = exact_proportion(successes, n, confidence=confidence)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)

    @pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.91])
    def test_covers_at_least_as_often_as_it_says(self, rate):
        """Counted over all that can happen, not simulated."""
        holds = [
            interval.low <= rate <= interval.high for interval in (exact_proportion(k, 25) for k in range(26))
        ]  # fmt: skip
        assert stats.binom.pmf(np.arange(26), 25, rate)[holds].sum() >= 0.95

    def test_nothing_and_impossible_counts(self):
        assert exact_proportion(0, 0) == Interval(0.5, 0.0, 1.0, 0)
        with pytest.raises(DataError, match="5 successes in 4 trials"):
            exact_proportion(5, 4)


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


class TestBoundedMean:
    def test_between_0_and_1_it_is_the_win_rate(self):
        outcomes, prompts, weights = [1, 0.5, 0, 0, 1, 1], list("aabbcd"), [1, 2, 1, 1, 3, 1]
        assert bounded_mean(outcomes, 0, 1) == win_rate(outcomes)
        given = {"prompts": prompts, "weights": weights}
        assert bounded_mean(outcomes, 0, 1, **given) == win_rate(outcomes, **given)

    def test_stretched_to_other_ends(self):
        found, share = bounded_mean([-1, 1, 0.5, 1], -1, 1), bounded_mean([0, 1, 0.75, 1], 0, 1)
        assert (found.value, found.low, found.high) == pytest.approx(
            (2 * share.value - 1, 2 * share.low - 1, 2 * share.high - 1)
        )
        assert found.n == 4

    @given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
    def test_holds_its_value_within_the_ends_and_never_collapses(self, values):
        found = bounded_mean(values, -1, 1)
        assert -1 <= found.low <= found.value + 1e-12
        assert found.value - 1e-12 <= found.high <= 1
        assert found.high - found.low > 0.01

    @pytest.mark.parametrize("better", [0.5, 0.8, 0.95])
    @pytest.mark.parametrize("prompts", [10, 60])
    def test_coverage_of_mean_correlations(self, better, prompts):
        """Spearman's correlation of three answers, of which neighbours are exchanged with some chance."""
        values = np.array([1.0, 0.5, -0.5, -1.0])
        chances = np.array([better**2, better * (1 - better), better * (1 - better), (1 - better) ** 2])
        draw = np.random.default_rng(0)
        truth = float(values @ chances)
        share = coverage(lambda: bounded_mean(draw.choice(values, prompts, p=chances).tolist(), -1, 1), truth)
        assert share >= 0.92

    def test_what_cannot_be(self):
        assert bounded_mean([], -1, 1) == Interval(0.0, -1.0, 1.0, 0)
        for values, ends in (([1.5], (-1, 1)), ([0.5], (1, 0)), ([math.nan], (0, 1))):
            with pytest.raises(DataError):
                bounded_mean(values, *ends)


class TestWinTieLoss:
    def test_by_hand(self):
        found = win_tie_loss([1, 1, 1, 0.5, 0])
        for share, hits in zip(found, (3, 1, 1), strict=True):
            expected = proportion(hits, 5)
            assert (share.value, share.low, share.high) == pytest.approx((expected.value, expected.low, expected.high))

    @given(outcome_lists)
    def test_adds_up_to_the_win_rate(self, outcomes):
        found, prompts = win_tie_loss(outcomes), [place % 3 for place in range(len(outcomes))]
        assert found.win.value + found.tie.value + found.loss.value == pytest.approx(1)
        assert found.win.value + found.tie.value / 2 == pytest.approx(win_rate(outcomes).value)
        by_prompt = win_tie_loss(outcomes, prompts=prompts)
        assert by_prompt.win.value + by_prompt.tie.value / 2 == pytest.approx(win_rate(outcomes, prompts=prompts).value)

    def test_nothing(self):
        assert set(win_tie_loss([])) == {Interval(0.5, 0.0, 1.0, 0)}

    def test_other_outcomes_are_refused(self):
        with pytest.raises(DataError, match="1 for a win"):
            win_tie_loss([1, 0.25])


def judged(rng, n, theta, phi, ties=0.0):
    """Verdicts of a judge to whom the log-odds of a win are theta + phi tanh(d / s)."""
    longer = rng.normal(20, 80, n).round()
    chance = 1 / (1 + np.exp(-theta - phi * np.tanh(longer / longer.std())))
    won = (rng.random(n) < chance) * 1.0
    won[rng.random(n) < ties] = 0.5
    return won.tolist(), (300 + longer).tolist(), [300] * n


class TestLengthControlled:
    def test_two_lengths_by_hand(self):
        """As many longer as shorter ones: theta is the mean of their log-odds, whatever their share, but for the prior.

        Of the longer ones 90 % are won and of the shorter ones 60 %: sigmoid((2.197 + 0.405) / 2) = 0.786.
        """
        n = 20_000
        outcomes = ([1] * 9 + [0]) * (n // 10) + ([1] * 6 + [0] * 4) * (n // 10)
        found = length_controlled_win_rate(outcomes, [150] * n + [50] * n, [100] * (2 * n))
        assert found.value == pytest.approx(1 / (1 + math.exp(-(math.log(9) + math.log(1.5)) / 2)), abs=2e-4)
        assert win_rate(outcomes).value == pytest.approx(0.75)

    def test_equals_a_plain_search(self):
        """The penalised likelihood written out, and climbed without a derivative."""
        outcomes, lengths, others = judged(np.random.default_rng(30), 60, 0.4, 1.5, ties=0.2)
        longer = [a - b for a, b in zip(lengths, others, strict=True)]
        spread = float(np.std(longer))

        def minus_posterior(place):
            total = place[1] ** 2 / 18
            for outcome, d in zip(outcomes, longer, strict=True):
                logit = place[0] + place[1] * math.tanh(d / spread)
                total += math.log1p(math.exp(-logit)) + (1 - outcome) * logit
            return total

        best = optimize.minimize(minus_posterior, [0, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
        found = length_controlled_win_rate(outcomes, lengths, others)
        assert found.value == pytest.approx(1 / (1 + math.exp(-best.x[0])), abs=1e-6)

    def test_a_taste_for_length_is_taken_out(self):
        """A model that writes more and is no better wins most, and is found to be no better."""
        outcomes, lengths, others = judged(np.random.default_rng(31), 2000, 0.0, 3.0)
        assert win_rate(outcomes).low > 0.53
        found = length_controlled_win_rate(outcomes, lengths, others)
        assert found.low < 0.5 < found.high

    @given(compared)
    @settings(max_examples=50)
    def test_exchanging_the_sides_mirrors(self, rows):
        outcomes, lengths, others = (list(column) for column in zip(*rows, strict=True))
        try:
            found = length_controlled_win_rate(outcomes, lengths, others)
        except DataError:
            with pytest.raises(DataError, match="cannot be told apart"):
                length_controlled_win_rate([1 - outcome for outcome in outcomes], others, lengths)
            return
        mirrored = length_controlled_win_rate([1 - outcome for outcome in outcomes], others, lengths)
        mirror = (1 - found.value, 1 - found.high, 1 - found.low)
        assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(mirror, abs=1e-9)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0.02

    def test_the_order_of_pairs_and_copies_of_a_prompt_change_nothing(self):
        outcomes, lengths, others = judged(np.random.default_rng(32), 50, 0.3, 1.0)
        once = length_controlled_win_rate(outcomes, lengths, others)
        turned = length_controlled_win_rate(outcomes[::-1], lengths[::-1], others[::-1])
        copied = length_controlled_win_rate(outcomes * 3, lengths * 3, others * 3, prompts=list(range(50)) * 3)
        for other in (turned, copied):
            assert (other.value, other.low, other.high) == pytest.approx((once.value, once.low, once.high), abs=1e-9)

    def test_nothing_to_control_for(self):
        assert length_controlled_win_rate([], [], []) == Interval(0.5, 0.0, 1.0, 0)
        assert length_controlled_win_rate([1, 1, 1], [5, 6, 7], [4, 4, 4]) == win_rate([1, 1, 1])
        assert length_controlled_win_rate([0, 0], [5, 6], [4, 4]) == win_rate([0, 0])
        assert length_controlled_win_rate([1, 0, 0.5], [5, 6, 7], [5, 6, 7]) == win_rate([1, 0, 0.5])

    def test_all_ties_are_one_half(self):
        found = length_controlled_win_rate([0.5] * 10, [5, 9] * 5, [7] * 10)
        assert found.value == pytest.approx(0.5)
        assert 0.3 < found.low < found.high < 0.7

    def test_length_and_model_that_cannot_be_told_apart(self):
        with pytest.raises(DataError, match="longer than the other one by 3"):
            length_controlled_win_rate([1, 0, 1], [8, 9, 7], [5, 6, 4])

    def test_length_that_decides_everything(self):
        """No maximum of the likelihood exists; the prior has one, and says that little is known."""
        found = length_controlled_win_rate([1] * 8 + [0] * 8, [9] * 8 + [3] * 8, [6] * 16)
        assert found.value == pytest.approx(0.5, abs=1e-9)
        assert found.high - found.low > 0.4

    @pytest.mark.parametrize("ties", [0.0, 0.4])
    def test_coverage(self, ties):
        rng = np.random.default_rng(33)
        truth = 0.6 * (1 - ties) + 0.5 * ties
        if ties:  # the model's form holds without ties only, so the truth is what very many comparisons give
            truth = length_controlled_win_rate(*judged(rng, 200_000, math.log(1.5), 1.0, ties)).value
        found = coverage(lambda: length_controlled_win_rate(*judged(rng, 120, math.log(1.5), 1.0, ties)), truth)
        assert 0.92 <= found <= 0.98


class TestSwapConsistency:
    def test_by_hand(self):
        """The same verdict on three of five; of ten verdicts the one shown first wins 1 + 1 + 1, and one is a tie."""
        found = swap_consistency([1, 1, 0, 0.5, 1], [1, 0, 0, 0.5, 1])
        assert found.consistent == proportion(4, 5)
        assert found.first.value == pytest.approx((1 + 1 + 0 + 0.5 + 1 + 0 + 1 + 1 + 0.5 + 0) / 10)
        assert found.first.n == 10

    def test_a_judge_who_always_takes_the_first(self):
        found = swap_consistency([1] * 30, [0] * 30)
        assert (found.consistent.value, found.first.value) == (0, 1)
        assert found.first.low > 0.85

    def test_two_verdicts_on_a_pair_count_as_one(self):
        found = swap_consistency([1, 0, 1, 0] * 10, [0, 1, 1, 0] * 10)
        once = win_rate([1, 0, 0.5, 0.5] * 10)
        assert (found.first.low, found.first.high) == pytest.approx((once.low, once.high))

    @given(st.lists(st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1])), min_size=1, max_size=30))
    def test_speaking_of_the_other_answer_changes_nothing(self, pairs):
        """The other answer of a pair is shown first where this one is shown second, and wins where it loses."""
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        found, mirrored = (
            swap_consistency(first, second),
            swap_consistency([1 - b for b in second], [1 - a for a in first]),
        )
        assert found.consistent == mirrored.consistent
        assert found.first.value == pytest.approx(mirrored.first.value)

    def test_nothing(self):
        assert set(swap_consistency([], [])) == {Interval(0.5, 0.0, 1.0, 0)}
        with pytest.raises(DataError, match="1 of one and 2 of the other"):
            swap_consistency([1], [1, 0])
        with pytest.raises(DataError, match="1 for a win"):
            swap_consistency([1], [2])
