"""Preference optimisation: make the preferred answers likelier, under any objective on what people said of answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from truing import statistics
from truing.compute import Engine
from truing.errors import ConfigError, DataError
from truing.models import Loaded, read_renderer
from truing.objectives import Bound, bind
from truing.packing import pack
from truing.records import Group
from truing.rendering import Row, shorten
from truing.signatures import Fraction, Settings
from truing.stages.arranging import FROM_REFERENCE, Judged, Pairs, judge
from truing.stages.asking import Case, ask, join, owners, rows_of, weights
from truing.stages.context import Context, Groups, Model
from truing.stages.reference import Cached, Live, Nothing, Reference
from truing.stages.training import (
    Count,
    Step,
    Training,
    describe_data,
    finish,
    load_trainable,
    make_engine,
    optimizer_steps,
    render_rows,
    step_count,
    warn_of_plain_text,
)
from truing.statistics import Interval
from truing.tensors import Forest, Loss

Around = Callable[[Engine, Step], AbstractContextManager[None]]
ReferenceKind = Literal["start", "base", "adapters_off", "none"]


class Moving(Settings):
    """A reference that follows the policy (TR-DPO, arXiv:2404.09656): every `every` steps it moves by `mix`.

    mix: share of the policy in the new reference. every: optimizer steps between two moves.
    """

    mix: Fraction = 0.6
    every: Count = 512


class Preference(Training):
    """Settings of `preference`."""

    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate of AdamW")
    objective: dict[str, Any] = Field(
        {"name": "dpo"}, description="name of the objective, or a table with settings", validate_default=True
    )
    reference: ReferenceKind | Moving = Field(
        "start",
        description="the model to stay near: start, the one this stage starts from, which in a loop is the last "
        "round's; base, the run's own; adapters_off, the model without its adapter, uncached; none; or a table with "
        "mix and every, a reference that follows",
    )
    measure_every: Count | None = Field(
        None,
        description="optimizer steps between two looks at held-out rows; none: only before the first and at the end",
    )
    pairs: Pairs = Field("all", description="which answers of a ranking are compared: all, best_worst or adjacent")
    trains: ClassVar[str] = "preference"
    usual: ClassVar[str] = "dpo"

    @field_validator("objective", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """`objective = "dpo"` is short for `objective = { name = "dpo" }`; every setting is checked and spelled out."""
        if not isinstance(value, str | Mapping):
            raise ConfigError(f'objective is a name such as "dpo", or a table with name and settings; found {value!r}')
        bound = bind({"name": value} if isinstance(value, str) else {"name": cls.usual, **value})
        if bound.stage != cls.trains:
            raise ConfigError(f"objective '{bound.name}' belongs to stage '{bound.stage}': use = \"{bound.stage}\"")
        return {"name": bound.name, **bound.settings}

    @model_validator(mode="after")
    def _alive(self) -> Self:
        """A setting that would change nothing is refused."""
        bound = self.bound()
        if not bound.needs("reference") and self.reference not in ("start", "none"):
            raise ConfigError(f"objective '{bound.name}' has no reference: take the setting `reference` out")
        if self.reference == "adapters_off" and self.lora is None:
            raise ConfigError('reference = "adapters_off" needs an adapter: set lora, or use "start"')
        if bound.kind != "pair" and self.pairs != "all":
            raise ConfigError(f"objective '{bound.name}' makes no comparisons: take the setting `pairs` out")
        return self

    def looks(self, steps: int) -> int:
        """How often held-out rows are measured in a training of so many steps."""
        return 2 + ((steps - 1) // self.measure_every if self.measure_every else 0)

    def bound(self) -> Bound:
        """The objective with its settings filled in."""
        return bind(self.objective)

    @property
    def passes(self) -> tuple[int, int]:
        """A reference that lives in memory is run at each step, another one once."""
        bound = self.bound()
        each, once = bound.passes
        if self.reference == "none" or not bound.needs("reference"):
            return each, 0
        if not bound.needs("divergence") and (self.reference == "adapters_off" or isinstance(self.reference, Moving)):
            return each + once, 0
        return each, once

    @property
    def keeps_reference(self) -> bool:
        """It moves, or is run beside the policy without an adapter to switch off."""
        bound = self.bound()
        if not bound.needs("reference") or self.reference == "none":
            return False
        return isinstance(self.reference, Moving) or (bound.needs("divergence") and self.lora is None)


@dataclass(frozen=True, slots=True)
class Material:
    """Rows with what people said of their answers, and how the reference sees them.

    mismatched: each row's prompt with the answers of the last row before it that has another prompt, on which the KL is
        measured; empty if unused.
    budget: tokens run at once.
    """

    rows: Sequence[Row]
    judged: Sequence[Judged]
    reference: Reference
    mismatched: Sequence[Row]
    mismatched_reference: Reference
    budget: int


def preference(
    context: Context,
    settings: Preference,
    model: Model,
    data: Groups,
    held_out: Groups | None = None,
    base: Model | None = None,
) -> None:
    """Trains on comparisons, rankings, scores or thumbs, and measures the objective on held-out rows."""
    rows, judged = prepared(context, settings, model, data)
    loaded = load_trainable(context, model, settings)
    engine, result = fit(context, settings, loaded, model, rows, judged, held_out, base)
    finish(context, engine, model, rows, settings, held_out=result)


def prepared(
    context: Context, settings: Preference, model: Model, data: Groups
) -> tuple[Sequence[Row], Sequence[Judged]]:
    """The rows that are trained on, with what people said of them. Writes down what they are."""
    judged = judged_rows(settings, data.read())
    renderer = read_renderer(model.source, context.chat_template)
    rows, kept, refused = render_rows(renderer, [j.group for j in judged], settings)
    describe_data(context, data, len(judged), rows, refused)
    warn_of_plain_text(context, renderer, [j.group for j in judged])
    context.event("preview", row=rows[0].index, pieces=renderer.pieces(rows[0]))
    return rows, [judged[place] for place in kept]


def fit(
    context: Context,
    settings: Preference,
    loaded: Loaded,
    model: Model,
    rows: Sequence[Row],
    judged: Sequence[Judged],
    held_out: Groups | None = None,
    base: Model | None = None,
    around: Around | None = None,
) -> tuple[Engine, Mapping[str, Any] | None]:
    """Trains `loaded`, which was read from `model`, on the rows. Returns it with what held-out rows say at the end.

    around: entered for the gradient of each step.
    """
    objective = settings.bound()
    engine = make_engine(context, loaded, settings, rows)
    sources = _Sources(context, settings, engine, model, base or model)
    material = sources.material(objective, rows, judged)
    watched = _watched(sources, objective, held_out)
    memory: dict[str, Tensor] = {}
    _watch(context, engine, objective, watched, memory, step=0)
    for step in optimizer_steps(context, engine, rows, settings, memory):
        if (
            isinstance(settings.reference, Moving)
            and step.number > 1
            and (step.number - 1) % settings.reference.every == 0
        ):
            engine.move_reference(settings.reference.mix)
        if step.number > 1 and settings.measure_every and (step.number - 1) % settings.measure_every == 0:
            _watch(context, engine, objective, watched, memory, step=step.number - 1)
        with around(engine, step) if around else nullcontext():
            memory |= _add(step, engine, objective, material, memory, context.seed)
    steps = step_count(len(rows), settings)
    return engine, _watch(context, engine, objective, watched, memory, step=steps)


def _add(
    step: Step, engine: Engine, objective: Bound, material: Material, memory: Mapping[str, Tensor], seed: int
) -> Mapping[str, Tensor]:
    """Gathers the gradient of one optimizer step. Returns what the objective wants to remember."""
    kl = _mismatched_kl(engine, objective, material, [row.index for row in step.rows])
    uniform = _uniform(material.judged, step, seed)
    divisor = sum(weights(objective, [material.judged[row.index] for row in step.rows]))
    if objective.is_coupled:
        return _add_coupled(step, engine, objective, material, memory, uniform, divisor)
    for forest in step.forests:
        case = replace(_case(engine, objective, material, forest), kl=kl)
        step.add(ask(objective, case), torch.tensor(weights(objective, case.judged)), divisor)
    return {}


def _add_coupled(
    step: Step,
    engine: Engine,
    objective: Bound,
    material: Material,
    memory: Mapping[str, Tensor],
    uniform: Mapping[int, Sequence[float]],
    divisor: float,
) -> Mapping[str, Tensor]:
    """The gradient where all rows of the step meet in one loss.

    With several forests, log-probabilities are first taken without history, the loss is taken on all of them, and its
    slope at each token is then sent back through each forest in a second pass. So no cut changes the gradient.
    """
    whole = len(step.forests) == 1
    with torch.set_grad_enabled(whole):
        cases = [
            replace(_case(engine, objective, material, forest), uniform=[uniform[row] for row in forest.rows])
            for forest in step.forests
        ]
    case = replace(join(cases), memory=memory)
    if not whole:
        for trained in case.trained:
            trained.token.requires_grad_()
    loss = ask(objective, case)
    total = step.total(loss, torch.tensor(weights(objective, case.judged)), divisor)
    if whole:
        engine.backward(total)
        return loss.memory
    slopes = torch.autograd.grad(total, [trained.token for trained in case.trained])
    sizes = [len(forest.target) for forest in step.forests]
    for forest, *parts in zip(step.forests, *(torch.split(slope, sizes) for slope in slopes), strict=True):
        again = _case(engine, objective, material, forest).trained
        engine.backward(sum((trained.token * part).sum() for trained, part in zip(again, parts, strict=True)))
    return loss.memory


def _case(engine: Engine, objective: Bound, material: Material, forest: Forest) -> Case:
    """What the models say of a forest, as far as the objective asks for it."""
    judged = rows_of(forest, material.judged)
    if objective.needs("score"):
        return _scored(engine, objective, material, forest)
    if objective.needs("divergence") or objective.needs("concentration"):
        found = engine.statistics(
            forest, divergence=objective.needs("divergence"), concentration=objective.needs("concentration")
        )
        known = found.reference if found.reference is not None else material.reference.logprobs(forest)
        known = known.to(found.logprobs.token.device)
        return Case(judged, found.logprobs, known, found.divergence, found.concentration)
    policy = engine.logprobs(forest)
    if not objective.needs("reference"):
        return Case(judged, policy)
    return Case(judged, policy, material.reference.logprobs(forest).to(policy.token.device))


def _scored(engine: Engine, objective: Bound, material: Material, forest: Forest) -> Case:
    """What a reward model says of a forest."""
    judged = rows_of(forest, material.judged)
    if not objective.needs("writing"):
        scores = engine.scores(forest)
        return Case(judged, score=scores[0], length_score=scores[1] if len(scores) > 1 else None, target=forest.target)
    (score, *_), writing = engine.scores_and_logprobs(forest)
    case = Case(judged, score=score, writing=writing, target=forest.target)
    if not objective.needs("reference"):
        return case
    return replace(case, reference=material.reference.logprobs(forest).to(writing.token.device))


def _mismatched_kl(engine: Engine, objective: Bound, material: Material, rows: Iterable[int]) -> Tensor | None:
    """Mean log-ratio of answers to prompts they do not belong to, at least 0: KTO's estimate of the KL, in nats."""
    if not objective.needs("kl"):
        return None
    ratios: list[Tensor] = []
    with torch.no_grad():
        some = [material.mismatched[row] for row in rows]
        for forest in pack(some, material.budget):
            policy = engine.logprobs(forest).sum
            ratios.append(policy - material.mismatched_reference.logprobs(forest).sum.to(policy.device))
    return torch.cat(ratios).mean().clamp(min=0)


def _uniform(judged: Sequence[Judged], step: Step, seed: int) -> dict[int, list[float]]:
    """Random numbers for the pairs of each row, which depend on seed, step and row alone."""
    drawn: dict[int, list[float]] = {}
    for row in step.rows:
        source = random.Random(f"{seed}:{step.number}:{row.index}")
        drawn[row.index] = [source.random() for _ in judged[row.index].pairs]
    return drawn


def judged_rows(settings: Preference, groups: Sequence[Group]) -> list[Judged]:
    """The rows as the objective wants them. Raises DataError where one does not say what the objective needs."""
    objective = settings.bound()
    rows = [judge(group, objective.kind, settings.pairs, scored=objective.needs("reward")) for group in groups]
    for row in rows:
        _demand_what_counts(objective, row)
    return rows


def to_watch(settings: Preference, groups: Sequence[Group]) -> list[Group]:
    """The held-out rows that an objective can be measured on: not bare prompts. Without a strength the margin is 0.

    Margins come from an audit of the training rows; held-out rows are to be as people labelled them.
    """
    rows = [group for group in groups if group.completions]
    if not settings.bound().needs("margin"):
        return rows
    return [group if has_strength(group) else replace(group, strength=0.0) for group in rows]


def has_strength(group: Group) -> bool:
    """Whether the row says how strongly its answers are preferred."""
    return group.strength is not None or all(answer.score is not None for answer in group.completions)


def _demand_what_counts(objective: Bound, row: Judged) -> None:
    """Without what the objective is about it would silently be another one."""
    place = row.group.place
    counted = objective.kind == "ranking" or objective.needs("strength") or objective.needs("margin")
    if counted and any(later > earlier for earlier, later in pairwise(row.reward)):
        raise DataError(f"{place}: ranks and scores contradict each other: leave one of them out")
    if objective.needs("strength") or objective.needs("margin"):
        if not has_strength(row.group):
            raise DataError(f"{place}: '{objective.name}' needs a strength: put `strength` or scores into the data")
        if objective.needs("strength") and min(row.strength) <= 0:
            raise DataError(f"{place}: a strength must be above 0; found {min(row.strength)}: drop the row")
    if objective.needs("from_reference") and not any(row.by_reference):
        raise DataError(f"{place}: '{objective.name}' needs an answer whose `source` is \"{FROM_REFERENCE}\"")
    if objective.kind == "pair" and objective.needs("reward") and not all(0 <= score <= 1 for score in row.reward):
        raise DataError(f"{place}: '{objective.name}' takes scores as probabilities from 0 to 1; found {row.reward}")


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the reference comes from."""

    context: Context
    settings: Preference
    engine: Engine
    model: Model
    base: Model

    def material(self, objective: Bound, rows: Sequence[Row], judged: Sequence[Judged]) -> Material:
        """The rows with the reference's view of them, taken before the first step."""
        mismatched: list[Row] = []
        if objective.needs("kl"):
            mismatched = [self._mismatched(rows, place) for place in range(len(rows))]
        reference = self._reference(objective, rows)
        mismatched_reference = self._reference(objective, mismatched)
        return Material(rows, judged, reference, mismatched, mismatched_reference, self.settings.forest_tokens)

    def _mismatched(self, rows: Sequence[Row], place: int) -> Row:
        row = replace(rows[place], answers=_before(rows, place).answers)
        limit = self.settings.max_length
        return shorten(row, limit) if row.longest > limit else row

    def _reference(self, objective: Bound, rows: Sequence[Row]) -> Reference:
        kind = self.settings.reference
        if not rows or not objective.needs("reference") or kind == "none":
            if kind == "none" and objective.needs("divergence"):
                raise ConfigError(
                    f"objective '{objective.name}' measures the KL from a reference: reference = \"none\" has none"
                )
            return Nothing()
        if kind == "base" and objective.needs("divergence") and self.base.key != self.model.key:
            raise ConfigError(
                f"objective '{objective.name}' runs its reference beside the policy, and that is the model this stage "
                'starts from, not the run\'s base: use reference = "start"'
            )
        if isinstance(kind, Moving) or (objective.needs("divergence") and self.settings.lora is None):
            self.engine.keep_reference()
            return Live(self.engine)
        if kind == "adapters_off" or objective.needs("divergence"):
            return Live(self.engine)
        return self._cached(rows)

    def _cached(self, rows: Sequence[Row]) -> Reference:
        budget = self.settings.forest_tokens
        if self.settings.reference == "base" and self.base.key != self.model.key:
            other = self.context.scorer(self.base)
            return Cached.of(self.context, other, self.base.key, rows, budget)
        return Cached.of(self.context, self.engine, self.model.key, rows, budget)


def _before(rows: Sequence[Row], place: int) -> Row:
    """The last row before this one that has another prompt; before the first row comes the last one."""
    for back in range(1, len(rows)):
        if rows[place - back].prompt != rows[place].prompt:
            return rows[place - back]
    raise DataError(f"{rows[place].place}: the KL is measured on other prompts' answers, and there is no other prompt")


def _watched(sources: _Sources, objective: Bound, held_out: Groups | None) -> Material | None:
    """Held-out rows and the reference's view of them; None where the held-out rows are bare prompts."""
    settings = sources.settings
    judged = [] if held_out is None else judged_rows(settings, to_watch(settings, held_out.read()))
    if not judged:
        return None
    rows, kept, _ = render_rows(sources.engine.renderer, [j.group for j in judged], settings)
    if objective.needs("kl") and len({row.prompt for row in rows}) < 2:
        sources.context.warn("held-out rows with one prompt alone cannot measure the KL, so none is measured on them")
        return None
    return sources.material(objective, rows, [judged[place] for place in kept])


def _watch(
    context: Context,
    engine: Engine,
    objective: Bound,
    watched: Material | None,
    memory: Mapping[str, Tensor],
    *,
    step: int,
) -> Mapping[str, Any] | None:
    """Loss and implicit-reward accuracy on held-out rows, with an interval, written as an event."""
    if watched is None:
        return None
    seen = {event["step"] for event in context.run.events(context.stage, "held_out")}
    measured = _measure(engine, objective, watched, memory)
    result: dict[str, Any] = {"loss": float(torch.cat([loss.value for _, loss in measured]).mean())}
    accuracy = _accuracy(objective, measured)
    if accuracy is not None:
        result["accuracy"] = accuracy.plain
    if context.first_step + step not in seen:  # after an interruption the start is measured once more
        context.event("held_out", step=context.first_step + step, **result)
    return result


def _accuracy(objective: Bound, measured: Sequence[tuple[Case, Loss]]) -> Interval | None:
    """How often the implicit reward is right, where the objective has one; comparisons of a row count together."""
    right = [value for _, loss in measured for value in loss.stats.get("reward/accuracy", torch.empty(0)).tolist()]
    rows = [id(row) for case, _ in measured for row in owners(objective, case.judged)]
    if not right:
        return None
    if objective.kind == "ranking":  # the share of a ranking's comparisons that are right
        return statistics.mean(right)
    return statistics.win_rate(right, prompts=rows)


def _measure(
    engine: Engine, objective: Bound, watched: Material, memory: Mapping[str, Tensor]
) -> list[tuple[Case, Loss]]:
    """The objective on held-out rows, without gradient."""
    kl = _mismatched_kl(engine, objective, watched, range(len(watched.rows)))
    with torch.no_grad():
        cases = [
            replace(
                _case(engine, objective, watched, forest),
                kl=kl,
                memory=memory,
                uniform=[[0.5] * len(j.pairs) for j in rows_of(forest, watched.judged)],
            )
            for forest in pack(watched.rows, watched.budget)
        ]
        whole = [join(cases)] if objective.is_coupled else cases
        return [(case, ask(objective, case)) for case in whole]
