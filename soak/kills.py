"""SIGKILL at any moment of every algorithm: every run must end to the bit as one that nobody killed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from soak.storage import MEMORY

ROOT = Path(__file__).parent.parent
KILLS = 1000
"""Of each algorithm."""


def run(kills: int = KILLS) -> dict[str, int | float]:
    """Kills all of them, and tries whether the harness notices every mutation of the product."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        command = [sys.executable, "-W", "error", str(ROOT / "tests" / "kills"), folder, str(kills)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("soak: a run that was killed did not end as it should have")
    found = {name: one for line in done.stdout.splitlines() for name, one in json.loads(line).items()}
    return counted(found, found.pop("mutations"))


def counted(found: Mapping[str, Mapping[str, int]], mutations: Mapping[str, str]) -> dict[str, int | float]:
    """How many signals each algorithm got, and where they fell. A kill within two things counts for both."""
    missed = [name for name, said in mutations.items() if not said]
    if missed:
        raise SystemExit(f"soak: the harness does not notice {', '.join(missed)}")
    sums: Counter[str] = Counter({"runs": 0, "runs that ended otherwise than unbroken ones": 0})
    for name, one in found.items():
        signal = "SIGTERMs" if name.endswith("-stopped") else "SIGKILLs"
        sums["runs"] += one["runs"]
        sums[f"{signal} of {name.removesuffix('-stopped')}"] = one["kills"]
    for name, one in found.items():
        signal = "SIGTERMs" if name.endswith("-stopped") else "SIGKILLs"
        sums[f"{signal} in all"] += one["kills"]
        if signal == "SIGKILLs":
            sums.update({f"SIGKILLs in {place}": one[place] for place in sorted(one.keys() - {"runs", "kills"})})
    return {**sums, "mutations of the product that were noticed": len(mutations)}
