"""JSON that is refused, with the words that say why and where."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from made_rows import SETTINGS, json_values

from truing.formats.checks import RowError
from truing.formats.strict_json import MAX_DEPTH, parse


@SETTINGS
@given(json_values)
def test_what_json_writes_is_read(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'{"a": NaN}', "column 7: NaN is not JSON; write null or a number"),
        (b'{"a": Infinity}', "column 7: Infinity is not JSON; write null or a number"),
        (b'{"a": -Infinity}', "column 8: Infinity is not JSON; write null or a number"),
        (b'{"a": 1, "b": {"a": 2, "a": 3}}', "the key 'a' stands twice in one object; keep one of them"),
        (b'{"a": 1, "\\u0061": 2}', "the key 'a' stands twice in one object; keep one of them"),
        (b'{"a": "\\ud800"}', "column 8: a lone surrogate, half of a character; write the character itself"),
        (b'{"a": "\xff"}', "invalid UTF-8 at byte 8 of the row: 0xff; save the file as UTF-8"),
        (b'{"a": "\xc3"}', "invalid UTF-8 at byte 8 of the row: 0xc3; save the file as UTF-8"),
        (b'{"a": "\0"}', "a NUL byte at column 8; the file is damaged here, drop the line"),
        (b"\0\0\0\0", "a NUL byte at column 1; the file is damaged here, drop the line"),
        (b'{"a": "\t"}', "column 8: a raw control character inside text; write it as an escape"),
        (b'{"a": ' + b"1" * 5000 + b"}", "column 7: a number too large to hold; write it as text or drop the line"),
        (b'{"a": 1e999}', "column 7: a number too large to hold; write it as text or drop the line"),
        (
            b'{"a": 18446744073709551616}',
            "the integer 18446744073709551616... needs more than 64 bits; write it as text",
        ),
        (
            b'{"a": -9223372036854775809}',
            "the integer -9223372036854775809... needs more than 64 bits; write it as text",
        ),
        (b"[" * 100_000, "nested deeper than 100 levels; flatten the row or drop the line"),
        (b"[" * 101 + b"]" * 101, "nested deeper than 100 levels; flatten the row or drop the line"),
        (b'{"a": ' * 101 + b"1" + b"}" * 101, "nested deeper than 100 levels; flatten the row or drop the line"),
        (b'{"a": 1', "column 8: the row breaks off here; complete it or drop the line"),
        (b'{"a": "b', "column 9: the row breaks off here; complete it or drop the line"),
        (b'{"a": 1} {"a": 2}', "column 10: something follows the end of the row; put one row on a line"),
        (b'{"a": 007}', "column 7: a number with a leading zero is not JSON; write it as text"),
        (b'{\n  "a": 1\n  "b": 2}', "line 3 of the row, column 3: not JSON:"),
        (b"{'a': 1}", "column 2: not JSON:"),
        (b'{"a": 1,}', "column 8: not JSON:"),
    ],
)
def test_what_is_refused(raw: bytes, problem: str) -> None:
    with pytest.raises(RowError) as error:
        parse(raw)
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize(
    "value",
    [
        {'a": 1, "a": 2': "a key that looks like two"},
        {"a": 'text with "a": 1, "a": 2 and 99999999999999999999 inside'},
        {"a": [{"b": 1}, {"b": 2}], "b": 3},
        {"a": 2**64 - 1, "b": -(2**63), "c": 0.12345678901234567890, "d": 1e22, "e": "\\", "f": '\\\\"'},
    ],
)
def test_what_only_looks_wrong_is_read(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value


def test_depth_to_the_limit_is_read() -> None:
    raw = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(parse(raw)).encode() == raw
