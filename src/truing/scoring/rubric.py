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
UNCLEAR = "the judge gave a score that is not one number"
OFF = "the judge gave a score that is none of the scale"

_STATED = re.compile(rf"(?<!\w){MARK}[*_`\s]*:", re.IGNORECASE)
_AROUND = re.compile("[*_`\"'\u201c\u201d\u2018\u2019\\s]+")
"""Emphasis and quotation marks, which say nothing."""
_POINTS = re.compile(
    r"""
    [(\[]* ([-\u2212]?) (\d+ (?:\.\d+)?) [)\]]* (?:\ ?points?\b)?    # a number,
    (?: \ ?[(\[]? (?:/|(?:out\ )?of\b) \ ?                           # what it is out of, if that is said,
        (\d+ (?:\.\d+)?) (?:\ ?points?\b)? [)\]]* )?
    ( (?: \ ?(?: [.,;:!(\[\u2014] | [\u2013-]\  |                    # and a remark, if there is one
        (?:as|because|for|since)\b ) .* )? )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_COUNTS = re.compile(
    r"\b(?:half|zero|one|two|three|four|five|six|seven|eight|nine|ten|hundred|out of)\b", re.IGNORECASE
)


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
    """The last `Score: x` of a reply: 4, 4.5, 4/5 or 4 points (out of 5), emphasised or not, and a remark.

    The rest of its line says nothing else that is a number, or which one is meant would be a guess. Where its line ends
    with the colon, the next one that says anything is the number and no more. A last one that is unclear, off the
    scale, or out of another number than the highest fails; an earlier one does not stand in for it.
    """
    _, *stated = _STATED.split(reply)
    if not stated:
        return Score.failed(NO_SCORE)
    lines = [_AROUND.sub(" ", line).strip() for line in stated[-1].split("\n")]
    line = next(filter(None, lines), "")
    found = _POINTS.fullmatch(line)
    if not found or _has_number(found[4]) or (found[4] and not lines[0]):
        return Score.failed(UNCLEAR if _has_number(line) else NO_SCORE)
    minus, points, out_of, _ = found.groups()
    on_scale = not minus and low <= float(points) <= high and (not out_of or float(out_of) == high)
    return Score.of(float(points)) if on_scale else Score.failed(OFF)


def _has_number(words: str) -> bool:
    """Whether something is counted, in digits or in words."""
    return any(map(str.isnumeric, words)) or bool(_COUNTS.search(words))


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
