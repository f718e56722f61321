"""Rows that say the same: word for word, or nearly, by MinHash and locality-sensitive hashing (Broder 1997).

Two rows resemble each other if they have the same turns and each pair of turns has a Jaccard similarity of at least
the threshold, over shingles of words. Turn by turn, because a long system prompt in common does not make two questions
one. Rows of which people said the opposite are not the same: answers are compared best first, and thumbs must agree.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import NamedTuple, cast

from datasketch import MinHash, MinHashLSH

from truing.curation.texts import by_preference, content, messages, normal, question, shingles
from truing.records import Group, Message

PERMUTATIONS = 128
MISSED = 1e-4
"""Chance at most that two rows just at the threshold are never compared; it is smaller for any that are more alike."""
REMEMBERED = 1024
"""Rows whose shingles are kept for the next comparison with them."""


class Shape(NamedTuple):
    """What must be equal before texts are compared: roles in order, turns of each answer, thumbs."""

    roles: tuple[str, ...]
    answers: tuple[int, ...]
    labels: tuple[bool | None, ...]


class Parts(NamedTuple):
    """A row, ready to be compared: its shape, and the shingles of each turn."""

    shape: Shape
    shingles: tuple[frozenset[str], ...]


def exact(groups: Sequence[Group]) -> dict[int, int]:
    """Rows that are equal to an earlier one but for spacing and Unicode's variants, each with the first of its kind."""
    return _repeated([_digest(_shape(group), list(messages(group))) for group in groups])


def near(groups: Sequence[Group], threshold: float, width: int) -> dict[int, int]:
    """Rows that resemble an earlier one which is kept, each with the first such row.

    A row that resembles only refused ones is kept: so every refused row resembles the one it is said to repeat.
    """
    rows = [(_shape(group), list(messages(group))) for group in groups]
    return _resembling(rows, rows, threshold, width, same=True)


def leaked(groups: Sequence[Group], held_out: Sequence[Group], threshold: float, width: int) -> dict[int, int]:
    """Rows whose prompt is a held-out one, each with the first such held-out row.

    threshold: as of `near`; at 0 prompts must be equal but for spacing and Unicode's variants.
    """
    rows, kept = ([(_bare(turns), turns) for turns in map(_asked, some)] for some in (groups, held_out))
    first: dict[bytes, int] = {}
    for place, (shape, turns) in enumerate(kept):
        first.setdefault(_digest(shape, turns), place)
    digests = [_digest(shape, turns) for shape, turns in rows]
    found = {place: first[digest] for place, digest in enumerate(digests) if digest in first}
    return found | _resembling(rows, kept, threshold, width, same=False) if threshold else found


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Share of the union that is in both; two empty sets are equal."""
    return len(first & second) / len(first | second) if first or second else 1.0


def resemble(first: Parts, second: Parts, threshold: float) -> bool:
    """Whether shapes are equal and all turns similar."""
    if first.shape != second.shape:
        return False
    return all(jaccard(one, other) >= threshold for one, other in zip(first.shingles, second.shingles, strict=True))


def parts(group: Group, width: int) -> Parts:
    """A row's shape and shingles."""
    return _parts(_shape(group), list(messages(group)), width)


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows of each): the longest ones with which a pair at the threshold is missed by a chance of MISSED."""
    best = (PERMUTATIONS, 1)
    for rows in range(2, PERMUTATIONS // 2 + 1):
        count = PERMUTATIONS // rows
        if (1 - threshold**rows) ** count <= MISSED:
            best = (count, rows)
    return best


_Row = tuple[Shape, Sequence[Message]]


def _resembling(
    rows: Sequence[_Row], others: Sequence[_Row], threshold: float, width: int, *, same: bool
) -> dict[int, int]:
    """Rows that resemble one of the others; if these are the `same` rows, an earlier one that resembles none.

    The similarity of two rows as a whole is at least that of their least similar turns. So hashes of all turns
    together, each marked by its place, find every candidate, and the turns decide.
    """
    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
    empty = MinHash(PERMUTATIONS, hashfunc=int)

    @functools.lru_cache(maxsize=REMEMBERED)
    def compared(place: int) -> Parts:
        return _parts(*others[place], width)

    def hashed(row: Parts) -> MinHash:
        sketch = empty.copy()
        sketch.update_batch(
            [
                zlib.crc32(shingle.encode("utf-8", "surrogatepass"), place)
                for place, some in enumerate(row.shingles)
                for shingle in some
            ]
        )
        return sketch

    if not same:
        for place in range(len(others)):
            index.insert(place, hashed(compared(place)))
    found: dict[int, int] = {}
    for place, (shape, turns) in enumerate(rows):
        row = _parts(shape, turns, width)
        sketch = hashed(row)
        candidates = sorted(cast(list[int], index.query(sketch)))
        like = next((other for other in candidates if resemble(row, compared(other), threshold)), None)
        if like is not None:
            found[place] = like
        elif same:
            index.insert(place, sketch)
    return found


def _parts(shape: Shape, turns: Sequence[Message], width: int) -> Parts:
    return Parts(shape, tuple(frozenset(shingles(content(turn), width)) for turn in turns))


def _shape(group: Group) -> Shape:
    answers = by_preference(group)
    roles = tuple(message.role for message in messages(group))
    return Shape(roles, tuple(len(a.messages) for a in answers), tuple(answer.label for answer in answers))


def _asked(group: Group) -> list[Message]:
    return list(question(group))


def _bare(turns: Sequence[Message]) -> Shape:
    return Shape(tuple(message.role for message in turns), (), ())


def _digest(shape: Shape, turns: Sequence[Message]) -> bytes:
    said = json.dumps([shape, [normal(content(turn)) for turn in turns]])
    return hashlib.blake2b(said.encode(), digest_size=16).digest()


def _repeated(digests: Sequence[bytes]) -> dict[int, int]:
    first: dict[bytes, int] = {}
    places = [first.setdefault(digest, place) for place, digest in enumerate(digests)]
    return {place: other for place, other in enumerate(places) if place != other}
