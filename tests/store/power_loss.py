"""A loss of power takes what was not synced: names, contents, or the second half of either. What was synced stays.

A kill leaves all of that standing, so this is where a sync too few, or too late, shows. Every deed of a run on the disk
is written down; then, for each moment, the disks that a loss of power may leave at that moment are made and looked at.

    python power_loss.py FOLDER    prints how many those are
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from store import scenario
from store.faults import HANDS, no_wait
from truing.store import disk

Deed = tuple[Any, ...]
Lost = Callable[[int], bool]
"""Whether a folder loses a change of names since its last sync: 1 is the latest change, 2 the one before it."""

LOSSES: list[Lost] = [
    lambda back: False,
    lambda back: True,
    lambda back: back > 1,
    *(lambda back, place=place: back == place for place in (1, 2, 3)),
]


@dataclass
class File:
    """`synced` survives; of what was written since, a loss of power may leave all, half or nothing."""

    synced: bytes = b""
    written: bytes = b""

    def after_loss(self, share: float) -> bytes:
        if self.written.startswith(self.synced):
            kept = len(self.synced) + round(share * (len(self.written) - len(self.synced)))
            return self.written[:kept]
        return self.written[: round(share * len(self.written))]


@dataclass
class Folder:
    """`synced` are the names that survive; `since` are the changes of names after that, in order."""

    names: dict[str, Any] = field(default_factory=dict)
    synced: dict[str, Any] = field(default_factory=dict)
    since: list[Callable[[dict[str, Any]], Any]] = field(default_factory=list)

    def change(self, change: Callable[[dict[str, Any]], Any]) -> None:
        change(self.names)
        self.since.append(change)

    def add(self, name: str, node: Any) -> None:
        self.change(lambda names: names.__setitem__(name, node))

    def after_loss(self, lost: Lost) -> dict[str, Any]:
        names = dict(self.synced)
        for back, change in zip(range(len(self.since), 0, -1), self.since, strict=True):
            if not lost(back):
                with suppress(KeyError):  # the name to be changed was lost before
                    change(names)
        return names


class Disk:
    """A disk in memory, to which deeds are done that were written down before."""

    def __init__(self) -> None:
        self.root = Folder()

    def find(self, path: Path) -> Any:
        node: Any = self.root
        for name in path.parts:
            node = node.names[name]
        return node

    def do(self, deed: Deed) -> None:
        name, path, *more = deed
        parent = self.find(path.parent)
        if name == "make_folder":
            parent.add(path.name, Folder())
        elif name in ("remove", "remove_folder"):
            parent.change(lambda names: names.pop(path.name, None))
        elif name == "rename":
            parent.change(lambda names: names.__setitem__(more[0].name, names.pop(path.name)))
        elif name == "sync":
            self.sync(self.find(path))
        elif path.name not in parent.names:
            parent.add(path.name, File(written=more[0]))
        else:
            node = parent.names[path.name]
            node.written = more[0] if name == "write" else node.written + more[0]

    def sync(self, node: File | Folder) -> None:
        if isinstance(node, File):
            node.synced = node.written
        else:
            node.synced, node.since = dict(node.names), []

    def after_loss(self, lost: Lost, share: float) -> Iterator[tuple[Path, bytes | None]]:
        """Paths and contents, None for a folder."""

        def walk(folder: Folder, at: Path) -> Iterator[tuple[Path, bytes | None]]:
            for name, node in sorted(folder.after_loss(lost).items()):
                if isinstance(node, File):
                    yield at / name, node.after_loss(share)
                else:
                    yield at / name, None
                    yield from walk(node, at / name)

        return walk(self.root, Path())


def recorded(monkeypatch: pytest.MonkeyPatch, folder: Path, play: Callable[[scenario.Told], None]) -> list[Deed]:
    """What `play` does to the disk, that included which it does with its own hands."""
    deeds: list[Deed] = []
    known: set[Path] = set()

    def discover() -> None:
        for path in sorted(set(folder.rglob("*")) - known):
            if path.name != ".lock":
                content = () if path.is_dir() else (path.read_bytes(),)
                deeds.append(("write" if content else "make_folder", path.relative_to(folder), *content))

    def wrapped(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def deed(*arguments: Any) -> None:
            discover()
            deeds.append((name, *(a.relative_to(folder) if isinstance(a, Path) else a for a in arguments)))
            real(*arguments)
            known.clear()
            known.update(folder.rglob("*"))

        return deed

    with monkeypatch.context() as patch:
        for name in HANDS:
            patch.setattr(disk, name, wrapped(name, getattr(disk, name)))
        play(lambda what, step: deeds.append(("told", what, step)))
    return deeds


def disks_after_loss(deeds: list[Deed]) -> Iterator[tuple[dict[str, int], list[tuple[Path, bytes | None]]]]:
    """What was promised and what is left, for every moment and every way to lose, each once."""
    model, kept, seen = Disk(), dict[str, int](), set()
    for deed in deeds:
        if deed[0] == "told":
            kept[deed[1]] = deed[2]
        else:
            model.do(deed)
        for lost, share in itertools.product(LOSSES, (0.0, 0.5, 1.0)):
            left = list(model.after_loss(lost, share))
            mark = hashlib.sha256(repr((kept, left)).encode()).digest()
            if mark not in seen:
                seen.add(mark)
                yield {what: step for what, step in kept.items() if what != "event"}, left


def make(folder: Path, left: list[tuple[Path, bytes | None]]) -> None:
    folder.mkdir()
    for path, content in left:
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def play_twice(folder: Path, told: scenario.Told) -> None:
    """A run that stops half way and goes on to the end, so that steps are dropped and a checkpoint is replaced."""
    scenario.play_half(folder / "run", told)
    scenario.play(folder / "run", told)


def look(folder: Path, deeds: list[Deed]) -> int:
    number = 0
    for number, (kept, left) in enumerate(disks_after_loss(deeds), 1):
        make(folder / str(number), left)
        scenario.check(folder / str(number) / "run", kept)
    return number


def deeds_of_two_sessions(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Deed]:
    """All that `play_twice` does below this folder, which nobody waits for."""
    monkeypatch.setattr(disk, "sync", no_wait)
    folder.mkdir()
    return recorded(monkeypatch, folder, lambda told: play_twice(folder, told))


if __name__ == "__main__":
    where = Path(sys.argv[1])
    (where / "left").mkdir(parents=True)
    deeds = deeds_of_two_sessions(pytest.MonkeyPatch(), where / "played")
    print(json.dumps({"disks": look(where / "left", deeds)}))
