"""Objectives on several ranked answers to one prompt: called for each ranking, one loss each, [].

The answers come best first; `reward` holds their scores or, where the data only rank them, minus their ranks. Equal
rewards are ties. D is the log-ratio of an answer, log policy/reference summed over its tokens, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from truing.objectives.shared import better
from truing.signatures import NonNegative, Positive
from truing.tensors import Loss, Ranking


def plackett_luce(policy: Ranking, reference: Ranking, reward: Tensor, *, beta: Positive = 0.1) -> Loss:
    """DPO for rankings: arXiv:2305.18290, in its appendix A.3.

    -sum over k of log [exp(beta D_k) / sum over i >= k of exp(beta D_i)]

    Use: on full rankings; with two answers it is dpo. Of tied answers none has to lead the other.
    Claim: the exact form of DPO under the Plackett-Luce model of rankings.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    score = beta * (policy.sum - reference.sum)
    rivals = (reward[:, None] > reward).masked_fill(
        torch.eye(len(reward), dtype=torch.bool, device=reward.device), True
    )
    among = score.expand_as(rivals).masked_fill(~rivals, -torch.inf)
    return Loss((among.logsumexp(1) - score).sum(), _stats(policy, score, reward))


def lipo(policy: Ranking, reference: Ranking, reward: Tensor, *, beta: Positive = 0.1) -> Loss:
    """Listwise preference optimisation with lambda weights: arXiv:2402.01878.

    sum over r_i > r_j of |2^g_i - 2^g_j| |1 / log(1 + t_i) - 1 / log(1 + t_j)| log(1 + exp(-(s_i - s_j)))

    Use: on scored lists: pairs that matter for the top of the list count most. s = beta D, t is the place by s,
        g the reward from 0 to 1 within the list.
    Claim: above DPO and SLiC on TL;DR and Anthropic's dialogue.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    score = beta * (policy.sum - reference.sum)
    gain = 2 ** ((reward - reward.min()) / (reward.max() - reward.min()).clamp(min=1e-6))
    place = score.detach().argsort(descending=True, stable=True).argsort() + 1
    discount = 1 / torch.log1p(place.to(score.dtype))
    weight = (gain[:, None] - gain).abs() * (discount[:, None] - discount).abs()
    ordered = reward[:, None] > reward
    return Loss((ordered * weight * softplus(score - score[:, None])).sum(), _stats(policy, score, reward))


def info_nca(
    policy: Ranking, reference: Ranking, reward: Tensor, *, beta: Positive = 0.1, alpha: Positive = 1.0
) -> Loss:
    """Information noise contrastive alignment: arXiv:2402.05369.

    -sum over i of softmax(reward / alpha)_i log softmax(beta D)_i

    Use: on scored lists; with two answers and alpha towards 0 it is dpo.
    Claim: uses all of a scored list, above DPO on the best and the worst alone.

    beta: inverse temperature of the implicit reward, in 1/nats.
    alpha: temperature of the scores, in their own units.
    """
    score = beta * (policy.sum - reference.sum)
    wanted = torch.softmax(reward / alpha, 0)
    return Loss(-(wanted * torch.log_softmax(score, 0)).sum(), _stats(policy, score, reward))


def rrhf(policy: Ranking, reward: Tensor, *, length_exponent: NonNegative = 1.0, nll_weight: NonNegative = 1.0) -> Loss:
    """Rank responses to align with human feedback: arXiv:2304.05302.

    sum over r_i < r_j of max(0, p_i - p_j) + nll_weight * nll(best), p = log p(answer) / |answer|^length_exponent

    Use: on scored answers from anywhere, without a reference.
    Claim: near PPO's reward on hh-rlhf at a better perplexity, with the cost of fine-tuning.

    length_exponent: power of the length that the log-likelihood is divided by.
    nll_weight: weight of the negative log-likelihood of the best answer, summed over its tokens.
    """
    score = policy.sum / policy.length**length_exponent
    worse = reward[:, None] < reward
    value = (worse * torch.relu(score[:, None] - score)).sum() - nll_weight * policy.sum[0]
    return Loss(value, _stats(policy, score, reward))


def pro(policy: Ranking, reward: Tensor, *, nll_weight: NonNegative = 0.05) -> Loss:
    """Preference ranking optimisation: arXiv:2306.17492.

    -sum over k < K of log [exp(s_k / T_kk) / sum over i >= k of exp(s_i / T_ki)] + nll_weight (K - 1)^2 nll(best),
    s the mean log-probability, 1 / T_ki = r_k - r_i, 1 / T_kk the largest of them

    Use: on scored rankings, without a reference; worse answers are pushed away by how much worse they are.
    Claim: above SFT, RLHF and RRHF on hh-rlhf, more so with longer rankings.

    nll_weight: weight of the negative log-likelihood of the best answer, summed over its tokens.
    """
    score, count = policy.mean, policy.count
    gap = (reward[:, None] - reward).triu()
    heat = gap + torch.diag(gap.max(dim=1).values)
    among = (heat * score).masked_fill(torch.ones_like(heat).tril(-1).bool(), -torch.inf)
    ranked = (among.logsumexp(1) - among.diagonal())[:-1].sum()
    return Loss(ranked - nll_weight * (count - 1) ** 2 * policy.sum[0], _stats(policy, score, reward))


def tpo(policy: Ranking, reward: Tensor, *, beta: Positive = 0.01, nll_weight: NonNegative = 1.0) -> Loss:
    """Triple preference optimisation: arXiv:2405.16681.

    -log sigmoid(beta (log p(second) - log p(last))) + nll_weight * nll(best)

    Use: on a gold answer, a preferred and a rejected one, in one stage and without a reference. With two answers only
        the likelihood of the best is left.
    Claim: above DPO, SimPO and KTO on Arena-Hard and MT-Bench with less data.

    beta: scale of the log-ratio, in 1/nats.
    nll_weight: weight of the negative log-likelihood of the best answer, per token.
    """
    value = softplus(-beta * (policy.sum[1] - policy.sum[-1])) - nll_weight * policy.mean[0]
    return Loss(value, _stats(policy, policy.sum, reward))


def _stats(policy: Ranking, score: Tensor, reward: Tensor) -> dict[str, Tensor]:
    """What is logged of rankings: the share of ordered pairs that the scores order alike, and the best's likelihood."""
    ordered = reward[:, None] > reward
    alike = better(score[:, None] - score) * ordered
    return {
        "reward/accuracy": (alike.sum() / ordered.sum().clamp(min=1)).detach(),
        "reward/margin": (score[0] - score[-1]).detach(),
        "logprob/best": policy.sum[0].detach(),
    }
