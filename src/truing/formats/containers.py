"""Files to rows: JSON lines, JSON arrays, CSV, Parquet and the hub, plain or compressed, a piece at a time.

Every reader yields `(line, row)`. Where a row cannot be had, a Problem stands in its place and reading goes on; where a
file is damaged, the rows before the damage come first. Memory holds a block and a row, never a file.
"""

from __future__ import annotations

import csv
import datetime
import difflib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from truing.errors import DataError, MissingError, StorageError
from truing.formats.checks import Json, Problem, is_number, kind
from truing.formats.strict_json import parse

BLOCK = 1 << 20
COMPRESSED_BLOCK = 1 << 14
"""Small, since a few compressed bytes can hold a thousand times as many."""

MAX_ROW = 64 << 20
"""A row of more bytes is refused: it is a file without line breaks and not a row."""

HUB = "hub:"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")

Line = tuple[int, Json | Problem]

# Cells of these columns are taken as they are; in other columns `7` is a number and `[...]` a list.
CSV_TEXTS = frozenset(
    "prompt completion chosen rejected text instruction input output question context response answer system "
    "system_prompt chosen_response rejected_response".split()
)


def rows(source: str) -> Iterator[Line]:
    """The rows of a file or hub data set, with the line where each begins (or its number, where there are no lines)."""
    if source.startswith(HUB):
        yield from _objects(_hub_rows(source))
        return
    path = existing(source)
    try:
        yield from _objects(_file_rows(path))
    except OSError as error:
        raise StorageError(f"{source}: cannot be read: {error.strerror or error}; check the file and the disk") from None


def existing(source: str) -> Path:
    """The path of a file that is there; otherwise DataError names its nearest neighbours."""
    path = Path(source)
    try:
        if path.is_file():
            return path
        neighbours = sorted(entry.name for entry in (path if path.is_dir() else path.parent).iterdir())
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: no such file: {error}; check the path") from None
    if path.is_dir():
        raise DataError(f"{source}: is a folder; name one of its files: {_listed(neighbours)}")
    near = difflib.get_close_matches(path.name, neighbours, n=3, cutoff=0.6)
    raise DataError(f"{source}: no such file; the folder holds {_listed(near or neighbours)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"


def _objects(lines: Iterable[Line]) -> Iterator[Line]:
    for line, row in lines:
        if isinstance(row, (dict, Problem)):
            yield line, row
        else:
            yield line, Problem(f"expected an object; found {kind(row)}; a row is written {{...}}")


def _file_rows(path: Path) -> Iterator[Line]:
    suffix = next((suffix for suffix in reversed(path.suffixes) if suffix.lower() in SUFFIXES), "").lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    blocks = _from_mark(_blocks(path))
    if suffix == ".csv":
        return _csv_rows(_lines(blocks))
    if suffix == ".json":
        return _json_rows(blocks)
    return _parsed(_lines(blocks))


# Bytes


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes, decompressed; Problem where the compressed stream is damaged."""
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            yield from _decompressed(file, lambda: zlib.decompressobj(wbits=31), zlib.error)
        elif magic == b"\x28\xb5\x2f\xfd":
            zstandard = import_extra("zstandard", "zstd", path)
            yield from _decompressed(file, lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)
        else:
            while block := file.read(BLOCK):
                yield block


def _decompressed(file: BinaryIO, new: Callable[[], _Decompressor], error: type[Exception]) -> Iterator[bytes]:
    stream = new()
    while data := file.read(COMPRESSED_BLOCK):
        while data:
            try:
                block = stream.decompress(data)
            except error:
                raise Problem("the compressed file is damaged here; fetch it again") from None
            if block:
                yield block
            data = b""
            if stream.eof:
                # Files may be joined end to end, and some tools pad them with zeros.
                data, stream = stream.unused_data.lstrip(b"\0"), new()
                padded = not data
    if not padded:
        raise Problem("the compressed file ends too early; the rows before are whole, fetch it again for the rest")


def import_extra(module: str, extra: str, source: object) -> Any:
    """An optional package, or MissingError that says how to get it."""
    try:
        return __import__(module)
    except ImportError:
        raise MissingError(f"{source}: needs the package '{module}': pip install 'truing[{extra}]'") from None


def _from_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks without a byte order mark; UTF-16 is refused by name."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= 3:
            break
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Problem("the file is UTF-16; save it as UTF-8")
    yield head.removeprefix(b"\xef\xbb\xbf")
    yield from blocks


# Lines and arrays


def _lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes | Problem]]:
    number, rest = 1, b""
    try:
        for block in blocks:
            if len(rest) > MAX_ROW and b"\n" not in block:
                continue  # too long already: it will be refused, so it need not be kept
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield number, line
                number += 1
    except Problem as damage:
        yield number, damage
    else:
        if rest:
            yield number, rest


def _parsed(lines: Iterable[tuple[int, bytes | Problem]]) -> Iterator[Line]:
    for number, line in lines:
        if isinstance(line, Problem):
            yield number, line
        elif line and not line.isspace():
            yield number, _row(line)


def _row(raw: bytes) -> Json | Problem:
    if len(raw) > MAX_ROW:
        return Problem(f"longer than {MAX_ROW >> 20} MiB; end each row with a line break, or drop this one")
    try:
        row = parse(raw)
    except Problem as found:
        return found
    if isinstance(row, list):
        return Problem("expected an object; found a list; a JSON array belongs in a file named .json")
    return row


def _json_rows(blocks: Iterator[bytes]) -> Iterator[Line]:
    """A .json file: one array, or one object on a line, as its first sign tells."""
    head = b""
    try:
        for block in blocks:
            head += block
            if not head.isspace():
                break
    except Problem as damage:
        return iter([(1, damage)])
    joined = _joined(head, blocks)
    return _parsed(_elements(joined)) if head.lstrip().startswith(b"[") else _parsed(_lines(joined))


def _joined(head: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from blocks


# A string is matched whole, so that the marks inside it do not count. It ends with its line: no JSON text runs over a
# line break, and so one forgotten quote spoils its own line only.
_MARK = re.compile(rb'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[\[\]{},"]')


class _Array:
    """Cuts a top-level JSON array into its elements, block by block, without parsing them."""

    def __init__(self) -> None:
        self.buffer = b""
        self.line = 1
        self.depth = 0
        self.start = 0
        self.scanned = 0

    def feed(self, block: bytes) -> Iterator[tuple[int, bytes | Problem]]:
        self.buffer = self.buffer[self.start :] + block
        self.scanned -= self.start
        self.start = 0
        for match in _MARK.finditer(self.buffer, self.scanned):
            mark = match[0]
            if mark == b'"' and self.buffer.find(b"\n", match.end()) < 0:
                break  # the string may end in the next block
            self.scanned = match.end()
            if mark in b"[{":
                self.depth += 1
                self.start = match.end() if self.depth == 1 else self.start
            elif mark in b"]}" and self.depth > 1:
                self.depth -= 1
            elif self.depth == 1 and mark in b",]":
                yield from self._cut(match.start(), mark)

    def _cut(self, end: int, mark: bytes) -> Iterator[tuple[int, bytes | Problem]]:
        raise NotImplementedError
