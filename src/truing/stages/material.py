"""What a step is asked with: rows, what people said of their answers, and what policy and reference say of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from truing.compute import Engine
from truing.compute.ranks import Ranks
from truing.errors import ConfigError, DataError
from truing.objectives import Bound
from truing.packing import pack
from truing.rendering import Row, shorten
from truing.stages.arranging import Judged
from truing.stages.asking import Case, rows_of
from truing.stages.context import Context, Model
from truing.stages.reference import Cached, Live, Moving, Nothing, Reference, ReferenceKind
from truing.stages.training import Training, share_of
from truing.tensors import Forest


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


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the reference comes from: of the kind that was asked for, `model` or the run's `base`."""

    context: Context
    settings: Training
    kind: ReferenceKind | Moving
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
        kind = self.kind
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
        if self.kind == "base" and self.base.key != self.model.key:
            other = self.context.scorer(self.base)
            return Cached.of(self.context, other, self.base.key, rows, budget)
        return Cached.of(self.context, self.engine, self.model.key, rows, budget)


def case_of(engine: Engine, objective: Bound, material: Material, forest: Forest) -> Case:
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


def mismatched_kl(
    engine: Engine, objective: Bound, material: Material, rows: Iterable[int], ranks: Ranks
) -> Tensor | None:
    """Mean log-ratio of answers to prompts they do not belong to, at least 0: KTO's estimate of the KL, in nats.

    It is that of all the rows, of which each rank runs its share.
    """
    if not objective.needs("kl"):
        return None
    ratios: list[Tensor] = []
    with torch.no_grad():
        some = [material.mismatched[row] for row in rows]
        for forest in pack(share_of(some, ranks), material.budget):
            policy = engine.logprobs(forest).sum
            ratios.append(policy - material.mismatched_reference.logprobs(forest).sum.to(policy.device))
    told = ranks.gather_tensors({"ratio": torch.cat(ratios)} if ratios else {})
    return torch.cat([one["ratio"] for one in told if one]).mean().clamp(min=0)


def _before(rows: Sequence[Row], place: int) -> Row:
    """The last row before this one that has another prompt; before the first row comes the last one."""
    for back in range(1, len(rows)):
        if rows[place - back].prompt != rows[place].prompt:
            return rows[place - back]
    raise DataError(f"{rows[place].place}: the KL is measured on other prompts' answers, and there is no other prompt")


def _scored(engine: Engine, objective: Bound, material: Material, forest: Forest) -> Case:
    """What a reward model says of a forest."""
    judged = rows_of(forest, material.judged)
    if objective.needs("feature"):
        (score, *_), feature = engine.scores_and_features(forest)
        prototype = engine.prototypes() if objective.needs("prototype") else None
        return Case(judged, score=score, feature=feature, prototype=prototype)
    if not objective.needs("writing"):
        score, *others = engine.scores(forest)
        head = engine.head() if objective.needs("head") else None
        length_score = others[0] if others else None
        return Case(judged, score=score, length_score=length_score, target=forest.target, head=head, step=forest.step)
    (score, *_), writing = engine.scores_and_logprobs(forest)
    case = Case(judged, score=score, writing=writing, target=forest.target)
    if not objective.needs("reference"):
        return case
    return replace(case, reference=material.reference.logprobs(forest).to(writing.token.device))
