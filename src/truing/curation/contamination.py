"""Rows that hold a piece of a test set: runs of 13 words in common, as GPT-3 was checked (arXiv:2005.14165, app. C)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from truing.curation.texts import content, messages, shingles
from truing.errors import DataError
from truing.formats import containers
from truing.formats.checks import Json, RowError
from truing.records import Group

SHORTEST = 5
"""Words of a test text that can be recognised; shorter ones, such as the letter of a choice, stand everywhere."""


def read_pieces(test_sets: Mapping[str, str], width: int) -> dict[str, str]:
    """Every `width` words in a row of every text in the test sets, each with the first place that has it.

    test_sets: files by name. A place is `name, file:line`.

    A file may have any layout: all texts of a row count. A text of fewer words, but not fewer than SHORTEST, is a piece
    as a whole, and then is found only where a turn says it and nothing else.
    """
    found: dict[str, str] = {}
    for name, file in test_sets.items():
        for line, row in containers.rows(file):
            if isinstance(row, RowError):
                raise DataError(f"{file}:{line}: {row.problem}")
            for text in _texts(row):
                for piece in shingles(text, width):
                    if piece.count(" ") + 1 >= min(SHORTEST, width):
                        found.setdefault(piece, f"{name}, {file}:{line}")
    return found


def contaminated(groups: Sequence[Group], pieces: Mapping[str, str], width: int, share: float = 0.0) -> dict[int, str]:
    """Rows with pieces of a test set, each with the place of the first test row that was found.

    share: of a row's pieces that must be in the test set; at 0 a single one is enough.
    """
    found: dict[int, str] = {}
    for place, group in enumerate(groups):
        own = [piece for message in messages(group) for piece in shingles(content(message), width)]
        hits = [piece for piece in own if piece in pieces]
        if hits and len(hits) >= share * len(own):
            found[place] = pieces[hits[0]]
    return found


def _texts(value: Json) -> Iterator[str]:
    """All strings in a row, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
