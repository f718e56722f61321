"""Which rows a curation left out, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.report.reading import by_reason, mapping, turns
from truing.report.sections.section import Section


@dataclass(frozen=True)
class Refused:
    """A row that a curation left out, with what looks private masked. detail: the row it repeats, the test row, ..."""

    place: str
    detail: str
    prompt: list[tuple[str, str]]
    answers: list[str]


@dataclass(frozen=True)
class Curation:
    """What `curation.json` of one curate stage says.

    refused: rows by reason, in the order in which the rules were asked; 0 where a rule found none. warnings: places of
    rows by what they seem to hold. lengths: figures in characters by part of a row, before and after.
    """

    stage: str
    rows: int
    kept: int
    refused: dict[str, int]
    examples: dict[str, list[Refused]]
    warnings: dict[str, list[str]]
    lengths: dict[str, dict[str, dict[str, float]]]


def read(stage: str, found: Mapping[str, Any]) -> Curation:
    """As `curation.json` says it."""
    return Curation(
        stage=stage,
        rows=int(found["rows"]),
        kept=int(found["kept"]),
        refused=mapping(found["refused"]),
        examples=by_reason(found["examples"], _refused),
        warnings={kind: list(warning["places"]) for kind, warning in found["warnings"].items()},
        lengths=mapping(found["lengths"]),
    )


def _refused(row: Mapping[str, Any]) -> Refused:
    return Refused(str(row["place"]), str(row["detail"]), turns(row["prompt"]), [str(text) for text in row["answers"]])


SECTION = Section("curation", "Curation", "curation.json", read)
