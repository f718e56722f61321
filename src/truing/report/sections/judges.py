"""How judges were tried on control answers, which deserve nothing, before they judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.report.reading import mapping


@dataclass(frozen=True)
class Tried:
    """What one judge made of the control answers.

    high: scores above `above`. most: the share of high ones that is allowed. by_control: (high, scored) by name.
    unread: control answers without a score, by reason.
    """

    judge: str
    scored: int
    high: int
    above: float
    most: float
    by_control: dict[str, tuple[int, int]]
    unread: dict[str, int]

    @property
    def share(self) -> float | None:
        """Of the control answers with a score, those with a high one; None where none has a score."""
        return self.high / self.scored if self.scored else None


def read_tried(event: Mapping[str, Any]) -> Tried:
    """As an event says it."""
    return Tried(
        judge=str(event["judge"]),
        scored=int(event["scored"]),
        high=int(event["high"]),
        above=float(event["above"]),
        most=float(event["most"]),
        by_control={name: (int(one["high"]), int(one["scored"])) for name, one in event["by_control"].items()},
        unread=mapping(event.get("unread")),
    )
