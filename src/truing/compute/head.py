"""Log-probabilities of given tokens from hidden states, without ever holding the logits of a whole batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 256
"""Rows of logits that exist in full width at one time: 256 rows of a vocabulary of 49,152 are 50 MB in fp32."""
KEPT = 256 * 2**20
"""Bytes of logits made at one time in the dtype of compute. Where they are all, the backward pass finds them kept."""


class Head(NamedTuple):
    """Hidden states of scored positions and the output layer that reads them."""

    hidden: Float[Tensor, "N width"]
    weight: Float[Tensor, "vocabulary width"]


class TokenStatistics(NamedTuple):
    """What the output layer knows of each scored token, in fp32 (fp64 for fp64 input).

    logprob: log-probability of the token. divergence: KL(reference || policy) over the vocabulary, in nats, or None.
    reference: the reference's log-probability of the token, or None. concentration: log of the sum of squared
    probabilities, or None. These two have no gradient. entropy: of the policy's whole distribution, in nats, or None.
    """

    logprob: Float[Tensor, " N"]
    divergence: Float[Tensor, " N"] | None
    reference: Float[Tensor, " N"] | None
    concentration: Float[Tensor, " N"] | None
    entropy: Float[Tensor, " N"] | None


def token_logprobs(
    hidden: Float[Tensor, "N width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " N"],
    temperature: float = 1.0,
) -> Float[Tensor, " N"]:
    """log softmax(hidden @ weight.T / temperature) at `target`, in fp32 (fp64 for fp64 input).

    At most KEPT bytes of logits exist at a time: where there are more, they are made a part at a time and made again in
    the backward pass. The matrix products run in the dtype of `hidden`, the softmax in fp32.
    """
    return token_statistics(Head(hidden, weight), target, temperature).logprob


def token_statistics(
    policy: Head,
    target: Int[Tensor, " N"],
    temperature: float = 1.0,
    *,
    reference: Head | None = None,
    concentration: bool = False,
    entropy: bool = False,
) -> TokenStatistics:
    """Log-probabilities with what else is asked for, from the same chunks of logits, all at this temperature.

    reference: where it is given, the divergence from it is computed; it gets no gradient.
    """
    other_hidden, other_weight = reference or (None, None)
    found = _TokenStatistics.apply(  # type: ignore[no-untyped-call]
        policy.hidden, policy.weight, target, temperature, other_hidden, other_weight, concentration, entropy
    )
    return TokenStatistics(*found)


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        temperature: float,
        other_hidden: Tensor | None,
        other_weight: Tensor | None,
        concentration: bool,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprob = torch.empty(target.shape, dtype=wide, device=hidden.device)
        normaliser, other_normaliser = torch.empty_like(logprob), torch.empty_like(logprob)
        divergence = torch.empty_like(logprob) if other_hidden is not None else None
        other_logprob = torch.empty_like(logprob) if other_hidden is not None else None
        squared = torch.empty_like(logprob) if concentration else None
        undecided = torch.empty_like(logprob) if entropy else None
        parts = _parts(len(target), weight)
        for part in parts:
            # whole parts of both, as the size of a product changes its last bits and equal models differ by exactly 0
            narrow = hidden[part] @ weight.T
            other_narrow = _logits(other_hidden, other_weight, part)
            for rows in _chunks(part):
                here = slice(rows.start - part.start, rows.stop - part.start)
                logits = _scaled(narrow[here], temperature, wide)
                top = logits.amax(dim=1, keepdim=True)
                at_target = logits.gather(1, target[rows, None])[:, 0]
                if other_narrow is not None:
                    assert divergence is not None
                    assert other_logprob is not None
                    other = _scaled(other_narrow[here], temperature, wide)
                    other_top = other.amax(dim=1, keepdim=True)
                    other_normaliser[rows] = (other - other_top).exp_().sum(dim=1).log() + other_top[:, 0]
                    other_logprob[rows] = other.gather(1, target[rows, None])[:, 0] - other_normaliser[rows]
                    likely = (other - other_normaliser[rows, None]).exp_()
                    divergence[rows] = likely.mul_(other.sub_(logits)).sum(dim=1)
                likely = logits.sub_(top).exp() if entropy else logits.sub_(top).exp_()
                mass = likely.sum(dim=1)
                normaliser[rows] = mass.log() + top[:, 0]
                logprob[rows] = at_target - normaliser[rows]
                if divergence is not None:
                    divergence[rows] += normaliser[rows] - other_normaliser[rows]
                if undecided is not None:
                    undecided[rows] = mass.log() - logits.mul_(likely).sum(dim=1) / mass
                if squared is not None:
                    squared[rows] = likely.square_().sum(dim=1).log() - 2 * mass.log()
        kept = narrow if len(parts) == 1 and any(ctx.needs_input_grad[:2]) else None
        ctx.save_for_backward(
            hidden, weight, target, normaliser, other_hidden, other_weight, other_normaliser, undecided, kept
        )
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)  # what is only looked at costs nothing in the backward pass
        ctx.mark_non_differentiable(*(extra for extra in (other_logprob, squared) if extra is not None))
        return logprob, divergence, other_logprob, squared, undecided

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, target, normaliser, other_hidden, other_weight, other_normaliser, undecided, kept = (
            ctx.saved_tensors
        )
        wide = normaliser.dtype
        gradient = torch.zeros_like(normaliser) if gradients[0] is None else gradients[0] / ctx.temperature
        pull = torch.zeros_like(gradient) if gradients[1] is None else gradients[1] / ctx.temperature
        spread = None if gradients[4] is None else gradients[4] / ctx.temperature
        to_hidden = torch.empty_like(hidden)
        to_weight: Tensor | None = None
        for part in _parts(len(target), weight):
            logits = hidden[part] @ weight.T if kept is None else kept
            other_logits = _logits(other_hidden, other_weight, part)
            for rows in _chunks(part):
                here = slice(rows.start - part.start, rows.stop - part.start)
                slope = _scaled(logits[here], ctx.temperature, wide)
                # d logprob = (one at the target - policy), d KL(reference || policy) = (policy - reference)
                slope.sub_(normaliser[rows, None])
                to_policy = (pull - gradient)[rows, None]
                if spread is not None:  # d entropy = -policy (log policy + entropy)
                    to_policy = to_policy - (slope + undecided[rows, None]).mul_(spread[rows, None])
                slope.exp_().mul_(to_policy)
                slope.scatter_add_(1, target[rows, None], gradient[rows, None])
                if other_logits is not None:
                    other = _scaled(other_logits[here], ctx.temperature, wide)
                    slope.sub_(other.sub_(other_normaliser[rows, None]).exp_().mul_(pull[rows, None]))
                logits[here] = slope  # in the place of the logits, which are needed no more
            to_hidden[part] = logits @ weight
            if ctx.needs_input_grad[1]:
                found = logits.T @ hidden[part]
                to_weight = found if to_weight is None else to_weight.to(wide).add_(found)
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), *(None,) * 6


def _logits(hidden: Tensor | None, weight: Tensor | None, part: slice) -> Tensor | None:
    return None if hidden is None or weight is None else hidden[part] @ weight.T


def _scaled(logits: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """A copy in full width."""
    return logits.to(dtype, copy=True).div_(temperature) if temperature != 1 else logits.to(dtype, copy=True)


def _parts(count: int, weight: Tensor) -> list[slice]:
    """Rows whose logits are held at one time; at least one part, as the gradient of no row is zero and not missing."""
    rows = max(CHUNK, KEPT // (weight.shape[0] * weight.element_size()))
    return [slice(start, min(start + rows, count)) for start in range(0, max(count, 1), rows)]


def _chunks(part: slice) -> list[slice]:
    return [slice(start, min(start + CHUNK, part.stop)) for start in range(part.start, part.stop, CHUNK)]
