"""What a suite measured: one table of a model's numbers beside its base's, and what it lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.report import charts
from truing.report.reading import mapping, real, turns
from truing.report.sections.section import Section
from truing.statistics.suites import Measured

REACH = 4.0
"""Half widths of an interval to each side of 0 that a bar has room for."""


@dataclass(frozen=True)
class Shown:
    """The first answers to a prompt, each with its score, by whose they are."""

    prompt: list[tuple[str, str]]
    answers: dict[str, tuple[str, float | None]]


@dataclass(frozen=True)
class Suite:
    """What `measured.json` of one measurement says, or of a guard, which has those of several.

    adjusted, lost, gained: of a guard, chances by Holm, and places of what is surely worse and better.
    """

    stage: str
    rows: list[Measured]
    model: str
    base: str
    left_out: dict[str, int]
    examples: list[Shown]
    verdict: str
    adjusted: list[float | None]
    lost: list[int]
    gained: list[int]

    @property
    def guards(self) -> bool:
        """Whether it says what several measurements show together."""
        return bool(self.verdict)

    def tone(self, place: int) -> str:
        """`good` where a measurement is surely better than the base's, `bad` where worse, else `open`."""
        return "good" if place in self.gained else "bad" if place in self.lost else "open"

    def bar(self, place: int) -> Any:
        """The gain with its interval against 0, in half widths of itself, so that all scales fit one table."""
        row, gain = self.rows[place], self.rows[place].gain
        if gain is None or not 0 < gain.high - gain.low < float("inf"):
            return ""
        half = (gain.high - gain.low) / 2
        title = f"{row.name}: {row.what} {row.said(row.difference, gap=True)}"
        middle = max(-REACH, min(REACH, gain.value / half))
        ends = (
            (middle + way * (gap / half)) for way, gap in ((-1, gain.value - gain.low), (1, gain.high - gain.value))
        )
        return charts.gain_bar(title, middle, *ends, reach=REACH + 1, tone=self.tone(place))


def read(stage: str, found: Mapping[str, Any]) -> Suite:
    """As `measured.json` says it."""
    return Suite(
        stage=stage,
        rows=[Measured.stored(row) for row in found["rows"]],
        model=str(found["model"]),
        base=str(found.get("base") or ""),
        left_out=mapping(found.get("left_out")),
        examples=[_shown(one) for one in found.get("examples", [])],
        verdict=str(found.get("verdict", "")),
        adjusted=[real(chance) for chance in found.get("adjusted", [])] or [None] * len(found["rows"]),
        lost=list(found.get("lost", [])),
        gained=list(found.get("gained", [])),
    )


def _shown(found: Mapping[str, Any]) -> Shown:
    sides = {name: mapping(found[name]) for name in ("model", "base") if name in found}
    answers = {name: (str(one["text"]), real(one["score"])) for name, one in sides.items()}
    return Shown(turns(found["prompt"]), answers)


SECTION = Section("measured", "Measured", "measured.json", read)
