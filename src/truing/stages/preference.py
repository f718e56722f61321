"""Preference optimisation: make the preferred answers likelier, under any objective on what people said of answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from truing.compute import Engine
from truing.errors import ConfigError
from truing.models import Loaded, read_renderer
from truing.objectives import Bound, bind
from truing.packing import deal, pack
from truing.rendering import Row
from truing.signatures import Count
from truing.stages.arranging import Judged, Pairs, judged_rows
from truing.stages.asking import Case, ask, case_saying, join, rows_of, said, weights
from truing.stages.context import Context, Groups, Model
from truing.stages.material import Material, Sources, case_of, mismatched_kl
from truing.stages.reference import Moving, ReferenceKind
from truing.stages.training import (
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
from truing.stages.watching import Watch

Around = Callable[[Engine, Step], AbstractContextManager[None]]


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
    judged = judged_rows(settings.bound(), data.read(), settings.pairs)
    renderer = read_renderer(model.source, context.chat_template)
    rows, kept, refused = render_rows(renderer, [j.group for j in judged], settings)
    used = [judged[place] for place in kept]
    describe_data(context, data, len(judged), [j.group for j in used], rows, refused)
    warn_of_plain_text(context, renderer, [j.group for j in judged])
    context.event("preview", row=rows[0].index, pieces=renderer.pieces(rows[0]))
    return rows, used


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
    sources = Sources(context, settings, settings.reference, engine, model, base or model)
    material = sources.material(objective, rows, judged)
    watched = Watch.on([] if held_out is None else held_out.read(), sources, objective, settings.pairs)
    memory: dict[str, Tensor] = {}
    watched.look(memory, after=0)
    for step in optimizer_steps(context, engine, rows, settings, memory):
        done = step.number - 1
        if isinstance(settings.reference, Moving) and _due(done, settings.reference.every):
            engine.move_reference(settings.reference.mix)
        if _due(done, settings.measure_every):
            watched.look(memory, after=done)
        with around(engine, step) if around else nullcontext():
            memory |= _add(step, engine, objective, material, memory, context.seed)
    return engine, watched.look(memory, after=step_count(len(rows), settings))


def _due(done: int, every: int | None) -> bool:
    """Whether what happens every so many steps happens now."""
    return bool(done and every and done % every == 0)


def _add(
    step: Step, engine: Engine, objective: Bound, material: Material, memory: Mapping[str, Tensor], seed: int
) -> Mapping[str, Tensor]:
    """Gathers the gradient of one optimizer step. Returns what the objective wants to remember."""
    if objective.is_coupled:
        return _add_coupled(step, engine, objective, material, memory, seed)
    kl = mismatched_kl(engine, objective, material, [row.index for row in step.rows], step.ranks)
    divisor = _divisor(step, objective, material)
    for forest in step.forests:
        case = replace(case_of(engine, objective, material, forest), kl=kl)
        step.add(ask(objective, case), torch.tensor(weights(objective, case.judged)), divisor)
    return {}


def _add_coupled(
    step: Step, engine: Engine, objective: Bound, material: Material, memory: Mapping[str, Tensor], seed: int
) -> Mapping[str, Tensor]:
    """The gradient where all rows of the step meet in one loss.

    With several forests, log-probabilities are first taken without history, the loss is taken on all of them, and its
    slope at each token is then sent back through each forest in a second pass; what the objective asks for of answers
    or weights goes the same way. So no cut changes the gradient, and neither do ranks: each tells the others what its
    forests say, takes the same loss of all, and sends the slopes back through its own.
    """
    whole = step.ranks.count == 1 and len(step.forests) == 1
    with torch.set_grad_enabled(whole):
        cases = [case_of(engine, objective, material, forest) for forest in step.forests]
    rows = [row for forest in step.forests for row in forest.rows]
    first = 0
    if step.ranks.count > 1:
        cases, rows, first = _of_all_ranks(cases, step, material)
    drawn = _uniform(material.judged, step, seed)
    case = replace(join(cases), memory=memory, uniform=[drawn[row] for row in rows])
    case = replace(case, dropped=_dropped(case, rows, step, seed))
    case = case if whole else case.apart()
    loss = ask(objective, case)
    share, divisor = torch.tensor(weights(objective, case.judged)), _divisor(step, objective, material)
    total = step.total(loss, share, divisor)
    if step.ranks.rank == 0:
        step.note(loss, share, total, divisor)
    if whole:
        engine.backward(total)
    else:
        of_values, of_weights = _slopes(total, case, cases)
        own = of_values[first : first + len(step.forests)]
        _send_back(step, engine, objective, material, own, of_weights)
    return loss.memory


def _of_all_ranks(cases: Sequence[Case], step: Step, material: Material) -> tuple[list[Case], list[int], int]:
    """The cases of all ranks, from the first one's on, their rows, and the place of this rank's first case."""
    told = step.ranks.gather_tensors(
        {f"{place}.{name}": numbers for place, case in enumerate(cases) for name, numbers in said(case).items()}
    )
    found: list[Case] = []
    rows: list[int] = []
    first = 0
    for rank, (share, numbers) in enumerate(zip(deal(step.rows, step.ranks.count), told, strict=True)):
        if rank == step.ranks.rank:
            first = len(found)
        for place, forest in enumerate(pack(share, material.budget)):
            own = {name.partition(".")[2]: one for name, one in numbers.items() if name.startswith(f"{place}.")}
            found.append(case_saying(own, rows_of(forest, material.judged), forest))
            rows += forest.rows
    return found, rows, first


def _divisor(step: Step, objective: Bound, material: Material) -> float:
    """The weights of all losses of the step, added up."""
    return sum(weights(objective, [material.judged[row.index] for row in step.rows]))


def _slopes(total: Tensor, case: Case, cases: Sequence[Case]) -> tuple[list[tuple[Tensor, ...]], Sequence[Tensor]]:
    """The slope of the total at all that is trained, of each of the cases that `case` joins, and at the weights."""
    slopes = torch.autograd.grad(total, [*case.trained, *case.weights])
    count = len(case.trained)
    sizes = zip(*([len(values) for values in one.trained] for one in cases), strict=True)
    parts = [torch.split(slope, list(size)) for slope, size in zip(slopes[:count], sizes, strict=True)]
    return list(zip(*parts, strict=True)), slopes[count:]


def _send_back(
    step: Step,
    engine: Engine,
    objective: Bound,
    material: Material,
    of_values: Sequence[Sequence[Tensor]],
    of_weights: Sequence[Tensor],
) -> None:
    """The second pass: the slopes through each forest, and those of weights once, as they are the same in each.

    That once is on the first rank, which has a forest if any rank has.
    """
    for number, (forest, slopes) in enumerate(zip(step.forests, of_values, strict=True)):
        case = case_of(engine, objective, material, forest)
        sent = [*zip(case.trained, slopes, strict=True)]
        if number == 0 and step.ranks.rank == 0:
            sent += zip(case.weights, of_weights, strict=True)
        engine.backward(torch.stack([(values * slope.to(values)).sum() for values, slope in sent]).sum())


def _uniform(judged: Sequence[Judged], step: Step, seed: int) -> dict[int, list[float]]:
    """Random numbers for the pairs of each row, which depend on seed, step and row alone."""
    drawn: dict[int, list[float]] = {}
    for row in step.rows:
        source = random.Random(f"{seed}:{step.number}:{row.index}")
        drawn[row.index] = [source.random() for _ in judged[row.index].pairs]
    return drawn


def _dropped(case: Case, rows: Sequence[int], step: Step, seed: int) -> Tensor | None:
    """Random numbers for two views of each answer's feature, which depend on seed, step and row alone."""
    if case.feature is None:
        return None
    width, drawn = case.feature.shape[1], []
    for row, judged in zip(rows, case.judged, strict=True):
        generator = torch.Generator().manual_seed(random.Random(f"{seed}:{step.number}:{row}:views").getrandbits(63))
        drawn.append(torch.rand(len(judged.label), 2, width, generator=generator))
    return torch.cat(drawn).to(case.feature.device)
