"""Lines and array elements, cut the same wherever the blocks happen to end."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import SETTINGS, json_values

from truing.formats import splitting
from truing.formats.checks import RowError
from truing.formats.splitting import Piece, elements, split_lines


def blocks(content: bytes, size: int) -> Iterator[bytes]:
    return (content[i : i + size] for i in range(0, len(content), size))


def told(pieces: Iterator[Piece]) -> list[tuple[int, bytes | str]]:
    return [(line, piece if isinstance(piece, bytes) else piece.problem) for line, piece in pieces]


@SETTINGS
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"))), st.integers(1, 9))
def test_lines_in_blocks_of_any_size(lines: list[str], size: int) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    assert told(split_lines(blocks(content, size))) == [(i + 1, line.encode()) for i, line in enumerate(lines)]


@SETTINGS
@given(st.lists(json_values), st.integers(1, 9), st.sampled_from([None, 0, 2]))
def test_elements_in_blocks_of_any_size(values: list[object], size: int, indent: int | None) -> None:
    content = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    found = list(elements(blocks(content, size)))
    assert [json.loads(piece) for _, piece in found if isinstance(piece, bytes)] == values
    lines = content.decode().split("\n")
    for line, piece in found:
        assert isinstance(piece, bytes)
        assert piece.strip().split(b"\n")[0].decode() in lines[line - 1]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[]", []),
        (b" [ 1 ,\n\n 2 ] ", [(1, b" 1 "), (3, b"\n\n 2 ")]),
        (b"[1,2,]", [(1, b"1"), (1, b"2")]),
        (b"[1,,2]", [(1, b"1"), (1, "nothing stands before this comma; remove it"), (1, b"2")]),
        (b"[1]\n[2]", [(1, b"1"), (1, "something follows the end of the array; remove it")]),
        (b'[{"a": "]}"},\n{"b": 1}}, 3]', [(1, b'{"a": "]}"}'), (2, b'\n{"b": 1}}'), (2, b" 3")]),
        (b'[{"a": "open},\n{"b": 1}]', [(1, b'{"a": "open}'), (2, b'\n{"b": 1}')]),
    ],
)
def test_arrays_that_are_odd(content: bytes, expected: list[tuple[int, bytes | str]], size: int) -> None:
    assert told(elements(blocks(content, size))) == expected


CUT = "the array does not end: complete the file, or close the bracket that is open here"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[1,\n2", [(1, b"1"), (2, b"\n2"), (2, CUT)]),
        (b"[1,\n", [(1, b"1"), (2, CUT)]),
        (b'[1,\n{"a": [2', [(1, b"1"), (2, CUT)]),
        (b'[1,\n"a', [(1, b"1"), (2, b'\n"a'), (2, CUT)]),
    ],
)
def test_arrays_that_break_off(content: bytes, expected: list[tuple[int, bytes | str]], size: int) -> None:
    assert told(elements(blocks(content, size))) == expected


@pytest.mark.parametrize("split", [split_lines, elements])
def test_what_comes_before_damage_is_kept(split: object) -> None:
    def damaged() -> Iterator[bytes]:
        yield b"[1,\n2,\n3"
        raise RowError("damaged")

    found = told(split(damaged()))  # type: ignore[operator]
    assert found[-1] == (3, "damaged")
    assert [piece for _, piece in found[:-1] if isinstance(piece, bytes)][-1].strip().rstrip(b",") == b"2"


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "MAX_ROW", 10)
    found = list(split_lines([b"a\n", *[b"x" * 6] * 1000, b"x\nb\n"]))
    assert [line for line, _ in found] == [1, 2, 3]
    assert found[0][1] == b"a"
    assert 10 < len(found[1][1]) < 30  # type: ignore[arg-type]
    assert found[2][1] == b"b"


def test_an_element_without_end_stops_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "MAX_ROW", 10)
    found = told(elements([b"[1,\n", *[b'{"a": '] * 1000]))
    assert found == [(1, b"1"), (2, "longer than 0 MiB; a bracket may be missing here")]
