"""`python -m evidence reward` tries what is claimed of reward models, and writes docs/evidence/reward.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from evidence import page, reward
from evidence.reward import Size, Trial

ROOT = Path(__file__).parent.parent
app = App(name="evidence", help=__doc__, version_flags=[])


@app.command(name="reward")
def try_reward(
    folder: Path = ROOT / "runs" / "evidence-reward",
    out: Path = ROOT / "docs" / "evidence",
    size: Annotated[Size | None, Parameter(name="*")] = None,
) -> None:
    """Noisy labels, strengths, treatments and MetaRM. folder: of data and runs, which are gone on with."""
    size = size or Size()
    trial = Trial(folder, size)
    groups = reward.audited(trial)
    page.write(
        out,
        size,
        reward.tenths(trial, groups),
        reward.turned_tenths(trial, groups),
        reward.treatments(trial, groups),
        reward.meta(trial, (1e-12, 1e-3, 1e-2, 1e-1)),
    )


if __name__ == "__main__":
    app()
