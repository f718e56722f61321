"""Reward models: a decoder whose head says how good an answer is, at the token that ended it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from truing.compute import Engine
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError
from truing.models import Loaded, Scored, read_renderer
from truing.objectives.rewarding import difference
from truing.packing import pack
from truing.rendering import Row
from truing.signatures import Count, Positive, Settings
from truing.stages.arranging import Judged
from truing.stages.context import Context, Groups, Model
from truing.stages.preference import Around, Preference, fit, prepared
from truing.stages.training import Step, finish, load_trainable, render_rows, save_checkpoint, share_of, step_count
from truing.tensors import Forest, RankedScores, Scores


class Meta(Settings):
    """Learning to tell apart what the policy now writes (MetaRM, arXiv:2401.06080)."""

    rate: Positive = Field(
        1e-4,
        description="how far the weights are moved along the gradient of the difference between unlabelled answers, "
        "before the gradient of the comparisons is taken there",
    )
    rows: Count = Field(4, description="prompts whose answers are looked at in each step")


class RewardModel(Preference):
    """Settings of `reward_model`."""

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate of AdamW")
    objective: dict[str, Any] = Field(
        {"name": "bradley_terry"}, description="name of the objective, or a table with settings", validate_default=True
    )
    members: Count = Field(
        1, description="models trained from one start, each on the rows in another order; the result is their average"
    )
    meta: Meta | None = Field(
        None, description="learn to tell the answers of `unlabelled` apart (MetaRM): a table with rate and rows"
    )
    trains: ClassVar[str] = "reward_model"
    usual: ClassVar[str] = "bradley_terry"

    @property
    def outputs(self) -> int:
        """One, and a second one where the objective trains it."""
        return 1 + self.bound().needs("length_score")

    @property
    def scored(self) -> Scored:
        """Steps, where the objective judges them; else answers."""
        return "steps" if self.bound().kind == "step" else "answers"

    @property
    def writes(self) -> bool:
        """Whether the objective asks what the model would write."""
        return self.bound().needs("writing")

    @property
    def prototypes(self) -> int:
        """As many as the objective says, where it sorts features by them."""
        bound = self.bound()
        return int(bound.settings["prototypes"]) if bound.needs("prototype") else 0

    @property
    def trainings(self) -> tuple[float, int]:
        """One for each member."""
        return self.members, 0

    def once(self) -> Self:
        """One model."""
        return self.model_copy(update={"members": 1})


def reward_model(
    context: Context,
    settings: RewardModel,
    model: Model,
    data: Groups,
    held_out: Groups | None = None,
    unlabelled: Groups | None = None,
) -> None:
    """Trains a reward model, and measures on held-out rows how often it is right.

    Of several members the weights are averaged (WARM, arXiv:2401.12187). They begin with the same head, as models
    whose heads were drawn apart have no average, and differ in the order of their rows.
    """
    rows, judged = prepared(context, settings, model, data)
    around = _telling_apart(context, settings, model, unlabelled)
    if settings.members == 1:
        _train(context, settings, model, rows, judged, held_out, around, context)
        return
    steps = step_count(len(rows), settings)
    members = []
    for number in range(settings.members):
        own = replace(
            context,
            key=f"{context.key}-{number + 1}",
            seed=context.seed * 1009 + number,
            first_step=context.first_step + number * steps,
        )
        if not own.is_made():
            _train(own, settings, model, rows, judged, held_out, around, context)
        made = context.run.artifact(own.key)
        assert made is not None, "it was just made"
        members.append(str(made.meta["reward"]))
    average = averaged([context.load(_of(context, name), full_width=True, outputs=1) for name in members])
    total = settings.members * steps + 1
    name = save_checkpoint(context, LocalEngine(average, ranks=context.ranks), total, settings, None)
    about = {"reward": name, "members": members, "steps": total, "base": model.source, "rows": len(rows)}
    with context.output(about):
        pass


def _train(
    context: Context,
    settings: RewardModel,
    model: Model,
    rows: Sequence[Row],
    judged: Sequence[Judged],
    held_out: Groups | None,
    around: Around | None,
    stage: Context,
) -> None:
    """One reward model. stage: the context that its fresh head is drawn in."""
    loaded = load_trainable(stage, model, settings)
    engine, result = fit(context, settings, loaded, model, rows, judged, held_out, around=around)
    finish(context, engine, model, rows, settings, held_out=result)


def _telling_apart(context: Context, settings: RewardModel, model: Model, unlabelled: Groups | None) -> Around | None:
    """MetaRM's move before each step, or none."""
    if (settings.meta is None) != (unlabelled is None):
        raise ConfigError(
            f"{context.stage}: `meta` and `unlabelled` go together: name the stage that samples answers, and a rate"
        )
    if settings.meta is None or unlabelled is None:
        return None
    meta = settings.meta
    groups = [group for group in unlabelled.read() if len(group.completions) > 1]
    if not groups:
        raise DataError(f"{context.stage}: no row of `unlabelled` has two answers: let the stage draw several")
    rows, _, _ = render_rows(read_renderer(model.source, context.chat_template), groups, settings)

    @contextmanager
    def moved(engine: Engine, step: Step) -> Iterator[None]:
        drawn = random.Random(f"{context.seed}:unlabelled:{step.number}").sample(rows, min(meta.rows, len(rows)))
        own = share_of([replace(row, index=place) for place, row in enumerate(drawn)], context.ranks)
        for forest in pack(own, settings.forest_tokens):
            apart = differences(engine.scores(forest)[0], forest)
            engine.backward(apart.sum() / len(drawn))
            step.count("meta/difference", float(apart.detach().sum()), len(apart))
        with engine.moved(meta.rate):
            yield

    return moved


def differences(score: Scores, forest: Forest) -> Tensor:
    """How far the scores of each tree's answers lie apart."""
    each = [torch.nonzero(forest.group == tree).flatten() for tree in range(len(forest.trees))]
    chosen = [score.select(which) for which in each]
    return torch.stack([difference(RankedScores(one.token, one.completion, one.count)) for one in chosen])


def averaged(models: Sequence[Loaded]) -> Loaded:
    """The first model with the mean of all models' weights."""
    first, *others = [dict(loaded.model.named_parameters()) for loaded in models]
    with torch.no_grad():
        for name, weight in first.items():
            weight.copy_(torch.stack([weight, *(other[name] for other in others)]).mean(0))
    return models[0]


def _of(context: Context, name: str) -> Model:
    return Model(name, str(context.run.path.absolute() / name))
