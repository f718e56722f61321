"""Groups to files of every container, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_rows import ROWS, SETTINGS

from truing.errors import ConfigError, DataError, StorageError
from truing.formats import FORMATS, content_hash, read_groups, write_data
from truing.records import Completion, Group, assistant, comparison, user

PAIRS = [
    comparison(
        (user(f"Is {i} even?"),), Completion((assistant("yes"),)), Completion((assistant('no\r\n, "no"'),)), **row
    )
    for i, row in enumerate([{}, {"strength": 0.5}, {"extra": {"tags": [{"b": 1}], "7": "7", "e": ""}}])
]
NAMES = ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.jsonl.zst"]


def content(groups: list[Group]) -> list[Group]:
    return [replace(group, file=None, line=None) for group in groups]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", ["preference", "sharegpt", "alpaca", "group"])
def test_every_container_gives_the_groups_back(tmp_path: Path, name: str, format: str) -> None:
    path = tmp_path / "new" / "folder" / name
    assert write_data(iter(PAIRS), path, format=format) == 3
    assert content(read_groups(path)) == PAIRS
    assert [entry.name for entry in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_equal_groups_make_equal_files(tmp_path: Path, name: str) -> None:
    for folder in ("x", "y"):
        write_data(PAIRS, tmp_path / folder / name, format="preference")
    assert content_hash(tmp_path / "x" / name) == content_hash(tmp_path / "y" / name)


@settings(SETTINGS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(NAMES), format=st.sampled_from(list(FORMATS)))
def test_any_rows_come_back_or_are_refused_by_number(
    tmp_path: Path, data: st.DataObject, name: str, format: str
) -> None:
    made = data.draw(st.lists(ROWS[format], min_size=1, max_size=3))
    groups = [FORMATS[format].read(row) for row, _ in made]
    try:
        write_data(groups, tmp_path / name, format=format)
    except DataError as refused:
        problem = str(refused)
    else:
        again = read_groups(tmp_path / name, format=format)
        written = [FORMATS[format].write(group) for group in groups]
        rows = [FORMATS[format].write(group) for group in again]
        exact = "json" in name
        assert rows == written if exact else without_nulls(rows, name) == without_nulls(written, name)
        return
    assert "csv" in name or "parquet" in name
    assert problem.startswith(f"{tmp_path / name}: ")
    assert problem.endswith("write .jsonl")


def without_nulls(value: Any, name: str) -> Any:
    """In a table a null column is an absent one; in Parquet a null in a struct, and a struct of nulls, are too."""
    if isinstance(value, list):
        return [without_nulls(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: without_nulls(item, name) if "parquet" in name else item for key, item in value.items()}
    return {key: item for key, item in inner.items() if item is not None and (item != {} or "csv" in name)}


@pytest.mark.parametrize("name", ["a.txt", "a", "a.gz", "a.parquet.gz", "a.jsonl.bz2"])
def test_an_unknown_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"the suffix must be one of \.jsonl, \.ndjson, \.json, \.csv, \.parquet"):
        write_data(PAIRS, tmp_path / name, format="group")


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown format 'sharegtp'; did you mean 'sharegpt'"):
        write_data(PAIRS, tmp_path / "a.jsonl", format="sharegtp")


def test_what_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with pytest.raises(
        DataError, match=r"in\.jsonl:9: the format 'preference' cannot hold this row: completions: it holds two"
    ):
        write_data([*PAIRS, replace(PAIRS[0], completions=(), file="in.jsonl", line=9)], path, format="preference")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_groups_that_fail_themselves_leave_nothing(tmp_path: Path) -> None:
    def groups() -> Iterator[Group]:
        yield PAIRS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_data(groups(), tmp_path / "a.jsonl.gz", format="group")
    assert list(tmp_path.iterdir()) == []


def test_a_refusing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken: a file lies where a folder is to be made: name another folder"):
        write_data(PAIRS, tmp_path / "taken" / "a.jsonl", format="group")

    def full(handle: int, *_: object) -> int:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.jsonl").write_text("old")
    for refused in ("os.write", "os.fsync"):
        monkeypatch.setattr(refused, full)
        with pytest.raises(StorageError, match=r"a\.jsonl: No space left on device .*: free some space"):
            write_data(PAIRS, tmp_path / "a.jsonl", format="group")
        monkeypatch.undo()
        assert (tmp_path / "a.jsonl").read_text() == "old"
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.jsonl", "taken"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_no_groups_make_an_empty_file(tmp_path: Path, name: str) -> None:
    assert write_data([], tmp_path / name, format="group") == 0
    with pytest.raises(DataError, match="holds no rows"):
        read_groups(tmp_path / name)


def test_an_array_is_plain_json(tmp_path: Path) -> None:
    write_data(PAIRS, tmp_path / "a.json", format="preference")
    assert json.loads((tmp_path / "a.json").read_text()) == [FORMATS["preference"].write(pair) for pair in PAIRS]


@pytest.mark.parametrize(
    ("name", "extra", "problem"),
    [
        ("a.csv", [{"prompt": "x"}, {}], None),
        ("a.csv", [{"input": "x"}, {}], "row 2: .csv cannot hold it: input ('') would be added; write .jsonl"),
        ("a.csv", [{"question": ["x"]}], "row 1: .csv cannot hold it: question: a list would become '[\"x\"]'"),
        ("a.csv", [{"input": "a\0b"}], "row 1: .csv cannot hold it: input ("),
        ("a.parquet", [{"x": {}}], "Parquet cannot hold the rows: Cannot write struct type 'x' with no child field"),
        ("a.parquet", [{"id": 1}, {"id": "x"}], "Parquet cannot hold the column 'id'"),
        ("a.parquet", [{"id": 2**64 - 1}, {"id": -1}], "Parquet cannot hold the column 'id'"),
        ("a.parquet", [{"id": [1, None]}, {"id": {}}], "Parquet cannot hold the column 'id'"),
    ],
)
def test_what_a_table_cannot_hold(tmp_path: Path, name: str, extra: list[Any], problem: str | None) -> None:
    groups = [Group((), (Completion((assistant("a"),)),), extra=columns) for columns in extra]
    groups = [replace(group, prompt=(user("Hi"),)) for group in groups]
    if problem is None:
        with pytest.raises(DataError, match="the extra column 'prompt' has the name of one of the format's own"):
            write_data(groups, tmp_path / name, format="prompt_completion")
        return
    with pytest.raises(DataError) as error:
        write_data(groups, tmp_path / name, format="language_modeling")
    assert problem in str(error.value)
