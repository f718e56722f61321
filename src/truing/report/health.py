"""The ranges in which numbers of training lie while all is well: for `truing watch`, the report and docs/health.md.

A number outside is no proof that something broke, but a reason to look. A range that holds for every task is wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from truing.report.metrics import METRICS, ROLLOUT


@dataclass(frozen=True)
class Range:
    """From low to high, either of which may be missing. outside: what a number out of it says, and what to do."""

    low: float | None
    high: float | None
    outside: str

    def holds(self, value: float) -> bool:
        """Whether a number is inside. One that is not finite never is."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return math.isfinite(value) and low <= value <= high

    @property
    def words(self) -> str:
        """`0.9 to 1.1`, `at most 0.2`, `at least 0.5`."""
        if self.low is None or self.high is None:
            return f"at most {self.high:g}" if self.low is None else f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


HEALTHY: dict[str, Range] = {
    "kl": Range(None, 20, "The policy has become another model: raise the price of KL, or lower the learning rate."),
    "ratio": Range(0.9, 1.1, "Updates take the policy far from the one that wrote: fewer epochs, smaller steps."),
    "ratio/clipped": Range(
        None, 0.2, "Many tokens teach nothing any more: fewer epochs, a lower learning rate, or wider clipping."
    ),
    "kl/behaviour": Range(
        None, 0.05, "The answers are no longer the policy's own: fewer epochs, or a lower learning rate."
    ),
    "entropy": Range(0.1, None, "The policy writes one answer only: give entropy_bonus a weight, or raise the KL's."),
    "finished": Range(0.5, None, "Many answers are cut off: raise max_new_tokens, or price length."),
    "accepted": Range(
        0.2, None, "Most groups have answers of equal reward: take prompts that are neither too easy nor too hard."
    ),
    "reward/deviation": Range(1e-6, None, "All answers have one reward, which teaches nothing: look at the scorer."),
    "generator_gap": Range(
        None,
        0.05,
        'Generator and engine disagree on what was drawn: set correction = "truncate", or a wider precision.',
    ),
    "explained_variance": Range(
        0.0, None, "The critic is worse than a constant: let it warm up (critic_warmup), or raise critic_rate."
    ),
    "value/clipped": Range(None, 0.2, "The critic is held back: widen value_range."),
}
"""By metric."""

LATEST = 10
"""Values whose mean is compared with the range."""


@dataclass(frozen=True)
class Finding:
    """A watched number: its mean of late, and its range."""

    name: str
    heading: str
    value: float
    range: Range

    @property
    def is_well(self) -> bool:
        """Whether it lies in its range."""
        return self.range.holds(self.value)


def findings(latest: Mapping[str, Iterable[float]]) -> list[Finding]:
    """The numbers that have a range, in the order of the table. latest: values by metric, the last ones last."""
    found = []
    for name, healthy in HEALTHY.items():
        values = list(latest.get(name, ()))[-LATEST:]
        if values:
            found.append(Finding(name, heading(name), sum(values) / len(values), healthy))
    return found


def heading(name: str) -> str:
    """What people call the number."""
    return (ROLLOUT.get(name) or METRICS[name]).heading


def table() -> str:
    """All ranges, in Markdown."""
    rows = [
        f"| `{name}` | {heading(name)} | {healthy.words} | {healthy.outside} |" for name, healthy in HEALTHY.items()
    ]
    return "\n".join(["| number | what it is | healthy | outside of it |", "| --- | --- | --- | --- |", *rows])
