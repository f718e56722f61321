"""What a plan can know of size, memory and time before anything runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from truing import models
from truing.models.precision import compute_dtype
from truing.planning import Planned, read_inputs
from truing.recipe import Recipe, device_of
from truing.stages.context import Groups
from truing.stages.training import Training


def check(recipe: Recipe, planned: Sequence[Planned]) -> dict[str, Any]:
    """What a plan can know before anything runs: rows and tokens of the data, memory and time, roughly.

    Raises the error that the run would meet: a template that refuses the data, rows without a scored token.
    """
    read_inputs(planned)
    source = models.locate(recipe.model)
    renderer = models.read_renderer(source, Path(recipe.chat_template) if recipe.chat_template else None)
    facts: dict[str, Any] = {"model": source, "parameters": _parameters(source)}
    data = next((p.inputs["data"] for p in planned if isinstance(p.inputs.get("data"), Groups)), None)
    if data is not None and data.ready:
        rows = [renderer.render(group, index) for index, group in enumerate(data.read())]
        facts |= {"data": data.description, "rows": len(rows), "tokens": sum(len(row) for row in rows)}
    facts |= _estimates(facts, planned, recipe)
    return facts


def _parameters(source: str) -> int:
    """Weights of a model, counted without loading it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(models.read_config(source))
    return sum(weight.numel() for weight in model.parameters())


def _estimates(facts: Mapping[str, Any], planned: Sequence[Planned], recipe: Recipe) -> dict[str, Any]:
    """Rough memory of training, and time at a third of the matrix rate measured just now."""
    device = device_of(recipe.device)
    dtype = compute_dtype(recipe.precision, device)
    rate = _matrix_rate(device, dtype)
    weights = facts["parameters"]
    memory = seconds = 0.0
    for stage_plan in planned:
        settings = stage_plan.settings
        if not isinstance(settings, Training):
            continue
        trained = weights // 50 if settings.lora else weights
        wide = 0 if dtype == torch.float32 else 4
        config = models.read_config(facts["model"]).get_text_config()
        activations = settings.forest_tokens * config.num_hidden_layers * 40 * config.hidden_size * dtype.itemsize
        memory = max(memory, weights * dtype.itemsize + trained * (12 + wide) + activations)
        seconds += 8 * weights * facts.get("tokens", 0) * settings.epochs / (rate / 3)
    return {"matrix_rate": rate, "dtype": str(dtype).removeprefix("torch."), "memory_bytes": memory, "seconds": seconds}


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of one large matrix product, measured for a moment."""
    left = torch.ones(1024, 1024, dtype=dtype, device=device)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        float((left @ left)[0, 0])
        best = max(best, 2 * 1024**3 / (time.perf_counter() - began))
    return best
