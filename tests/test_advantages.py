"""Advantages against brute force, by hand, and where there is nothing to compare with."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.advantages import (
    batch_baseline,
    clip_advantage,
    discounted,
    gae,
    greedy_baseline,
    group_centre,
    group_zscore,
    leave_one_out,
    whiten,
)

NUMBER = st.floats(-10, 10)
ANSWERS = st.lists(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=6), min_size=1, max_size=4)
SHARE = st.sampled_from([0.0, 0.3, 0.95, 1.0])
GROUPS = st.lists(st.lists(NUMBER, min_size=1, max_size=5), min_size=1, max_size=4)


def floats(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def owners(answers):
    return torch.repeat_interleave(torch.arange(len(answers)), torch.tensor([len(one) for one in answers]))


def flat(lists):
    return floats([number for one in lists for number in one])


class TestGae:
    @given(ANSWERS, SHARE, SHARE)
    def test_is_the_sum_of_all_later_surprises(self, answers, gamma, lam):
        """Eq. 16 as printed: every surprise from each token on, counted (gamma lam)^l; the answer's end is worth 0."""
        expected = []
        for answer in answers:
            values = [value for _, value in answer] + [0.0]
            surprise = [reward + gamma * values[t + 1] - values[t] for t, (reward, _) in enumerate(answer)]
            expected += [
                sum((gamma * lam) ** step * surprise[t + step] for step in range(len(answer) - t))
                for t in range(len(answer))
            ]
        reward, value = (flat([[token[side] for token in answer] for answer in answers]) for side in (0, 1))
        advantage, returns = gae(reward, value, owners(answers), gamma=gamma, lam=lam)
        assert advantage.tolist() == pytest.approx(expected, abs=1e-9)
        assert returns.tolist() == pytest.approx((advantage + value).tolist())

    def test_by_hand(self):
        """Two answers, of two tokens and of one, that must know nothing of one another."""
        advantage, returns = gae(
            floats([0.0, 1.0, 3.0]), floats([0.5, 0.25, 2.0]), torch.tensor([0, 0, 1]), gamma=0.5, lam=0.5
        )
        # last surprises 1 - 0.25 and 3 - 2; first one 0 + 0.5 * 0.25 - 0.5, and a quarter of the later
        assert advantage.tolist() == [-0.375 + 0.25 * 0.75, 0.75, 1.0]
        assert returns.tolist() == [0.5 - 0.1875, 1.0, 3.0]

    @given(ANSWERS)
    def test_with_lambda_1_it_is_what_is_still_to_come_less_the_value(self, answers):
        reward, value = (flat([[token[side] for token in answer] for answer in answers]) for side in (0, 1))
        advantage, returns = gae(reward, value, owners(answers), lam=1.0)
        to_come = discounted(reward, owners(answers))
        torch.testing.assert_close(advantage, to_come - value)
        torch.testing.assert_close(returns, to_come)

    def test_a_critic_that_knows_everything_leaves_nothing_to_learn(self):
        """The value is off by one if this is not 0 at every token, whatever lambda."""
        reward = floats([0.0, -1.0, 5.0])
        advantage, _ = gae(reward, floats([4.0, 4.0, 5.0]), torch.zeros(3, dtype=torch.long), lam=0.3)
        assert advantage.tolist() == [0.0, 0.0, 0.0]

    def test_nothing(self):
        none = torch.zeros(0)
        assert [x.tolist() for x in gae(none, none, torch.zeros(0, dtype=torch.long))] == [[], []]


def test_discounted_by_hand():
    got = discounted(floats([1.0, 2.0, 4.0, 7.0]), torch.tensor([0, 0, 0, 3]), gamma=0.5)
    assert got.tolist() == [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4.0, 7.0]


class TestGroups:
    @given(GROUPS)
    def test_against_plain_python(self, groups):
        reward, group = flat(groups), owners(groups)
        centred, scored, apart = [], [], []
        for rewards in groups:
            mean = statistics.fmean(rewards)
            deviation = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
            for place, one in enumerate(rewards):
                others = rewards[:place] + rewards[place + 1 :]
                centred.append(one - mean)
                scored.append((one - mean) / (deviation + 0.1))
                apart.append(one - statistics.fmean(others) if others else 0.0)
        assert group_centre(reward, group).tolist() == pytest.approx(centred, abs=1e-9)
        assert group_zscore(reward, group, epsilon=0.1).tolist() == pytest.approx(scored, abs=1e-9)
        assert leave_one_out(reward, group).tolist() == pytest.approx(apart, abs=1e-9)

    @pytest.mark.parametrize("function", [group_centre, group_zscore, leave_one_out])
    def test_the_order_of_answers_and_empty_groups_change_nothing(self, function):
        reward, group = floats([1.0, 5.0, 2.0, 7.0, 4.0]), torch.tensor([0, 0, 1, 1, 1])
        usual = function(reward, group)
        order = torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(function(reward[order], group[order]), usual[order])
        torch.testing.assert_close(function(reward, torch.tensor([2, 2, 9, 9, 9])), usual)

    @pytest.mark.parametrize("function", [group_centre, group_zscore, leave_one_out])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_nothing_to_compare_with_is_0(self, function, dtype):
        reward = torch.tensor([1e6, 0.1, 0.1, 0.1], dtype=dtype)
        got = function(reward, torch.tensor([0, 1, 1, 1]))
        assert got.dtype == dtype
        assert got.tolist() == pytest.approx([0.0] * 4, abs=1e-9)
        assert function(reward[:0], torch.zeros(0, dtype=torch.long)).tolist() == []

    def test_the_size_of_rewards_is_lost_by_the_z_score_alone(self):
        reward, group = floats([1.0, 2.0, 6.0]), torch.zeros(3, dtype=torch.long)
        torch.testing.assert_close(group_zscore(10 * reward, group), group_zscore(reward, group), atol=1e-3, rtol=0)
        torch.testing.assert_close(leave_one_out(10 * reward, group), 10 * leave_one_out(reward, group))


def test_greedy_baseline_is_the_prompts_own():
    got = greedy_baseline(floats([1.0, 2.0, 3.0]), torch.tensor([1, 0, 1]), floats([0.5, 2.5]))
    assert got.tolist() == [-1.5, 1.5, 0.5]


def test_batch_baseline():
    assert batch_baseline(floats([1.0, 2.0, 6.0])).tolist() == [-2.0, -1.0, 3.0]
    assert batch_baseline(torch.zeros(0)).tolist() == []


def test_whiten_has_mean_0_and_population_deviation_1():
    assert whiten(floats([1.0, 3.0])).tolist() == pytest.approx([-1.0, 1.0])
    got = whiten(floats([1.0, 2.0, 4.0, 9.0])).tolist()
    assert (statistics.fmean(got), statistics.pstdev(got)) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    assert whiten(floats([7.0, 7.0])).tolist() == [0.0, 0.0]
    assert whiten(floats([7.0])).tolist() == [0.0]
    assert whiten(torch.zeros(0)).tolist() == []
    assert whiten(floats([1.0, 3.0]), advantage_scaling="none").tolist() == [1.0, 3.0]


def test_clip():
    assert clip_advantage(floats([-3.0, 0.1, 9.0]), advantage_clip=2.0).tolist() == [-2.0, 0.1, 2.0]
