"""Files, good and damaged: every good row is found, and every bad one is told with file and line."""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_rows import SETTINGS

from truing.errors import DataError, MissingError, StorageError, TruingError
from truing.formats import BadRow, containers, open_data, read_groups
from truing.records import Group


def prompt(i: int) -> bytes:
    return b'{"prompt": "%d"}' % i


def found(path: Path) -> tuple[list[str], list[str]]:
    """The prompts that were read, and the bad rows in words without the folder."""
    rows = list(open_data(path))
    assert rows == list(open_data(path))
    prompts = [row.prompt[0].content for row in rows if isinstance(row, Group)]
    return prompts, [str(row).removeprefix(f"{path.parent}{os.sep}") for row in rows if isinstance(row, BadRow)]


GOOD = (b'{"prompt": "1"}', b'{"prompt": "2"}')


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"{", "column 2: the row breaks off here"),
        (b'{"prompt": "x"', "column 15: the row breaks off here"),
        (b'{"prompt": "x"}}', "column 16: something follows the end of the row"),
        (b'{"prompt": "\xe9"}', "invalid UTF-8 at byte 13 of the row: 0xe9; save the file as UTF-8"),
        (b'{"prompt": "\x00"}', "a NUL byte at column 13; the file is damaged here"),
        (b"\x00" * 5000, "a NUL byte at column 1; the file is damaged here"),
        (b'{"prompt": "\\udc00"}', "column 13: a lone surrogate"),
        (b'{"prompt": NaN}', "column 12: NaN is not JSON; write null or a number"),
        (b'{"prompt": "x", "n": Infinity}', "column 22: Infinity is not JSON"),
        (b'{"prompt": "x", "n": %s}' % (b"9" * 5000), "column 22: a number too large to hold"),
        (b'{"prompt": "x", "n": 99999999999999999999}', "the integer 99999999999999999999... needs more than 64 bits"),
        (b'{"prompt": %s}' % (b"[" * 100_000), "nested deeper than 100 levels"),
        (b'{"prompt": "x", "prompt": "y"}', "the key 'prompt' stands twice in one object; keep one of them"),
        (b'["prompt", "x"]', "expected an object; found a list;"),
        (b'"prompt"', "expected an object; found text;"),
        (b"null", "expected an object; found null;"),
        (b'{"prompt": 7}', "prompt: expected text or a list of turns; found 7;"),
        (b'{"promt": "x"}', "prompt: this column is missing; add it or drop the line"),
    ],
)
def test_a_bad_line_spoils_itself_only(tmp_path: Path, bad: bytes, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([GOOD[0], b"", bad, GOOD[1], b""]))
    prompts, [told] = found(path)
    assert prompts == ["1", "2"]
    assert told.startswith(f"a.jsonl:3: {problem}")


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b'{"prompt": x}', "column 12: not JSON"),
        (b'{"prompt": "x"}}', "column 16: something follows the end of the row"),
        (b'{"prompt": "x}', "column 15: the row breaks off here"),
        (b'{"prompt": "\xe9"}', "invalid UTF-8 at byte 13 of the row"),
        (b'{"prompt": "x", "prompt": "y"}', "the key 'prompt' stands twice in one object"),
        (b'["prompt", "x"]', "expected an object; found a list;"),
        (b"", "nothing stands before this comma; remove it"),
    ],
)
def test_a_bad_element_spoils_itself_only(tmp_path: Path, bad: bytes, problem: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[\n" + b",\n".join([GOOD[0], bad, GOOD[1]]) + b"\n]")
    prompts, [told] = found(path)
    assert prompts == ["1", "2"]
    assert told.startswith(f"a.json:3: {problem}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.JSONL", "a.txt", "a"])
@pytest.mark.parametrize(
    "content",
    [
        b"\n".join(GOOD),
        b"\xef\xbb\xbf" + b"\n".join(GOOD),
        b"\r\n".join([*GOOD, b""]),
        b"\n \n\t\r\n".join([b"", *GOOD, b""]),
    ],
)
def test_marks_and_line_ends_of_every_system(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert found(tmp_path / name) == (["1", "2"], [])


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b",".join(GOOD) + b"]",
        b"\xef\xbb\xbf [\r\n" + b",\r\n".join(GOOD) + b"\r\n]\r\n",
        json.dumps([json.loads(row) for row in GOOD], indent=4).encode(),
    ],
)
def test_one_array_on_any_number_of_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert found(tmp_path / "a.json") == (["1", "2"], [])


def test_an_element_is_found_on_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[\n {\n  "prompt": "a"\n },\n {\n  "prompt": "b"\n }\n]')
    assert [row.line for row in open_data(tmp_path / "a.json")] == [2, 5]


# Compression

NOISE = random.Random(0)
MANY = b"".join(b'{"prompt": "%d", "noise": "%s"}\n' % (i, NOISE.randbytes(40).hex().encode()) for i in range(3000))


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


compressed = pytest.mark.parametrize("pack", [gzip.compress, zstd])


@compressed
def test_a_compressed_file_needs_no_suffix(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.jsonl"):
        (tmp_path / name).write_bytes(pack(MANY))
        assert found(tmp_path / name) == ([str(i) for i in range(3000)], [])


@compressed
def test_files_joined_end_to_end(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(pack(GOOD[0] + b"\n") + pack(GOOD[1] + b"\n") + b"\0" * 40_000)
    assert found(path) == (["1", "2"], [])


@compressed
def test_a_file_that_was_cut_off_keeps_the_rows_before(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(pack(MANY)[:-2000])
    prompts, [told] = found(path)
    assert 0 < len(prompts) < 3000
    assert prompts == [str(i) for i in range(len(prompts))]
    assert told.startswith(
        f"a.jsonl.gz:{len(prompts) + 1}: the compressed file ends too early; the rows before are whole"
    )


@compressed
def test_a_file_that_is_damaged_keeps_the_rows_before(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = bytearray(pack(MANY))
    content[-5000:-4000] = b"x" * 1000
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    prompts, told = found(tmp_path / "a.jsonl.gz")
    assert len(prompts) > 1000
    assert "the compressed file is damaged here; fetch it again" in told[-1]


def test_a_cut_array_in_a_cut_file(tmp_path: Path) -> None:
    array = b"[" + MANY.strip().replace(b"\n", b",\n") + b"]"
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(array)[:-2000])
    prompts, [told] = found(tmp_path / "a.json.gz")
    assert prompts == [str(i) for i in range(len(prompts))]
    assert told.startswith(f"a.json.gz:{len(prompts) + 1}: the compressed file ends too early")


def test_a_cut_table_in_a_cut_file(tmp_path: Path) -> None:
    table = b"prompt,noise\n" + b"".join(b"%d,%s\n" % (i, NOISE.randbytes(40).hex().encode()) for i in range(3000))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(table)[:-2000])
    prompts, [told] = found(tmp_path / "a.csv.gz")
    assert prompts == [str(i) for i in range(len(prompts))]
    assert told.startswith(f"a.csv.gz:{len(prompts) + 2}: the compressed file ends too early")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_file_that_is_damaged_from_the_start(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"[]")[:12])
    with pytest.raises(DataError, match=r":1: the compressed file ends too early; .*; none of the first 1 rows can be"):
        open_data(tmp_path / name)


# Files that hold nothing, or are none


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=r"a\.\w+(\.gz)?: holds no rows; check that it was written to the end$"):
        open_data(tmp_path / name)


def test_an_empty_array_and_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "a.csv").write_text("prompt,answer\n")
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match="holds no rows"):
            open_data(path)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "prefs.jsonl").touch()
    (tmp_path / "other.csv").touch()
    with pytest.raises(DataError, match=r"pref\.jsonl: no such file; the folder holds prefs\.jsonl$") as error:
        open_data(tmp_path / "pref.jsonl")
    assert error.value.exit_code == 65
    with pytest.raises(DataError, match=r"no such file; the folder holds other\.csv, prefs\.jsonl$"):
        open_data(tmp_path / "zzz")


@pytest.mark.parametrize("name", ["nowhere/a.jsonl", "a\0b", "x" * 300 + ".jsonl"])
def test_a_path_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_data(tmp_path / name)


def test_a_folder_names_its_files(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(DataError, match=r"is a folder; name one of its files: b\.jsonl$"):
        open_data(tmp_path)


def test_utf_16_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"prompt": "a"}\n'.encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.jsonl:1: the file is UTF-16; save it as UTF-8; none of the first 1 rows"):
        open_data(tmp_path / "a.jsonl")


def test_a_refusing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD[0])

    def refuse(self: Path, mode: str) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match=r"a\.jsonl: cannot be read: Permission denied; check the file and disk"):
        open_data(path)


@pytest.mark.parametrize(
    ("name", "content", "module", "extra"),
    [("a.jsonl.zst", zstd(GOOD[0]), "zstandard", "zstd"), ("a.parquet", b"PAR1", "pyarrow.parquet", "parquet")],
)
def test_a_missing_package_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, module: str, extra: str
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingError, match=rf"pip install 'truing\[{extra}\]'"):
        open_data(tmp_path / name)


def test_a_row_without_end_is_refused_and_the_rest_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_ROW", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([GOOD[0], b'{"prompt": "%s"}' % (b"x" * (1 << 20)), GOOD[1]]))
    prompts, [told] = found(tmp_path / "a.jsonl")
    assert prompts == ["1", "2"]
    assert told == "a.jsonl:2: longer than 1 MiB; end each row with a line break, or drop this one"


@settings(SETTINGS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "a.gz"]),
    pieces=st.lists(
        st.sampled_from([*GOOD, b"\n", b"[", b"]", b",", b'"', b"{", b"\xff", b"\0", b"prompt,label", b"\r", b"PAR1"])
        | st.binary(max_size=5),
        max_size=9,
    ),
)
def test_no_bytes_bring_anything_but_our_own_errors(tmp_path: Path, name: str, pieces: list[bytes]) -> None:
    (tmp_path / name).write_bytes(b"".join(pieces))
    try:
        rows = list(open_data(tmp_path / name))
    except TruingError as error:
        assert str(tmp_path / name) in str(error)  # noqa: PT017 (raising is one of two right answers)
    else:
        assert all(row.line and row.file == str(tmp_path / name) for row in rows)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    turn = {"role": "assistant", "content": 'word, "quoted" ' * 4000}
    row = json.dumps({"prompt": [{"role": "user", "content": "Hi"}], "completion": [turn]}).encode()
    count = 60_000_000 // len(row)
    with (tmp_path / name).open("wb") as file:
        file.write(b"[\n" if name == "a.json" else b"")
        for i in range(count):
            file.write(row + (b",\n" if name == "a.json" and i < count - 1 else b"\n"))
        file.write(b"]" if name == "a.json" else b"")
    tracemalloc.start()
    read = sum(isinstance(group, Group) for group in open_data(tmp_path / name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == count
    assert peak < 20_000_000


def test_rows_are_read_as_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(MANY + b"broken")
    assert len(read_groups(path, limit=2500)) == 2500
    with pytest.raises(DataError, match="1 bad rows, 0 allowed"):
        read_groups(path)
