"""The layer that a language model writes with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from truing.errors import MissingError


def output_weight(model: Any) -> Tensor:
    """Weight of the output layer, [vocabulary, width]. Raises MissingError where the layer has a bias."""
    head: Any = model.get_output_embeddings()
    if head is None:
        raise MissingError(f"{type(model).__name__} has no output layer: a reward model has no log-probabilities")
    if type(head) is not torch.nn.Linear:  # an adapter's own layer passes its base's weight off as its own
        raise MissingError(
            f"the output layer is a {type(head).__name__}, which the log-prob head does not read: leave it out of the "
            "adapter's targets"
        )
    if getattr(head, "bias", None) is not None:
        raise MissingError(f"{type(model).__name__} has a bias in its output layer, which is not supported")
    weight: Tensor = head.weight
    return weight
