"""Ranks that are killed or hang, of every algorithm, and gradients of all objectives by two ranks and by one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOST, STOPPED = 69, 75


def run() -> dict[str, int | float]:
    """Tries all of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-W",
            "error",
            str(ROOT / "tests" / "ranks"),
            folder,
            "gradients",
            "recipes",
            "blows",
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("soak: ranks did not end as they should have")
    found = {name: one for line in done.stdout.splitlines() if line[0] == "{" for name, one in json.loads(line).items()}
    return counted(**found)


def counted(
    gradients: Mapping[str, list[float]], recipes: Mapping[str, Any], blows: Mapping[str, Any]
) -> dict[str, int | float]:
    """The worst of each. What must hold of every one is demanded."""
    struck = list(blows.values())
    assert all(found["leftovers"] == [] for found in struck), "a folder that does not verify was published"
    assert all(all(found["same_bits"]) for found in struck), "a run went on to other bits"
    assert all(found["stopped"] == [STOPPED] * 2 and found["kept"] for found in struck), (
        "they stopped and saved nothing"
    )
    assert all(found["codes"] == [LOST] * 4 for found in struck), "the other rank ended otherwise than it should"
    assert all(one["same_events"] for one in recipes.values()), "two ranks said other things than one"
    return {
        "objectives and online algorithms whose gradients by two ranks and by one were compared": len(gradients),
        "largest difference of them, of the gradient's norm, in 1e-9": round(1e9 * max(map(max, gradients.values()))),
        "recipes whose weights by two ranks and by one were compared": len(recipes),
        "largest difference of them, of the largest weight, in 1e-9": round(
            1e9 * max(one["apart"] for one in recipes.values())
        ),
        "ranks killed": sum(len(found["killed"]) for found in struck),
        "milliseconds until the other was down, at most": round(1000 * max(max(f["killed"]) for f in struck)),
        "ranks stopped": sum(len(found["hung"]) for found in struck),
        "milliseconds from the time-out until all were down, at most": round(
            1000 * max(max(f["hung"]) for f in struck)
        ),
        "ranks asked to stop, after which both stopped at the same step": len(struck),
        "folders that were published and do not verify": 0,
        "runs that two ranks went on with and that ended with other bits": 0,
    }
