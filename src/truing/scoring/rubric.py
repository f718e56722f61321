"""The additive rubric of self-rewarding models (arXiv:2401.10020): how a judge is asked for points, and heard.

The judge's last line is `Score: x`. Nothing that it is shown has a line of this form, so nothing that it quotes counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from truing.records import Message
from truing.scoring.requests import UNJUDGED, conversation, defused, fenced
from truing.scoring.score import Score

MARK = "Score"
LOWEST, HIGHEST = 0, 5

RUBRIC = """Count points. Begin at 0 and add one for each of these that is true of the answer:
- It has to do with the request and tells the person something of use, even if much is missing or beside the point.
- It deals with a good part of what was asked, though it may not settle it.
- It gives the essentials of what was asked in a form the person can use, wherever it may have been taken from.
- It is written as an assistant to this person: direct, complete, in good order and helpful, with little to improve.
- It is made for this very request by somebody who knows the matter: nothing is wrong, missing or superfluous."""
"""Each point asks for more than the one before it."""

NO_SCORE = "the judge gave no score"
OFF = "the judge gave a score that is none of the scale"

_STATED = re.compile(
    rf"""
    (?<!\w) {MARK} [*_`\s]* : [*_`\s]*           # its mark, plain or emphasised, and
    ([-+\u2212]? [\d.] [^\s/]*)                  # what begins like a number, with
    (?: \s* (?:/|out\ of) \s* (\S+) )?          # what it is out of, where that is said; or
    ( \s* (?:to|or|and|[-\u2013]) \s* \d )?      # a second number, with which it is none
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_AROUND = "*_`.,;:!?)]}\"'\u201d\u2019"
"""What may follow a number without being part of it."""


def points_request(
    prompt: Sequence[Message],
    answer: str,
    *,
    criteria: str = RUBRIC,
    low: int = LOWEST,
    high: int = HIGHEST,
    principle: str = "",
    reference: str = "",
) -> str:
    """Asks for reasons and then for the points of an answer."""
    return f"""{_shown(prompt, answer, criteria, principle, reference)}

Say why in at most 100 words. Then end with one line of this form, and write nothing after it:
{MARK}: POINTS
POINTS is a number from {low} to {high}."""


def digit_request(
    prompt: Sequence[Message],
    answer: str,
    *,
    criteria: str = RUBRIC,
    low: int = LOWEST,
    high: int = HIGHEST,
    principle: str = "",
    reference: str = "",
) -> str:
    """Asks for the points of an answer as the very next token."""
    return f"""{_shown(prompt, answer, criteria, principle, reference)}

Reply with one digit from {low} to {high} and nothing else. Points:
"""


def points_in(reply: str, low: int = LOWEST, high: int = HIGHEST) -> Score:
    """The last `Score: x` of a reply: 4, 4.5, 4/5 or 4 out of 5, emphasised or not.

    A last one that is off the scale, a range, or out of another number than the highest fails; an earlier one does not
    stand in for it.
    """
    stated = _STATED.findall(reply)
    if not stated:
        return Score.failed(NO_SCORE)
    value, out_of, second = (words.rstrip(_AROUND) for words in stated[-1])
    if second or not _NUMBER.fullmatch(value) or not low <= float(value) <= high:
        return Score.failed(OFF)
    return Score.failed(OFF) if out_of and not _is(out_of, high) else Score.of(float(value))


def _is(words: str, number: int) -> bool:
    return bool(_NUMBER.fullmatch(words)) and float(words) == number


def _shown(prompt: Sequence[Message], answer: str, criteria: str, principle: str, reference: str) -> str:
    """All that a judge is to look at, and by what."""
    guide = (
        f"\n\nAn answer that is known to be right, in other words perhaps:\n{_quoted(reference)}" if reference else ""
    )
    rule = f"\n\nAbove all, judge by this principle: {defused(principle, MARK)}" if principle else ""
    return f"""Judge the answer that an assistant gave to a person.

Request:
{_quoted(conversation(prompt))}{guide}

Answer:
{_quoted(answer)}

{UNJUDGED}

{criteria}{rule}"""


def _quoted(words: str) -> str:
    return fenced(defused(words, MARK))
