"""`truing run`, whole, on disks that refuse: sound after each refusal, and gone on with to the same bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def counted(part: str, every: int, folder: Path) -> dict[str, int]:
    command = [sys.executable, str(Path(__file__).with_name("real_run.py")), part, str(every), str(folder / "faults")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_no_file_may_grow_beyond_a_size(quick_path: Path) -> None:
    assert counted("limits", 1, quick_path)["sizes beyond which no file may grow"] > 4


def test_a_small_file_system_and_a_read_only_one(quick_path: Path) -> None:
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(quick_path)], check=False)
    if tried.returncode:
        pytest.skip("mounting a file system is not allowed here")
    assert min(counted("mounted", 1, quick_path).values()) > 1


def test_system_calls_that_fail_by_turns(quick_path: Path) -> None:
    """One in twenty; `make soak` has all."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("strace is not installed, or may not trace")
    found = counted("syscalls", 20, quick_path)
    told = found.pop("told with exit code 74")
    assert sum(found.values()) >= 8
    assert told > 0.6 * sum(found.values())
