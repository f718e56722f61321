"""What a rollout comes to: its rewards and advantages, the weights of its tokens or pairs, and its means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from truing import algorithms
from truing.algorithms import BoundAlgorithm, Judgement
from truing.objectives.value import explained_variance
from truing.records import Completion
from truing.reductions import step_weights
from truing.rendering import Row
from truing.shaping import ShapingState
from truing.stages import correction
from truing.stages.arranging import FROM_REFERENCE
from truing.stages.rollouts import Rollout
from truing.stages.watchdogs import disagreement
from truing.tensors import Forest, Logprobs, PerToken


@dataclass(frozen=True, slots=True)
class Judged:
    """A rollout with what it comes to. about: its means, for the log.

    advantage: as it is learnt from, that is corrected for the generator; the judgement's own is not.
    rows: with the answers alone that are learnt from.
    """

    rollout: Rollout
    judgement: Judgement
    advantage: Tensor | None
    rows: Sequence[Row]
    about: dict[str, float]

    def weights(self, rows: Sequence[int], algorithm: BoundAlgorithm, limit: int) -> tuple[Tensor, float]:
        """The weight of each token, [N], or pair, [P], in a step of these rows, and the divisor of the step."""
        taken = torch.isin(self.rollout.group, torch.tensor(list(rows))) & self.judgement.accepted
        if self.judgement.pairs is not None:
            each = taken[self.judgement.pairs[:, 0]].double()
            return each, float(each.sum())
        assert algorithm.reduction is not None, "losses of tokens become one somehow"
        found, divisor = step_weights(
            self.rollout.completion, self.rollout.group, taken.double(), algorithm.reduction, limit=limit
        )
        return found.token, divisor

    def part(self, token: Tensor, forest: Forest) -> PerToken:
        """What belongs to a forest, of numbers of all tokens, [N]."""
        return self.rollout.part(token, forest, self.judgement.accepted[self.rollout.completion])

    def share(self, weights: Tensor, forest: Forest) -> Tensor:
        """Of the weights of a step those of a forest's losses."""
        return self.part(weights, forest).token if self.judgement.pairs is None else weights[self._paired_in(forest)]

    def pairs(self, forest: Forest) -> Tensor:
        """The pairs of a forest as places among its answers, [P, 2]."""
        assert self.judgement.pairs is not None, "answers are paired"
        return torch.searchsorted(self._answers(forest), self.judgement.pairs[self._paired_in(forest)])

    def by_reference(self, forest: Forest) -> Tensor:
        """1 for the answers of a forest that the reference wrote, else 0."""
        return self.rollout.by_reference[self._answers(forest)].double()

    def _answers(self, forest: Forest) -> Tensor:
        """Which answers of the rollout those of a forest are, ascending."""
        return (torch.isin(self.rollout.group, torch.tensor(forest.rows)) & self.judgement.accepted).nonzero().flatten()

    def _paired_in(self, forest: Forest) -> Tensor:
        """Which pairs are of a forest."""
        assert self.judgement.pairs is not None, "answers are paired"
        return torch.isin(self.judgement.pairs[:, 0], self._answers(forest))


def judge(
    algorithm: BoundAlgorithm, rollout: Rollout, state: ShapingState, limit: int, corrected: Mapping[str, Any] | None
) -> tuple[Judged, ShapingState]:
    """Rewards and advantages of a rollout, and what shaping remembers of it.

    limit: length of an answer, in tokens. corrected: how tokens count on which generator and engine differ.
    """
    found = algorithms.Rollout(
        score=rollout.score,
        completion=rollout.completion,
        group=rollout.group,
        limit=limit,
        behaviour=rollout.read["behaviour"],
        reference=rollout.read.get("reference"),
        value=rollout.read.get("value"),
        rival=torch.tensor([score_of(answer) for answer in rollout.rival]) if rollout.rival else None,
        rival_length=torch.tensor([_tokens(answer) for answer in rollout.rival]) if rollout.rival else None,
    )
    judgement, after = algorithm.judge(found, state)
    advantage = None
    if judgement.advantage is not None:
        advantage = judgement.advantage.token
        if corrected is not None:
            advantage = advantage * _weights(rollout, corrected)
    kept_answers = iter(judgement.accepted.tolist())
    rows = [replace(row, answers=tuple(one for one in row.answers if next(kept_answers))) for row in rollout.rows]
    about = _means(rollout, found, judgement)
    if algorithm.prices_kl and algorithm.shaping.reward_kl_target is not None:
        about["kl/price"] = state.price.coefficient
    return Judged(rollout, judgement, advantage, rows, about), after


def _means(rollout: Rollout, found: algorithms.Rollout, judgement: Judgement) -> dict[str, float]:
    """What is told of a rollout: means over the answers that the policy wrote."""
    own = ~rollout.by_reference
    token = own[rollout.completion]
    score, length = rollout.score[own].double(), found.length[own].double()
    answers = [answer for group in rollout.groups for answer in group.completions if answer.source != FROM_REFERENCE]
    gap = (rollout.read["behaviour"] - rollout.sampled)[token]
    about = {
        "reward": float(score.mean()),
        "reward/deviation": float(score.std(correction=0)),
        "length": float(length.mean()),
        "finished": sum(answer.finished for answer in answers) / len(answers),
        "accepted": len(set(rollout.group[judgement.accepted].tolist())) / len(rollout.rows),
        "generator_gap": float(gap.abs().mean()),
        "entropy": float(rollout.read["entropy"][token].double().mean()),
    }
    if found.rival is not None:
        about["reward/rival"] = float(found.rival.double().mean())
    if judgement.win_rate is not None:
        about["win_rate"] = float(judgement.win_rate.double().mean())
    if judgement.kl is not None:
        about["kl"] = float(judgement.kl.sum[own].mean())
    if found.reference is not None:
        about["perplexity"] = float(found.reference[token].double().mean().neg().exp())
    if rollout.deviation is not None:
        about |= disagreement(rollout.score[own], rollout.deviation[own])
    if judgement.returns is not None:
        missed = judgement.returns.token.double() - rollout.read["value"].double()
        about["critic_error"] = float(missed.square().mean())
        about["explained_variance"] = explained_variance(rollout.read["value"], judgement.returns.token)
    return about


def _weights(rollout: Rollout, corrected: Mapping[str, Any]) -> Tensor:
    """Weights of tokens for the difference of generator and engine, [N]."""
    behaviour, sampled = (
        Logprobs(token, rollout.completion, len(rollout.group))
        for token in (rollout.read["behaviour"], rollout.sampled)
    )
    return correction.weights(corrected, behaviour, sampled).token


def score_of(answer: Completion) -> float:
    """Its score."""
    assert answer.score is not None, "answers of a rollout are scored"
    return answer.score


def _tokens(answer: Completion) -> int:
    assert answer.sampled is not None, "answers of a rollout are sampled"
    return len(answer.sampled.tokens)
