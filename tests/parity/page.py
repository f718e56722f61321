"""`python -m parity.page FILE` measures every case, prints the page docs/parity.md and writes it to FILE."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from parity.cases import CASES, NO_COUNTERPART, THEIRS_ALONE, Case
from truing.models.quiet import quiet_libraries

INTRODUCTION = """# Truing and TRL

Each line is one optimizer step of Truing, from rows through rendering, several forests, the engine and the stage, and
the same step of TRL 1.16's own trainer: same weights, reference and rows, fp32 on CPU. `make parity` measures it anew
and writes this page; the tests hold every loss to 1e-5, and the gradient of every weight to a relative 1e-4 in norm.
Reward models, whose head's weight is compared as well, are held to 1e-6 and 1e-5.
"""
HEAD = """
| Truing | TRL | difference of the loss | largest relative difference of a gradient | where they differ on purpose |
| --- | --- | --- | --- | --- |
"""


def text(measured: Iterable[tuple[float, float]]) -> str:
    """The page, given the differences of every case."""
    lines = [_line(case, *found) for case, found in zip(CASES, measured, strict=True)]
    missing = [f"- `{name}`: {why}" for name, why in NO_COUNTERPART.items()]
    theirs = [f"- {what}" for what in THEIRS_ALONE]
    return "\n".join(
        [
            INTRODUCTION + HEAD + "\n".join(lines),
            "\n## What TRL does not have\n",
            *missing,
            "\n## What Truing does not have\n",
            *theirs,
            "",
        ]
    )


def main(target: Path) -> None:
    """Measures, prints and writes."""
    import datasets

    from parity import compare

    logging.getLogger("trl").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        os.environ["TRUING_CACHE"] = f"{name}/cache"
        with quiet_libraries():
            page = text([compare.difference(case, Path(name)) for case in CASES])
    print(page)
    target.write_text(page, encoding="utf-8")


def _line(case: Case, loss: float, gradient: float) -> str:
    ours = f"`{case.ours}`" + ("" if case.reference else ", no reference")
    theirs = str(case.theirs).replace("(", "Trainer(", 1)
    return f"| {ours} | `{theirs}` | {loss:.0e} | {gradient:.0e} | {case.note} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
