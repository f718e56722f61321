"""A row as texts to compare: its messages in one spelling, cut into words and shingles."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence

from truing.records import Completion, Group, Message

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, kana and Han: written without spaces, so that a character stands for a word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def content(message: Message) -> str:
    """What a turn says, tool calls and the like included."""
    if not message.extra:
        return message.content
    return message.content + json.dumps(dict(message.extra), sort_keys=True, ensure_ascii=False, default=str)


def normal(text: str) -> str:
    """One spelling of equal texts: Unicode's NFKC, every run of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def words(text: str) -> list[str]:
    """Words without case and punctuation; each character is one in scripts that do not part words."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def shingles(text: str, width: int) -> list[str]:
    """Every `width` words in a row; a shorter text is one shingle, and one without words is it as it stands."""
    found = words(text)
    if len(found) <= width:
        return [" ".join(found) or normal(text)]
    return [" ".join(found[start : start + width]) for start in range(len(found) - width + 1)]


def by_preference(group: Group) -> list[Completion]:
    """The answers, best first; those of which nobody said which is better stay in order."""
    return sorted(group.completions, key=lambda answer: (answer.rank or 0, -(answer.score or 0.0)))


def messages(group: Group) -> Iterator[Message]:
    """All turns of a row: the prompt's, then those of the answers, best first."""
    yield from group.prompt
    for answer in by_preference(group):
        yield from answer.messages


def question(group: Group) -> Sequence[Message]:
    """The prompt, or the text itself of a row without one."""
    return group.prompt or list(messages(group))


def length(turns: Sequence[Message]) -> int:
    """Characters of some turns."""
    return sum(len(content(message)) for message in turns)
