"""Stored JSON as what it stands for. What is missing is None, empty or 0; what is damaged raises StorageError."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from truing.errors import StorageError
from truing.statistics import Interval
from truing.store import Artifact

Found = TypeVar("Found")


def found_by(artifacts: Iterable[Artifact], file: str, read: Callable[[str, Mapping[str, Any]], Found]) -> list[Found]:
    """What `read` makes of this file of each artifact that has one. It is given the stage's name and the content."""
    return [read(one.stage, mapping(stored(one.path / file))) for one in artifacts if (one.path / file).is_file()]


def interval(found: object) -> Interval | None:
    """An interval as it is stored; None where it or one of its numbers is missing."""
    numbers = mapping(found)
    value, low, high = (real(numbers.get(name)) for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return None
    return Interval(value, low, high, int(numbers.get("n", 0)))


def real(found: Any) -> float | None:
    """A stored number. NaN and the infinities are stored by their names, which `float` knows."""
    return None if found is None else float(found)


def mapping(found: Any) -> dict[str, Any]:
    """A table, empty if missing."""
    return dict(found or {})


def text(path: Path) -> str:
    """A file's text, empty if missing."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def stored(path: Path) -> Any:
    """A JSON file's content, an empty table if missing."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{path}: damaged: {error}: restore it, or remove it") from error


def known(found: Mapping[str, Any]) -> Interval:
    """An interval that is never missing."""
    return Interval(float(found["value"]), float(found["low"]), float(found["high"]), int(found["n"]))


def by_reason(
    found: Mapping[str, Sequence[Mapping[str, Any]]], read: Callable[[Mapping[str, Any]], Found]
) -> dict[str, list[Found]]:
    """Examples by reason, each as `read` makes it; a reason without examples is left out."""
    return {reason: [read(one) for one in some] for reason, some in found.items() if some}


def turns(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Role and text of each turn."""
    return [(str(turn.get("role", "")), str(turn.get("content", ""))) for turn in found]
