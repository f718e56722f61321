"""What a plan can know before anything runs: rows and tokens, and roughly memory and time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from truing import models
from truing.errors import DataError
from truing.models.precision import compute_dtype
from truing.planning import Planned, read_inputs
from truing.recipe import Recipe, device_of
from truing.rendering import Renderer
from truing.stages.context import Groups
from truing.stages.evaluate import Evaluate
from truing.stages.preference import Preference
from truing.stages.sample import Contrast, Sample, bare
from truing.stages.training import Training, step_count


@dataclass(frozen=True, slots=True)
class Size:
    """Rows and their tokens in all. Where answers are yet to be drawn, each counts as long as it may become."""

    rows: int
    prompt: int
    answers: int

    def first(self, limit: int | None) -> Size:
        """As many rows of it as are used, taken for average ones."""
        share = min(1.0, limit / self.rows) if limit and self.rows else 1.0
        return Size(round(self.rows * share), round(self.prompt * share), round(self.answers * share))


def check(recipe: Recipe, planned: Sequence[Planned]) -> dict[str, Any]:
    """Rows and tokens of the data, memory, and seconds by stage.

    Raises the error that the run would meet: a template that refuses the data, rows without a scored token.
    """
    read_inputs(planned)
    source = models.locate(recipe.model)
    renderer = models.read_renderer(source, Path(recipe.chat_template) if recipe.chat_template else None)
    device = device_of(recipe.device)
    dtype = compute_dtype(recipe.precision, device)
    facts: dict[str, Any] = {
        "model": source,
        "parameters": _parameters(source),
        "dtype": str(dtype).removeprefix("torch."),
        "matrix_rate": _matrix_rate(device, dtype),
    }
    facts |= _first_data(planned, renderer)
    facts["memory_bytes"] = _memory(facts, planned, dtype)
    # A third of the rate of one large product is what a whole model reaches, roughly.
    second = facts["matrix_rate"] / 3 / (2 * facts["parameters"])
    tokens = _tokens_run(planned, renderer, len(recipe.principle.positive) if recipe.principle else 0)
    facts["stage_seconds"] = {name: count / second for name, count in tokens.items()}
    facts["notes"] = [note for stage_plan in planned for note in _notes(stage_plan, facts)]
    return facts | {"seconds": sum(facts["stage_seconds"].values())}


def _notes(planned: Planned, facts: Mapping[str, Any]) -> list[str]:
    """What an objective makes of a step's size, where that is worth knowing before it runs."""
    settings = planned.settings
    if not isinstance(settings, Preference):
        return []
    bound, notes = settings.bound(), []
    if bound.is_coupled:
        notes.append(
            f"{planned.name}: the {settings.batch_size} rows of a step meet in '{bound.name}', "
            "so batch_size is part of what it learns"
        )
        step = settings.batch_size * facts.get("tokens", 0) / max(facts.get("rows", 1), 1)
        if step > settings.forest_tokens:
            notes.append(
                f"{planned.name}: a step of about {step:,.0f} tokens is more than one forest of "
                f"{settings.forest_tokens:,}: the gradient stays exact at one more pass; raise forest_tokens to save it"
            )
    if bound.needs("kl") and settings.batch_size < 8:
        notes.append(
            f"{planned.name}: '{bound.name}' measures the KL on the {settings.batch_size} rows of each step; "
            "with fewer than 8 the estimate is noisy"
        )
    return notes


def _first_data(planned: Sequence[Planned], renderer: Renderer) -> dict[str, Any]:
    data = next((p.inputs["data"] for p in planned if "data" in p.inputs), None)
    if not isinstance(data, Groups) or not data.ready:
        return {}
    rows = [renderer.render(group, index) for index, group in enumerate(data.read())]
    return {"data": data.description, "rows": len(rows), "tokens": sum(len(row) for row in rows)}


def _tokens_run(planned: Sequence[Planned], renderer: Renderer, instructions: int) -> dict[str, float]:
    """By stage, the tokens that go through the model; one that is trained on counts three times."""
    sizes: dict[str, Size] = {}
    found: dict[str, float] = {}
    for stage_plan in planned:
        settings = stage_plan.settings
        source = stage_plan.inputs.get("held_out" if isinstance(settings, Evaluate) else "data")
        if not isinstance(source, Groups):
            continue
        size = _measured(source, settings, renderer) if source.ready else sizes[source.key]
        if isinstance(settings, Training):
            found[stage_plan.name] = _trained(size, settings)
        elif isinstance(settings, Evaluate):
            found[stage_plan.name] = _evaluated(size.first(settings.limit), settings, instructions)
        elif isinstance(settings, Contrast | Sample):
            sizes[stage_plan.key], found[stage_plan.name] = _drawn(size, settings)
    return found


def _measured(source: Groups, settings: object, renderer: Renderer) -> Size:
    groups = source.read() if isinstance(settings, Training) else [bare(group) for group in source.read()]
    rows = [renderer.render(group, index) for index, group in enumerate(groups)]
    if isinstance(settings, Training):
        rows = [row for row in rows if row.longest <= settings.max_length or settings.too_long != "drop"]
        if not rows:
            raise DataError(f"no row is within max_length = {settings.max_length}: raise it, or look at the data")
    prompt = sum(len(row.prompt) for row in rows)
    return Size(len(rows), prompt, sum(len(row) for row in rows) - prompt)


def _trained(size: Size, settings: Training) -> float:
    tokens = size.prompt + size.answers
    passes = min(step_count(size.rows, settings) * settings.batch_size / size.rows, settings.epochs)
    each, once = settings.bound().passes if isinstance(settings, Preference) else (3, 0)
    return float(tokens * (each * passes + once))


def _drawn(size: Size, settings: Contrast | Sample) -> tuple[Size, float]:
    """The rows that come out, and the tokens run. Pairs that are drawn again are not counted: nobody knows them yet."""
    if isinstance(settings, Contrast):
        size = size.first(settings.limit)
        made = Size(size.rows, size.prompt, 2 * size.rows * settings.max_new_tokens)
        return made, 2 * made.prompt + made.answers
    made = Size(size.rows, size.prompt, size.rows * settings.answers * settings.max_new_tokens)
    return made, made.prompt + made.answers


def _evaluated(size: Size, settings: Evaluate, instructions: int) -> float:
    """Both models answer, the judge reads all answers under each instruction, and both score the model's own."""
    written = size.rows * settings.answers * settings.max_new_tokens
    readings = 2 * instructions if instructions and settings.judge != "likelihood" else 1
    scored = 2 * (size.prompt + written) if settings.measures_kl else 0
    return 2 * (size.prompt + written) + readings * (size.prompt + 2 * written) + scored


def _memory(facts: Mapping[str, Any], planned: Sequence[Planned], dtype: torch.dtype) -> float:
    """The most that a training stage takes: weights, their masters and moments, and activations."""
    weights = facts["parameters"]
    config = models.read_config(facts["model"]).get_text_config()
    most = 0.0
    for stage_plan in planned:
        settings = stage_plan.settings
        if isinstance(settings, Training):
            trained = weights // 50 if settings.lora else weights
            wide = 0 if dtype == torch.float32 else 4
            activations = settings.forest_tokens * config.num_hidden_layers * 40 * config.hidden_size * dtype.itemsize
            most = max(most, weights * dtype.itemsize + trained * (12 + wide) + activations)
    return most


def _parameters(source: str) -> int:
    """Weights of a model, counted without loading it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(models.read_config(source))
    return sum(weight.numel() for weight in model.parameters())


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of one large matrix product, measured for a moment."""
    left = torch.ones(1024, 1024, dtype=dtype, device=device)
    best = 0.0
    for _ in range(20):
        began = time.perf_counter()
        float((left @ left)[0, 0])
        best = max(best, 2 * 1024**3 / (time.perf_counter() - began))
    return best
