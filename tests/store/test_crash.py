"""Whatever interrupts a run - a kill, a full disk, a broken one - its folder is in the old state or in the new one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from store import killing, scenario
from store.faults import FaultyDisk, no_wait, refuse_afterwards, refuse_full
from truing.errors import StorageError
from truing.store import disk, files


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "sync", no_wait)


@pytest.mark.parametrize("start", scenario.STARTS)
def test_killed_at_every_deed(quick_path: Path, start: str) -> None:
    assert harness("nth", start, quick_path) > 50


def test_killed_at_random_moments(quick_path: Path) -> None:
    assert harness("random", 40, quick_path) > 1


@pytest.mark.parametrize("start", scenario.STARTS)
@pytest.mark.parametrize("fault", [refuse_full, refuse_afterwards])
def test_refused_at_every_deed(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None], start: str
) -> None:
    begin, promised = scenario.STARTS[start]
    number, refusals, finished = 0, 0, False
    while not finished:
        number += 1
        path, kept = quick_path / str(number), {}
        begin(path)
        with monkeypatch.context() as patch:
            faulty = FaultyDisk(number, fault).install(patch)
            refusals += is_told(lambda path=path, kept=kept: scenario.play(path, kept.__setitem__), quick_path)
        finished = faulty.count < number
        scenario.check(path, promised | kept)
    assert number > 50
    assert refusals > 0.7 * number  # what is only swept up may fail unheard


def is_told(play: Callable[[], None], folder: Path) -> bool:
    """Whether an error named the path that was refused."""
    try:
        play()
    except StorageError as error:
        return str(folder) in str(error) and error.exit_code == 74
    return False


def rash(staged: Path, target: Path) -> None:
    """Removes the old before the new is in place."""
    files.remove_tree(target)
    files.publish(staged, target)


def in_place(path: Path, data: bytes | str) -> None:
    disk.write(path, data.encode() if isinstance(data, str) else data)


def half_hidden(folder: Path) -> None:
    files.remove_tree(folder)


@pytest.mark.parametrize(
    ("name", "mistake"), [("run.replace", rash), ("journal.write_atomic", in_place), ("run.discard", half_hidden)]
)
def test_the_harness_has_teeth(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mistake: Callable[..., None]
) -> None:
    monkeypatch.setattr(f"truing.store.{name}", mistake)
    with pytest.raises((AssertionError, Warning)):
        killing.killed_at_each("half", quick_path)


def harness(kind: str, how: str | int, folder: Path) -> int:
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, "-W", "error", str(script), kind, str(how), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
