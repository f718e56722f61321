"""An adapter and its base made one ordinary model, or a model written in another dtype."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from truing.models import gives_scores, is_adapter, load, save_in_full
from truing.signatures import Settings
from truing.stages.context import Context, Model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Merge(Settings):
    """Settings of `merge`."""

    dtype: Literal["fp32", "bf16", "fp16"] = Field("bf16", description="dtype of the saved weights")


def merge(context: Context, settings: Merge, model: Model) -> None:
    """Writes the model, its adapter merged in fp32, as a plain `save_pretrained` folder."""
    loaded = load(model.source, dtype=torch.float32, device=context.device, chat_template=context.chat_template)
    loaded.model.to(DTYPES[settings.dtype])
    with context.output({"model": f"artifacts/{context.key}", "base": model.source, "steps": 0}) as folder:
        save_in_full(loaded, folder)


def in_full(context: Context, model: Model) -> Model:
    """The model in a folder that has all its weights, so that an adapter can lie on it.

    An adapter is merged into its base in fp32, once for each stage, and kept in the run: no library loads an adapter
    whose base is an adapter, and the base of the first one alone would be another model. Of a language model's adapter
    it is a language model for every stage, so that a policy and its reward model have the same base.
    """
    if not is_adapter(model.source):
        return model
    key = f"{context.key}-base"

    def make(alone: Context) -> None:
        loaded = alone.load(model, full_width=True, outputs=int(gives_scores(model.source)))
        with alone.output({"base": model.source}, part="base") as folder:
            save_in_full(loaded, folder)

    context.first_makes(key, make)
    return Model(model.key, str((context.run.path / "artifacts" / key).absolute()))
