"""How pages say numbers: means and differences with their intervals, machines, and pictures that do not change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from evidence.found import Found
from truing import statistics
from truing.statistics import Interval

matplotlib.use("agg")
import matplotlib.pyplot as plt

matplotlib.rcParams["svg.hashsalt"] = "online"  # the same picture for the same numbers


def machines(found: Found) -> list[str]:
    """What was measured in how many minutes on which machine, as a line."""
    seconds = found.pieces.get("seconds", {})
    said = [
        f"{', '.join(f'{part} in {seconds[part] / 60:.0f} minutes' for part in parts)} on {name}"
        for name, parts in found.pieces.get("machines", {}).items()
    ]
    return [f"Measured: {'; '.join(said)}.\n"] if said else []


def mean(values: Sequence[float]) -> str:
    """A mean with its interval over seeds; one seed has none."""
    if not values:
        return ""
    return str(statistics.mean(values)) if len(values) > 1 else f"{values[0]:.2f}"


def signed(one: Interval | None) -> str:
    """A difference with its interval, each with its sign."""
    if one is None:
        return ""
    digits = 1 if one.high - one.low >= 2 else 2
    return f"{one.value:+.{digits}f} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"


def save(figure: Any, path: Path) -> None:
    """The picture, the same file for the same numbers."""
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
