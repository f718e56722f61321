"""Rows out of columns: CSV, Parquet and the hub, and the values that a table can hold.

In a table every row has every column, so a null column is an absent one: it is dropped. Parquet does the same to every
struct, so its structs lose their nulls as well; a CSV cell holds them as JSON.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from truing.errors import DataError
from truing.formats.checks import Json, RowError, holds, is_number
from truing.formats.splitting import MAX_ROW, Piece
from truing.formats.strict_json import MAX_DEPTH, parse_text

# Cells of these columns are text, whatever they look like; in any other column 7 is a number and [7] a list.
CSV_TEXTS = {
    *("text", "prompt", "completion", "chosen", "rejected", "instruction", "input", "output", "system"),
    *("question", "context", "response", "answer", "system_prompt", "chosen_response", "rejected_response"),
}

# How spreadsheets and data frames write what JSON writes in small letters.
_TRUTH = {"True": True, "TRUE": True, "False": False, "FALSE": False}


def csv_rows(lines: Iterable[Piece]) -> Iterator[tuple[int, Json | RowError]]:
    """The rows of a CSV file with a header; a quoted cell may run over several lines."""
    # A setting of the whole module, which has no other: a long answer is longer than its default allows.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
    damage: list[tuple[int, RowError]] = []
    reader = csv.reader(_text_lines(lines, damage), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
            if cells is None:
                break
            if not cells:
                continue
            if header:
                yield line, _csv_row(header, cells)
            else:
                header = _csv_header(cells)
        except csv.Error as error:
            yield line, RowError(f"not CSV: {error}; mend the quotes or drop the row")
        except RowError as found:
            yield line, found
            if not header:
                return
    yield from damage


def _text_lines(lines: Iterable[Piece], damage: list[tuple[int, RowError]]) -> Iterator[str]:
    for number, line in lines:
        if isinstance(line, RowError):
            damage.append((number, line))
            return
        yield line.decode("utf-8", "surrogateescape") + "\n"


def _csv_header(cells: list[str]) -> list[str]:
    double = next((name for name in cells if cells.count(name) > 1), None)
    if double is not None:
        raise RowError(f"the header has two columns named '{double}'; rename one of them")
    return [_clean(name, "the header") for name in cells]


def _csv_row(header: Sequence[str], cells: Sequence[str]) -> dict[str, Json]:
    if len(cells) != len(header):
        raise RowError(f"{len(cells)} cells under {len(header)} column names; mend the quotes or drop the row")
    row = {name: read_cell(name, cell) for name, cell in zip(header, cells, strict=True)}
    return {name: value for name, value in row.items() if value is not None}


def _clean(cell: str, path: str) -> str:
    """The cell, unless its bytes were no text; the decoder hid such bytes as lone surrogates."""
    if "\0" in cell:
        raise RowError("a NUL byte; the file is damaged here, drop the row", path)
    hidden = next((sign for sign in cell if "\ud800" <= sign <= "\udfff"), None)
    if hidden is not None:
        raise RowError(f"invalid UTF-8: 0x{ord(hidden) & 0xFF:02x}; save the file as UTF-8", path)
    return cell


def read_cell(name: str, cell: str) -> Json:
    """What a CSV cell says; None for an empty cell of a column that is not text."""
    cell = _clean(cell, name)
    if name in CSV_TEXTS:
        value = _json_or(cell, cell) if cell.startswith(("[", "{")) else cell
        return value if any(holds(turns, key) for turns in (value, [value]) for key in ("role", "from")) else cell
    return None if cell == "" else _TRUTH.get(cell, _json_or(cell, cell))


def _json_or(cell: str, otherwise: str) -> Json:
    try:
        return parse_text(cell)
    except RowError:
        return otherwise


def parquet_rows(parquet: Any, path: Path) -> Iterator[tuple[int, Json | RowError]]:
    """The rows of a Parquet file, a thousand at a time."""
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _plain_row(row)
    # pyarrow's errors are ValueError, OSError, NotImplementedError and more, as the damage has it.
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        yield number + 1, RowError(f"not a Parquet file, or damaged: {_first_line(error)}; write it again")


def hub_rows(datasets: Any, name: str) -> Iterator[tuple[int, Json | RowError]]:
    """The rows of `owner/name`, `owner/name:split` or `owner/name:config:split` on the hub, streamed."""
    repository, *rest = name.split(":")
    if not repository or len(rest) > 2:
        raise DataError(f"hub:{name}: expected hub:owner/name:split or hub:owner/name:config:split")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    number = 0
    try:
        for row in datasets.load_dataset(repository, config, split=split, streaming=True):
            number += 1
            yield number, _plain_row(row)
    # Whatever a network, a cache and other people's repositories can raise, the user needs the same three facts.
    except Exception as error:
        advice = "check the name, the split and the network"
        raise DataError(f"hub:{name}: cannot be read after {number} rows: {_first_line(error)}; {advice}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _plain_row(row: Any) -> Json | RowError:
    try:
        return plain(row, "")
    except RowError as found:
        return found


def plain(value: Any, path: str, depth: int = 1) -> Json:
    """A table's value as JSON: nulls dropped from objects, dates as ISO text; RowError for what JSON cannot say."""
    if depth > MAX_DEPTH:
        raise RowError(f"nested deeper than {MAX_DEPTH} levels; flatten the column", path)
    if isinstance(value, dict):
        inner = {name: plain(item, f"{path}.{name}" if path else name, depth + 1) for name, item in value.items()}
        return {name: item for name, item in inner.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if value is None or isinstance(value, (str, bool)) or is_number(value):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise RowError(f"{type(value).__name__} {str(value)[:20]} is not JSON; drop the column or make it text", path)
