"""What becomes of scores: by hand, in any order of steps, and the same after a checkpoint."""

from __future__ import annotations

import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.shaping import (
    KlPrice,
    RunningScale,
    Shaping,
    ShapingState,
    kl_in_reward,
    overlong,
    shaped,
    terminal_reward,
)

STEPS = st.lists(st.lists(st.integers(-100_000, 100_000).map(lambda n: n / 100), max_size=6), max_size=5)


def floats(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


class TestTerminalReward:
    def test_lands_once_on_the_last_token(self):
        got = terminal_reward(floats(5.0, 7.0, 9.0), torch.tensor([0, 0, 0, 2, 2]))
        assert got.tolist() == [0, 0, 5, 0, 9], "and the answer without tokens has none"

    @given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    def test_no_reward_is_lost_or_doubled_whatever_the_lengths(self, lengths):
        """The mistake of others: a reward on every token makes long answers worth more."""
        completion = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        reward = torch.arange(1.0, len(lengths) + 1)
        got = terminal_reward(reward, completion)
        assert torch.zeros_like(reward).index_add(0, completion, got).tolist() == reward.tolist()
        assert int((got != 0).sum()) == len(lengths)

    def test_nothing(self):
        assert terminal_reward(torch.zeros(0), torch.zeros(0, dtype=torch.long)).tolist() == []


class TestRunningScale:
    @given(STEPS)
    def test_is_that_of_all_scores_however_they_came(self, steps):
        scale = RunningScale()
        for step in steps:
            scale = scale.seen(floats(*step))
        every = [score for step in steps for score in step]
        assert scale.count == len(every)
        if every:
            assert scale.mean == pytest.approx(statistics.fmean(every), abs=1e-9)
        if len(set(every)) > 1:
            assert scale.deviation == pytest.approx(statistics.stdev(every), rel=1e-9)

    def test_before_scores_differ_nothing_is_scaled(self):
        assert RunningScale().deviation == 1.0
        assert RunningScale().seen(floats(3.0)).deviation == 1.0
        assert RunningScale().seen(floats(3.0, 3.0)).deviation == 1.0
        assert RunningScale().seen(floats(0.3, 0.1 + 0.2)).deviation == 1.0, "nor where they differ by rounding"

    def test_far_from_0_the_deviation_keeps_its_digits(self):
        """A sum of squares would lose them all."""
        scale = RunningScale().seen(floats(1e9, 1e9 + 1)).seen(floats(1e9 + 2))
        assert scale.deviation == pytest.approx(1.0)


class TestKlPrice:
    def test_by_hand(self):
        price = KlPrice(0.1)
        assert price.after(6.6, 256, target=6.0, horizon=10_000.0).coefficient == pytest.approx(
            0.1 * (1 + 0.1 * 0.0256)
        )
        assert price.after(60.0, 10, target=6.0, horizon=100.0).coefficient == pytest.approx(0.1 * (1 + 0.2 * 0.1))
        assert price.after(-60.0, 10, target=6.0, horizon=100.0).coefficient == pytest.approx(0.1 * (1 - 0.2 * 0.1))
        assert price.after(6.0, 10, target=6.0, horizon=100.0) == price

    def test_without_a_target_it_stands(self):
        assert KlPrice(0.1).after(1e3, 10, target=None, horizon=1.0) == KlPrice(0.1)

    def test_it_leads_a_kl_that_falls_with_the_price_to_the_target(self):
        price = KlPrice(1.0)
        for _ in range(400):
            price = price.after(0.5 / price.coefficient, 64, target=5.0, horizon=500.0)
        assert 0.5 / price.coefficient == pytest.approx(5.0, rel=0.01)


@given(STEPS, st.floats(1e-4, 10))
def test_state_goes_through_a_checkpoint_to_the_bit(steps, kl):
    state = ShapingState.of(Shaping(reward_kl=0.1 / 3))
    for step in steps:
        price = state.price.after(kl, len(step), target=1.7, horizon=31.0)
        state = ShapingState(state.scale.seen(floats(*step)), price)
    again = ShapingState.restored(json.loads(json.dumps(state.numbers())))
    assert again == state
    more = floats(0.1, 0.2, 0.7)
    assert again.scale.seen(more) == state.scale.seen(more)


def test_overlong_by_hand():
    """DAPO's: the limit 100, the buffer 20."""
    length = torch.tensor([1, 80, 85, 90, 100, 101, 300])
    got = overlong(length, limit=100, buffer=20)
    assert got.tolist() == pytest.approx([0, 0, -0.25, -0.5, -1, -1, -1])
    assert overlong(length, limit=100, buffer=0).tolist() == [0, 0, 0, 0, 0, -1, -1]


class TestShaped:
    SCORE, LENGTH = floats(1.0, 3.0, 8.0), torch.tensor([2, 10, 9])

    def shaped(self, **settings):
        return shaped(self.SCORE, self.LENGTH, Shaping(**settings), RunningScale(8.0, 2.0, 28.0), limit=10).tolist()

    def test_by_default_scores_are_rewards(self):
        assert self.shaped() == self.SCORE.tolist()

    def test_each_measure(self):
        assert self.shaped(overlong_share=0.2) == [1.0, 2.0, 7.5]
        assert self.shaped(reward_scaling="deviation") == [0.5, 1.5, 4.0]
        assert self.shaped(reward_scaling="standard") == [-0.5, 0.5, 3.0]
        assert self.shaped(reward_clip=2.5) == [1.0, 2.5, 2.5]

    def test_the_clip_comes_last(self):
        assert self.shaped(overlong_share=0.2, reward_scaling="standard", reward_clip=1.0) == [-0.5, 0.0, 1.0]


class TestKlInReward:
    OURS, THEIRS = floats(-1.0, -2.0), floats(-1.5, -1.0)

    @pytest.mark.parametrize(
        ("estimator", "expected"),
        [
            ("k1", [0.5, -1.0]),
            ("k2", [0.125, 0.5]),
            ("k3", [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0]),
        ],
    )
    def test_by_hand(self, estimator, expected):
        assert kl_in_reward(self.OURS, self.THEIRS, estimator=estimator).tolist() == pytest.approx(expected)

    @pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
    def test_of_equals_is_exactly_0_and_has_no_gradient(self, estimator):
        ours = self.OURS.clone().requires_grad_()
        got = kl_in_reward(ours, ours.detach(), estimator=estimator)
        assert got.tolist() == [0.0, 0.0]
        assert not got.requires_grad

    @given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=6))
    def test_k1_and_k3_have_the_mean_of_the_kl(self, masses):
        ours, theirs = (floats(*column) / sum(column) for column in zip(*masses, strict=True))
        kl = float((ours * (ours / theirs).log()).sum())
        for estimator in ("k1", "k3"):
            mean = (ours * kl_in_reward(ours.log(), theirs.log(), estimator=estimator)).sum()
            assert float(mean) == pytest.approx(kl, abs=1e-9)
