"""Rows of text whose likelihood is held up while a policy learns from rewards: the pre-training mixture, PPO-ptx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from truing.compute import Engine
from truing.errors import ConfigError
from truing.objectives.likelihood import nll
from truing.packing import pack
from truing.reductions import divisor, token_weights
from truing.rendering import Row
from truing.stages.context import Context, Groups
from truing.stages.rollouts import in_turn
from truing.stages.sft import Sft, arranged
from truing.stages.training import Limits, Step, render_rows, share_of

CURSOR = "pretrain/steps"
"""Steps that rows were mixed into, in a checkpoint's memory."""
WEIGHT, ROWS = 1.0, 8
"""The usual settings."""


class Mixing(Limits, Protocol):
    """Settings that say how rows are mixed in."""

    @property
    def pretrain_weight(self) -> float:
        """Of their mean negative log-likelihood in the loss."""

    @property
    def pretrain_rows(self) -> int:
        """Of one optimizer step."""

    @property
    def forest_tokens(self) -> int:
        """Tokens run at once."""


class Mixture:
    """The rows in their turn: every pass over them is a new order by seed, and none is left out.

    memory: what the caller carries from step to step, in which the place in the rows is kept.
    """

    def __init__(self, rows: Sequence[Row], settings: Mixing, seed: int, memory: dict[str, Tensor]) -> None:
        self._rows, self._settings, self._seed, self._memory = rows, settings, seed, memory
        memory[CURSOR] = torch.tensor(0)

    def add(self, step: Step, policy: Engine) -> None:
        """Gathers the gradient of the rows whose turn it is: the last term of Eq. 2 of arXiv:2203.02155 (InstructGPT).

        weight * (sum of -log p(token) over the tokens of the rows) / (number of these tokens), at temperature 1

        The paper's weight is 27.8, beside rewards and a loss of another scale; that of PPO-max (arXiv:2307.04964) has
        no number.
        """
        number = int(self._memory[CURSOR])
        places = in_turn(len(self._rows), self._settings.pretrain_rows, number, self._seed)
        rows = [self._rows[place] for place in places]
        tokens = divisor(rows, "token_mean") or 1.0  # rows of no weight at all teach nothing
        for forest in pack(share_of(rows, step.ranks), self._settings.forest_tokens):
            loss = nll(policy.logprobs(forest)).value
            weights = token_weights(forest, self._rows, "token_mean").to(loss)
            total = (loss * weights).sum()
            step.demand_finite("the loss of the rows of `pretrain`", total)
            step.engine.backward(self._settings.pretrain_weight * total / tokens)
            step.count("pretrain/nll", float(total.detach()), float(weights.sum()))
        self._memory[CURSOR] = torch.tensor(number + 1)


def mixture_of(
    context: Context, settings: Mixing, data: Groups | None, policy: Engine, memory: dict[str, Tensor]
) -> Mixture | None:
    """Plain text or demonstrations to mix in; of comparisons and rankings the best answers, as stage `sft` has it."""
    if data is None:
        if (settings.pretrain_weight, settings.pretrain_rows) != (WEIGHT, ROWS):
            raise ConfigError(
                f"{context.stage}: pretrain_weight and pretrain_rows change nothing without `pretrain`: name a file of "
                "text or demonstrations, or a stage that makes data"
            )
        return None
    read = data.read()
    groups, bad = arranged(Sft(), read, context.seed)
    rows, _, refused = render_rows(policy.renderer, groups, settings)
    if data.bad:
        context.warn(f"pretrain: {len(data.bad)} rows could not be read and are left out; the first: {data.bad[0]}")
    context.event("pretrain", source=data.description, rows=len(read), used=len(rows), refused=refused | bad)
    return Mixture(rows, settings, context.seed, memory)
