"""JSON that means one thing only: no double keys, no NaN, no numbers that would be rounded, no bottomless nesting."""

from __future__ import annotations

import json
import re

import orjson

from truing.formats.checks import Json, RowError

MAX_DEPTH = 100
"""Deepest nesting of a row; real rows reach ten, and Python's own stack ends near a thousand."""

# Strings are matched whole, so that what stands inside them is not taken for a key or a number.
_KEY_OR_LONG_INTEGER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|(?<![\d.eE+-])(-?\d{19,})(?![\d.eE])', re.DOTALL)

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels; flatten the row or drop the line"

# What the parser says, in the words of somebody who has to mend the file.
_ADVICE = {
    "surrogate": "a lone surrogate, half of a character; write the character itself",
    "infinity": "a number too large to hold; write it as text or drop the line",
    "end of data": "the row breaks off here; complete it or drop the line",
    "leading zero": "a number with a leading zero is not JSON; write it as text",
    "control character": "a raw control character inside text; write it as an escape such as \\n or \\t",
    "content after": "something follows the end of the row; put one row on a line",
}


def parse(raw: bytes) -> Json:
    """The value of a JSON text; raises RowError that says what is wrong and at which column or byte."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _explained(raw, error) from None
    keys, long_integers = 0, []
    for match in _KEY_OR_LONG_INTEGER.finditer(raw):
        keys += match[1] is not None
        if match[2] is not None:
            long_integers.append(int(match[2]))
    if _count_keys(value, 1) != keys:
        raise RowError(_double_key(raw))
    for integer in long_integers:
        # Beyond 64 bits the parser falls back to floats, which would change the number without a word.
        if not -(2**63) <= integer < 2**64:
            raise RowError(f"the integer {str(integer)[:20]}... needs more than 64 bits; write it as text")
    return value


def parse_text(content: str) -> Json:
    """The value of a JSON text that stands inside another value."""
    return parse(content.encode("utf-8", "surrogatepass"))


def _count_keys(value: Json, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise RowError(_TOO_DEEP)
    if isinstance(value, dict):
        inner = [item for item in value.values() if isinstance(item, (dict, list))]
        return len(value) + sum(_count_keys(item, depth + 1) for item in inner)
    if isinstance(value, list):
        return sum(_count_keys(item, depth + 1) for item in value if isinstance(item, (dict, list)))
    return 0


def _double_key(raw: bytes) -> str:
    """The parser keeps the last of two equal keys and says nothing: find which key it was."""
    doubled: list[str] = []

    def pairs(items: list[tuple[str, Json]]) -> dict[str, Json]:
        seen: dict[str, Json] = {}
        for key, value in items:
            if key in seen:
                doubled.append(key)
            seen[key] = value
        return seen

    json.loads(raw, object_pairs_hook=pairs)
    return f"the key '{doubled[0]}' stands twice in one object; keep one of them"


def _explained(raw: bytes, error: orjson.JSONDecodeError) -> RowError:
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        byte = raw[bad.start]
        return RowError(f"invalid UTF-8 at byte {bad.start + 1} of the row: 0x{byte:02x}; save the file as UTF-8")
    if "\0" in content:
        return RowError(f"a NUL byte at column {content.index(chr(0)) + 1}; the file is damaged here, drop the line")
    if "depth limit" in error.msg:
        return RowError(_TOO_DEEP)
    # A row of an array may run over lines; the column alone would not find the place then.
    place = f"line {error.lineno} of the row, " * (error.lineno > 1) + f"column {error.colno}"
    for name in ("NaN", "Infinity"):
        if content[error.pos :].lstrip("-").startswith(name):
            return RowError(f"{place}: {name} is not JSON; write null or a number")
    for sign, advice in _ADVICE.items():
        if sign in error.msg:
            return RowError(f"{place}: {advice}")
    return RowError(f"{place}: not JSON: {error.msg.split(':')[0]}; fix it or drop the line")
