"""Drawing tokens from logits, with the log-probability under the very distribution that was drawn from."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truing.compute import Sampling

NUCLEUS_GUESS = 256
"""Likeliest tokens looked at first for top-p; where they hold too little probability, all tokens are sorted."""
BLOCK = 256
"""Tokens whose probability is summed first, where a draw may be any token."""


def draw(
    logits: Float[Tensor, "R vocabulary"], sampling: Sampling, uniform: Float[Tensor, " R"]
) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
    """One token for each row and its log-probability in nats, from one uniform number in [0, 1) for each row.

    A row's draw depends on its own logits and its own uniform number alone, so it does not matter which other rows
    are drawn beside it. Greedy draws (temperature 0) have log-probability 0: they are certain.
    """
    if sampling.temperature == 0:
        token = logits.argmax(dim=1)
        return token, torch.zeros_like(uniform)
    if sampling.top_k == 0 and sampling.top_p == 1:
        return _of_all(logits, sampling.temperature, uniform)
    likeliest, ids = _kept(torch.softmax(logits.float() / sampling.temperature, dim=1), sampling)
    place, logprob = _invert(likeliest, uniform)
    return ids.gather(1, place[:, None])[:, 0], logprob


def _kept(probability: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities, descending, with what top-k and top-p leave out set to 0, and the ids they belong to."""
    size = probability.shape[1]
    count = min(sampling.top_k, size) if sampling.top_k else min(NUCLEUS_GUESS, size)
    likeliest, ids = probability.topk(count, dim=1)
    if not sampling.top_k and bool((likeliest.sum(dim=1) < sampling.top_p).any()):
        likeliest, ids = probability.sort(dim=1, descending=True)
    if sampling.top_p < 1:
        share = likeliest / likeliest.sum(dim=1, keepdim=True) if sampling.top_k else likeliest
        before = share.cumsum(dim=1) - share
        likeliest = likeliest.masked_fill(before >= sampling.top_p, 0.0)
    return likeliest, ids


def _of_all(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A draw from all tokens: first a block of BLOCK tokens, then a token of it. No sum runs over the vocabulary."""
    rows, size = logits.shape
    weight = logits.new_empty((rows, -(-size // BLOCK) * BLOCK), dtype=torch.float32)
    weight[:, :size], weight[:, size:] = logits, -torch.inf
    weight.sub_(weight.amax(dim=1, keepdim=True)).div_(temperature).exp_()
    blocks = weight.unflatten(1, (-1, BLOCK))  # type: ignore[no-untyped-call]
    totals = blocks.sum(dim=2)
    total = totals.sum(dim=1)
    block, rest = _passed(totals, uniform * total)
    inside = blocks[torch.arange(rows, device=logits.device), block]
    token, _ = _passed(inside, rest)
    return block * BLOCK + token, (inside.gather(1, token[:, None])[:, 0] / total).log()


def _invert(probability: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The place at which the cumulative probability passes `uniform`, for probabilities of any total."""
    total = probability.sum(dim=1)
    place, _ = _passed(probability, uniform * total)
    return place, (probability.gather(1, place[:, None])[:, 0] / total).log()


def _passed(weight: Tensor, sought: Tensor) -> tuple[Tensor, Tensor]:
    """The place at which the cumulative weight passes `sought`, and how much of `sought` falls on that place."""
    cumulative = weight.cumsum(dim=1)
    total = cumulative[:, -1]
    # rounding must not carry a draw past the last place that has any weight
    sought = torch.minimum(sought.to(total.dtype), torch.nextafter(total, torch.zeros_like(total)))[:, None]
    place = torch.searchsorted(cumulative, sought, right=True)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, place)
    return place[:, 0], (sought - before)[:, 0]
