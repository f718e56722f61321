"""Blocks of bytes to lines, or to the elements of one big JSON array, without holding more than a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from truing.formats.checks import RowError

MAX_ROW = 64 << 20
"""More bytes than this are no row but a file without line breaks."""

Piece = tuple[int, bytes | RowError]
"""The line where it begins, and its bytes; or what is wrong there."""

# A string is matched whole, so that the marks inside it do not count. It ends with its line, since no JSON text may
# hold a line break: one forgotten quote spoils its own line and not all the rest.
_MARK = re.compile(rb'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[\[\]{},"]')


def split_lines(blocks: Iterable[bytes]) -> Iterator[Piece]:
    """Lines without their line feed. Of a line that is too long only a beginning comes, too long itself."""
    number, rest = 1, b""
    try:
        for block in blocks:
            if len(rest) > MAX_ROW and b"\n" not in block:
                continue
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield number, line
                number += 1
    except RowError as damage:
        yield number, damage
    else:
        if rest:
            yield number, rest


def elements(blocks: Iterable[bytes]) -> Iterator[Piece]:
    """The elements of a JSON array, cut out by its brackets and not yet parsed."""
    array = _Array()
    try:
        for block in blocks:
            yield from array.feed(block)
            if len(array.rest) > MAX_ROW:
                yield (
                    array.first_line(array.rest),
                    RowError(f"longer than {MAX_ROW >> 20} MiB; a bracket may be missing here"),
                )
                return
    except RowError as damage:
        yield array.first_line(array.rest), damage
    else:
        yield from array.end()


class _Array:
    """Where the cutting stands.

    rest: bytes that are not cut off yet; scanned: how many of them have been looked at; line: where they begin.
    depth: open brackets, the array's own among them.
    """

    def __init__(self) -> None:
        self.rest = b""
        self.scanned = 0
        self.line = 1
        self.depth = 0
        self.closed = False

    def feed(self, block: bytes) -> Iterator[Piece]:
        """The elements that end in this block."""
        if self.closed:
            self.rest += block.strip()[:1]
            return
        buffer = self.rest + block
        start = 0
        for match in _MARK.finditer(buffer, self.scanned):
            mark = match[0]
            if mark == b'"' and buffer.find(b"\n", match.end()) < 0:
                break  # this string may end in the next block
            self.scanned = match.end()
            if self._ends_element(mark):
                yield from self._cut(buffer[start : match.start()], mark)
                start = match.end()
                self.closed = mark == b"]"
                if self.closed:
                    break
        self.rest = buffer[start:]
        self.scanned -= start

    def _ends_element(self, mark: bytes) -> bool:
        if mark in (b"[", b"{"):
            self.depth += 1
            return self.depth == 1
        if mark in (b"]", b"}") and self.depth > 1:
            self.depth -= 1
            return False
        return self.depth == 1 and mark in (b",", b"]")

    def _cut(self, element: bytes, mark: bytes) -> Iterator[Piece]:
        if element.strip():
            yield self.first_line(element), element
        elif mark == b",":
            yield self.first_line(element), RowError("nothing stands before this comma; remove it")
        self.line += element.count(b"\n")

    def first_line(self, element: bytes) -> int:
        """The line of an element's first sign."""
        blank = len(element) - len(element.lstrip())
        return self.line + element.count(b"\n", 0, blank)

    def end(self) -> Iterator[Piece]:
        """What is left when the file is at its end."""
        if self.closed and self.rest.strip():
            yield self.line, RowError("something follows the end of the array; remove it")
        if self.closed:
            return
        if self.depth == 1 and self.rest.strip():
            yield self.first_line(self.rest), self.rest
        advice = "complete the file, or close the bracket that is open here"
        yield self.first_line(self.rest), RowError(f"the array does not end: {advice}")
