"""What a critic learns: one loss per token, [N]. `value` is what it expects before the token is chosen."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truing.signatures import Positive
from truing.tensors import Loss, PerToken


def value_clip(value: PerToken, old_value: PerToken, returns: PerToken, *, value_range: Positive | None = 0.2) -> Loss:
    """Squared error of the critic, held near where it was at the rollout: PPO's published code, used by PPO-max.

    1/2 max((V - R)^2, (clip(V, V_old - value_range, V_old + value_range) - R)^2)

    value_range: how far a value may move between two rollouts, in units of the shaped reward; none: unbounded.
    """
    error = (value.token - returns.token).square()
    bound = torch.inf if value_range is None else value_range
    held = torch.clamp(value.token, old_value.token - bound, old_value.token + bound)
    loss = torch.maximum(error, (held - returns.token).square()) / 2
    clipped = (loss * 2 != error).to(error.dtype)
    return Loss(loss, {"value": value.token.detach(), "value/error": error.detach(), "value/clipped": clipped.detach()})


def explained_variance(value: Float[Tensor, " N"], returns: Float[Tensor, " N"]) -> float:
    """Share of the variance of the returns that the critic foresaw: 1 - var(R - V) / var R, over a whole rollout.

    1 is perfect, 0 no better than their mean, below 0 worse; 0 by definition where the returns do not vary.
    """
    if not len(returns):
        return 0.0
    missed = (returns.double() - value.double()).var(correction=0)
    total = returns.double().var(correction=0)
    return float(1 - missed / total) if float(total) > 0 else 0.0
