"""Rows that are too many of their kind: of one source, or of comparisons that the longer answer wins."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from truing.curation.texts import by_preference, length
from truing.errors import DataError
from truing.records import Group

FILE = "file"
"""The source that every row has which was read."""


def source_of(group: Group, field: str) -> str:
    """What a row's field says, or the file it was read from; DataError where the row has no such field."""
    if field == FILE and FILE not in group.extra:
        return group.file or ""
    if field not in group.extra:
        raise DataError(f"{group.place}: has no field '{field}' to tell its source by: set source to another one")
    return str(group.extra[field])


def beyond_cap(groups: Sequence[Group], field: str, cap: int) -> dict[int, str]:
    """Rows after the first `cap` of their source, each with that source."""
    seen: Counter[str] = Counter()
    found: dict[int, str] = {}
    for place, group in enumerate(groups):
        source = source_of(group, field)
        seen[source] += 1
        if seen[source] > cap:
            found[place] = source
    return found


def unbalanced(groups: Sequence[Group], seed: int) -> list[int]:
    """Comparisons to leave out, drawn by seed, so that the longer answer wins as often as the shorter one.

    Rows that are no comparison, or whose answers are of one length in characters, are not counted and stay.
    """
    gaps = {place: _gap(group) for place, group in enumerate(groups) if len(group.completions) == 2}
    longer = [place for place, gap in gaps.items() if gap > 0]
    shorter = [place for place, gap in gaps.items() if gap < 0]
    larger = max(longer, shorter, key=len)
    return sorted(random.Random(seed).sample(larger, abs(len(longer) - len(shorter))))


def _gap(group: Group) -> int:
    """Characters of the better answer less those of the other; 0 where neither is better."""
    better, other = by_preference(group)
    if (better.rank, better.score) == (other.rank, other.score):
        return 0
    return length(better.messages) - length(other.messages)
