"""How single losses become one number: a weight for each element and a divisor that the data alone decide.

The divisor belongs to a whole optimizer step and is known before its first forward pass, so the gradient cannot
depend on how the step was cut into forests, or spread over ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from truing.rendering import Row
from truing.tensors import Forest

Reduction = Literal["token_mean", "sequence_mean", "sequence_sum"]


def token_weights(forest: Forest, rows: Sequence[Row], reduction: Reduction) -> Float[Tensor, " N"]:
    """Weight of each scored token of a forest. `rows` is the whole data set, addressed by `forest.rows`."""
    row_weight = torch.tensor([rows[index].weight for index in forest.rows])
    answer_weight = row_weight[forest.group]
    if reduction == "sequence_mean":
        answer_weight = answer_weight / torch.bincount(forest.completion, minlength=len(answer_weight)).clamp(min=1)
    return answer_weight[forest.completion]


def divisor(rows: Sequence[Row], reduction: Reduction) -> float:
    """What the weighted sum over the rows of one optimizer step is divided by."""
    if reduction == "token_mean":
        return sum(row.weight * scored_tokens(row) for row in rows)
    return sum(row.weight * len(row.answers) for row in rows)


def scored_tokens(row: Row) -> int:
    """Scored tokens of all answers; without a prompt the first token has no predictor and is given."""
    skipped = 0 if row.prompt else 1
    return sum(sum(answer.scored[skipped:]) for answer in row.answers)
