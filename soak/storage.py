"""Disks that refuse: every system call of a run that writes fails once by ENOSPC and once by EIO, and more.

After each refusal the folder must be sound, the exit code 74 and the path named; the same command must then end with
the bits of a run without faults.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from soak.__main__ import ROOT

MEMORY = Path("/dev/shm")


def run() -> dict[str, int | float]:
    """Faults by kind, and the disks that a loss of power may leave."""
    counted = _power_losses()
    for part in ("syscalls", "limits", "mounted"):
        counted |= _said(["tests/store/real_run.py", part, "1"])
    return {**counted, "runs that lost something or ended otherwise": 0}


def _power_losses() -> dict[str, int | float]:
    return {"disks after a loss of power": _said(["tests/store/power_loss.py"])["disks"]}


def _said(command: list[str]) -> dict[str, int | float]:
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        program = [sys.executable, "-W", "error", str(ROOT / command[0]), *command[1:], f"{folder}/faults"]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr[-3000:]}")
    found: dict[str, int | float] = json.loads(done.stdout)
    return found
