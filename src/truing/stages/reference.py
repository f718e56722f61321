"""The reference of preference objectives: log-probabilities of the starting model, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from truing import __version__
from truing.compute.engine.local import LocalEngine
from truing.packing import pack
from truing.reductions import scored_tokens
from truing.rendering import Row
from truing.stages.context import Context, Model
from truing.stages.training import Training
from truing.store import hash_of
from truing.store.cache import cache_folder, cached
from truing.tensors import Forest, Logprobs


@dataclass(frozen=True, slots=True)
class Reference:
    """Log-probabilities of the scored tokens of every row, under a model that does not change.

    token: all rows one after the other. start: where each row begins. budget: forest tokens it was computed with.
    """

    token: Tensor
    start: Tensor
    budget: int

    @classmethod
    def of(
        cls, context: Context, engine: LocalEngine, model: Model, rows: Sequence[Row], settings: Training
    ) -> Reference:
        """The engine's model as it is now, which must be before its first step. Kept under all that it depends on."""
        counts = torch.tensor([0] + [scored_tokens(row) for row in rows])
        dtype = str(next(engine.model.parameters()).dtype)
        tokens = [[row.prompt, [[a.tokens, a.scored] for a in row.answers]] for row in rows]
        key = hash_of(model.key, tokens, dtype, str(engine.device.type), torch.__version__, __version__)

        def make(folder: Path) -> None:
            token = _score(context, engine, rows, counts.cumsum(0), settings.forest_tokens)
            save_file({"token": token}, folder / "reference.safetensors")

        folder = cached(cache_folder("reference") / key, kind="reference", meta={"model": model.key}, make=make)
        return cls(load_file(folder / "reference.safetensors")["token"], counts.cumsum(0), settings.forest_tokens)

    def logprobs(self, forest: Forest) -> Logprobs:
        """The log-probabilities of a forest's scored tokens."""
        parts = [self.token[self.start[row] : self.start[row + 1]] for row in forest.rows]
        token = torch.cat(parts) if parts else self.token[:0]
        return Logprobs(token.to(forest.completion.device), forest.completion, forest.group.shape[0])


def _score(context: Context, engine: LocalEngine, rows: Sequence[Row], start: Tensor, budget: int) -> Tensor:
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
