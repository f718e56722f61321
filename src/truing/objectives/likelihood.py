"""Objectives on answers that are simply to be made likelier."""

from __future__ import annotations

from truing.tensors import Logprobs, Loss


def nll(policy: Logprobs) -> Loss:
    """Negative log-likelihood of the scored tokens, one loss per token, [N], in nats."""
    return Loss(value=-policy.token, stats={"logprob/token": policy.token.detach()})
