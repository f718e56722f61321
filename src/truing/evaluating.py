"""A model measured by a suite, which is a recipe's stages without their models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from truing.errors import ConfigError, did_you_mean
from truing.recipe import Recipe, make_recipe, read_table
from truing.stages import inputs_of, product_of, stage
from truing.stages.measure import FILE
from truing.statistics.suites import Measured
from truing.store import Run

SUITES = Path(__file__).parent / "suites"
"""The suites that come with Truing."""


def suite_recipe(suite: str, model: str, against: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that measures a model by a suite, beside another model or alone, and guards what it can do.

    suite: a TOML file, or the name of one in SUITES. Where no stage of it is a guard, one comes last.
    """
    table = read_table(_file_of(suite))
    if "model" in table:
        raise ConfigError(f"{suite}: a suite names no model: take 'model' out, and give it to `truing evaluate`")
    entries = [dict(entry) for entry in table.get("stage", [])]
    if not entries:
        raise ConfigError(f'{suite}: a suite has one [[stage]] or more, such as use = "measure"')
    if all(entry.get("use") != "guard" for entry in entries):
        entries.append({"use": "guard"})
    for entry in entries:
        _demand_measures(suite, entry)
        entry["model"] = model
    table |= {"name": f"evaluate-{table['name']}", "model": against or model, "stage": entries}
    return make_recipe(table, overrides)


def measured(folder: Path) -> list[Measured]:
    """All numbers that a run's last guard has seen."""
    return [Measured.stored(row) for row in _last_guard(folder)["rows"]]


def losses(folder: Path) -> list[Measured]:
    """Those of them that are surely worse than the base's."""
    rows = measured(folder)
    return [rows[place] for place in _last_guard(folder)["lost"]]


def _last_guard(folder: Path) -> dict[str, Any]:
    guards = [one for one in Run.read(folder).artifacts() if "guarded" in one.meta]
    if not guards:
        raise ConfigError(f"{folder}: this run has no stage 'guard' that came to its end")
    found: dict[str, Any] = json.loads((guards[-1].path / FILE).read_text(encoding="utf-8"))
    return found


def _file_of(suite: str) -> Path:
    if suite.endswith(".toml"):
        return Path(suite)
    known = sorted(path.stem for path in SUITES.glob("*.toml"))
    if suite not in known:
        raise ConfigError(f"suite '{suite}' does not exist{did_you_mean(suite, known)}; or name a TOML file")
    return SUITES / f"{suite}.toml"


def _demand_measures(suite: str, entry: dict[str, Any]) -> None:
    """A suite measures and does not train, and says nothing of which models."""
    use = str(entry.get("use", ""))
    function = stage(use)
    if product_of(function) not in ("measured", "verdict") or "model" not in inputs_of(function):
        raise ConfigError(f"{suite}: stage '{use}' measures no model: a suite has measuring stages, such as measure")
    named = next((name for name in ("model", "base") if name in entry), None)
    if named:
        raise ConfigError(f"{suite}: {entry.get('name', use)}.{named}: a suite names no model: take it out")
