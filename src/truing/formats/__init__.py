"""Readers and writers: what other tools call their data, to Groups and back.

    data = open_data("prefs.jsonl")          # data.description: TRL preference, conversational, explicit prompt
    for row in data: ...                     # Group or BadRow, in the order of the file
    groups = read_groups("prefs.jsonl")      # or DataError, which names the bad rows
    write_data(groups, "prefs.parquet", format="sharegpt")

A new format is a function that reads a row, one that writes it, a line in its module, and its module in FORMATS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import orjson

from truing.errors import DataError, did_you_mean
from truing.formats import containers, trl
from truing.formats.alpaca import ALPACA
from truing.formats.checks import BadRow, Json, RowError
from truing.formats.format import AS_READ, Format
from truing.formats.group import GROUP
from truing.formats.hh import HH_RLHF
from truing.formats.ranked import RANKED
from truing.formats.sharegpt import SHAREGPT
from truing.formats.writing import write_rows
from truing.records import TEXT_ROLE, Group

__all__ = [
    "AS_READ",
    "FORMATS",
    "BadRow",
    "Data",
    "Format",
    "content_hash",
    "iter_groups",
    "open_data",
    "read_groups",
    "write_data",
]

FORMATS: Mapping[str, Format] = MappingProxyType(
    {format.name: format for format in (*trl.FORMATS, ALPACA, SHAREGPT, HH_RLHF, RANKED, GROUP)}
)

SAMPLE = 100
"""Rows that are looked at to tell a file's format."""


@dataclass(frozen=True, slots=True)
class Data:
    """A file, or a data set of the hub, and how to read it; may be read any number of times."""

    source: str
    format: str
    description: str

    def __iter__(self) -> Iterator[Group | BadRow]:
        format = FORMATS[self.format]
        for line, row in containers.rows(self.source):
            yield _read(format, row, self.source, line)


def open_data(source: str | Path, *, format: str | None = None) -> Data:
    """Look at the first rows and tell the format, unless it is given; nothing is kept open."""
    source = str(source)
    known = None if format is None else _named(format)
    sample = list(islice(containers.rows(source), SAMPLE))
    if not sample:
        raise DataError(f"{source}: holds no rows; check that it was written to the end")
    good = [(line, row) for line, row in sample if isinstance(row, dict)]
    if not good:
        line, problem = sample[0]
        raise DataError(f"{source}:{line}: {problem}; none of the first {len(sample)} rows can be read")
    found = known or _detected(source, good)
    return Data(source, found.name, _described(found, good))


def read_groups(
    source: str | Path,
    *,
    format: str | None = None,
    max_bad: int = 0,
    limit: int | None = None,
    on_bad: Callable[[BadRow], None] = lambda _: None,
) -> list[Group]:
    """All Groups of a source, or the first `limit`; DataError if more than `max_bad` rows could not be read.

    on_bad: called with every row that is left out.
    """
    return list(iter_groups(open_data(source, format=format), max_bad=max_bad, limit=limit, on_bad=on_bad))


def iter_groups(
    data: Data,
    *,
    max_bad: int = 0,
    limit: int | None = None,
    on_bad: Callable[[BadRow], None] = lambda _: None,
) -> Iterator[Group]:
    """As `read_groups`, one Group after the other; whether too many rows are bad is told after the last."""
    good = bad = 0
    first: list[BadRow] = []
    for row in data:
        if limit is not None and good >= limit:
            break
        if isinstance(row, BadRow):
            bad += 1
            first += [row] if len(first) < 10 else []
            on_bad(row)
        else:
            good += 1
            yield row
    if bad > max_bad:
        shown = "\n  ".join(str(row) for row in first)
        more = f"\n  and {bad - 10} more" if bad > 10 else ""
        advice = f"mend them, or allow them with max_bad = {bad}"
        raise DataError(f"{data.source}: {bad} bad rows, {max_bad} allowed; {advice}:\n  {shown}{more}")


def write_data(groups: Iterable[Group], path: str | Path, *, format: str) -> int:
    """Write Groups in the container that the suffix names; returns how many.

    The file appears when it is complete. DataError names the first row that the format cannot hold, and what of it
    would be lost; nothing is written then.
    """
    layout = _named(format)
    return write_rows((layout.write(group) for group in groups), Path(path))


def content_hash(source: str | Path) -> str:
    """SHA-256 of a file's bytes; of a data set on the hub, of its rows."""
    source = str(source)
    if source.startswith(containers.HUB):
        digest = hashlib.sha256()
        for _, row in containers.rows(source):
            digest.update(str(row).encode() if isinstance(row, RowError) else _canonical(row))
        return digest.hexdigest()
    with containers.reading(source), containers.existing(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(row: dict[str, Json]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _named(format: str) -> Format:
    if format not in FORMATS:
        raise DataError(f"unknown format '{format}'{did_you_mean(format, FORMATS)}")
    return FORMATS[format]


def _read(format: Format, row: dict[str, Json] | RowError, source: str, line: int) -> Group | BadRow:
    if isinstance(row, RowError):
        return BadRow(source, line, row.problem)
    try:
        return format.read(row, source, line)
    except RowError as found:
        return BadRow(source, line, found.problem)


def _detected(source: str, sample: list[tuple[int, dict[str, Json]]]) -> Format:
    """The one format that fits most rows, and more than half of them: a bad row among good ones shall not decide."""
    votes = {name: sum(format.matches(row) for _, row in sample) for name, format in FORMATS.items()}
    most = max(votes.values())
    best = [name for name, count in votes.items() if count == most]
    line, row = sample[0]
    columns = f"a row with the columns {', '.join(row)}"
    if 0 < 2 * most <= len(sample) and len(best) == 1:
        raise _of_no_one_format(source, sample, FORMATS[best[0]], most)
    if 2 * most <= len(sample):
        advice = f"{_near_miss(row)}rename columns, or set format to {_choice(FORMATS)}"
        raise DataError(f"{source}:{line}: no format fits {columns}; {advice}")
    if len(best) > 1:
        raise DataError(f"{source}:{line}: more than one format fits {columns}; set format to {_choice(best)}")
    return FORMATS[best[0]]


def _of_no_one_format(source: str, sample: list[tuple[int, dict[str, Json]]], nearest: Format, fit: int) -> DataError:
    """What the first row lacks that is not of the nearest format, which fits too few to be taken for the file's."""
    line, row = next((line, row) for line, row in sample if not nearest.matches(row))
    read = _read(nearest, row, source, line)
    problem = read.problem if isinstance(read, BadRow) else f"its columns are {', '.join(row)}"
    return DataError(
        f"{source}:{line}: {problem}; {fit} of {len(sample)} rows have the format '{nearest.name}': mend the others, "
        f"or set format to {_choice(FORMATS)}"
    )


def _near_miss(row: dict[str, Json]) -> str:
    """A misspelled column, if one of them is nearly a name that the formats know."""
    for column in row:
        near = get_close_matches(column, _KNOWN, n=1, cutoff=0.8)
        if near and near[0] not in row:
            return f"did you mean '{near[0]}' by '{column}'? "
    return ""


_KNOWN = ("text", "messages", "prompt", "completion", "chosen", "rejected", "label", "instruction", "conversations")


def _choice(names: Iterable[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def _described(format: Format, sample: list[tuple[int, dict[str, Json]]]) -> str:
    """The format's name in full, and whether a chat template will be applied to its rows."""
    for line, row in sample:
        group = _read(format, row, "", line)
        if isinstance(group, Group):
            messages = [*group.prompt, *(message for answer in group.completions for message in answer.messages)]
            style = "standard" if any(message.role == TEXT_ROLE for message in messages) else "conversational"
            name, *detail = format.describe.split(", ", 1)
            return ", ".join([name, style, *detail])
    return format.describe
