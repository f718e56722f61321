"""What flows between packing, the engine and the objectives: Forest, Logprobs, Pair, Loss.

Letters of the shapes: S tokens of a forest, N scored tokens, C answers, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

X = TypeVar("X")


class Tree(NamedTuple):
    """One prompt and its answers as slices of a forest's tokens."""

    prompt: slice
    answers: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Forest:
    """A batch without padding: every prompt stands once, and its answers branch off it.

    tokens: ids of all trees one after the other, each tree as prompt, answer, answer, ...
    positions: place of each token on its own path from the root; every answer starts at its prompt's length.
    trees: where each prompt and its answers lie in `tokens`.
    hidden_row: for each scored token the row of the hidden state that predicts it. The first token of every answer
        is predicted by the last token of the shared prompt, whose row therefore appears once for each answer.
    target: id of each scored token.
    completion: which answer each scored token belongs to, ascending.
    group: which tree each answer belongs to.
    rows: which row of the data set each tree is.
    """

    tokens: Int[Tensor, " S"]
    positions: Int[Tensor, " S"]
    trees: tuple[Tree, ...]
    hidden_row: Int[Tensor, " N"]
    target: Int[Tensor, " N"]
    completion: Int[Tensor, " N"]
    group: Int[Tensor, " C"]
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def to(self, device: torch.device) -> Forest:
        """The same forest with its tensors on another device."""
        return Forest(
            self.tokens.to(device),
            self.positions.to(device),
            self.trees,
            self.hidden_row.to(device),
            self.target.to(device),
            self.completion.to(device),
            self.group.to(device),
            self.rows,
        )

    def pairs(self) -> Pair[Int[Tensor, " P"]]:
        """Places of chosen and rejected among the answers, where every tree holds (chosen, rejected) in this order."""
        first = torch.arange(0, self.group.shape[0], 2, device=self.group.device)
        return Pair(first, first + 1)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities, in nats, of the scored tokens of C answers.

    token: one for each scored token. completion: the answer it belongs to, ascending. count: C.
    An answer without a scored token has sum 0 and length 0.
    """

    token: Float[Tensor, " N"]
    completion: Int[Tensor, " N"]
    count: int

    @property
    def sum(self) -> Float[Tensor, " C"]:
        """Log-probability of each whole answer."""
        return self.token.new_zeros(self.count).index_add(0, self.completion, self.token)

    @property
    def length(self) -> Float[Tensor, " C"]:
        """Number of scored tokens of each answer."""
        return torch.bincount(self.completion, minlength=self.count).to(self.token.dtype)

    @property
    def mean(self) -> Float[Tensor, " C"]:
        """Log-probability per scored token of each answer."""
        return self.sum / self.length.clamp(min=1)

    def select(self, which: Int[Tensor, " K"]) -> Logprobs:
        """The answers `which`, ascending, renumbered from 0."""
        place = self.completion.new_full((self.count,), -1)
        place[which] = torch.arange(which.shape[0], device=which.device)
        completion = place[self.completion]
        kept = completion >= 0
        return Logprobs(self.token[kept], completion[kept], which.shape[0])

    def detach(self) -> Logprobs:
        """The same numbers without their history."""
        return Logprobs(self.token.detach(), self.completion, self.count)


@dataclass(frozen=True, slots=True)
class Pair(Generic[X]):
    """The preferred and the other one."""

    chosen: X
    rejected: X


@dataclass(frozen=True, slots=True)
class Loss:
    """What an objective returns: one value, not reduced, for each pair [P], answer [C] or token [N].

    stats are of the same shape, carry no gradient and are only logged.
    """

    value: Float[Tensor, " K"]
    stats: Mapping[str, Float[Tensor, " K"]] = field(default_factory=dict)
