"""Rows to files: staged beside the target and renamed, so that a reader sees the old file or the whole new one."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from truing.errors import ConfigError, DataError
from truing.formats.checks import Json, RowError, difference
from truing.formats.containers import SUFFIXES, import_extra
from truing.formats.tables import CSV_TEXTS, plain, read_cell
from truing.store.files import atomic_file

Rows = Iterable[dict[str, Json]]


def write_rows(rows: Rows, path: Path) -> int:
    """Write the rows in the container that the suffix names; returns how many there were."""
    compression = path.suffix.lower() if path.suffix.lower() in (".gz", ".zst") else ""
    suffix = path.with_suffix("").suffix.lower() if compression else path.suffix.lower()
    if suffix not in _WRITERS or (suffix == ".parquet" and compression):
        known = ", ".join(SUFFIXES)
        raise ConfigError(f"{path}: the suffix must be one of {known}; all but .parquet may have .gz or .zst after it")
    with atomic_file(path) as file, _compressed(file, compression, path) as stream:
        return _WRITERS[suffix](rows, stream, path)


@contextmanager
def _compressed(file: BinaryIO, suffix: str, path: Path) -> Iterator[BinaryIO]:
    if suffix == ".gz":
        # No name and no time in the header: equal rows make equal files.
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as stream:
            yield cast(BinaryIO, stream)
    elif suffix == ".zst":
        zstandard = import_extra("zstandard", "zstd", path)
        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as stream:
            yield stream
    else:
        yield file


def _write_jsonl(rows: Rows, stream: BinaryIO, path: Path) -> int:
    count = 0
    for row in rows:
        stream.write(orjson.dumps(row) + b"\n")
        count += 1
    return count


def _write_json(rows: Rows, stream: BinaryIO, path: Path) -> int:
    count = 0
    for row in rows:
        stream.write((b",\n" if count else b"[\n") + orjson.dumps(row))
        count += 1
    stream.write(b"\n]\n" if count else b"[]\n")
    return count


def _write_csv(rows: Rows, stream: BinaryIO, path: Path) -> int:
    table = [_without_absent(row) for row in rows]
    names = _column_names(table)
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    for i, row in enumerate(table):
        cells = [_write_cell(name, row[name]) if name in row else "" for name in names]
        again = {name: _read_back(name, cell) for name, cell in zip(names, cells, strict=True)}
        _check_row(i, row, _without_absent(again), path)
        writer.writerow(cells)
    text.detach()
    return len(table)


def _write_cell(name: str, value: Json) -> str:
    if isinstance(value, str) and (name in CSV_TEXTS or _read_back(name, value) == value):
        return value
    return orjson.dumps(value).decode()


def _read_back(name: str, cell: str) -> Json:
    try:
        return read_cell(name, cell)
    except RowError:
        return None


def _write_parquet(rows: Rows, stream: BinaryIO, path: Path) -> int:
    pyarrow = import_extra("pyarrow", "parquet", path)
    parquet = import_extra("pyarrow.parquet", "parquet", path)
    table = [_without_nulls(row) for row in rows]
    columns = {}
    for name in _column_names(table):
        try:
            columns[name] = pyarrow.array([row.get(name) for row in table])
        except _ARROW_REFUSES as error:
            advice = "give the column one type, or write .jsonl"
            raise DataError(f"{path}: Parquet cannot hold the column '{name}': {error}; {advice}") from None
    arrow = pyarrow.table(columns)
    for i, (row, again) in enumerate(zip(table, arrow.to_pylist(), strict=True)):
        _check_row(i, row, _without_nulls(again), path)
    try:
        parquet.write_table(arrow, stream, row_group_size=10_000)
    except _ARROW_REFUSES as error:
        raise DataError(f"{path}: Parquet cannot hold the rows: {error}; write .jsonl") from None
    return len(table)


_ARROW_REFUSES = (ArithmeticError, NotImplementedError, TypeError, ValueError)


def _column_names(table: list[dict[str, Json]]) -> list[str]:
    return list(dict.fromkeys(name for row in table for name in row))


def _without_absent(row: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in row.items() if value is not None}


def _without_nulls(row: dict[str, Json]) -> dict[str, Json]:
    kept: dict[str, Json] = plain(row, "")
    return kept


def _check_row(index: int, row: dict[str, Json], again: dict[str, Json], path: Path) -> None:
    lost = difference(row, again)
    if lost is not None:
        raise DataError(f"{path}: row {index + 1}: {path.suffix} cannot hold it: {lost}; write .jsonl")


_WRITERS: dict[str, Callable[[Rows, BinaryIO, Path], int]] = {
    ".jsonl": _write_jsonl,
    ".ndjson": _write_jsonl,
    ".json": _write_json,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
