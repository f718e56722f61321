"""Files of every format's whole grammar, in every container: they are read as they were meant, or refused by the line.

The files are written here by plain means, and what is in them is told by the grammar (`made_rows`), not by a reader.
"""

from __future__ import annotations

import copy
import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import ROWS, SETTINGS, Made, Row

from truing.formats import AS_READ, FORMATS, BadRow, open_data
from truing.formats.checks import difference, holds
from truing.formats.tables import CSV_TEXTS
from truing.records import Group, from_json, to_json

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.zst")
every_format = pytest.mark.parametrize("name", FORMATS)


@every_format
def test_a_file_is_told_and_read_as_it_was_meant(name: str, tmp_path: Path) -> None:
    """In each container that can hold the rows, of which there is none without some."""
    written: Counter[str] = Counter()

    @settings(SETTINGS, max_examples=30)
    @given(made=st.lists(ROWS[name], min_size=1, max_size=3))
    def read(made: list[Made]) -> None:
        for suffix in SUFFIXES:
            # In CSV a cell is empty or not, so that all rows have the same columns.
            some = [one for one in made if suffix != ".csv" or columns(one.row) == columns(made[0].row)]
            if put([one.row for one in some], tmp_path / f"rows{suffix}"):
                written[suffix] += 1
                demand_meant(some, tmp_path / f"rows{suffix}", name)

    read()
    assert all(written[suffix] for suffix in SUFFIXES), written


def demand_meant(made: Sequence[Made], path: Path, name: str) -> None:
    """The file's format is told, and each row is read from its line as it was meant."""
    data = open_data(path)
    assert data.format == name
    groups = list(data)
    assert [getattr(group, "place", group) for group in groups] == [f"{path}:{line}" for line in lines(path, len(made))]
    for group, (_, meaning) in zip(groups, made, strict=True):
        assert isinstance(group, Group)
        assert difference(as_told(meaning, path.suffix, FORMATS[name].flat), as_told(group, "", True)) is None


@every_format
def test_one_wrong_field_is_refused_by_file_and_line_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    """Of every thing that a format asks for: something of another type in its place, or nothing."""
    path = tmp_path / "rows.jsonl"

    @SETTINGS
    @given(data=st.data())
    def refused(data: st.DataObject) -> None:
        good = data.draw(ROWS[name])
        wounds = [data.draw(st.sampled_from(list(places))) for places in (wrong(good), missing(good, name))]
        bad = [wounded(good.row, *wound) for wound in wounds]
        put([good.row, bad[0], good.row, bad[1], good.row], path)
        found = list(open_data(path, format=name))
        for line, row in enumerate(found, start=1):
            if line % 2:
                assert isinstance(row, Group)
                assert row.place == f"{path}:{line}"
                assert difference(to_json(good.group), as_told(row, "", True)) is None
            else:
                assert isinstance(row, BadRow)
                assert re.fullmatch(rf"{re.escape(str(path))}:{line}: .+", str(row), re.DOTALL)
        assert len(found) == 5
        assert re.match(r"\w+", found[1].problem)[0] in own(good), found[1]  # type: ignore[index,union-attr]

    refused()


# What is written


def put(rows: Sequence[Row], path: Path) -> bool:
    """Writes the rows, unless the container cannot hold them."""
    match path.suffixes:
        case [".parquet"]:
            return _put_parquet(rows, path)
        case [".csv"]:
            return _put_csv(rows, path)
        case [".json", *_]:
            content = json.dumps(rows, indent=1, ensure_ascii=False).encode()
        case _:
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    return True


def _put_csv(rows: Sequence[Row], path: Path) -> bool:
    """Texts as they are in the columns of texts, JSON in all others and for turns."""
    for value in (row[name] for row in rows for name in row if name in CSV_TEXTS):
        if isinstance(value, str) and ("\0" in value or value.startswith(("[", "{"))):
            return False
        turns = value if isinstance(value, list) else [value]
        if not isinstance(value, str | None) and not any(holds(turns, key) for key in ("role", "from")):
            return False
    names = sorted(columns(rows[0]))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            plain = [name in CSV_TEXTS and isinstance(row[name], str) for name in names]
            writer.writerow(
                [row[name] if as_it_is else json.dumps(row[name]) for name, as_it_is in zip(names, plain, strict=True)]
            )
    return True


def _put_parquet(rows: Sequence[Row], path: Path) -> bool:
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        table = pyarrow.table({name: pyarrow.array([row.get(name) for row in rows]) for name in names})
        pyarrow.parquet.write_table(table, path)
    except (pyarrow.ArrowException, TypeError):  # a column of several types, or an object of no fields
        return False
    held = [_without_nulls(row) for row in table.to_pylist()]  # beside 0.0 it turns false into a number
    return difference([_without_nulls(row) for row in rows], held) is None


def columns(row: Row) -> set[str]:
    """Those that are not null."""
    return {name for name, value in row.items() if value is not None}


def lines(path: Path, count: int) -> Iterator[int]:
    """Where each row begins; its number where there are no lines."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        yield from range(1, count + 1)
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(line + "\n" for line in file.read().split("\n"))
            for _ in range(count):
                next(reader)
                yield reader.line_num + 1
    elif ".json" in path.suffixes:
        content = zstandard.ZstdDecompressor().decompress(content) if path.suffix == ".zst" else content
        yield from (number for number, line in enumerate(content.split(b"\n"), 1) if line == b" {")
    else:
        yield from range(1, count + 1)


def as_told(group: Group, suffix: str, flat: bool) -> dict[str, Any]:
    """What a file can say of a Group: in CSV a null column is an absent one, in Parquet a null of an object is."""
    told = to_json(replace(group, extra={name: value for name, value in group.extra.items() if name != AS_READ}))
    if suffix == ".csv" and flat:
        told["extra"] = {name: value for name, value in told.get("extra", {}).items() if value is not None}
    if suffix == ".parquet":
        told = _without_nulls(told)
    return to_json(from_json(told))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(item) for name, item in value.items() if item is not None}


# What is wrong with it

Place = tuple[str | int, ...]
WRONG = {"?": 1}
"""No text, number or list, and no turn, answer or step either."""
ASKED = {
    *("role", "content", "from", "value", "messages", "sampled", "tokens", "logprobs", "finish_reason", "tokenizer"),
    *("policy", "steps", "end", "right", "rank", "score", "label", "source"),
}
"""What formats ask for inside of an object; all else there is kept as it is."""
MAY_BE_MISSING = {
    *("score", "score_chosen", "score_rejected", "margin", "system", "system_prompt", "history", "context"),
    *("ranks", "rank", "ranking", "scores", "sources", "weight", "strength", "label", "source", "sampled", "steps"),
    *("right", "kto_tag"),
}


def own(made: Made) -> Row:
    """The columns that the format asks for."""
    found = {name: value for name, value in made.row.items() if name not in made.group.extra and name != "extra"}
    if not isinstance(found.get("score"), list):
        found.pop("score", None)  # of one answer: where it is no number it is somebody else's
    return found


def wrong(made: Made) -> Iterator[tuple[Place, Any]]:
    """Places of a row, each with what must not stand there."""
    return ((place, WRONG) for name, value in own(made).items() for place in _places(value, (name,)))


def missing(made: Made, name: str) -> Iterator[tuple[Place, Any]]:
    """Places of a row where something must stand."""
    required = {"label", "kto_tag"} if name == "unpaired" else set()
    for place, _ in wrong(made):
        *way, last = place
        holder = _at(made.row, way)
        if last in MAY_BE_MISSING and not (last in required and not way):
            continue
        asked_as_input = last == "input" and {"instruction", "question"} & made.row.keys()
        input_is_asked = last == "instruction" and "input" in made.row  # by its other name
        nothing_but_calls = last == "content" and "tool_calls" in holder
        if isinstance(last, str) and not (asked_as_input or input_is_asked or nothing_but_calls):
            yield place, None


def _places(value: Any, way: Place) -> Iterator[Place]:
    yield way
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _places(item, (*way, i))
    if isinstance(value, dict):
        for name in (name for name in value if name in ASKED):
            yield from _places(value[name], (*way, name))


def wounded(row: Row, place: Place, value: Any) -> Row:
    """The row with this value there; with None for nothing."""
    row = copy.deepcopy(row)
    holder, last = _at(row, place[:-1]), place[-1]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return row


def _at(row: Row, place: Sequence[str | int]) -> Any:
    found: Any = row
    for name in place:
        found = found[name]
    return found
