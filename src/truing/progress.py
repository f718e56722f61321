"""What is going on, on stderr: bars on a terminal, else a line every few seconds and a heartbeat when nothing moves."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""
HEARTBEAT_AFTER = 60.0
"""Seconds of silence after which a line says that work goes on."""


class Reporter:
    """Where stages say how far they are. Results never come here: they go to stdout."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False)

    def say(self, message: str) -> None:
        """One line of news."""
        self.console.print(message, markup=False)

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[Task]:
        """A piece of work of `total` parts, of which `done` were done before."""
        if self.console.is_terminal:
            with _bars(self.console) as bars:
                yield _BarTask(bars, what, total, done)
        else:
            task = _LineTask(self.console, what, total, done)
            try:
                yield task
            finally:
                task.end()


class Task:
    """A piece of work under way."""

    def advance(self, done: int, note: str = "") -> None:
        """So many parts are done; `note` is a short word on how it goes."""
        raise NotImplementedError


class _BarTask(Task):
    def __init__(self, bars: Progress, what: str, total: int, done: int) -> None:
        self._bars = bars
        self._id = bars.add_task(what, total=total, completed=done, note="")

    def advance(self, done: int, note: str = "") -> None:
        self._bars.update(self._id, completed=done, note=note)


class _LineTask(Task):
    def __init__(self, console: Console, what: str, total: int, done: int) -> None:
        self._console, self._what, self._total = console, what, total
        self._done, self._note = done, ""
        self._started = self._spoke = time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()
        self._print("started")

    def advance(self, done: int, note: str = "") -> None:
        self._done, self._note = done, note
        if time.monotonic() - self._spoke >= LINE_EVERY:
            self._print(note)

    def end(self) -> None:
        self._ended.set()
        self._print(f"{self._note} after {time.monotonic() - self._started:.0f} s".strip())

    def _print(self, note: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(f"{self._what}: {self._done}/{self._total} {note}", markup=False, soft_wrap=True)

    def _beat(self) -> None:
        while not self._ended.wait(1.0):
            if time.monotonic() - self._spoke >= HEARTBEAT_AFTER:
                self._print(f"still working, {time.monotonic() - self._started:.0f} s")


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
    )
