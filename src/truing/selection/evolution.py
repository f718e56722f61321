"""Variants of a request that ask for more, and of an answer that gives more, round after round (arXiv:2312.15685).

Scored side by side they show a grader what more and better is, at a distance that requests as they come rarely have.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from truing.curation.texts import words
from truing.errors import DataError
from truing.records import Completion, Group, assistant, user
from truing.selection.turns import Turn

Kind = Literal["complexity", "quality"]
"""What grows: the complexity of the request, or the quality of the answer."""

WAYS: dict[Kind, dict[str, str]] = {
    "complexity": {
        "condition": "Add one condition that an answer has to meet, for example on its form, its length, its means or "
        "the people it is for.",
        "depth": "Ask for what lies beneath: causes, consequences, exceptions or how it compares with something else.",
        "particular": "Put something particular where it now speaks in general: a place, a number, a case, a purpose.",
        "steps": "Change it so that nobody can answer at once, and several steps of thought build on one another.",
    },
    "quality": {
        "help": "Make it more useful: say what one can do with it, and answer what would be asked next.",
        "focus": "Keep to what was asked: leave out what does not belong, and put what matters most first.",
        "depth": "Go deeper: give reasons, and name the conditions under which it is otherwise.",
        "ideas": "Find a fresher way to put it: an example, a comparison or a view that does not come to mind at once.",
        "detail": "Be more exact: give names, numbers, steps or examples where it is now vague.",
    },
}
"""The ways to go one step further, each with what it asks of the model that writes."""

EMPTY = "empty"
COPY = "a copy of what it was to better"
EARLIER = "a copy of an earlier variant"
TALK = "talks about the rewriting"

_TEXT = r"(?:request|prompt|instruction|question|answer|response|reply)"
_CHANGED = r"(?:re-?(?:written|phrased|worded|vised|fined)|improved|modified|updated|enhanced|harder|better)"
_TALK = re.compile(
    rf"""
    \A \W* (?: (?:sure|certainly|of\ course|okay|absolutely) \b \W* )? (?:
        here (?:\ is|['’]s) (?:\ [\w-]+){{0,3}}\ (?:
          {_CHANGED} (?:\ [\w-]+)?\  (?:{_TEXT}|version) | {_TEXT}\ that\  (?:asks|is\ (?:harder|better|more))
        ) \b
        | (?:the\ )? {_CHANGED}\  (?:{_TEXT}|version) \b (?= \W* [:\n] | \ (?:is|would|could|might) \b )
        | the\  (?:original|given|earlier|previous)\  {_TEXT} \b
        | (?:the|a)\  (?:user|assistant)\  (?:could|might|would)\  (?:instead\ )?
          (?:ask|write|say|answer|reply | have\  (?:asked|written|said|answered|replied)) \b
    )
    | \b the\  (?:user|assistant)\  (?:wrote|asked|answered|replied) \b
    | \b I (?:\ have|['’]ve)?\  re-?(?:wrote|written|phrased|worded|vised)\  (?:the|this|your)\  {_TEXT} \b
    | \A \s* <<< (?!<)
    | ^ [ \t]* (?:<<<|>>>) [ \t]* $
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
"""Somebody who speaks of the text and does not write it: by how he begins, or by words that hardly belong to another
matter. Or the marks between which the requests put a text, alone on a line: within one they are code."""


class Variant(NamedTuple):
    """A request, or a request with an answer, that came out of a seed.

    seed: names the row that all variants of a chain come from. round: 0 is the seed itself.
    way, parent: which way it went one step further, and from which round's variant; "" and None for the seed.
    """

    kind: Kind
    seed: str
    round: int
    way: str
    parent: int | None
    turn: Turn

    @property
    def text(self) -> str:
        """What grows: the request or the answer."""
        return self.turn.instruction if self.kind == "complexity" else self.turn.answer


def seed_of(kind: Kind, turn: Turn) -> Variant:
    """The first variant of a chain: the turn as it came."""
    own = turn if kind == "quality" else Turn(turn.instruction, "")
    return Variant(kind, _group(own).id, 0, "", None, own)


def grown(parent: Variant, number: int, way: str, text: str) -> Variant:
    """The variant that a model wrote out of another in this round."""
    turn = Turn(text, "") if parent.kind == "complexity" else Turn(parent.turn.instruction, text)
    return Variant(parent.kind, parent.seed, number, way, parent.round, turn)


def way_of(variant: Variant, number: int, seed: int) -> str:
    """The way to go in this round: in an order drawn for the chain, none a second time before each had its turn."""
    ways = sorted(WAYS[variant.kind])
    random.Random(f"{seed}:{variant.kind}:{variant.seed}").shuffle(ways)
    return ways[(number - 1) % len(ways)]


def growth_request(variant: Variant, way: str) -> str:
    """Asks for the variant's text with one step more."""
    step = WAYS[variant.kind][way]
    if variant.kind == "complexity":
        return f"""A user wrote to an assistant:
<<<
{variant.turn.instruction}
>>>

Write what the user could have written instead that is harder to answer well. {step} Stay with the subject, use at \
most 25 words more, and put in everything that an answer needs. Do not answer it. Write nothing but the user's own \
words: no introduction, no quotation marks, no comment."""
    return f"""A user wrote to an assistant:
<<<
{variant.turn.instruction}
>>>

The assistant answered:
<<<
{variant.turn.answer}
>>>

Write what the assistant could have answered that serves the user better. {step} Keep what is right and leave out \
what is wrong. Write nothing but the assistant's own words to the user: no introduction, no comment."""


def degenerate(text: str, chain: Sequence[Variant]) -> str:
    """Why a text is no next variant of the chain, or "". What the person or the seed says already is no talk."""
    parent = chain[-1]
    if not text.strip():
        return EMPTY
    if _same(text) == _same(parent.text):
        return COPY
    if _same(text) in [_same(variant.text) for variant in chain]:
        return EARLIER
    known = {_same(found) for part in (*parent.turn, chain[0].text) for found in _TALK.findall(part)}
    if any(_same(found) not in known for found in _TALK.findall(text)):
        return TALK
    return ""


def to_group(variant: Variant) -> Group:
    """The variant as a row, which says where it comes from."""
    known = {name: value for name, value in variant._asdict().items() if name != "turn" and value not in ("", None)}
    return Group(_group(variant.turn).prompt, _group(variant.turn).completions, extra={"evolution": known})


def from_group(group: Group) -> Variant:
    """The variant that a row is: the inverse of `to_group`. Raises DataError on any other row."""
    known: Any = group.extra.get("evolution")
    told = isinstance(known, dict) and {"kind", "seed", "round"} <= set(known) and known["kind"] in WAYS
    if not told or not group.prompt:
        raise DataError(f"{group.place}: it is no variant of a seed: put a stage 'evolve' before, or name its data")
    turn = Turn(group.prompt[0].content, group.completions[0].text if group.completions else "")
    return Variant(known["kind"], known["seed"], known["round"], known.get("way", ""), known.get("parent"), turn)


def chains(variants: Sequence[Variant]) -> list[list[Variant]]:
    """The variants by the seed and kind they belong to, in the order of their rounds; of equal texts the first."""
    found: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants:
        chain = found.setdefault((variant.seed, variant.kind), [])
        if variant.text not in [other.text for other in chain]:
            chain.append(variant)
    return [sorted(chain, key=lambda variant: variant.round) for chain in found.values()]


def _group(turn: Turn) -> Group:
    return Group((user(turn.instruction),), (Completion((assistant(turn.answer),)),) if turn.answer else ())


def _same(text: str) -> str:
    """Equal for texts that differ in case, spaces and punctuation alone; those without words are themselves."""
    return " ".join(words(text)) or text.strip()
