"""Data that mean harm: fuzzed files, bombs and rows without end. Nothing but refusals with file and line, in bounds."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from soak.fuzz import demand_place, fuzz, read_all, streamed
from truing.formats import BadRow, open_data


def test_nothing_but_refusals_comes_of_fuzzed_files(tmp_path: Path) -> None:
    found = fuzz(tmp_path, cases=1500, seed=1)
    assert not found.broken, found.broken[0]
    assert found.kept > 30, "hardly any change reached a new line"
    assert found.lines > 500


def test_the_fuzzer_finds_what_is_wrong(tmp_path: Path) -> None:
    """A reader that breaks on a sign which no seed holds, and on a refusal that says no place."""

    def broken(path: Path) -> None:
        if b"NaN" in path.read_bytes():
            raise KeyError("a bug")
        read_all(path)

    found = fuzz(tmp_path, cases=400, seed=1, read=broken)
    assert {words for _, _, words in found.broken} == {"KeyError: 'a bug'"}
    with pytest.raises(AssertionError, match="no file and line"):
        demand_place("somewhere: it is wrong", tmp_path)
    demand_place(f"{tmp_path}:7: it is wrong", tmp_path)


BOMB = 1 << 28
"""Bytes that a few thousand stand for."""


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.ZstdCompressor(level=19).compress)],
)
@pytest.mark.parametrize("content", [b"x", b'{"prompt": "' + b"[" * 1000 + b'"}\n'], ids=["one row", "many rows"])
def test_a_bomb_is_read_in_bounds(name: str, content: bytes, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    size = BOMB if content == b"x" else BOMB // 8
    (tmp_path / name).write_bytes(pack(content * (size // len(content))))
    assert (tmp_path / name).stat().st_size * 100 < size
    tracemalloc.start()
    good = bad = 0
    if content == b"x":
        (only,) = _rows(tmp_path / name)
        assert isinstance(only, BadRow)
        demand_place(str(only), tmp_path / name)
        assert "longer than 64 MiB" in str(only)
    else:
        for row in open_data(tmp_path / name):
            good, bad = good + (not isinstance(row, BadRow)), bad + isinstance(row, BadRow)
        assert (good, bad) == (size // len(content), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 220 << 20


def _rows(path: Path) -> list[object]:
    from truing.formats import FORMATS, Data

    return list(Data(str(path), next(iter(FORMATS)), ""))


def test_memory_is_of_a_row_and_not_of_the_file(tmp_path: Path) -> None:
    """The process as a whole: what `make soak` does with 5 GB."""
    _, small, few = streamed(tmp_path, 10**7)
    _, large, many = streamed(tmp_path, 10**8)
    assert large >= 8 * small
    assert many < few + 8
    assert many < 300
