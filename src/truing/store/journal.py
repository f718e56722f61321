"""A file of JSON lines that only grows, save when a run goes back to an earlier step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from truing.errors import StorageError
from truing.store import disk
from truing.store.files import read_bytes, write_atomic
from truing.store.values import line

Row = dict[str, Any]


class Journal:
    """JSON lines in one file. A line is there as soon as `append` returns, and durable once `sync` does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mend(self) -> None:
        """Cuts off the end that a crash left unfinished, lest the next line be glued to it."""
        if not self.path.exists():
            return
        content = read_bytes(self.path)
        whole = content
        while whole and not _is_whole(whole[whole.rfind(b"\n", 0, -1) + 1 :]):
            whole = whole[: whole.rfind(b"\n", 0, -1) + 1]
        if len(whole) < len(content):
            write_atomic(self.path, whole)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        disk.append(self.path, line(row))

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
            for number, text in enumerate(file, 1):
                if not text.endswith(b"\n"):
                    return
                try:
                    row = json.loads(text)
                except ValueError:
                    raise StorageError(f"{self.path}:{number}: damaged line: mend it, or remove it") from None
                yield text, row


def _is_whole(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return text.endswith(b"\n")
