"""What grew of each seed round by round, and why other replies are no variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.report.reading import by_reason
from truing.report.sections.section import Section


@dataclass(frozen=True)
class Step:
    """A variant of a seed. round: 0 is the seed. grade: where a judge gave one."""

    round: int
    way: str
    request: str
    answer: str
    grade: int | None


@dataclass(frozen=True)
class Growth:
    """What became of the seeds of one kind. made: variants of each round. dropped: replies by reason."""

    kind: str
    seeds: int
    made: list[int]
    dropped: dict[str, int]
    chains: list[list[Step]]


@dataclass(frozen=True)
class Dropped:
    """A reply that is no variant, and the text that it was to better."""

    kind: str
    parent: str
    text: str


@dataclass(frozen=True)
class Evolution:
    """What `evolution.json` of one evolve stage says. dropped: examples by reason."""

    stage: str
    growths: list[Growth]
    dropped: dict[str, list[Dropped]]


def read(stage: str, found: Mapping[str, Any]) -> Evolution:
    """As `evolution.json` says it."""
    dropped = by_reason(found["dropped"], lambda one: Dropped(**one))
    return Evolution(stage, [_growth(kind, one) for kind, one in found["kinds"].items()], dropped)


def step(found: Mapping[str, Any]) -> Step:
    """A variant as stages write it."""
    return Step(int(found["round"]), str(found["way"]), str(found["request"]), str(found["answer"]), found.get("grade"))


def _growth(kind: str, found: Mapping[str, Any]) -> Growth:
    chains = [[step(one) for one in chain] for chain in found["chains"]]
    return Growth(kind, int(found["seeds"]), list(found["made"]), dict(found["dropped"]), chains)


SECTION = Section("evolution", "Evolution", "evolution.json", read)
