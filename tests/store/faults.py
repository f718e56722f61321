"""Disks that fail: each wraps the hands of `truing.store.disk` and acts at the n-th thing they do."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truing.store import disk

HANDS = ("write", "append", "sync", "rename", "remove", "make_folder", "remove_folder")


class FaultyDisk:
    """Counts what is done, and at number `when` does `fault` instead. It is given the deed, its name and arguments."""

    def __init__(self, when: int, fault: Callable[..., None]) -> None:
        self.count = 0
        self.when = when
        self.fault = fault

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
        for name in HANDS:
            monkeypatch.setattr(disk, name, self._wrapped(name, getattr(disk, name)))
        return self

    def _wrapped(self, name: str, deed: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*arguments: Any) -> None:
            self.count += 1
            if self.count == self.when:
                self.fault(deed, name, arguments)
            else:
                deed(*arguments)

        return wrapped


def refuse_full(deed: Callable[..., None], name: str, arguments: tuple[Any, ...]) -> None:
    """A full disk, which takes half of what is written anew."""
    if name == "write":
        deed(arguments[0], arguments[1][: len(arguments[1]) // 2])
    raise disk.refused(arguments[0], OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1)


def refuse_afterwards(deed: Callable[..., None], name: str, arguments: tuple[Any, ...]) -> None:
    """A disk that did it and reports an error all the same. An append is all or nothing, so it is spared."""
    deed(*arguments)
    if name != "append":
        raise disk.refused(arguments[0], OSError(errno.EIO, os.strerror(errno.EIO)))


def die(deed: Callable[..., None], name: str, arguments: tuple[Any, ...]) -> None:
    """Death in the middle: half of what is written or appended stands."""
    if name in ("write", "append"):
        path, data = arguments
        with open(path, "ab" if name == "append" else "wb") as file:
            file.write(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def no_wait(path: Path) -> None:
    """Stands in for `disk.sync` where only the order of deeds counts."""
