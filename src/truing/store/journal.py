"""A file of JSON lines that only grows, save when a run goes back to an earlier step.

Every line ends in the CRC-32 of what stands before it, so that a flipped bit is seen and not read as another number.
"""

from __future__ import annotations

import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from truing.errors import StorageError
from truing.store import disk
from truing.store.files import StoreWarning, read_bytes, write_atomic
from truing.store.values import line

Row = dict[str, Any]

_SEAL = re.compile(rb'(?:, )?"crc": "[0-9a-f]{8}"\}')


class Journal:
    """JSON lines in one file. A line is there as soon as `append` returns, and durable once `sync` does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mend(self) -> None:
        """Cuts off the end that a crash left unfinished, lest the next line be glued to it."""
        if not self.path.exists():
            return
        lines = read_bytes(self.path).split(b"\n")
        torn, whole = lines.pop(), [text + b"\n" for text in lines]
        count = len(whole)
        while whole and not _is_whole(whole[-1]):
            whole.pop()
        if len(whole) < count or not _is_torn(torn):
            damage = f"{self.path}: damaged from line {len(whole) + 1} to its end"
            warnings.warn(StoreWarning(damage, "the rest of it is cut off"), stacklevel=2)
        unsealed = bool(whole) and not any(map(_SEAL.search, whole))  # written before lines had a CRC
        if torn or unsealed or len(whole) < count:
            write_atomic(self.path, b"".join(map(_sealed, whole) if unsealed else whole))

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        disk.append(self.path, _sealed(line(row)))

    def sync(self) -> None:
        """Waits until all rows would survive a loss of power."""
        if self.path.exists():
            disk.sync(self.path)
            disk.sync(self.path.parent)

    def rows(self) -> Iterator[Row]:
        """All rows in order; a last one that a crash left unfinished is left out."""
        for _, row in self._lines():
            yield row

    def drop(self, unwanted: Callable[[Row], bool]) -> None:
        """Takes out some rows, all of them or none."""
        lines = list(self._lines())
        kept = [text for text, row in lines if not unwanted(row)]
        if len(kept) < len(lines):
            write_atomic(self.path, b"".join(kept))

    def _lines(self) -> Iterator[tuple[bytes, Row]]:
        if not self.path.exists():
            return
        with disk.storage_errors(self.path), open(self.path, "rb") as file:
            sealed: bool | None = None
            for number, text in enumerate(file, 1):
                if _is_torn(text):
                    return
                # A file in which some lines have lost their CRC is not one that was written before there were any.
                sealed = sealed if number > 1 else bool(_SEAL.search(text))
                if not _is_whole(text) or sealed != bool(_SEAL.search(text)):
                    raise StorageError(f"{self.path}:{number}: damaged line: remove it, if the run can do without")
                row = json.loads(text)
                row.pop("crc", None)
                yield text, row


def _sealed(text: bytes) -> bytes:
    """A line of JSON with the CRC-32 of all of it but its end."""
    body = text.removesuffix(b"}\n")
    return b'%s%s"crc": "%08x"}\n' % (body, b"" if body == b"{" else b", ", zlib.crc32(body))


def _is_torn(text: bytes) -> bool:
    """Whether this is what a crash left of a last line: it lacks its end, and has nothing else in its place."""
    seal = _SEAL.search(text)
    return not text.endswith(b"\n") and (seal is None or seal.end() == len(text))


def _is_whole(text: bytes) -> bool:
    """Whether a line is what was written."""
    seal = _SEAL.search(text)
    if seal is not None:
        return _sealed(text[: seal.start()] + b"}\n") == text
    try:
        json.loads(text)
    except ValueError:
        return False
    return text.endswith(b"\n")
