"""How single losses become one number: a weight for each element and a divisor that the data alone decide.

The divisor belongs to a whole optimizer step and is known before its first forward pass, so the gradient cannot
depend on how the step was cut into forests, or spread over ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truing.tensors import Forest, PerToken

Reduction = Literal["token_mean", "sequence_mean", "sequence_sum"]
OnlineReduction = Literal["token_mean", "group_mean", "sequence_mean", "sequence_sum", "constant"]


@runtime_checkable
class ScoredAnswer(Protocol):
    """An answer of a row."""

    @property
    def scored(self) -> Sequence[bool]:
        """Whether each token is scored."""


@runtime_checkable
class WeighedRow(Protocol):
    """What is asked of a rendered row."""

    @property
    def prompt(self) -> Sequence[int]:
        """Ids of its prompt."""

    @property
    def answers(self) -> Sequence[ScoredAnswer]:
        """Its answers."""

    @property
    def weight(self) -> float:
        """What it counts."""


def token_weights(forest: Forest, rows: Sequence[WeighedRow], reduction: Reduction) -> Float[Tensor, " N"]:
    """Weight of each scored token of a forest. `rows` is the whole data set, addressed by `forest.rows`."""
    row_weight = torch.tensor([rows[index].weight for index in forest.rows])
    answer_weight = row_weight[forest.group]
    if reduction == "sequence_mean":
        answer_weight = answer_weight / torch.bincount(forest.completion, minlength=len(answer_weight)).clamp(min=1)
    return answer_weight[forest.completion]


def divisor(rows: Sequence[WeighedRow], reduction: Reduction) -> float:
    """What the weighted sum over the rows of one optimizer step is divided by."""
    if reduction == "token_mean":
        return sum(row.weight * scored_tokens(row) for row in rows)
    return sum(row.weight * len(row.answers) for row in rows)


def scored_tokens(row: WeighedRow) -> int:
    """Scored tokens of all answers; without a prompt the first token has no predictor and is given."""
    skipped = 0 if row.prompt else 1
    return sum(sum(answer.scored[skipped:]) for answer in row.answers)


def step_weights(
    completion: Int[Tensor, " N"],
    group: Int[Tensor, " C"],
    weight: Float[Tensor, " C"],
    reduction: OnlineReduction,
    *,
    limit: int,
) -> tuple[PerToken, float]:
    """Weight of each token of an online step's answers, and the divisor of the whole step.

    With n tokens in an answer, T in those of its group that count, w its weight, and sums over the answers of the step:

    token_mean      w            / sum w n      every token alike: DAPO's code, arXiv:2503.14476
    group_mean      w / T        / sum of w over groups   every prompt alike, and in it every token: DAPO as printed
    sequence_mean   w / n        / sum w        every answer alike, and in it every token: GRPO, arXiv:2402.03300
    sequence_sum    w            / sum w        every answer by the sum over its tokens: REINFORCE, RLOO
    constant        w            / limit sum w  the same by the length of the limit: Dr. GRPO, arXiv:2503.20783

    weight: that of each answer's row; 0 for an answer that is not learnt from. limit: most tokens an answer may have.
    `PerToken.select` cuts out what belongs to a forest; an answer without tokens counts in the divisor of the
    reductions by answers.
    """
    length = torch.bincount(completion, minlength=len(group)).double()
    row_weight = weight.double()
    live = (row_weight > 0).double()
    members = torch.bincount(group, weights=live).clamp(min=1)
    tokens = torch.bincount(group, weights=length * live)
    share = {
        "group_mean": row_weight / tokens[group].clamp(min=1),
        "sequence_mean": row_weight / length.clamp(min=1),
    }.get(reduction, row_weight)
    total = {
        "token_mean": row_weight * length,
        "group_mean": row_weight / members[group],
        "constant": row_weight * limit,
    }.get(reduction, row_weight)
    return PerToken(share[completion], completion, len(group)), float(total.sum())
