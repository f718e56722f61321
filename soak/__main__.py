"""`python -m soak [PART...]` runs parts, all unless named, and writes down what they counted.

docs/reliability.json keeps it by part, and the table in docs/reliability.md is made from that file alone.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import soak

ROOT = Path(__file__).parent.parent
KEPT, PAGE = ROOT / "docs" / "reliability.json", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- by python -m soak -->", "<!-- to here -->"
PARTS = sorted(module.name for module in pkgutil.iter_modules(soak.__path__) if module.name != "__main__")


def main(names: Sequence[str]) -> None:
    """Runs the parts. A part that fails ends it, and what was known of that part stays as it was."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise SystemExit(f"soak: no part is named {', '.join(unknown)}: there are {', '.join(PARTS)}")
    for name in names or PARTS:
        began = time.monotonic()
        counted = importlib.import_module(f"soak.{name}").run()
        keep(name, counted, time.monotonic() - began)
        print(f"{name}: {counted}", file=sys.stderr, flush=True)


def keep(part: str, counted: Mapping[str, int | float], seconds: float) -> None:
    """Puts what a part counted in the place of what it counted before, into the file and the page."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[part] = {
        "counted": dict(counted),
        "seconds": round(seconds),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} cores, {platform.system()}, torch {version('torch')}",
    }
    KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{table(kept)}{END}{rest.partition(END)[2]}")


def table(kept: Mapping[str, Any]) -> str:
    """What all parts counted, a line each, and when and on what."""
    lines = ["| part | counted | |", "| --- | --- | ---: |"]
    for name, part in sorted(kept.items()):
        lines += [f"| {name} | {what} | {number:,} |" for what, number in part["counted"].items()]
    lines.append("")
    for name, part in sorted(kept.items()):
        lines.append(
            f"{name}: {part['seconds'] / 60:,.0f} minutes, {part['date']}, commit {part['commit']}, {part['machine']}  "
        )
    return "\n".join(lines) + "\n"


def _commit() -> str:
    """The commit that ran, with a plus where files differ from it."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


if __name__ == "__main__":
    main(sys.argv[1:])
