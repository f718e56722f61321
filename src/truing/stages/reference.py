"""The reference of preference objectives: what a model that is not trained gives the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from truing import __version__
from truing.compute import Engine
from truing.models.saving import save_tensors
from truing.packing import deal, pack
from truing.reductions import scored_tokens
from truing.rendering import Row
from truing.signatures import Count, Fraction, Settings
from truing.stages.context import Context
from truing.store import hash_of
from truing.store.cache import cache_folder, cached, is_cached
from truing.tensors import Forest, Logprobs

FILE = "reference.safetensors"
ReferenceKind = Literal["start", "base", "adapters_off", "none"]


class Moving(Settings):
    """A reference that follows the policy (TR-DPO, arXiv:2404.09656): every `every` steps it moves by `mix`."""

    mix: Fraction = Field(0.6, description="share of the policy in the new reference")
    every: Count = Field(512, description="optimizer steps between two moves")


class Reference(Protocol):
    """Whatever gives the reference's log-probabilities of a forest's scored tokens."""

    def logprobs(self, forest: Forest) -> Logprobs:
        """Without gradient."""


@dataclass(frozen=True, slots=True)
class Cached:
    """Log-probabilities of all rows under a model that does not change, computed once and kept on disk.

    token: all rows one after the other. start: where each row begins.
    """

    token: Tensor
    start: Tensor

    @classmethod
    def of(cls, context: Context, engine: Engine, model_key: str, rows: Sequence[Row], budget: int) -> Cached:
        """The engine's model as it is now, which must be before its first step. Kept under all that it depends on.

        The first rank looks whether it is there and keeps it; where it is not, each runs its share of the rows.
        """
        counts = torch.tensor([0] + [scored_tokens(row) for row in rows])
        start = counts.cumsum(0)
        tokens = [[row.prompt, [[a.tokens, a.scored] for a in row.answers]] for row in rows]
        key = hash_of(model_key, tokens, engine.arithmetic, torch.__version__, __version__)

        folder = cache_folder("reference") / key
        there = context.ranks.tell(lambda: is_cached(folder))
        token = torch.zeros(int(start[-1])) if there else _score(context, engine, rows, start, budget)
        if context.ranks.rank == 0:
            if not there:
                cached(folder, kind="reference", meta={"model": model_key}, make=lambda place: _keep(token, place))
            token = load_file(folder / FILE)["token"]
        context.ranks.copy_first([token])
        return cls(token, start)

    def logprobs(self, forest: Forest) -> Logprobs:
        """Looked up."""
        parts = [self.token[self.start[row] : self.start[row + 1]] for row in forest.rows]
        token = torch.cat(parts) if parts else self.token[:0]
        return Logprobs(token.to(forest.completion.device), forest.completion, forest.group.shape[0])


@dataclass(frozen=True, slots=True)
class Live:
    """The reference that lives in the engine: the model without its adapter, or the weights that were kept."""

    engine: Engine

    def logprobs(self, forest: Forest) -> Logprobs:
        """One more pass."""
        with torch.no_grad():
            return self.engine.logprobs(forest, of="reference")


@dataclass(frozen=True, slots=True)
class Nothing:
    """No reference: every answer has log-probability 0, as if all answers were equally likely."""

    def logprobs(self, forest: Forest) -> Logprobs:
        """Zeros."""
        return Logprobs(torch.zeros(forest.completion.shape[0]), forest.completion, forest.group.shape[0])


def _score(context: Context, engine: Engine, rows: Sequence[Row], start: Tensor, budget: int) -> Tensor:
    token = torch.zeros(int(start[-1]))
    own = deal(rows, context.ranks.count)[context.ranks.rank]
    done = 0
    with torch.no_grad(), context.reporter.task(f"{context.stage}: reference", len(own)) as task:
        for forest in pack(own, budget):
            scored = engine.logprobs(forest).token.cpu()
            for row in forest.rows:
                count = int(start[row + 1] - start[row])
                token[start[row] : start[row + 1]] = scored[:count]
                scored = scored[count:]
            done += len(forest.rows)
            task.advance(done)
            context.check_stop()
    context.ranks.add_up([token])  # where one rank has a number, the others have 0
    return token


def _keep(token: Tensor, folder: Path) -> None:
    save_tensors({"token": token}, folder / FILE)
