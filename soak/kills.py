"""SIGKILL at any moment of every algorithm: every run must end to the bit as one that nobody killed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
KILLS = 1000
"""Of each algorithm."""


def run(kills: int = KILLS) -> dict[str, int | float]:
    """Kills all of them, and tries whether the harness notices every mutation of the product."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "error", str(ROOT / "tests" / "kills"), folder, str(kills)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("soak: a run that was killed did not end as it should have")
    found = {name: one for line in done.stdout.splitlines() for name, one in json.loads(line).items()}
    return counted(found, found.pop("mutations"))


def counted(found: Mapping[str, Mapping[str, int]], mutations: Mapping[str, str]) -> dict[str, int | float]:
    """The line of each algorithm, and how many kills fell where. A kill within two things counts for both."""
    missed = [name for name, said in mutations.items() if not said]
    if missed:
        raise AssertionError(f"the harness does not notice {', '.join(missed)}")
    fell = sum((Counter(one) for one in found.values()), Counter[str]())
    runs, kills = fell.pop("runs"), fell.pop("kills")
    return {
        "runs": runs,
        "runs that ended otherwise than unbroken ones": 0,
        "SIGKILLs": kills,
        **{f"SIGKILLs of {name}": one["kills"] for name, one in found.items()},
        **{f"SIGKILLs in {place}": count for place, count in sorted(fell.items())},
        "mutations of the product that were noticed": len(mutations),
    }
