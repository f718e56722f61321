"""The reference of preference objectives: what a model that is not trained gives the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from truing import __version__
from truing.compute import Engine
from truing.models.saving import save_tensors
from truing.packing import pack
from truing.reductions import scored_tokens
from truing.rendering import Row
from truing.signatures import Count, Fraction, Settings
from truing.stages.context import Context
from truing.store import hash_of
from truing.store.cache import cache_folder, cached
from truing.tensors import Forest, Logprobs

ReferenceKind = Literal["start", "base", "adapters_off", "none"]


class Moving(Settings):
    """A reference that follows the policy (TR-DPO, arXiv:2404.09656): every `every` steps it moves by `mix`.

    mix: share of the policy in the new reference. every: optimizer steps between two moves.
    """

    mix: Fraction = 0.6
    every: Count = 512


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
        """The engine's model as it is now, which must be before its first step. Kept under all that it depends on."""
        counts = torch.tensor([0] + [scored_tokens(row) for row in rows])
        start = counts.cumsum(0)
        tokens = [[row.prompt, [[a.tokens, a.scored] for a in row.answers]] for row in rows]
        key = hash_of(model_key, tokens, engine.arithmetic, torch.__version__, __version__)

        def make(folder: Path) -> None:
            save_tensors({"token": _score(context, engine, rows, start, budget)}, folder / "reference.safetensors")

        folder = cached(cache_folder("reference") / key, kind="reference", meta={"model": model_key}, make=make)
        return cls(load_file(folder / "reference.safetensors")["token"], start)

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
    token = torch.empty(int(start[-1]))
    done = 0
    with torch.no_grad(), context.reporter.task(f"{context.stage}: reference", len(rows)) as task:
        for forest in pack(rows, budget):
            scored = engine.logprobs(forest).token.cpu()
            for row in forest.rows:
                count = int(start[row + 1] - start[row])
                token[start[row] : start[row + 1]] = scored[:count]
                scored = scored[count:]
            done += len(forest.rows)
            task.advance(done)
            context.check_stop()
    return token
