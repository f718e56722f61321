"""What a judge made of variants side by side: grades, by round too, and replies without grades that hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.report.sections.evolution import Step, step
from truing.report.sections.section import Section


@dataclass(frozen=True)
class Judged:
    """What was graded of one kind. grades: how often each was given. rounds: number, mean grade, variants."""

    kind: str
    grades: dict[str, int]
    rounds: list[tuple[int, float, int]]
    examples: list[list[Step]]


@dataclass(frozen=True)
class Unread:
    """A judge's reply without grades that hold."""

    reason: str
    reply: str


@dataclass(frozen=True)
class Ranking:
    """What `ranking.json` of one rank stage says. seeds, graded: of both kinds; dropped: the others by reason."""

    stage: str
    seeds: int
    graded: int
    dropped: dict[str, int]
    judged: list[Judged]
    unread: list[Unread]


def read(stage: str, found: Mapping[str, Any]) -> Ranking:
    """As `ranking.json` says it."""
    judged = [_judged(kind, one) for kind, one in found["kinds"].items()]
    unread = [Unread(**one) for one in found["unread"]]
    return Ranking(stage, int(found["seeds"]), int(found["graded"]), dict(found["dropped"]), judged, unread)


def _judged(kind: str, found: Mapping[str, Any]) -> Judged:
    rounds = [(int(number), float(mean), int(count)) for number, mean, count in found["rounds"]]
    examples = [[step(one) for one in chain] for chain in found["examples"]]
    return Judged(kind, dict(found["grades"]), rounds, examples)


SECTION = Section("ranking", "Ranking", "ranking.json", read)
