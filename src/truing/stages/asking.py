"""Calling an objective with exactly what its signature asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from truing.objectives import Bound
from truing.stages.arranging import Judged
from truing.tensors import Features, Forest, Logprobs, Loss, Pair, PerToken, RankedScores, Ranking, Scores, Values


@dataclass(frozen=True, slots=True)
class Case:
    """Everything an objective may ask for, of the answers of some trees, in their order.

    judged: what people said, one for each tree. policy, or score with writing and length_score: what is trained, as far
    as it is asked for.
    target: the ids of the scored tokens. kl: a scalar. uniform: for each tree one number for each pair.
    feature: what the reward head reads at the end of each answer, [C, width]. dropped: numbers from 0 to 1 for two
    views of it, [C, 2, width]. head, prototype: weights of the reward model that the objective looks at by themselves.
    step: the scored tokens that end the steps of answers.
    """

    judged: Sequence[Judged]
    policy: Logprobs | None = None
    reference: Logprobs | None = None
    divergence: PerToken | None = None
    concentration: PerToken | None = None
    kl: Tensor | None = None
    uniform: Sequence[Sequence[float]] = ()
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    score: Scores | None = None
    writing: Logprobs | None = None
    length_score: Scores | None = None
    target: Tensor | None = None
    feature: Tensor | None = None
    dropped: Tensor | None = None
    head: Tensor | None = None
    prototype: Tensor | None = None
    step: Tensor | None = None

    @property
    def learned(self) -> PerToken:
        """What is trained: scores of a reward model, or log-probabilities."""
        learned = self.score if self.score is not None else self.policy
        assert learned is not None, "one of the two is always there"
        return learned

    @property
    def trained(self) -> list[Tensor]:
        """All that a gradient goes to and that belongs to tokens or answers, which stand one after the other."""
        values = (self.policy, self.score, self.writing, self.length_score)
        tokens = [one.token for one in values if one is not None]
        return tokens if self.feature is None else [*tokens, self.feature]

    @property
    def weights(self) -> list[Tensor]:
        """The weights that a gradient goes to directly, the same for all forests of a step."""
        return [one for one in (self.head, self.prototype) if one is not None]

    def apart(self) -> Case:
        """The same numbers without their history, ready to be differentiated by."""

        def leaf(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().requires_grad_()

        def leaves(values: Values | None) -> Values | None:
            return None if values is None else values.with_token(values.token.detach().requires_grad_())

        return replace(
            self,
            policy=leaves(self.policy),
            score=leaves(self.score),
            writing=leaves(self.writing),
            length_score=leaves(self.length_score),
            feature=leaf(self.feature),
            head=leaf(self.head),
            prototype=leaf(self.prototype),
        )

    def tensor(self, values: Sequence[float]) -> Tensor:
        """Plain numbers in the dtype and on the device of what is trained."""
        return torch.tensor(values, dtype=self.learned.token.dtype, device=self.learned.token.device)

    def starts(self) -> list[int]:
        """Place of each tree's first answer among all answers."""
        starts = [0]
        for judged in self.judged:
            starts.append(starts[-1] + len(judged.label))
        return starts[:-1]

    def sides(self) -> Pair[Tensor]:
        """Places of chosen and rejected among all answers, one for each pair."""
        places = [
            (start + chosen, start + rejected)
            for start, judged in zip(self.starts(), self.judged, strict=True)
            for chosen, rejected in judged.pairs
        ]
        both = torch.tensor(places, dtype=torch.long, device=self.learned.completion.device).reshape(-1, 2)
        return Pair(both[:, 0], both[:, 1])

    def parted(self) -> Tensor | None:
        """For each pair the place of the first scored token at which its answers differ."""
        if self.target is None:
            return None
        answers = torch.split(self.target, self.learned.length.long().tolist())
        sides = self.sides()
        both = zip(sides.chosen.tolist(), sides.rejected.tolist(), strict=True)
        return torch.tensor([_shared(answers[one].tolist(), answers[other].tolist()) for one, other in both])


def rows_of(forest: Forest, judged: Sequence[Judged]) -> list[Judged]:
    """What was said of each tree of a forest. `judged` is the whole data set, addressed by `forest.rows`."""
    return [judged[row] for row in forest.rows]


def join(cases: Sequence[Case]) -> Case:
    """Several cases as one. Their scalars, memory and weights are the first one's."""
    first = cases[0]
    return replace(
        first,
        judged=[judged for case in cases for judged in case.judged],
        policy=_joined([case.policy for case in cases if case.policy is not None]),
        reference=_joined([case.reference for case in cases if case.reference is not None]),
        score=_joined([case.score for case in cases if case.score is not None]),
        length_score=_joined([case.length_score for case in cases if case.length_score is not None]),
        uniform=[row for case in cases for row in case.uniform],
        target=_together([case.target for case in cases]),
        feature=_together([case.feature for case in cases]),
        dropped=_together([case.dropped for case in cases]),
    )


def said(case: Case) -> dict[str, Tensor]:
    """What models say in a case of an objective in which rows meet, by name, without history."""
    values = {
        "policy": case.policy,
        "reference": case.reference,
        "score": case.score,
        "length_score": case.length_score,
    }
    others = {"target": case.target, "feature": case.feature, "head": case.head, "prototype": case.prototype}
    found = {name: one.token.detach() for name, one in values.items() if one is not None}
    return found | {name: one.detach() for name, one in others.items() if one is not None}


def case_saying(numbers: Mapping[str, Tensor], judged: Sequence[Judged], forest: Forest) -> Case:
    """The case of a forest again from what was `said` in it."""

    def values(name: str, kind: type[Values]) -> Values | None:
        token = numbers.get(name)
        return None if token is None else kind(token, forest.completion, forest.group.shape[0])

    return Case(
        judged,
        policy=values("policy", Logprobs),
        reference=values("reference", Logprobs),
        score=values("score", Scores),
        length_score=values("length_score", Scores),
        target=numbers.get("target"),
        feature=numbers.get("feature"),
        head=numbers.get("head"),
        prototype=numbers.get("prototype"),
    )


def ask(objective: Bound, case: Case) -> Loss:
    """The objective on the case: one loss per pair, per answer, per step, or per ranking stacked to one per tree."""
    if objective.kind == "ranking":
        return _stacked([_ranking(objective, case, tree) for tree in range(len(case.judged))])
    if objective.kind == "pair":
        return _pairs(objective, case)
    if objective.kind == "step":
        assert case.score is not None, "steps are judged by a reward model"
        assert case.step is not None, "and found when rows are packed"
        right = torch.tensor([v for j in case.judged for answer in j.right for v in answer], device=case.step.device)
        return objective(score=case.score.at(case.step), right=right)
    return objective(
        policy=case.policy,
        score=case.score,
        reference=case.reference,
        kl=case.kl,
        memory=case.memory,
        label=torch.tensor([v for j in case.judged for v in j.label], device=case.learned.token.device),
        reward=case.tensor([v for j in case.judged for v in j.reward]),
    )


def owners(objective: Bound, judged: Sequence[Judged]) -> list[Judged]:
    """The row of each loss that `ask` returns."""
    if objective.kind == "ranking":
        return list(judged)
    if objective.kind == "step":
        return [j for j in judged for answer in j.right for _ in answer]
    return [j for j in judged for _ in (j.pairs if objective.kind == "pair" else j.label)]


def weights(objective: Bound, judged: Sequence[Judged]) -> list[float]:
    """The weight of each loss that `ask` returns.

    The pairs of a row share its weight, so every prompt counts once, and the steps of an answer do.
    """
    if objective.kind == "step":
        return [j.group.weight / len(answer) for j in judged for answer in j.right for _ in answer]
    rows = owners(objective, judged)
    return [j.group.weight / (len(j.pairs) if objective.kind == "pair" else 1) for j in rows]


def _pairs(objective: Bound, case: Case) -> Loss:
    sides = case.sides()

    def both(values: PerToken | None) -> Any:
        return None if values is None else Pair(values.select(sides.chosen), values.select(sides.rejected))

    strength = [v for j in case.judged for v in j.strength]

    def of_answers(values: Sequence[float]) -> Pair[Tensor]:
        every = case.tensor(values)
        return Pair(every[sides.chosen], every[sides.rejected])

    return objective(
        policy=both(case.policy),
        score=both(case.score),
        writing=both(case.writing),
        length_score=both(case.length_score),
        feature=_features(case),
        head=case.head,
        prototype=case.prototype,
        reference=both(case.reference),
        divergence=both(case.divergence),
        concentration=both(case.concentration),
        memory=case.memory,
        strength=case.tensor(strength),
        margin=case.tensor(strength),
        parted=case.parted() if objective.needs("parted") else None,
        uniform=case.tensor([v for row in case.uniform for v in row]),
        reward=of_answers([v for j in case.judged for v in j.reward]),
        from_reference=of_answers([v for j in case.judged for v in j.by_reference]),
        drawn=of_answers([v for j in case.judged for v in j.drawn]) if objective.needs("drawn") else None,
    )


def _features(case: Case) -> Pair[Features] | None:
    if case.feature is None or case.dropped is None:
        return None
    sides = case.sides()
    chosen, rejected = (Features(case.feature[w], case.dropped[w], w) for w in (sides.chosen, sides.rejected))
    return Pair(chosen, rejected)


def _ranking(objective: Bound, case: Case, tree: int) -> Loss:
    judged, start = case.judged[tree], case.starts()[tree]
    which = torch.arange(start, start + len(judged.reward), device=case.learned.completion.device)

    def ranking(values: PerToken | None, kind: type[PerToken]) -> Any:
        if values is None:
            return None
        some = values.select(which)
        return kind(some.token, some.completion, some.count)

    return objective(
        policy=ranking(case.policy, Ranking),
        score=ranking(case.score, RankedScores),
        reference=ranking(case.reference, Ranking),
        reward=case.tensor(judged.reward),
    )


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers share before they part."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _joined(parts: Sequence[Values]) -> Values | None:
    if not parts:
        return None
    counts = [part.count for part in parts]
    shifts = [sum(counts[:place]) for place in range(len(parts))]
    completion = torch.cat([part.completion + shift for part, shift in zip(parts, shifts, strict=True)])
    return type(parts[0])(torch.cat([part.token for part in parts]), completion, sum(counts))


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


def _stacked(losses: Sequence[Loss]) -> Loss:
    names = losses[0].stats
    return Loss(
        torch.stack([loss.value for loss in losses]),
        {name: torch.stack([loss.stats[name] for loss in losses]) for name in names},
    )
