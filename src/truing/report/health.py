"""Numbers of online learning that are watched: where they lie while all is well, and where training may end by itself.

One table for `truing watch`, the report, the setting `stop` and docs/health.md. A number outside of its range is no
proof that something broke, but a reason to look: a range that holds for every task is wide. A limit lies further out,
from where hardly any training comes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from truing.report.metrics import METRICS, ROLLOUT


@dataclass(frozen=True)
class Range:
    """From low to high, either of which may be missing."""

    low: float | None
    high: float | None

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


@dataclass(frozen=True)
class Watched:
    """A number that is watched.

    healthy: its range. limit: where training ends if `stop` says so, with the same ends as the range. outside: what a
    number out of them says, and what to do.
    """

    healthy: Range
    limit: Range
    outside: str


HEALTHY: dict[str, Watched] = {
    "kl": Watched(
        Range(None, 20),
        Range(None, 50),
        "The policy has become another model: raise the price of KL, or lower the learning rate.",
    ),
    "ratio": Watched(
        Range(0.9, 1.1),
        Range(0.5, 2),
        "Updates take the policy far from the one that wrote: fewer epochs, smaller steps.",
    ),
    "ratio/clipped": Watched(
        Range(None, 0.2),
        Range(None, 0.5),
        "Many tokens teach nothing any more: fewer epochs, a lower learning rate, or wider clipping.",
    ),
    "kl/behaviour": Watched(
        Range(None, 0.05),
        Range(None, 0.5),
        "The answers are no longer the policy's own: fewer epochs, or a lower learning rate.",
    ),
    "entropy": Watched(
        Range(0.1, None),
        Range(0.01, None),
        "The policy writes one answer only: give entropy_bonus a weight, or raise the KL's.",
    ),
    "length/start": Watched(
        Range(0.5, 2),
        Range(0.2, 5),
        "The reward pays for length, or for brevity: set overlong_share, or take a scorer that is blind to length.",
    ),
    "finished": Watched(
        Range(0.5, None),
        Range(0.1, None),
        "Many answers are cut off: raise max_new_tokens, or price length.",
    ),
    "perplexity/start": Watched(
        Range(0.3, 3),
        Range(0.1, 10),
        "Above, the reference would hardly write so: the policy may be gaming the scorer. Below, it repeats what is "
        "likeliest. Raise the price of KL, or mix in rows of text (pretrain).",
    ),
    "accepted": Watched(
        Range(0.2, None),
        Range(0.02, None),
        "Most groups have answers of equal reward: take prompts that are neither too easy nor too hard.",
    ),
    "reward/deviation": Watched(
        Range(1e-6, None),
        Range(1e-6, None),
        "All answers have one reward, which teaches nothing: look at the scorer.",
    ),
    "reward/disagreement": Watched(
        Range(None, 0.5),
        Range(None, 0.8),
        "The scorers differ more on an answer than the answers do: the policy is where they have learnt nothing. Pool "
        'them by "lower" or "min", raise the price of KL, or train them on such answers.',
    ),
    "generator_gap": Watched(
        Range(None, 0.05),
        Range(None, 0.5),
        'Generator and engine disagree on what was drawn: set correction = "truncate", or a wider precision.',
    ),
    "explained_variance": Watched(
        Range(0, None),
        Range(-1, None),
        "The critic is worse than a constant: let it warm up (critic_warmup), or raise critic_rate.",
    ),
    "value/clipped": Watched(
        Range(None, 0.2),
        Range(None, 0.8),
        "The critic is held back: widen value_range.",
    ),
}
"""By metric."""

LATEST = 10
"""Values whose mean is compared with the range."""


@dataclass(frozen=True)
class Finding:
    """A watched number: its mean of late, its range, and what a number outside says."""

    name: str
    heading: str
    value: float
    range: Range
    outside: str

    @property
    def is_well(self) -> bool:
        """Whether it lies in its range."""
        return self.range.holds(self.value)


def findings(latest: Mapping[str, Iterable[float]]) -> list[Finding]:
    """The numbers that have a range, in the order of the table. latest: values by metric, the last ones last."""
    found = []
    for name, watched in HEALTHY.items():
        values = list(latest.get(name, ()))[-LATEST:]
        if values:
            mean = sum(values) / len(values)
            found.append(Finding(name, heading(name), mean, watched.healthy, watched.outside))
    return found


def heading(name: str) -> str:
    """What people call the number."""
    return (ROLLOUT.get(name) or METRICS[name]).heading


def table() -> str:
    """All ranges and limits, in Markdown."""
    rows = [
        f"| `{name}` | {heading(name)} | {one.healthy.words} | {one.limit.words} | {one.outside} |"
        for name, one in HEALTHY.items()
    ]
    top = "| number | what it is | healthy | limit | outside of it |"
    return "\n".join([top, "| --- | --- | --- | --- | --- |", *rows])
