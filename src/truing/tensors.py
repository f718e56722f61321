"""What flows between packing, the engine and the objectives: Forest, Logprobs, Scores, Features, Pair, Ranking, Loss.

Letters of the shapes: S tokens of a forest, N scored tokens, C answers, P pairs, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

X = TypeVar("X")
Values = TypeVar("Values", bound="PerToken")


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
    own_row: for each scored token its own row, whose hidden state has read it.
    target: id of each scored token.
    completion: which answer each scored token belongs to, ascending.
    group: which tree each answer belongs to.
    step: for each step of an answer the scored token that ends it, ascending; empty where answers have no steps.
    rows: which row of the data set each tree is.
    """

    tokens: Int[Tensor, " S"]
    positions: Int[Tensor, " S"]
    trees: tuple[Tree, ...]
    hidden_row: Int[Tensor, " N"]
    own_row: Int[Tensor, " N"]
    target: Int[Tensor, " N"]
    completion: Int[Tensor, " N"]
    group: Int[Tensor, " C"]
    step: Int[Tensor, " T"]
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
            self.own_row.to(device),
            self.target.to(device),
            self.completion.to(device),
            self.group.to(device),
            self.step.to(device),
            self.rows,
        )


@dataclass(frozen=True, slots=True)
class PerToken:
    """One number for each scored token of C answers.

    token: the numbers, ordered by answer. completion: the answer each belongs to, ascending. count: C.
    An answer without a scored token has sum 0 and length 0.
    """

    token: Float[Tensor, " N"]
    completion: Int[Tensor, " N"]
    count: int

    @property
    def sum(self) -> Float[Tensor, " C"]:
        """The sum over each whole answer, in float64.

        A long answer sums to thousands of nats, of which an objective wants the difference to another such sum:
        added up in float32 it would be off by thousandths of a nat, as much as an early step moves it.
        """
        total = self.token.new_zeros(self.count, dtype=torch.float64)
        return total.index_add(0, self.completion, self.token.double())

    @property
    def length(self) -> Float[Tensor, " C"]:
        """Number of scored tokens of each answer."""
        return self._lengths().to(self.token.dtype)

    @property
    def mean(self) -> Float[Tensor, " C"]:
        """The mean over the scored tokens of each answer, in float64."""
        return self.sum / self.length.clamp(min=1)

    @property
    def place(self) -> Int[Tensor, " N"]:
        """Which scored token of its answer each is, from 0."""
        lengths = self._lengths()
        first = lengths.cumsum(0) - lengths
        return torch.arange(self.token.shape[0], device=first.device) - first[self.completion]

    @property
    def end(self) -> Int[Tensor, " C"]:
        """Place of the last scored token of each answer among all; of an answer without any, some other place."""
        return (self._lengths().cumsum(0) - 1).clamp(min=0)

    def select(self: Values, which: Int[Tensor, " K"]) -> Values:
        """The answers `which`, in this order and as often as they are named, numbered from 0."""
        lengths = self._lengths()
        first = lengths.cumsum(0) - lengths
        taken = lengths[which]
        completion = torch.arange(which.shape[0], device=which.device).repeat_interleave(taken)
        shift = first[which] - (taken.cumsum(0) - taken)
        token = self.token[torch.arange(completion.shape[0], device=which.device) + shift[completion]]
        return type(self)(token, completion, which.shape[0])

    def with_token(self: Values, token: Float[Tensor, " N"]) -> Values:
        """Other numbers for the same tokens."""
        return type(self)(token, self.completion, self.count)

    def to(self: Values, device: torch.device) -> Values:
        """The same numbers on another device."""
        return type(self)(self.token.to(device), self.completion.to(device), self.count)

    def detach(self: Values) -> Values:
        """The same numbers without their history."""
        return self.with_token(self.token.detach())

    def _lengths(self) -> Int[Tensor, " C"]:
        return torch.bincount(self.completion, minlength=self.count)


class Logprobs(PerToken):
    """Log-probabilities, in nats, of the scored tokens of C answers."""


class Scores(PerToken):
    """What a reward head says after each scored token of C answers. What it says last is the answer's reward."""

    @property
    def last(self) -> Float[Tensor, " C"]:
        """The reward of each answer: the number at its last scored token, found by position. 0 without any."""
        lengths = self._lengths()
        ends = self.token[self.end] if len(self.token) else self.token.new_zeros(self.count)
        return torch.where(lengths > 0, ends, 0.0)

    def at(self, step: Int[Tensor, " T"]) -> StepScores:
        """What is said at the ends of steps, which are places among the scored tokens."""
        return StepScores(self.token[step], self.completion[step], self.count)


class StepScores(Scores):
    """Scores of C answers in steps, at the last token of each step alone: T in all."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a reward head reads at the end of each answer, and the chances by which two views of it lose some entries.

    vector: hidden states. uniform: numbers from 0 to 1, one for each entry of each view. answer: which answer of the
        step each of them is: one that is compared several times is here as often.
    """

    vector: Float[Tensor, "C width"]
    uniform: Float[Tensor, "C 2 width"]
    answer: Int[Tensor, " C"]

    def view(self, which: int, dropout: float) -> Float[Tensor, "C width"]:
        """The vectors as dropout leaves them: each entry is 0 with this chance, and those that stay grow by as much."""
        return self.vector * (self.uniform[:, which] >= dropout) / (1 - dropout)


class RankedScores(Scores):
    """Scores of the K answers to one prompt, best first."""


class Ranking(Logprobs):
    """Log-probabilities of the K answers to one prompt, best first."""


Conditioned = Logprobs
"""Log-probabilities of answers to prompts that say whether a good or a bad answer follows."""

Hindsight = Logprobs
"""Log-probabilities of conversations in which a good and a bad answer follow one another, each announced."""

Votes = Tensor
"""Scores of which each answer of a pair has a share, so they are not both 0."""


@dataclass(frozen=True, slots=True)
class Pair(Generic[X]):
    """The preferred and the other one."""

    chosen: X
    rejected: X


@dataclass(frozen=True, slots=True)
class Loss:
    """What an objective returns: one value, not reduced, for each pair [P], answer [C], step [T] or token [N].

    Of a ranking it is a scalar.

    stats: of the same shape, without gradient, only logged. memory: what the objective is given at the next step.
    Losses add up and can be scaled; the stats of a sum are those of all its terms, the first one's where names agree.
    """

    value: Float[Tensor, "*K"]
    stats: Mapping[str, Float[Tensor, "*K"]] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.value + other.value, {**other.stats, **self.stats}, {**other.memory, **self.memory})

    def __rmul__(self, factor: float) -> Loss:
        return Loss(factor * self.value, self.stats, self.memory)
