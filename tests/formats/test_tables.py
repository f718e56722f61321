"""CSV, Parquet and the hub: rows out of columns."""

from __future__ import annotations

import datetime
import gzip
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from truing.errors import DataError, MissingError
from truing.formats import BadRow, containers, content_hash, iter_groups, open_data, read_groups
from truing.records import Group, assistant, user


def rows(path: Path, content: bytes) -> list[tuple[int, Any]]:
    path.write_bytes(content)
    told = containers.rows(str(path))
    return [(line, row if isinstance(row, dict) else row.problem) for line, row in told]


def test_what_cells_mean(tmp_path: Path) -> None:
    content = b"""prompt,label,score,tags,note
7,True,0.5,"[1, 2]",plain
"a ""quoted"", b
two lines",false,,[broken,"[""x""]"
,TRUE,1e3,"{}","\"\"7\"\""
"""
    assert rows(tmp_path / "a.csv", content) == [
        (2, {"prompt": "7", "label": True, "score": 0.5, "tags": [1, 2], "note": "plain"}),
        (3, {"prompt": 'a "quoted", b\ntwo lines', "label": False, "tags": "[broken", "note": ["x"]}),
        (5, {"prompt": "", "label": True, "score": 1000.0, "tags": {}, "note": "7"}),
    ]


def test_a_text_cell_may_hold_turns(tmp_path: Path) -> None:
    turns = '"[{""role"": ""user"", ""content"": ""Hi""}]"'
    (tmp_path / "a.csv").write_text(f'prompt,completion\n{turns},"{{""role"": ""assistant"", ""content"": ""Yes""}}"\n')
    [group] = read_groups(tmp_path / "a.csv")
    assert (group.prompt, group.completions[0].messages) == ((user("Hi"),), (assistant("Yes"),))


@pytest.mark.parametrize("text", ["[1, 2]", '[{"a": 1}]', "{}", "[x]", "true", '"a"'])
def test_a_text_cell_that_looks_like_json_is_text(tmp_path: Path, text: str) -> None:
    doubled = text.replace('"', '""')
    assert rows(tmp_path / "a.csv", f'prompt\n"{doubled}"\n'.encode()) == [(2, {"prompt": text})]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"x", "1 cells under 2 column names; mend the quotes or drop the row"),
        (b"x,y,z", "3 cells under 2 column names; mend the quotes or drop the row"),
        (b"\xe9,x", "prompt: invalid UTF-8: 0xe9; save the file as UTF-8"),
        (b"\0,x", "prompt: a NUL byte; the file is damaged here, drop the row"),
        (b'"a"b,x', "not CSV: ',' expected after '\"'; mend the quotes or drop the row"),
        (b"a\rb,x", "not CSV: new-line character seen in unquoted field"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_bad_row_spoils_itself_only(tmp_path: Path, bad: bytes, problem: str, end: bytes) -> None:
    content = b"\xef\xbb\xbf" + end.join([b"prompt,n", b"1,1", b"", bad, b"2,2", b""])
    first, (line, told), last = rows(tmp_path / "a.csv", content)
    assert (first, last) == ((2, {"prompt": "1", "n": 1}), (5, {"prompt": "2", "n": 2}))
    assert line == 4
    assert told.startswith(problem)


def test_a_quote_that_never_ends(tmp_path: Path) -> None:
    told = rows(tmp_path / "a.csv", b'prompt\n1\n"2\n3\n')
    assert told == [
        (2, {"prompt": "1"}),
        (3, "not CSV: unexpected end of data; mend the quotes or drop the row"),
    ]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"prompt,prompt", "the header has two columns named 'prompt'; rename one of them"),
        (b"\xff,prompt", "the header: invalid UTF-8: 0xff; save the file as UTF-8"),
    ],
)
def test_a_bad_header_ends_the_reading(tmp_path: Path, header: bytes, problem: str) -> None:
    assert rows(tmp_path / "a.csv", header + b"\n1,2\n") == [(1, problem)]


def test_a_long_cell(tmp_path: Path) -> None:
    content = "x" * 1_000_000
    assert rows(tmp_path / "a.csv", f"prompt\n{content}\n".encode()) == [(2, {"prompt": content})]


# Parquet


def write_parquet(path: Path, columns: dict[str, list[Any]], **settings: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **settings)
    return path


def test_parquet_by_row_groups(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": str(i), "name": None}] for i in range(2500)]
    path = write_parquet(tmp_path / "a.parquet", {"prompt": turns, "id": [None, *range(2499)]}, row_group_size=700)
    groups = [group for group in open_data(path) if isinstance(group, Group)]
    assert [group.prompt for group in groups] == [(user(str(i)),) for i in range(2500)]
    assert [group.line for group in groups] == list(range(1, 2501))
    assert [dict(group.extra) for group in groups[:2]] == [{}, {"id": 0}]


def test_dates_become_text_and_the_rest_is_refused_by_name(tmp_path: Path) -> None:
    day = datetime.date(2026, 1, 2)
    path = write_parquet(tmp_path / "a.parquet", {"prompt": ["a"], "day": [day], "raw": [b"x"]})
    told = [(line, getattr(row, "problem", row)) for line, row in containers.rows(str(path))]
    assert told == [(1, "raw: bytes b'x' is not JSON; drop the column or make it text")]
    path = write_parquet(tmp_path / "b.parquet", {"prompt": ["a", "b"], "day": [day, day], "x": [1.5, float("nan")]})
    good, bad = open_data(path)
    assert isinstance(good, Group)
    assert good.extra == {"day": "2026-01-02", "x": 1.5}
    assert str(bad) == f"{path}:2: x: float nan is not JSON; drop the column or make it text"


def test_a_number_that_json_has_not(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"prompt": ["a"], "price": [Decimal("1.5")]})
    with pytest.raises(DataError, match=r"a\.parquet:1: price: Decimal 1\.5 is not JSON"):
        open_data(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 30, b"not parquet"])
def test_a_damaged_parquet_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet:1: not a Parquet file, or damaged: .*; write it again"):
        open_data(tmp_path / "a.parquet")


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub of one data set; the list holds the arguments of every call."""
    calls: list[Any] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[dict[str, Any]]:
        calls.append((name, config, split, streaming))
        if name != "owner/name":
            raise FileNotFoundError("no such data set\nand a long story")
        return iter([{"prompt": "a", "id": None}, {"prompt": "b", "image": object()}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("hub:owner/name", ("owner/name", None, "train", True)),
        ("hub:owner/name:test", ("owner/name", None, "test", True)),
        ("hub:owner/name:english:test", ("owner/name", "english", "test", True)),
    ],
)
def test_a_data_set_of_the_hub(hub: list[Any], source: str, call: tuple[Any, ...]) -> None:
    data = open_data(source)
    good, bad = data
    assert (data.format, hub[-1]) == ("prompt_only", call)
    assert isinstance(good, Group)
    assert (good.file, good.line, good.extra) == (source, 1, {})
    assert isinstance(bad, BadRow)
    assert str(bad).startswith(f"{source}:2: image: object <object object at")
    assert len(content_hash("hub:owner/name")) == 64


def test_a_hub_that_does_not_answer(hub: list[Any]) -> None:
    with pytest.raises(
        DataError, match=r"hub:owner/nome: cannot be read after 0 rows: no such data set; check the name"
    ):
        open_data("hub:owner/nome")
    with pytest.raises(DataError, match="expected hub:owner/name:split"):
        open_data("hub:a:b:c:d")


def test_the_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingError, match=r"hub:a/b: needs the package 'datasets'; pip install 'truing\[hub\]'"):
        open_data("hub:a/b")


def test_a_table_that_breaks_off_gives_its_whole_rows_and_says_where(tmp_path: Path) -> None:
    text = "prompt,completion\n" + "".join(f"q{n},a{n} {n * n * 7919 % 1_000_003}\n" for n in range(500))
    packed = gzip.compress(text.encode(), mtime=0)
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    bad: list[str] = []
    source = open_data(str(tmp_path / "a.csv.gz"))
    found = list(iter_groups(source, max_bad=1, on_bad=lambda row: bad.append(str(row))))
    assert 1 < len(found) < 500
    (told,) = bad
    assert f"a.csv.gz:{len(found) + 2}: the compressed file ends too early" in told
