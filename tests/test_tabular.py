"""Where each algorithm leads, on policies small enough to know the optimum.

All answers, or all groups of answers, are enumerated and weighted by their probability, so gradients are exact
expectations and nothing is left to chance. Whether the KL is in the reward or in the loss, and what advantages are
divided by, decides which optimum is reached:

    KL in the reward                      reference exp(r / beta) / Z
      scores scaled (PPO-max)             temperature beta s, s the scores' deviation
    KL in the loss, k2, one token         reference exp(A / beta) / Z with the algorithm's own A:
      leave one out                         temperature beta
      group mean (Dr. GRPO), groups of n    temperature beta n / (n - 1)
      whitened besides (REINFORCE++)        temperature beta s n / (n - 1), s the deviation of what is whitened
      group deviation (GRPO)                no temperature: r times 10 has the same optimum
    KL in the loss, k3, one token         beta reference / (lambda - r)
    KL in the loss, k2, several tokens    the last token as above, earlier ones by the mean reward they lead to
"""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch

from truing.algorithms import Rollout, bind
from truing.reductions import step_weights
from truing.shaping import ShapingState
from truing.tensors import Logprobs, PerToken

CHOICES = 3
REFERENCE = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
REWARD = torch.tensor([0.0, 1.0, 0.6], dtype=torch.float64)
BETA = 0.5
TREE_REFERENCE = torch.tensor([[0.5, 0.2, 0.3], [0.3, 0.3, 0.4], [0.6, 0.1, 0.3], [0.2, 0.5, 0.3]]).double().log()
TREE_REWARD = torch.tensor([0.0, 1.0, 0.6, 0.4, -0.5, 0.8, 1.0, 0.1, 0.3], dtype=torch.float64)


class World:
    """Answers of `depth` tokens out of three. Row 0 of a table is of the first token, row 1 + a of that after a."""

    def __init__(self, reference, reward, group_size):
        self.reference, self.reward = reference, reward
        depth = 1 if len(reward) == CHOICES else 2
        answers = list(itertools.product(range(CHOICES), repeat=depth))
        groups = list(itertools.product(range(len(answers)), repeat=group_size))
        self.which = torch.tensor([answer for group in groups for answer in group])
        self.group = torch.arange(len(groups)).repeat_interleave(group_size)
        self.completion = torch.arange(len(self.which)).repeat_interleave(depth)
        tokens = [answers[place] for place in self.which.tolist()]
        self.token = torch.tensor([one for answer in tokens for one in answer])
        self.row = torch.tensor([0 if place == 0 else 1 + a[0] for a in tokens for place in range(depth)])
        self.answer_token, self.depth = torch.tensor(answers), depth

    def logprobs(self, logits):
        return Logprobs(logits.log_softmax(-1)[self.row, self.token], self.completion, len(self.which))

    def distribution(self, logits):
        """Probability of each answer."""
        table = logits.detach().log_softmax(-1)
        first = table[0][self.answer_token[:, 0]]
        if self.depth == 1:
            return first.exp()
        return (first + table[1 + self.answer_token[:, 0], self.answer_token[:, 1]]).exp()

    def chance(self, logits):
        """Probability of each answer's whole group."""
        alone = self.distribution(logits)[self.which]
        size = len(self.which) // (int(self.group[-1]) + 1)
        return alone.reshape(-1, size).prod(1).repeat_interleave(size)

    def gradient(self, bound, logits, values):
        """The exact gradient of one on-policy step, to logits and values."""
        policy = self.logprobs(logits)
        behaviour = policy.detach()
        value = PerToken(values[self.row], self.completion, len(self.which))
        best = int(self.distribution(logits).argmax())
        groups = int(self.group[-1]) + 1
        seen = Rollout(
            self.reward[self.which], self.completion, self.group, self.depth, behaviour.token,
            reference=self.logprobs(self.reference).token, value=value.token.detach(),
            greedy=self.reward[best].expand(groups), greedy_length=torch.full((groups,), self.depth),
        )  # fmt: skip
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)[self.row]
        loss = bound.loss(
            policy=policy, behaviour=behaviour, advantage=judged.advantage, reference=self.logprobs(self.reference),
            value=value, old_value=value.detach(), returns=judged.returns, entropy=seen.per_token(entropy),
        )  # fmt: skip
        weights, divisor = step_weights(
            self.completion, self.group, self.chance(logits), bound.reduction, limit=self.depth
        )
        total = (loss.value * weights.token).sum() / divisor
        return torch.autograd.grad(total, [logits, values], allow_unused=True)

    def reached(self, bound, steps=250, rate=6.0):
        """The distribution over answers after plain gradient descent from the reference, the rate falling to 0.

        Whitened advantages are of size 1 however near the optimum is: only a falling rate lets them settle.
        """
        logits = self.reference.clone().requires_grad_()
        values = torch.zeros(len(self.reference), dtype=torch.float64, requires_grad=True)
        for step in range(steps):
            slopes = self.gradient(bound, logits, values)
            with torch.no_grad():
                for parameter, slope, pace in zip((logits, values), slopes, (rate, 2.0), strict=True):
                    if slope is not None:
                        parameter -= pace * (1 - step / steps) * slope
        return self.distribution(logits)


def bandit(group_size, reward=REWARD):
    return World(REFERENCE[None], reward, group_size)


def tree(group_size):
    return World(TREE_REFERENCE, TREE_REWARD, group_size)


def optimum(world, temperature):
    """reference exp(r / temperature) / Z."""
    return (world.distribution(world.reference).log() + world.reward / temperature).softmax(0)


def near(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


IN_REWARD = {
    "reinforce": (1, {}),
    "a2c": (1, {"entropy_bonus_weight": 0.0}),
    "ppo": (1, {"value_range": None}),
    "ppo_max": (1, {"value_range": None, "reward_scaling": "none"}),
    "reinforce_pp": (1, {}),
    "remax": (1, {}),
    "rloo": (2, {}),
    "dr_grpo": (2, {}),
}


@pytest.mark.parametrize("name", IN_REWARD)
def test_kl_in_the_reward_reaches_the_optimum_of_whole_answers(name):
    size, settings = IN_REWARD[name]
    world = tree(size)
    bound = bind({"name": name, "reward_kl": BETA, **settings})
    start = world.distribution(world.reference)
    assert (start - optimum(world, BETA)).abs().max() > 0.1, "there is a way to go"
    near(world.reached(bound, rate=20.0 if name == "dr_grpo" else 6.0), optimum(world, BETA))


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_only_k1_in_the_reward_is_right(estimator):
    world = tree(1)
    bound = bind({"name": "reinforce", "reward_kl": BETA, "reward_kl_estimator": estimator})
    assert (world.reached(bound) - optimum(world, BETA)).abs().max() > 0.02


def test_scaled_scores_have_another_temperature():
    """PPO-max divides scores, not the KL, by the scores' deviation: the price of KL is in units of that."""
    world = tree(1)
    bound = bind({"name": "ppo_max", "value_range": None, "reward_kl": BETA})
    deviation = statistics.stdev(TREE_REWARD.tolist())
    near(world.reached(bound), optimum(world, BETA * deviation))
    assert (optimum(world, BETA * deviation) - optimum(world, BETA)).abs().max() > 0.05


class TestKlInTheLoss:
    K2 = {"kl_penalty_weight": BETA, "estimator": "k2"}  # noqa: RUF012

    def test_leave_one_out(self):
        world = bandit(3)
        near(world.reached(bind({"name": "rloo", "reward_kl": 0.0, **self.K2})), optimum(world, BETA))

    @pytest.mark.parametrize("size", [2, 4])
    def test_the_groups_own_mean_has_another_temperature(self, size):
        world = bandit(size)
        near(world.reached(bind({"name": "dr_grpo", **self.K2})), optimum(world, BETA * size / (size - 1)))

    def test_whitening_has_another_temperature(self):
        world = bandit(2)
        pairs = list(itertools.product(REWARD.tolist(), repeat=2))
        deviation = statistics.pstdev([one - (left + right) / 2 for left, right in pairs for one in (left, right)])
        near(world.reached(bind({"name": "reinforce_pp_baseline", **self.K2})), optimum(world, BETA * deviation * 2))

    @pytest.mark.parametrize("name", ["grpo", "gspo", "cispo"])
    def test_the_groups_deviation_leaves_only_the_order(self, name):
        """In a pair the better answer has 1 / sqrt 2 whatever the rewards: A = (P(worse) - P(better)) / sqrt 2."""
        bound = bind({"name": name, **self.K2, "epsilon": 1e-12})
        found = bandit(2).reached(bound)
        near(bandit(2, 10 * REWARD).reached(bound), found)
        better = torch.stack([found[one < REWARD].sum() for one in REWARD.tolist()])
        worse = torch.stack([found[one > REWARD].sum() for one in REWARD.tolist()])
        near(found, (REFERENCE + (worse - better) / 2**0.5 / BETA).softmax(0))
        assert (found - optimum(bandit(2), BETA)).abs().max() > 0.02

    def test_k3_has_the_optimum_of_the_other_kl(self):
        """Of E r - beta KL(reference || policy): beta reference / (lambda - r), lambda such that they sum to 1."""
        world = bandit(2)
        low, high = float(REWARD.max()), float(REWARD.max()) + 10
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if float((BETA * REFERENCE.exp() / (middle - REWARD)).sum()) > 1 else (low, middle)
            )
        expected = BETA * REFERENCE.exp() / (low - REWARD)
        assert (expected - optimum(world, BETA)).abs().max() > 0.02
        bound = bind({"name": "rloo", "reward_kl": 0.0, "kl_penalty_weight": BETA, "estimator": "k3"})
        near(world.reached(bound), expected)

    def test_of_several_tokens_it_prices_each_alone(self):
        """Earlier tokens are drawn to the mean reward that follows, not to that less the KL which follows."""
        world = tree(2)
        second = (TREE_REFERENCE[1:] + TREE_REWARD.reshape(3, 3) / BETA).softmax(-1)
        first = (TREE_REFERENCE[0] + (second * TREE_REWARD.reshape(3, 3)).sum(-1) / BETA).softmax(-1)
        expected = (first[:, None] * second).flatten()
        near(world.reached(bind({"name": "rloo", "reward_kl": 0.0, **self.K2})), expected)
        assert (expected - optimum(world, BETA)).abs().max() > 0.005
