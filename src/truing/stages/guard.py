"""What all measurements before it show together: which capabilities a model lost against its base."""

from __future__ import annotations

import json

from truing.errors import ConfigError
from truing.signatures import Settings
from truing.stages.context import Context, Measurements, Model, write_json
from truing.stages.measure import FILE
from truing.statistics import suites
from truing.statistics.suites import Measured


class Guard(Settings):
    """Settings of `guard`: it has none."""


def guard(context: Context, settings: Guard, model: Model, base: Model, measured: Measurements) -> None:
    """Names every measurement of this model by which it is worse than this base: the paired difference lies beyond zero
    with its interval, and its chance is below 5 % after Holm's correction for as many as there are.

    What it does not name may be lost all the same where prompts are few: the interval of a difference says how much.
    """
    found = [context.run.artifact(key) for key in measured.keys.values()]
    own = [one for one in found if one and (one.meta["of"], one.meta["against"]) == (model.key, base.key)]
    if not own:
        raise ConfigError(
            f"{context.stage}: no stage before it measures this model against this base: give it their model and base"
        )
    parts = [json.loads((one.path / FILE).read_text(encoding="utf-8")) for one in own]
    rows = [Measured.stored(row) for part in parts for row in part["rows"]]
    adjusted, lost, gained = suites.guarded(rows)
    result = {
        "rows": [row.plain for row in rows],
        "model": model.source,
        "base": None if model.key == base.key else base.source,
        "adjusted": adjusted,
        "lost": lost,
        "gained": gained,
        "verdict": suites.verdict(rows),
    }
    meta = {"guarded": FILE, "verdict": result["verdict"], "of": model.key, "lost": len(lost)}
    with context.output(meta) as folder:
        write_json(folder / FILE, result)
