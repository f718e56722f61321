"""Rows that teach nothing or the wrong thing by their form alone. Each function says of one row whether it is such."""

from __future__ import annotations

import re
from itertools import combinations

from truing.curation.texts import content, length, messages, normal
from truing.records import TEXT_ROLE, Completion, Group

PERIODS = 4
"""Lines of the longest passage whose repetition is found."""
_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")


def equal_answers(group: Group) -> bool:
    """Whether two answers are the same text, and yet one was judged better: `chosen == rejected` among others."""
    said = [(_said(answer), (answer.rank, answer.score, answer.label)) for answer in group.completions]
    return any(one[0] == other[0] and one[1] != other[1] for one, other in combinations(said, 2))


def empty(group: Group) -> bool:
    """Whether the prompt or an answer has turns that say nothing but white space, or there is nothing at all."""
    if not any(content(message).strip() for message in group.prompt) and (group.prompt or not group.completions):
        return True
    return not all(_said(answer) for answer in group.completions)


def broken_unicode(group: Group) -> bool:
    """Whether a character was lost on the way and U+FFFD stands in its place."""
    return any("\ufffd" in content(message) for message in messages(group))


def open_fence(group: Group) -> bool:
    """Whether an answer begins a block of code and does not end it, as one that was cut off does."""
    return any(_is_open(answer.text) for answer in group.completions)


def looping(group: Group, times: int) -> bool:
    """Whether an answer says the same line, or the same passage of some lines, so many times in succession."""
    return any(_loops(answer.text, times) for answer in group.completions)


def prompt_beyond(group: Group, least: int, most: int | None) -> bool:
    """Whether the prompt, if there is one, has fewer or more characters."""
    return bool(group.prompt) and not _within(length(group.prompt), least, most)


def answer_beyond(group: Group, least: int, most: int | None) -> bool:
    """Whether an answer has fewer or more characters."""
    return not all(_within(length(answer.messages), least, most) for answer in group.completions)


def _within(size: int, least: int, most: int | None) -> bool:
    return least <= size and (most is None or size <= most)


def _said(answer: Completion) -> str:
    """The assistant's words and calls, in one spelling."""
    return normal("\n".join(content(m) for m in answer.messages if m.role in ("assistant", TEXT_ROLE)))


def _is_open(text: str) -> bool:
    """Fences as CommonMark has them: the end has at least as many signs as the beginning, and no words behind it."""
    if "```" not in text and "~~~" not in text:
        return False
    fence = ""
    for line in text.splitlines():
        found = _FENCE.match(line)
        if found is None:
            continue
        signs, behind = found.groups()
        if not fence and "`" not in behind:
            fence = signs
        elif fence and signs.startswith(fence) and not behind.strip():
            fence = ""
    return bool(fence)


def _loops(text: str, times: int) -> bool:
    """Lines without words, which tables and brackets are full of, do not count."""
    lines = [line for line in map(str.rstrip, text.splitlines()) if any(map(str.isalnum, line))]
    for period in range(1, min(PERIODS, len(lines) // times) + 1):
        run = 0
        for place in range(period, len(lines)):
            run = run + 1 if lines[place] == lines[place - period] else 0
            if run >= (times - 1) * period:
                return True
    return False
