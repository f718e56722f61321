"""Looks at held-out rows while a model is trained: before the first step, on the way, and at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from truing import statistics
from truing.objectives import Bound
from truing.packing import pack
from truing.records import Group
from truing.stages.arranging import Pairs, judged_rows, to_watch
from truing.stages.asking import Case, ask, join, owners, rows_of, weights
from truing.stages.material import Material, Sources, case_of, mismatched_kl
from truing.stages.training import render_rows
from truing.statistics import Interval
from truing.tensors import Loss


@dataclass(frozen=True, slots=True)
class Watch:
    """Held-out rows, and the model that is trained. material: None where no row can be measured."""

    sources: Sources
    objective: Bound
    material: Material | None

    @classmethod
    def on(cls, groups: Sequence[Group], sources: Sources, objective: Bound, which: Pairs) -> Watch:
        """The reference's view of the rows is taken now, before the first step. Bare prompts are not watched."""
        judged = judged_rows(objective, to_watch(objective, groups), which)
        if not judged:
            return cls(sources, objective, None)
        rows, kept, _ = render_rows(sources.engine.renderer, [one.group for one in judged], sources.settings)
        if objective.needs("kl") and len({row.prompt for row in rows}) < 2:
            sources.context.warn(
                "held-out rows with one prompt alone cannot measure the KL, so none is measured on them"
            )
            return cls(sources, objective, None)
        return cls(sources, objective, sources.material(objective, rows, [judged[place] for place in kept]))

    def look(self, memory: Mapping[str, Tensor], *, after: int) -> Mapping[str, Any] | None:
        """Loss and implicit-reward accuracy after so many steps, with an interval, written as an event."""
        if self.material is None:
            return None
        context = self.sources.context
        step = context.first_step + after
        seen = {event["step"] for event in context.run.events(context.stage, "held_out")}
        measured = self._measure(self.material, memory)
        result: dict[str, Any] = {"loss": _mean_loss(self.objective, measured)}
        accuracy = self._accuracy(measured)
        if accuracy is not None:
            result["accuracy"] = accuracy.plain
        if step not in seen:  # after an interruption the start is measured once more
            context.event("held_out", step=step, **result)
        return result

    def _measure(self, material: Material, memory: Mapping[str, Tensor]) -> list[tuple[Case, Loss]]:
        """The objective on the rows, without gradient.

        Where rows meet in the objective it is that of as many rows as a step has, in their order: with others to be
        told from it would be another loss, and its memory grows with their square.
        """
        engine, objective = self.sources.engine, self.objective
        kl = mismatched_kl(engine, objective, material, range(len(material.rows)), self.sources.context.ranks)
        at_once = self.sources.settings.batch_size if objective.is_coupled else len(material.rows)
        measured: list[tuple[Case, Loss]] = []
        for first in range(0, len(material.rows), at_once):
            with torch.no_grad():
                cases = [
                    replace(
                        case_of(engine, objective, material, forest),
                        kl=kl,
                        memory=memory,
                        uniform=[[0.5] * len(judged.pairs) for judged in rows_of(forest, material.judged)],
                    )
                    for forest in pack(material.rows[first : first + at_once], material.budget)
                ]
                whole = [_undropped(join(cases))] if objective.is_coupled else cases
                measured += [(case, ask(objective, case)) for case in whole]
        return measured

    def _accuracy(self, measured: Sequence[tuple[Case, Loss]]) -> Interval | None:
        """How often the implicit reward is right, where the objective has one; comparisons of a row count together."""
        right = [value for _, loss in measured for value in loss.stats.get("reward/accuracy", torch.empty(0)).tolist()]
        rows = [id(row) for case, _ in measured for row in owners(self.objective, case.judged)]
        if not right:
            return None
        if self.objective.kind == "ranking":  # the share of a ranking's comparisons that are right
            return statistics.mean(right)
        return statistics.win_rate(right, prompts=rows)


def _mean_loss(objective: Bound, measured: Sequence[tuple[Case, Loss]]) -> float:
    """The mean in which each loss has the weight that it has in training."""
    value = torch.cat([loss.value for _, loss in measured])
    share = value.new_tensor([weight for case, _ in measured for weight in weights(objective, case.judged)])
    return float((value * share).sum() / share.sum())


def _undropped(case: Case) -> Case:
    """Two views in which nothing is dropped: what is measured does not hang on chance."""
    if case.feature is None:
        return case
    count, width = case.feature.shape
    return replace(case, dropped=case.feature.new_ones(count, 2, width))
