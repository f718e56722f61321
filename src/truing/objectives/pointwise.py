"""Objectives on single answers with a thumb or a score: one loss per answer, [C].

D is the log-ratio of an answer, log policy/reference summed over its tokens, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from truing.objectives.shared import better, log1mexp
from truing.signatures import NonNegative, Positive
from truing.tensors import Logprobs, Loss


def kto(
    policy: Logprobs,
    reference: Logprobs,
    label: Tensor,
    kl: Tensor,
    *,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
) -> Loss:
    """Kahneman-Tversky optimisation: Eq. 7 and 8 of arXiv:2402.01306.

    desirable_weight (1 - sigmoid(beta (D - kl))) for thumbs up,
    undesirable_weight (1 - sigmoid(beta (kl - D))) for thumbs down

    Use: on thumbs, which are easier to collect than comparisons. kl is measured once a step, without gradient, on
        prompts with the answers of other prompts, so a step needs several rows; it is never negative.
    Claim: at least DPO's level from 1B to 30B, also with a tenth of the desirable answers.

    beta: inverse temperature of the implicit reward, in 1/nats.
    desirable_weight: weight of the thumbs up; keep its share of the data times this from 1 to 1.33 of the other.
    undesirable_weight: weight of the thumbs down.
    """
    ratio = policy.sum - reference.sum
    up, down = torch.sigmoid(beta * (ratio - kl)), torch.sigmoid(beta * (kl - ratio))
    value = torch.where(label, desirable_weight * (1 - up), undesirable_weight * (1 - down))
    return Loss(value, {**_stats(policy, beta * ratio, label), "kl": kl.expand_as(value).detach()})


def apo_zero_unpaired(policy: Logprobs, reference: Logprobs, label: Tensor, *, beta: Positive = 0.1) -> Loss:
    """Anchored preference optimisation, zero, on thumbs: Eq. 7 of arXiv:2408.06266, its two terms apart.

    1 - sigmoid(beta D) for thumbs up, sigmoid(beta D) for thumbs down

    Use: as kto without its KL, and so without the extra pass.
    Claim: as for apo_zero.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    reward = beta * (policy.sum - reference.sum)
    up = torch.sigmoid(reward)
    return Loss(torch.where(label, 1 - up, up), _stats(policy, reward, label))


def token_unlikelihood(policy: Logprobs, label: Tensor, *, alpha: NonNegative = 1.0) -> Loss:
    """Likelihood and unlikelihood training: arXiv:1908.04319, on whole answers.

    mean over tokens of -log p for thumbs up, of -alpha log(1 - p) for thumbs down

    Use: on thumbs, without a reference; unlike log p(rejected), log(1 - p) is bounded where p is small.
    Claim: fewer repetitions than plain likelihood.

    alpha: weight of the thumbs down.
    """
    away = policy.with_token(log1mexp(policy.token))
    return Loss(torch.where(label, -policy.mean, -alpha * away.mean), _stats(policy, policy.sum, label))


def weighted_nll(policy: Logprobs, reward: Tensor) -> Loss:
    """Likelihood weighted by the answer's score.

    -score log p, per token

    Use: where a score from 0 to 1 says how much an answer is worth learning; a negative score unlearns it.
    Claim: the simplest use of scores.
    """
    return Loss(-reward * policy.mean, {"logprob/token": policy.mean.detach(), "reward/score": reward.detach()})


def reward_weighted(policy: Logprobs, reward: Tensor, *, beta: Positive = 1.0, max_weight: Positive = 20.0) -> Loss:
    """Reward-weighted regression: arXiv:1910.00177 with the score itself as the advantage.

    -min(max_weight, exp(score / beta)) log p, per token

    Use: on scored answers, without a reference; centre the scores of each prompt for advantages.
    Claim: the offline baseline of advantage-weighted regression.

    beta: temperature of the score, in its own units; smaller looks at the best answers alone.
    max_weight: weights are held at this.
    """
    weight = (reward / beta).exp().clamp(max=max_weight)
    return Loss(-weight * policy.mean, {"logprob/token": policy.mean.detach(), "weight": weight.detach()})


def _stats(policy: Logprobs, reward: Tensor, label: Tensor) -> dict[str, Tensor]:
    """What is logged of thumbs: whether the implicit reward has the thumb's sign, the reward, the likelihood."""
    signed = torch.where(label, reward, -reward).detach()
    return {"reward/signed": signed, "reward/accuracy": better(signed), "logprob/answer": policy.sum.detach()}
