"""Files to rows: JSON lines, JSON arrays, CSV, Parquet and the hub, plain or compressed, a piece at a time.

Every reader yields `(line, row)`. Where a row cannot be had, a RowError stands in its place and reading goes on; where
a file is damaged, the rows before the damage come first. Memory holds a block and a row, never a file.
"""

from __future__ import annotations

import difflib
import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from truing.errors import DataError, MissingError, StorageError
from truing.formats.checks import Json, RowError, kind
from truing.formats.splitting import MAX_ROW, elements, split_lines
from truing.formats.strict_json import parse
from truing.formats.tables import csv_rows, hub_rows, parquet_rows

BLOCK = 1 << 20
GZIP_BLOCK = 1 << 14
"""Compressed bytes read at once: each can stand for a thousand."""
ZSTD_BLOCK = 1 << 8
"""As many of zstd, of which each can stand for thirty thousand."""
GATHERED = 1 << 16
"""Bytes that are handled at once where less came out."""

HUB = "hub:"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")

Line = tuple[int, Json | RowError]


def rows(source: str) -> Iterator[tuple[int, dict[str, Json] | RowError]]:
    """The rows of a file or hub data set, each with the line where it begins, or its number where nothing has lines."""
    if source.startswith(HUB):
        datasets = import_extra("datasets", "hub", source)
        yield from _objects(hub_rows(datasets, source.removeprefix(HUB)))
        return
    path = existing(source)
    with reading(source):
        yield from _objects(_file_rows(path))


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Say which file it was when the operating system refuses a read."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{source}: cannot be read: {error.strerror or error}; check the file and disk") from None


def existing(source: str) -> Path:
    """The path of a file that is there; otherwise DataError names its nearest neighbours."""
    path = Path(source)
    try:
        if path.is_file():
            return path
        neighbours = sorted(entry.name for entry in (path if path.is_dir() else path.parent).iterdir())
    except (OSError, ValueError):
        raise DataError(f"{source}: no such file, nor can its folder be listed; check the path") from None
    if path.is_dir():
        raise DataError(f"{source}: is a folder; name one of its files: {_listed(neighbours)}")
    near = difflib.get_close_matches(path.name, neighbours, n=3, cutoff=0.6)
    raise DataError(f"{source}: no such file; the folder holds {_listed(near or neighbours)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"


def import_extra(module: str, extra: str, source: object) -> Any:
    """An optional package, or MissingError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        advice = f"pip install 'truing[{extra}]'"
        raise MissingError(f"{source}: needs the package '{module.split('.')[0]}'; {advice}") from None


def _objects(lines: Iterable[Line]) -> Iterator[tuple[int, dict[str, Json] | RowError]]:
    for line, row in lines:
        if isinstance(row, (dict, RowError)):
            yield line, row
        else:
            yield line, RowError(f"expected an object; found {kind(row)}; write the row as {{...}}, an array as .json")


def _file_rows(path: Path) -> Iterator[Line]:
    suffix = next((suffix for suffix in reversed(path.suffixes) if suffix.lower() in SUFFIXES), "").lower()
    if suffix == ".parquet":
        return parquet_rows(import_extra("pyarrow.parquet", "parquet", path), path)
    blocks = _without_mark(_blocks(path))
    if suffix == ".csv":
        return csv_rows(split_lines(blocks))
    if suffix == ".json":
        return _json_rows(blocks)
    return _parsed(split_lines(blocks))


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes, decompressed if its first bytes say so; RowError where the compressed stream is damaged."""
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            yield from _decompressed(file, lambda: zlib.decompressobj(wbits=31), zlib.error, GZIP_BLOCK)
        elif magic == b"\x28\xb5\x2f\xfd":
            zstandard = import_extra("zstandard", "zstd", path)
            new = zstandard.ZstdDecompressor().decompressobj
            yield from _gathered(_decompressed(file, new, zstandard.ZstdError, ZSTD_BLOCK))
        else:
            while block := file.read(BLOCK):
                yield block


def _decompressed(
    file: BinaryIO, new: Callable[[], _Decompressor], error: type[Exception], size: int
) -> Iterator[bytes]:
    stream, complete = new(), True
    while data := file.read(size):
        # Compressed files may be joined end to end, and some tools pad them with zeros.
        while data := data.lstrip(b"\0") if complete else data:
            try:
                block = stream.decompress(data)
            except error:
                raise RowError("the compressed file is damaged here; fetch it again") from None
            if block:
                yield block
            complete = stream.eof
            data, stream = (stream.unused_data, new()) if complete else (b"", stream)
    if not complete:
        raise RowError("the compressed file ends too early; the rows before are whole, fetch it again for the rest")


def _gathered(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks that are worth handling; those before a damage come before it is told."""
    held = bytearray()
    try:
        for block in blocks:
            held += block
            if len(held) >= GATHERED:
                yield bytes(held)
                held.clear()
    except RowError:
        yield bytes(held)
        raise
    yield bytes(held)


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks without a byte order mark; UTF-16 is refused by name."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= 3:
            break
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RowError("the file is UTF-16; save it as UTF-8")
    yield head.removeprefix(b"\xef\xbb\xbf")
    yield from blocks


def _parsed(pieces: Iterable[tuple[int, bytes | RowError]]) -> Iterator[Line]:
    for line, piece in pieces:
        if isinstance(piece, RowError):
            yield line, piece
        elif len(piece) > MAX_ROW:
            yield line, RowError(f"longer than {MAX_ROW >> 20} MiB; end each row with a line break, or drop this one")
        elif piece and not piece.isspace():
            try:
                yield line, parse(piece.lstrip(b"\r\n"))
            except RowError as found:
                yield line, found


def _json_rows(blocks: Iterator[bytes]) -> Iterator[Line]:
    """A .json file is one array, or one object on each line, as its first sign tells."""
    head = b""
    try:
        for block in blocks:
            head += block
            if head.strip():
                break
    except RowError as damage:
        yield 1, damage
        return
    joined = _joined(head, blocks)
    yield from _parsed(elements(joined) if head.lstrip().startswith(b"[") else split_lines(joined))


def _joined(head: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from blocks
