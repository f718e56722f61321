"""Objectives on a chosen and a rejected answer to one prompt."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.signatures import Fraction, Positive
from truing.tensors import Logprobs, Loss, Pair


def dpo(
    policy: Pair[Logprobs],
    reference: Pair[Logprobs],
    *,
    beta: Positive = 0.1,
    label_smoothing: Fraction = 0.0,
) -> Loss:
    """Direct preference optimisation: Eq. 7 of arXiv:2305.18290, one loss per pair, [P].

    -log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected)), log-ratios summed over each answer.

    beta: inverse temperature of the implicit reward, in 1/nats; larger stays nearer the reference.
    label_smoothing: share of labels believed flipped; above 0 it is conservative DPO (cDPO).
    """
    chosen_reward = beta * (policy.chosen.sum - reference.chosen.sum)
    rejected_reward = beta * (policy.rejected.sum - reference.rejected.sum)
    margin = chosen_reward - rejected_reward
    return Loss(
        value=logistic(margin, label_smoothing),
        stats={
            "reward/margin": margin.detach(),
            "reward/accuracy": better(margin),
            "reward/chosen": chosen_reward.detach(),
            "reward/rejected": rejected_reward.detach(),
            "logprob/chosen": policy.chosen.sum.detach(),
            "logprob/rejected": policy.rejected.sum.detach(),
        },
    )


def logistic(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(margin), the loss of a logistic comparison, with a share of labels believed flipped."""
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def better(margin: Tensor) -> Tensor:
    """1 where the margin is above 0, one half where it is exactly 0, else 0."""
    return ((margin > 0).to(margin.dtype) + (margin == 0).to(margin.dtype) / 2).detach()
