"""`python -m bench TASK`: measures one task, or all of them; `python -m bench page` writes the page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from cyclopts import App

from bench import dpo, sft
from bench.rows import NotThere
from bench.training import RESULTS, Settings, say

app = App(name="bench", help=__doc__, version_flags=[])


@app.command(name="dpo")
def measure_dpo(
    *,
    profile: str = "all",
    model: str = "smollm2",
    rounds: int = 3,
    warm_up: int = 1,
    timed: int = 2,
    batch: int = 8,
    tune: bool = True,
    out: Path = RESULTS,
) -> None:
    """DPO on one profile (hh, ultrafeedback, tldr, real) or all."""
    settings = Settings(model, "cpu", rounds, warm_up, timed, batch, tune, out=out)
    for one in dpo.PROFILES if profile == "all" else (profile,):
        _unless_missing(lambda one=one: dpo.run(one, settings))


def _unless_missing(work) -> None:
    try:
        work()
    except NotThere as reason:
        say(f"skipped: {reason}")


if __name__ == "__main__":
    app()
