"""Reward models: a decoder whose head says how good an answer is, at the token that ended it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from pydantic import Field

from truing.compute.engine.local import LocalEngine
from truing.models import Loaded
from truing.stages.context import Context, Groups, Model
from truing.stages.preference import Preference, fit, preference, prepared
from truing.stages.training import Count, finish, load_trainable, save_checkpoint, step_count


class RewardModel(Preference):
    """Settings of `reward_model`."""

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate of AdamW")
    objective: dict[str, Any] = Field(
        {"name": "bradley_terry"}, description="name of the objective, or a table with settings", validate_default=True
    )
    members: Count = Field(
        1, description="models trained from one start, each on the rows in another order; the result is their average"
    )
    trains: ClassVar[str] = "reward_model"
    usual: ClassVar[str] = "bradley_terry"

    @property
    def outputs(self) -> int:
        """One, and a second one where the objective trains it."""
        return 1 + self.bound().needs("length_score")

    @property
    def writes(self) -> bool:
        """Whether the objective asks what the model would write."""
        return self.bound().needs("writing")

    @property
    def trainings(self) -> tuple[float, int]:
        """One for each member."""
        return self.members, 0

    def once(self) -> Self:
        """One model."""
        return self.model_copy(update={"members": 1})


def reward_model(
    context: Context, settings: RewardModel, model: Model, data: Groups, held_out: Groups | None = None
) -> None:
    """Trains a reward model, and measures on held-out rows how often it is right.

    Of several members the weights are averaged (WARM, arXiv:2401.12187). They begin with the same head, as models
    whose heads were drawn apart have no average, and differ in the order of their rows.
    """
    if settings.members == 1:
        preference(context, settings, model, data, held_out)
        return
    rows, judged = prepared(context, settings, model, data)
    steps = step_count(len(rows), settings)
    members = []
    for number in range(settings.members):
        own = replace(
            context,
            key=f"{context.key}-{number + 1}",
            seed=context.seed * 1009 + number,
            first_step=context.first_step + number * steps,
        )
        if context.run.artifact(own.key) is None:
            loaded = load_trainable(context, model, settings)
            engine, result = fit(own, settings, loaded, model, rows, judged, held_out)
            finish(own, engine, model, rows, settings, held_out=result)
        made = context.run.artifact(own.key)
        assert made is not None, "it was just made"
        members.append(str(made.meta["reward"]))
    average = averaged([context.load(_of(context, name), full_width=True, outputs=1) for name in members])
    total = settings.members * steps + 1
    name = save_checkpoint(context, LocalEngine(average), total, settings, None)
    about = {"reward": name, "members": members, "steps": total, "base": model.source, "rows": len(rows)}
    with context.output(about):
        pass


def averaged(models: Sequence[Loaded]) -> Loaded:
    """The first model with the mean of all models' weights."""
    first, *others = [dict(loaded.model.named_parameters()) for loaded in models]
    with torch.no_grad():
        for name, weight in first.items():
            weight.copy_(torch.stack([weight, *(other[name] for other in others)]).mean(0))
    return models[0]


def _of(context: Context, name: str) -> Model:
    return Model(name, str(context.run.path.absolute() / name))
