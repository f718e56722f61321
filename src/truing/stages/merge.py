"""An adapter and its base made one ordinary model, or a model written in another dtype."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from truing.models import load
from truing.models.quiet import quiet_libraries
from truing.signatures import Settings
from truing.stages.context import Context, Model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Merge(Settings):
    """Settings of `merge`."""

    dtype: Literal["fp32", "bf16", "fp16"] = Field("bf16", description="dtype of the saved weights")


def merge(context: Context, settings: Merge, model: Model) -> None:
    """Writes the model, its adapter merged in fp32, as a plain `save_pretrained` folder."""
    loaded = load(model.source, dtype=torch.float32, device=context.device, chat_template=context.chat_template)
    with (
        quiet_libraries(),
        context.output({"model": f"artifacts/{context.key}", "base": model.source, "steps": 0}) as folder,
    ):
        loaded.model.to(DTYPES[settings.dtype]).save_pretrained(folder)
        loaded.renderer.tokenizer.save_pretrained(folder)
