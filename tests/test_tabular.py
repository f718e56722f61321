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
    pairs labelled as Bradley and Terry say reference exp(r / beta) / Z, whoever wrote the two answers
    chance to be preferred to a rival     the regularised Nash equilibrium, if the rival is the policy itself
"""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch

from truing.algorithms import Rollout, bind
from truing.reductions import step_weights
from truing.rivals import paired
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
            rival=self.reward[best].expand(groups), rival_length=torch.full((groups,), self.depth),
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


class Comparisons(World):
    """Every two answers twice, either one preferred, as often as the model of Bradley and Terry says.

    from_reference: whether the second is the reference's.
    """

    def __init__(self, reference, reward, *, from_reference):
        super().__init__(reference, reward, 2)
        answers, groups = len(self.which), int(self.group[-1]) + 1
        self.which, self.row, self.token = (torch.cat([one, one]) for one in (self.which, self.row, self.token))
        self.group = torch.cat([self.group, self.group + groups])
        self.completion = torch.cat([self.completion, self.completion + answers])
        self.second = torch.arange(2 * answers) % 2 == 1
        preferred = torch.arange(2 * answers) < answers  # the first answer, in the first half
        self.score = (self.second != preferred).double()
        first, second = self.reward[self.which].reshape(-1, 2).unbind(1)
        self.label = torch.sigmoid(torch.where(preferred[::2], first - second, second - first))
        self.from_reference = from_reference

    def chance(self, logits):
        """Of each comparison with its label."""
        writers = [self.distribution(logits), self.distribution(self.reference if self.from_reference else logits)]
        first, second = self.which.reshape(-1, 2).unbind(1)
        return writers[0][first] * writers[1][second] * self.label

    def gradient(self, bound, logits, values):
        policy, reference = self.logprobs(logits), self.logprobs(self.reference)
        seen = Rollout(
            self.score, self.completion, self.group, self.depth, policy.token.detach(), reference=reference.token
        )
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        assert len(judged.pairs) == len(self.label), "no two answers of a comparison are equally good"
        known = (self.second & self.from_reference).double()
        offered = {"policy": policy, "reference": reference, "from_reference": known}
        loss = bound.loss(**paired(offered, judged.pairs))
        return torch.autograd.grad((loss.value * self.chance(logits)).sum(), [logits, values], allow_unused=True)


class TestComparisons:
    @pytest.mark.parametrize(("name", "settings"), [("online_dpo", {}), ("xpo", {"alpha": 0.0}), ("xpo", {})])
    def test_they_reach_the_optimum_of_whole_answers(self, name, settings):
        world = Comparisons(TREE_REFERENCE, TREE_REWARD, from_reference=name == "xpo")
        assert (world.distribution(world.reference) - optimum(world, BETA)).abs().max() > 0.1
        near(world.reached(bind({"name": name, "beta": BETA, **settings}), rate=60.0), optimum(world, BETA))

    def test_optimism_leaves_what_the_reference_writes(self):
        world = Comparisons(REFERENCE[None], REWARD, from_reference=True)
        shy, bold = (
            world.reached(bind({"name": "xpo", "beta": BETA, "alpha": alpha}), rate=60.0) for alpha in (0.0, 0.01)
        )
        near(shy, optimum(world, BETA))
        known = REFERENCE.exp()
        assert float((known * bold.log()).sum()) < float((known * shy.log()).sum()) - 0.01


class Game(World):
    """Every answer against every rival, under preferences that go round in a circle, read side by side.

    mixture: share of the reference in what the rival is drawn from.
    """

    PREFERENCE = torch.tensor([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]], dtype=torch.float64)

    def __init__(self, mixture):
        super().__init__(REFERENCE[None], REWARD, 1)
        self.mixture = mixture
        self.which, rival = torch.cartesian_prod(torch.arange(CHOICES), torch.arange(CHOICES)).unbind(1)
        self.token, self.row = self.which, torch.zeros_like(self.which)
        self.completion = self.group = torch.arange(len(self.which))
        self.score, self.rival = self.PREFERENCE[self.which, rival], self.PREFERENCE[rival, self.which]
        self.met = rival

    def mixed(self, policy):
        """The geometric mixture of a policy and the reference."""
        return ((1 - self.mixture) * policy.log() + self.mixture * REFERENCE).softmax(0)

    def chance(self, logits):
        policy = self.distribution(logits)
        return policy[self.which] * self.mixed(policy)[self.met]

    def gradient(self, bound, logits, values):
        policy = self.logprobs(logits)
        seen = Rollout(
            self.score, self.completion, self.group, 1, policy.token.detach(),
            reference=self.logprobs(self.reference).token, rival=self.rival, rival_length=torch.ones_like(self.group),
        )  # fmt: skip
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        loss = bound.loss(policy=policy, advantage=judged.advantage)
        return torch.autograd.grad((loss.value * self.chance(logits)).sum(), [logits, values], allow_unused=True)

    def best_response(self, rival, tau):
        """To a rival's distribution, at the price tau of each nat of KL from the reference."""
        return (REFERENCE + self.PREFERENCE @ rival / tau).softmax(0)


class TestNash:
    TAU = 0.2

    def bound(self):
        return bind({"name": "nash_md", "link": "linear", "reward_kl": self.TAU})

    def test_in_self_play_it_reaches_the_regularised_equilibrium(self):
        """Which the paper's own tabular algorithm finds, mirror descent with steps 2 / (tau (t + 2)): its Theorem 1."""
        game = Game(0.0)
        policy = REFERENCE.exp()
        for step in range(4000):
            pace = 2 / (self.TAU * (step + 2))
            share = min(pace * self.TAU, 1.0)
            mixed = ((1 - share) * policy.log() + share * REFERENCE).softmax(0)
            policy = (mixed.log() + pace * game.PREFERENCE @ mixed).softmax(0)
        near(game.best_response(policy, self.TAU), policy)
        assert (policy - REFERENCE.exp()).abs().max() > 0.05
        near(game.reached(self.bound()), policy)

    @pytest.mark.parametrize("mixture", [0.5, 1.0])
    def test_against_a_mixture_it_reaches_what_answers_best_to_that(self, mixture):
        """So a mixture moves the point where it comes to rest, away from the equilibrium of self-play."""
        game = Game(mixture)
        policy = REFERENCE.exp()
        for _ in range(2000):
            policy = (0.9 * policy.log() + 0.1 * game.best_response(game.mixed(policy), self.TAU).log()).softmax(0)
        near(game.reached(self.bound()), policy)
        assert (game.reached(self.bound()) - Game(0.0).reached(self.bound())).abs().max() > 0.01
