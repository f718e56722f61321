"""What every interval promises: to hold the truth as often as it says."""

from __future__ import annotations

from collections.abc import Callable

from truing.statistics import Interval


def coverage(make: Callable[[], Interval], truth: float, runs: int = 400) -> float:
    """The share of simulated intervals that hold the truth."""
    hits = 0
    for _ in range(runs):
        interval = make()
        hits += interval.low <= truth <= interval.high
    return hits / runs
