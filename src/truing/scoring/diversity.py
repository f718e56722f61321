"""How different several answers to one prompt are: pure functions of texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from truing.scoring.rules import WORD

LONGEST = 4
"""The longest n-gram that BLEU counts."""


def words(text: str) -> list[str]:
    """The words that are counted here, in lower case; in scripts without spaces each letter is one."""
    return WORD.findall(text.casefold())


def distinct(texts: Sequence[str], n: int) -> float:
    """The share of different n-grams among all n-grams of the texts (distinct-n, arXiv:1510.03055), from 0 to 1.

    Longer texts repeat more, so it falls with length: compare texts of one length, or read the lengths beside it.
    Texts without any n-gram repeat nothing: 1.
    """
    grams = [gram for text in texts for gram in _grams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def self_bleu(texts: Sequence[str]) -> float:
    """The mean BLEU of each text against all others (arXiv:1802.01886): 0, nothing in common, to 1, all the same."""
    if len(texts) < 2:
        raise ValueError("self-BLEU compares texts with one another: give two or more")
    split = [words(text) for text in texts]
    scores = [bleu(one, [*split[:place], *split[place + 1 :]]) for place, one in enumerate(split)]
    return sum(scores) / len(scores)


def bleu(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU of 1 to 4 words (Papineni et al. 2002) of one text: exp(min(0, 1 - r / c) + mean of log p_n).

    p_n: the share of the candidate's n-grams that stand in a reference, each at most as often as in one of them; from
    two words on both counts are one more (Lin and Och 2004), so that a short text without a common run of four words is
    not nought. c: the candidate's length; r: that of the reference nearest to it, of two the shorter.
    """
    if not candidate:
        return float(any(not reference for reference in references))
    logs = []
    for n in range(1, LONGEST + 1):
        counts = Counter(_grams(candidate, n))
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= Counter(_grams(reference, n))
        more = int(n > 1)
        common, total = (counts & most).total() + more, counts.total() + more
        if common == 0:
            return 0.0
        logs.append(math.log(common / total))
    length = len(candidate)
    nearest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    return math.exp(min(0.0, 1 - nearest / length) + sum(logs) / LONGEST)


def _grams(some: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(some[start : start + n]) for start in range(len(some) - n + 1)]
