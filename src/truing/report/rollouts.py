"""What an online stage tells of its rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.report.reading import interval, mapping, real, turns
from truing.report.words import interval as interval_words
from truing.report.words import number
from truing.statistics import Interval

_NO_METRIC = {"time", "stage", "kind", "rollout", "step", "failed", "shown"}


@dataclass(frozen=True)
class Shown:
    """An answer with its prompt."""

    prompt: list[tuple[str, str]]
    text: str
    score: float | None
    tokens: int | None
    finished: bool


@dataclass(frozen=True)
class Rollout:
    """One rollout. step: the first that learns from it. metrics: its means. failed: prompts left out, by reason.

    shown: the answer with the highest score, and the one with the lowest.
    """

    number: int
    step: int
    metrics: dict[str, float]
    failed: dict[str, int]
    shown: list[Shown]


@dataclass(frozen=True)
class Traced:
    """An answer token by token. numbers: what was made of each token, by name."""

    answer: Shown
    pieces: list[str]
    numbers: dict[str, list[float]]


@dataclass(frozen=True)
class Trace:
    """The best and the worst answer of a rollout."""

    stage: str
    number: int
    answers: list[Traced]


@dataclass(frozen=True)
class Gain:
    """Mean reward of held-out prompts before and after, and the paired difference."""

    before: Interval
    after: Interval
    gain: Interval

    @property
    def verdict(self) -> str:
        """What became of the reward, in words."""
        way = (
            "rose" if self.gain.low > 0 else "fell" if self.gain.high < 0 else "cannot be told from unchanged: it went"
        )
        return (
            f"mean reward of {self.gain.n:,} held-out prompts {way} from {number(self.before.value)} to "
            f"{number(self.after.value)}, by {interval_words(self.gain)} prompt by prompt"
        )


def read_rollout(event: Mapping[str, Any]) -> Rollout:
    """As the event tells it."""
    numbers = {name: real(value) for name, value in event.items() if name not in _NO_METRIC}
    return Rollout(
        number=int(event["rollout"]),
        step=int(event.get("step", 0)),
        metrics={name: value for name, value in numbers.items() if value is not None},
        failed={reason: int(count) for reason, count in mapping(event.get("failed")).items()},
        shown=[_shown(one) for one in event.get("shown", [])],
    )


def read_gain(event: Mapping[str, Any]) -> Gain | None:
    """As the event tells it; None where no held-out prompt was scored both times."""
    before, after, gain = (interval(event.get(name)) for name in ("before", "after", "gain"))
    return None if before is None or after is None or gain is None else Gain(before, after, gain)


def read_trace(sample: Mapping[str, Any]) -> Trace:
    """As the sample tells it."""
    return Trace(str(sample["stage"]), int(sample["rollout"]), [_traced(one) for one in sample["answers"]])


def is_trace(sample: Mapping[str, Any]) -> bool:
    """Whether this sample is a rollout: other stages keep other answers."""
    return "rollout" in sample


def _traced(found: Mapping[str, Any]) -> Traced:
    numbers = {name: [float(one) for one in values] for name, values in found["numbers"].items()}
    return Traced(_shown(found), [str(piece) for piece in found["pieces"]], numbers)


def _shown(found: Mapping[str, Any]) -> Shown:
    return Shown(
        prompt=turns(found.get("prompt", [])),
        text=str(found.get("text", "")),
        score=real(found.get("score")),
        tokens=found.get("tokens"),
        finished=bool(found.get("finished", True)),
    )
