"""Preference optimisation: make the preferred answer of each comparison likelier than the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pydantic import Field, field_validator

from truing import objectives, reductions, statistics
from truing.compute.engine.local import LocalEngine
from truing.errors import DataError
from truing.objectives import Objective
from truing.packing import pack
from truing.records import Group
from truing.rendering import Row
from truing.signatures import settings_of, validated
from truing.stages.context import Context, Groups, Model
from truing.stages.reference import Reference
from truing.stages.training import (
    Training,
    describe_data,
    finish,
    make_engine,
    optimizer_steps,
    render_rows,
    step_count,
)
from truing.tensors import Forest, Logprobs, Loss, Pair


class Preference(Training):
    """Settings of `preference`."""

    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate of AdamW")
    objective: dict[str, Any] = Field(
        {"name": "dpo"}, description="name of the objective, or a table with settings", validate_default=True
    )

    @field_validator("objective", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """`objective = "dpo"` is short for `objective = { name = "dpo" }`; every setting is checked and spelled out."""
        table = {"name": value} if isinstance(value, str) else dict(value)
        name = str(table.pop("name", "dpo"))
        chosen = validated(settings_of(objectives.objective(name)), table, "objective")
        return {"name": name, **chosen.model_dump()}

    def bound(self) -> Objective:
        """The objective with its settings filled in."""
        given = {key: value for key, value in self.objective.items() if key != "name"}
        return partial(objectives.objective(self.objective["name"]), **given)


def preference(
    context: Context, settings: Preference, model: Model, data: Groups, held_out: Groups | None = None
) -> None:
    """Trains on comparisons, against the model it starts from as the reference."""
    groups = [_ordered(group) for group in data.read()]
    engine = make_engine(context, model, settings)
    rows, refused = render_rows(engine.loaded.renderer, groups, settings)
    describe_data(context, data, len(groups), rows, refused)
    context.event("preview", row=rows[0].index, pieces=engine.loaded.renderer.pieces(rows[0]))
    objective = settings.bound()
    reference = Reference.of(context, engine, model, rows, settings)
    watched = _watched(context, engine, model, held_out, settings)
    _watch(context, engine, objective, watched, step=0)
    for step in optimizer_steps(context, engine, rows, settings):
        divisor = sum(row.weight for row in step.rows)
        for forest in step.forests:
            loss = compare(objective, engine.logprobs(forest), reference.logprobs(forest), forest)
            step.add(loss, reductions.pair_weights(forest, rows), divisor)
    steps = step_count(len(rows), settings)
    result = _watch(context, engine, objective, watched, step=steps)
    finish(context, engine, model, rows, settings, held_out=result)


def compare(objective: Objective, policy: Logprobs, reference: Logprobs, forest: Forest) -> Loss:
    """The objective on a forest of comparisons."""
    pairs = forest.pairs()
    return objective(
        policy=Pair(policy.select(pairs.chosen), policy.select(pairs.rejected)),
        reference=Pair(reference.select(pairs.chosen), reference.select(pairs.rejected)),
    )


def _ordered(group: Group) -> Group:
    """The comparison with the chosen answer first."""
    chosen, rejected = group.comparison()
    if chosen.messages == rejected.messages:
        raise DataError(f"{group.place}: 'chosen' and 'rejected' are equal: drop the line")
    return Group(group.prompt, (chosen, rejected), group.weight, group.strength, group.extra, group.file, group.line)


def _watched(
    context: Context, engine: LocalEngine, model: Model, held_out: Groups | None, settings: Preference
) -> tuple[Sequence[Row], Reference] | None:
    """Held-out comparisons and the reference's view of them; None where the held-out rows are not comparisons."""
    groups = [] if held_out is None else [g for g in held_out.read() if len(g.completions) == 2]
    if not groups:
        return None
    rows, _ = render_rows(engine.loaded.renderer, [_ordered(group) for group in groups], settings)
    return rows, Reference.of(context, engine, model, rows, settings)


def _watch(
    context: Context,
    engine: LocalEngine,
    objective: Objective,
    watched: tuple[Sequence[Row], Reference] | None,
    *,
    step: int,
) -> Mapping[str, Any] | None:
    """Loss and implicit-reward accuracy on held-out comparisons, with an interval, written as an event."""
    if watched is None:
        return None
    rows, reference = watched
    seen = {event["step"] for event in context.run.events(context.stage, "held_out")}
    losses: list[float] = []
    right: list[float] = []
    with torch.no_grad():
        for forest in pack(rows, reference.budget):
            loss = compare(objective, engine.logprobs(forest), reference.logprobs(forest), forest)
            losses += loss.value.tolist()
            right += loss.stats["reward/accuracy"].tolist()
    accuracy = statistics.win_rate(right)
    result = {
        "accuracy": {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n},
        "loss": sum(losses) / len(losses),
    }
    if context.first_step + step not in seen:  # after an interruption the start is measured once more
        context.event("held_out", step=context.first_step + step, **result)
    return result
