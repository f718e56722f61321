"""Checks that say exactly what is wrong: `chosen[1].role: expected ...; found ...; do this`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.errors import DataError

Json = Any
"""What a JSON text can hold; readers get it from strangers and take nothing for granted."""


class RowError(DataError):
    """What is wrong with one row: where in the file, where in the row, what, and what to do."""

    def __init__(self, what: str, path: str = "", place: str = "") -> None:
        super().__init__(": ".join(part for part in (place, path, what) if part))
        self.what = what
        self.path = path

    @property
    def problem(self) -> str:
        """The message without the file and line."""
        return f"{self.path}: {self.what}" if self.path else self.what


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read; reading goes on with the next one."""

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


def kind(value: Json) -> str:
    """The JSON name of a value's type, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "an object" if isinstance(value, Mapping) else "a list"


def shown(value: Json) -> str:
    """A value for a message: its type, or its beginning when it is short to say."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        content = repr(value)
        return content if len(content) <= 40 else f"{content[:37]}..."
    return kind(value)


def expect_text(value: Json, path: str) -> str:
    """The value, which must be text."""
    if not isinstance(value, str):
        raise RowError(f"expected text; found {shown(value)}; make it text or drop the line", path)
    return value


def expect_list(value: Json, path: str) -> list[Json]:
    """The value, which must be a list with something in it."""
    if not isinstance(value, list):
        raise RowError(f"expected a list; found {shown(value)}; make it a list or drop the line", path)
    if not value:
        raise RowError("the list is empty; fill it or drop the line", path)
    return value


def expect_object(value: Json, path: str) -> dict[str, Json]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise RowError(f"expected an object; found {shown(value)}; make it an object or drop the line", path)
    return value


def expect_bool(value: Json, path: str) -> bool:
    """The value, which must be true or false."""
    if not isinstance(value, bool):
        raise RowError(f"expected true or false; found {shown(value)}; write true or false, or drop the line", path)
    return value


def is_number(value: Json) -> bool:
    """True of a finite number; true and false are no numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def expect_number(value: Json, path: str) -> float:
    """The value, which must be a finite number; an integer stays one, so that it is written back as it was."""
    if not is_number(value):
        raise RowError(f"expected a number; found {shown(value)}; write a number or drop the line", path)
    number: float = value
    return number


def holds(value: Json, key: str) -> bool:
    """True of a list in which some object has `key`: what tells conversations of different tools apart."""
    return isinstance(value, list) and any(isinstance(item, dict) and key in item for item in value)


def difference(before: Json, after: Json, path: str = "") -> str | None:
    """The first thing that `after` lost or changed, in words; None when the two are equal.

    Tuples count as lists, as in JSON; 1 and 1.0 are equal, 1 and true are not.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{path}.{key}" if path else str(key)
            if key not in after:
                return f"{inner} ({shown(before[key])}) would be lost"
            if key not in before:
                return f"{inner} ({shown(after[key])}) would be added"
            if found := difference(before[key], after[key], inner):
                return found
        return None
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        if len(before) != len(after):
            return f"{path}: {len(before)} would become {len(after)}"
        pairs = enumerate(zip(before, after, strict=True))
        return next((found for i, (a, b) in pairs if (found := difference(a, b, f"{path}[{i}]"))), None)
    if before == after and isinstance(before, bool) == isinstance(after, bool):
        return None
    return f"{path}: {shown(before)} would become {shown(after)}"
