"""New requests out of old ones (self-instruct, arXiv:2212.10560): how one is asked for, and which of them are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

from truing.curation.texts import words

KEYWORDS = (
    "image", "images", "picture", "pictures", "photo", "graph", "graphs", "diagram", "flowchart", "draw", "plot",
    "file", "files", "map", "audio", "music", "video",
)  # fmt: skip
"""Words of requests for what a language model can neither see nor make."""

EMPTY = "no words"
SHORT = "fewer words than min_words"
LONG = "more words than max_words"
KEYWORD = "a word that keywords forbid"
ALIKE = "too much like a request that is kept"

_HEADING = re.compile(r"\s*[*_#]*\s*request\s*\d*\s*[*_]*:\s*", re.IGNORECASE)
_ENDS = "\"'\u201c\u201d* \n"


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """ROUGE-L's F1 of two texts in words: 2 l / (m + n), with l the words of their longest common subsequence.

    Lin (2004). 1 says the same words in the same order, 0 says none in common, or no words at all.
    """
    return 2 * longest_common(one, other) / (len(one) + len(other)) if one and other else 0.0


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, a whole row of the table of lengths at a time.

    Bit i of `row` is 0 where the length grows at word i of `one` (Hyyro 2004): a step is four operations on integers.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    whole = (1 << len(one)) - 1
    row = whole
    for word in other:
        found = row & places.get(word, 0)
        row = (row + found | row - found) & whole
    return len(one) - row.bit_count()


def instruction_request(examples: Sequence[str]) -> str:
    """Asks for one request more after those that are shown."""
    shown = "\n\n".join(f"Request {number}: {example.strip()}" for number, example in enumerate(examples, 1))
    return f"""Here are {len(examples)} requests that people made to an assistant. They differ in subject and in kind.

{shown}

Write request {len(examples) + 1}: a new one, unlike all of these, that an assistant can fulfil in words alone. Write \
the request and nothing else."""


def instruction_in(reply: str) -> str:
    """The request that a reply holds: without a heading of its own, and without those that a model adds after it."""
    heading = _HEADING.match(reply)
    lines = reply[heading.end() if heading else 0 :].strip().splitlines()
    return "\n".join(takewhile(lambda line: not _HEADING.match(line), lines)).strip(_ENDS)


def refusal(
    text: str,
    kept: Sequence[Sequence[str]],
    *,
    similarity: float,
    min_words: int,
    max_words: int,
    keywords: Sequence[str],
) -> str:
    """Why a request is not kept, or "".

    kept: the requests to differ from, each cut into words. similarity: the ROUGE-L from which two are alike.
    """
    found = words(text)
    if not found:
        return EMPTY
    if len(found) < min_words:
        return SHORT
    if len(found) > max_words:
        return LONG
    if any(_holds(found, words(keyword)) for keyword in keywords):
        return KEYWORD
    return ALIKE if any(rouge_l(found, other) >= similarity for other in kept) else ""


def _holds(text: Sequence[str], some: Sequence[str]) -> bool:
    """Whether a text has these words in a row."""
    width = len(some)
    return any(list(text[start : start + width]) == list(some) for start in range(len(text) - width + 1))
