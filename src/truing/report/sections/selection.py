"""Which rows a selection kept, by what, and which it found too like a better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.report.figures import Figure, by_percentile
from truing.report.reading import mapping, turns
from truing.report.sections.section import Section


@dataclass(frozen=True)
class Selected:
    """A row that a selection kept or left out."""

    place: str
    prompt: list[tuple[str, str]]
    answer: str
    score: float


@dataclass(frozen=True)
class Alike:
    """A row that was left out, the better one that it resembles, and the cosine of the two."""

    row: Selected
    better: Selected
    cosine: float


@dataclass(frozen=True)
class Selection:
    """What `selection.json` of one select stage says.

    scores, words: of `every row` and of those `kept`, at even steps from the lowest to the highest.
    """

    stage: str
    by: str
    rows: int
    kept: int
    refused: dict[str, int]
    similarity: str
    encoder: str
    scores: dict[str, list[float]]
    words: dict[str, list[float]]
    best: list[Selected]
    worst: list[Selected]
    alike: list[Alike]


def read(stage: str, found: Mapping[str, Any]) -> Selection:
    """As `selection.json` says it."""
    return Selection(
        stage=stage,
        by=str(found["by"]),
        rows=int(found["rows"]),
        kept=int(found["kept"]),
        refused=mapping(found["refused"]),
        similarity=str(found["similarity"]),
        encoder=str(found["encoder"]),
        scores=mapping(found["scores"]),
        words=mapping(found["words"]),
        best=[_selected(row) for row in found["best"]],
        worst=[_selected(row) for row in found["worst"]],
        alike=[Alike(_selected(one["row"]), _selected(one["better"]), float(one["cosine"])) for one in found["alike"]],
    )


def _selected(row: Mapping[str, Any]) -> Selected:
    return Selected(str(row["place"]), turns(row["prompt"]), str(row["answer"]), float(row["score"]))


def figures(selection: Selection) -> list[Figure]:
    """Scores and lengths of the rows that were kept beside those of all."""
    tones = ("base", "policy")
    return [
        by_percentile("Scores, lowest first", f"Rows by {selection.by}.", selection.scores, tones),
        by_percentile(
            "Words of the answers, shortest first",
            "Many scores like length: see whether this one does.",
            selection.words,
            tones,
        ),
    ]


SECTION = Section("selection", "Selection", "selection.json", read, figures)
