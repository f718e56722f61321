"""Several sources of rows as one, and parts of it that share no dialogue.

What a blend takes and in which order follows from the rows' content, the weights and a seed alone: neither the order of
the sources nor that of the rows in their files plays a part.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Literal

from truing.records import TEXT_ROLE, Group, Message

Among = Literal["stages", "rounds"]
"""Whose parts of the rows share no dialogue."""
_BYTES: dict[Among, slice] = {"stages": slice(8, 14), "rounds": slice(14, 20)}
"""The bytes of a dialogue's hash that say whose it is. Those before them say whether it is held out."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one source gives to a blend, or to a part of it.

    weight: its share of the blend's rows; None: all of its rows once.
    has: its rows that may be trained on. gives: rows of it in the blend. different: of these, how many are not repeats.
    """

    name: str
    file: str
    weight: float | None
    has: int
    gives: int
    different: int

    @property
    def times(self) -> float:
        """How often each of its rows stands in the blend, on average."""
        return self.gives / max(self.different, 1)

    def __str__(self) -> str:
        weight = "" if self.weight is None else f" {100 * self.weight:.3g} %,"
        often = f", each {self.times:.1f} times" if self.gives > self.different else ""
        return f"{self.name}:{weight} {self.different:,} of {self.has:,} rows of {self.file}{often}"


def quotas(total: int, weights: Sequence[float]) -> list[int]:
    """How many of `total` rows each source gives: its share rounded down, and one more where the remainder is largest.

    So each is within one row of its share, and they sum to the total. Of equal remainders the earlier source's counts.
    """
    whole = sum(map(Fraction, weights))
    exact = [total * Fraction(weight) / whole for weight in weights]
    given = [int(share) for share in exact]
    by_remainder = sorted(range(len(given)), key=lambda place: given[place] - exact[place])
    for place in by_remainder[: total - sum(given)]:
        given[place] += 1
    return given


def drawn(groups: Sequence[Group], count: int, seed: int) -> list[Group]:
    """So many rows: all of them once in an order by seed and content, then all again in another order, and so on."""
    names = [group.id for group in groups]
    rows: list[Group] = []
    number = 0
    while len(rows) < count:
        order = sorted(range(len(groups)), key=lambda place: _rank(seed, number, names[place]))
        rows += [groups[place] for place in order[: count - len(rows)]]
        number += 1
    return rows


def interleaved(sources: Sequence[Sequence[Group]]) -> list[Group]:
    """All rows, each source's in its own order and evenly spread, so that every stretch holds the sources' shares."""
    places = [
        ((2 * place + 1) / (2 * len(rows)), number, place)
        for number, rows in enumerate(sources)
        for place in range(len(rows))
    ]
    return [sources[number][place] for _, number, place in sorted(places)]


def bounds(weights: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The part of [0, 1) that each name gets by its weight, in alphabetical order of the names."""
    names = sorted(weights)
    ends = [0.0, *accumulate(weights[name] for name in names)]
    return {name: (low / ends[-1], high / ends[-1]) for name, (low, high) in zip(names, pairwise(ends), strict=True)}


def part(groups: Iterable[Group], low: float, high: float, among: Among = "stages") -> list[Group]:
    """The rows whose dialogues fall between the bounds. Which dialogues are held out, are of one stage and of one round
    have nothing to do with each other.
    """
    own = _BYTES[among]
    return [group for group in groups if low <= int.from_bytes(opening_hash(group)[own], "big") / 2**48 < high]


def within(shares: Iterable[Share], groups: Sequence[Group]) -> list[Share]:
    """What each source gives to these rows, which are a part of its blend."""
    gives = Counter(group.file for group in groups)
    different = Counter(file for file, _ in {(group.file, group.line) for group in groups})
    return [replace(share, gives=gives[share.file], different=different[share.file]) for share in shares]


def repeats(shares: Iterable[Share]) -> list[str]:
    """A sentence on each source whose rows stand more than once in an epoch."""
    return [
        f"data.blend.{share.name}: its {share.different:,} rows give {share.gives:,} rows of an epoch, so each is seen "
        f"{share.times:.1f} times: lower its weight, or set data.rows = {int(share.has / share.weight)} or less"
        for share in shares
        if share.weight and share.gives > share.different
    ]


def is_held_out(group: Group, share: float) -> bool:
    """Decided by how the dialogue begins: order plays no part, and what begins alike stays together."""
    return int.from_bytes(opening_hash(group)[:8], "big") < share * 2**64


def opening(group: Group) -> tuple[Message, ...]:
    """The prompt up to the user's first turn; all of it where it has none.

    In trees of dialogues the answer to one prompt is part of the next prompt: rows that begin alike belong together.
    """
    first = next((place for place, turn in enumerate(group.prompt) if turn.role in ("user", TEXT_ROLE)), None)
    return group.prompt if first is None else group.prompt[: first + 1]


def opening_hash(group: Group) -> bytes:
    """SHA-256 of how the dialogue begins, or of the text where there is no prompt."""
    return _hash(opening(group)) if group.prompt else prompt_hash(group)


def prompt_hash(group: Group) -> bytes:
    """SHA-256 of the prompt, or of the text where there is none."""
    return _hash(group.prompt or [message for answer in group.completions for message in answer.messages])


def _hash(messages: Iterable[Message]) -> bytes:
    """Plain text counts as a turn of the user, so that sources that write one prompt in both ways have it in common."""
    turns = [f"{'user' if m.role == TEXT_ROLE else m.role}\x01{m.content}" for m in messages]
    return hashlib.sha256("\x00".join(turns).encode("utf-8", "surrogatepass")).digest()


def _rank(seed: int, number: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{number}:{name}".encode()).digest()
