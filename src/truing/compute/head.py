"""Log-probabilities of given tokens from hidden states, without ever holding the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 256
"""Rows of logits that exist at one time: 256 rows of a vocabulary of 49,152 are 50 MB in fp32."""


def token_logprobs(
    hidden: Float[Tensor, "N width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " N"],
    temperature: float = 1.0,
) -> Float[Tensor, " N"]:
    """log softmax(hidden @ weight.T / temperature) at `target`, in fp32 (fp64 for fp64 input).

    Logits are made a chunk of rows at a time and made again in the backward pass, so memory does not grow with
    N x vocabulary. The matrix products run in the dtype of `hidden`, the softmax in fp32.
    """
    result: Tensor = _TokenLogprobs.apply(hidden, weight, target, temperature)  # type: ignore[no-untyped-call]
    return result


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, temperature: float) -> Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        result = torch.empty(target.shape, dtype=wide, device=hidden.device)
        normaliser = torch.empty_like(result)
        for rows in _chunks(len(target)):
            logits = (hidden[rows] @ weight.T).to(wide).div_(temperature)
            top = logits.amax(dim=1, keepdim=True)
            chosen = logits.gather(1, target[rows, None])
            normaliser[rows] = logits.sub_(top).exp_().sum(dim=1).log_() + top[:, 0]
            result[rows] = chosen[:, 0] - normaliser[rows]
        ctx.save_for_backward(hidden, weight, target, normaliser)
        ctx.temperature = temperature
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, target, normaliser = ctx.saved_tensors
        gradient = gradients[0] / ctx.temperature
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=normaliser.dtype) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(target)):
            slope = (hidden[rows] @ weight.T).to(normaliser.dtype).div_(ctx.temperature)
            slope.sub_(normaliser[rows, None]).exp_().mul_(-gradient[rows, None])
            slope.scatter_add_(1, target[rows, None], gradient[rows, None])
            narrow = slope.to(hidden.dtype)
            to_hidden[rows] = narrow @ weight
            if to_weight is not None:
                to_weight += narrow.T @ hidden[rows]
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), None, None


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
