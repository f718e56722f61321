"""Algebra that several objectives share."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.tensors import Logprobs, Loss, Pair

Estimator = Literal["k1", "k2", "k3"]
"""Estimates of a KL from samples, by Schulman's names (http://joschu.net/blog/kl-approx.html)."""


def log_ratios(policy: Pair[Logprobs], reference: Pair[Logprobs]) -> Pair[Tensor]:
    """log policy/reference of each whole answer, in nats, [P]."""
    return Pair(policy.chosen.sum - reference.chosen.sum, policy.rejected.sum - reference.rejected.sum)


def mean_log_ratios(policy: Pair[Logprobs], reference: Pair[Logprobs]) -> Pair[Tensor]:
    """log policy/reference per scored token, in nats, [P]."""
    return Pair(policy.chosen.mean - reference.chosen.mean, policy.rejected.mean - reference.rejected.mean)


def logistic(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(margin), the loss of a logistic comparison, with a share of labels believed flipped."""
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def bounded_exp(exponent: Tensor) -> Tensor:
    """exp, held at e^80 so that no log-ratio makes it infinite."""
    return exponent.clamp(max=80.0).exp()


def bounded_expm1(exponent: Tensor) -> Tensor:
    """exp - 1, held like bounded_exp; near 0 it keeps the digits that a difference would lose."""
    return torch.expm1(exponent.clamp(max=80.0))


def log1mexp(logprob: Tensor) -> Tensor:
    """log(1 - exp(logprob)) for log-probabilities up to just below 0, without cancellation at either end."""
    below = logprob.clamp(max=-1e-7)
    near = below > -math.log(2)
    # both branches are computed, so each gets an argument at which its gradient is finite
    close = torch.log(-torch.expm1(torch.where(near, below, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, below)))
    return torch.where(near, close, far)


def kl_estimate(ours: Tensor, theirs: Tensor, estimator: Estimator) -> Tensor:
    """Estimate in nats of KL(ours || theirs) at each token that was drawn from `ours`, of log-probabilities.

    With d = ours - theirs:  k1 = d,  k2 = d^2 / 2,  k3 = exp(-d) - 1 + d
    k1 and k3 have the right mean, k2 nearly; k2 and k3 are never negative; all are exactly 0 where the two agree.
    """
    difference = ours - theirs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return bounded_expm1(-difference) + difference


def better(margin: Tensor) -> Tensor:
    """1 where the margin is above 0, one half where it is exactly 0, else 0."""
    return ((margin > 0).to(margin.dtype) + (margin == 0).to(margin.dtype) / 2).detach()


def compared(value: Tensor, policy: Pair[Logprobs], reward: Pair[Tensor]) -> Loss:
    """A loss per pair with the numbers that every comparison logs; `reward` is the objective's implicit reward."""
    margin = reward.chosen - reward.rejected
    return Loss(
        value,
        {
            "reward/margin": margin.detach(),
            "reward/accuracy": better(margin),
            "reward/chosen": reward.chosen.detach(),
            "reward/rejected": reward.rejected.detach(),
            "logprob/chosen": policy.chosen.sum.detach(),
            "logprob/rejected": policy.rejected.sum.detach(),
        },
    )


def ranked(value: Tensor, chosen: Tensor, rejected: Tensor) -> Loss:
    """A loss per pair with the numbers that every comparison of scores logs."""
    gap = (chosen - rejected).detach()
    stats = {"reward/margin": gap, "reward/accuracy": better(gap)}
    return Loss(value, stats | {"score/chosen": chosen.detach(), "score/rejected": rejected.detach()})


def scaled(factor: float, values: Pair[Tensor]) -> Pair[Tensor]:
    """Both sides times a factor."""
    return Pair(factor * values.chosen, factor * values.rejected)


def log_likelihood(policy: Pair[Logprobs]) -> Loss:
    """Negative log-likelihood of the chosen answer per token, [P]: the term that keeps chosen answers likely."""
    return Loss(-policy.chosen.mean, {"nll/chosen": -policy.chosen.mean.detach()})
