"""Whether the model got better: what an evaluation found, and what else could explain it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.report.reading import interval, mapping, real, turns
from truing.statistics import Interval

FILE = "evaluation.json"
LONGER = 1.1
"""Answers that are surely longer than this many times the base's may have won by their length."""


@dataclass(frozen=True)
class Answer:
    """One answer to a held-out prompt."""

    text: str
    tokens: int | None
    finished: bool
    score: float | None


@dataclass(frozen=True)
class Example:
    """A held-out prompt with both answers. `winner` is model, base or tie."""

    prompt: list[tuple[str, str]]
    base: Answer
    model: Answer
    winner: str


@dataclass(frozen=True)
class Side:
    """One of the two compared models."""

    name: str
    mean_tokens: float | None
    finished: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluation.json` of one evaluate stage says.

    outcomes: share of won comparisons at each prompt. accuracy, margin, chosen: on held-out comparisons, where there
    are some: how often the model moved towards the chosen answer, by how much, and what became of its log-likelihood.
    """

    stage: str
    verdict: str
    judge: str
    judge_description: str
    principle: str
    prompts: int
    answers_per_prompt: int
    wins: int
    ties: int
    losses: int
    win_rate: Interval | None
    kl: Interval | None
    length_ratio: Interval | None
    model: Side
    base: Side
    sampling: dict[str, Any]
    examples: list[Example]
    outcomes: list[float]
    accuracy: Interval | None
    margin: Interval | None
    chosen: Interval | None


def read(stage: str, found: Mapping[str, Any]) -> Evaluation:
    """As `{FILE}` says it."""
    preferences = mapping(found.get("preferences"))
    return Evaluation(
        stage=stage,
        verdict=str(found.get("verdict", "")),
        judge=str(found.get("judge", "")),
        judge_description=str(found.get("judge_description", "")),
        principle=str(found.get("principle") or ""),
        prompts=int(found.get("prompts", 0)),
        answers_per_prompt=int(found.get("answers_per_prompt", 1)),
        wins=int(found.get("wins", 0)),
        ties=int(found.get("ties", 0)),
        losses=int(found.get("losses", 0)),
        win_rate=interval(found.get("win_rate")),
        kl=interval(found.get("kl")),
        length_ratio=interval(found.get("length_ratio")),
        model=_side(found.get("model")),
        base=_side(found.get("base")),
        sampling=mapping(found.get("sampling")),
        examples=[_example(example) for example in found.get("examples", [])],
        outcomes=[float(outcome) for outcome in found.get("outcomes", [])],
        accuracy=interval(preferences.get("accuracy")),
        margin=interval(preferences.get("margin")),
        chosen=interval(preferences.get("chosen")),
    )


def _side(found: object) -> Side:
    side = mapping(found)
    return Side(str(side.get("name", "")), real(side.get("mean_tokens")), interval(side.get("finished")))


def _example(found: Mapping[str, Any]) -> Example:
    return Example(
        prompt=turns(found.get("prompt", [])),
        base=_answer(found.get("base")),
        model=_answer(found.get("model")),
        winner=str(found.get("winner", "")),
    )


def _answer(found: object) -> Answer:
    answer = mapping(found)
    return Answer(
        text=str(answer.get("text", "")),
        tokens=answer.get("tokens"),
        finished=bool(answer.get("finished", True)),
        score=real(answer.get("score")),
    )


def caveats(evaluation: Evaluation) -> list[str]:
    """What else could explain the verdict."""
    found = []
    ratio = evaluation.length_ratio
    if ratio is not None and ratio.low > LONGER:
        found.append(
            "The answers are clearly longer than the base's, and many judges like length: part of the win may be that."
        )
    ours, theirs = evaluation.model.finished, evaluation.base.finished
    if ours is not None and theirs is not None and ours.high < theirs.low:
        found.append(
            "Fewer of the model's answers come to their end than of the base's: it may have forgotten how to stop."
        )
    return found
