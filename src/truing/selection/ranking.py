"""Variants of one seed side by side before a judge, who grades them all at once, and what graders learn of that.

Grades of one look are comparable: alone, near relatives tend to get the same one (arXiv:2312.15685).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from string import ascii_uppercase

from truing.records import Completion, Group, assistant, user
from truing.selection.evolution import Variant, to_group
from truing.selection.expectation import GRADES
from truing.selection.turns import DEMAND, WORTH, complexity_request, quality_request

MOST = len(ascii_uppercase)
"""Variants that can be judged together: each has a letter."""
_GRADE = re.compile(
    r"""
    (?<!\w) ([A-Z]) [*_`)\ ]* [:=] [*_`\ ]*      # a letter, and
    ([+-]?\d+(?:\.\d+)?) (?:\ ?/\ ?6)? [*_`.\ ]* # its grade, before
    (?= [|\ ]* $                                # the end of the line or of its cell,
    | [,;|\ ] [|*_`\ ]* [A-Z] [*_`)\ ]* [:=]     # the next letter, or
    | (?:\ +[-–—]\ +|\ *\() [^\W\d_] )           # a remark in words
    """,
    re.MULTILINE | re.VERBOSE,
)
"""A letter and its grade: of a list of numbers, a range or a count of something none is it."""

UNGRADED = "the judge did not grade every variant"
CONTRADICTORY = "the judge gave a variant two grades"
OFF = f"a grade that is none of {GRADES[0]} to {GRADES[-1]}"
UNKNOWN = "a grade for a variant that is not there"


def in_order_of_chance(chain: Sequence[Variant], seed: int) -> list[Variant]:
    """The variants as the judge sees them: in the order of their rounds he would see which is meant to be best."""
    found = list(chain)
    random.Random(f"{seed}:{chain[0].kind}:{chain[0].seed}").shuffle(found)
    return found


def ranking_request(variants: Sequence[Variant]) -> str:
    """Asks for a grade of each variant of one seed, all of them in view."""
    letters = ascii_uppercase[: len(variants)]
    shown = "\n\n".join(f"{letter}:\n<<<\n{one.text}\n>>>" for letter, one in zip(letters, variants, strict=True))
    form = "\n".join(f"{letter}: grade" for letter in letters)
    ask = f"""Compare all {len(variants)} before you grade any, and let the grades show the differences. Reply with \
{len(variants)} lines in this form, and nothing else:
{form}
A grade is one digit: {", ".join(GRADES[:-1])} or {GRADES[-1]}."""
    if variants[0].kind == "complexity":
        return f"How demanding is each of these requests to an assistant? {DEMAND}\n\n{shown}\n\n{ask}"
    request = f"Request:\n<<<\n{variants[0].turn.instruction}\n>>>"
    return f"How good is each of these answers to the request? {WORTH}\n\n{request}\n\n{shown}\n\n{ask}"


def grades_in(reply: str, count: int) -> list[int] | str:
    """The grades of so many variants in the order in which they were shown, or why the reply has none that hold.

    A reply counts whole or not at all: its grades are of one scale, and what it says wrongly casts doubt on the rest.
    Lines may end as on any system, and 3.0 is 3.
    """
    found: dict[str, str] = {}
    for letter, value in _GRADE.findall("\n".join(reply.splitlines())):
        value = re.sub(r"\.0+$", "", value)
        if found.setdefault(letter, value) != value:
            return CONTRADICTORY
    letters = ascii_uppercase[:count]
    if not set(letters) <= set(found):
        return UNGRADED
    if set(found) - set(letters):
        return UNKNOWN
    if any(found[letter] not in GRADES for letter in letters):
        return OFF
    return [int(found[letter]) for letter in letters]


def lesson(variant: Variant, grade: int) -> Group:
    """What a grader learns of a variant: to answer the very request that it will be read on, with the digit."""
    request = complexity_request if variant.kind == "complexity" else quality_request
    answer = Completion((assistant(GRADES[grade - 1]),))
    return Group((user(request(variant.turn)),), (answer,), extra=to_group(variant).extra)
