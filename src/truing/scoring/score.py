"""What every scorer gives: a number for each answer, or the reason why there is none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import numpy as np

from truing.compute import Engine, Generator
from truing.errors import ConfigError
from truing.records import Completion, Group
from truing.rendering import Renderer

ModelName = Annotated[str, "model"]
"""A setting that names a model: its content counts, and not where it lies."""
ProcessModelName = Annotated[str, "process_model"]
"""A setting that names a model that scores steps, in the same way."""
LanguageModelName = Annotated[str, "language_model"]
"""A setting that names a model that writes, in the same way; none is the run's own."""
FileName = Annotated[str, "file"]
"""A setting that names a file, with the same meaning."""
FunctionName = Annotated[str, "function"]
"""A setting that names a Python function: the file it stands in counts."""


NOTHING: Mapping[str, int] = {}


class Score(NamedTuple):
    """How good an answer is; higher is better.

    value: None where the scorer failed, and then `reason` says why. deviation: standard deviation of the value, None
    where nobody knows. reason: with a number, what it is owed to, where a scorer says so: "time limit". counts: what
    was counted on the way to it, such as replies that could not be read; of what concerns two answers, one has it.
    """

    value: float | None
    deviation: float | None = None
    reason: str = ""
    counts: Mapping[str, int] = NOTHING

    @classmethod
    def of(cls, value: float, deviation: float | None = None, reason: str = "") -> Score:
        """A number that was found; one that is not finite is a failure."""
        return cls(value, deviation, reason) if math.isfinite(value) else cls.failed(f"the score is {value}")

    @classmethod
    def failed(cls, reason: str) -> Score:
        """No number, and why."""
        return cls(None, None, reason)


def added(*counts: Mapping[str, int]) -> dict[str, int]:
    """Counts added up by name."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


Pooling = Literal["mean", "min", "lower"]


def pooled(values: Sequence[float], by: Pooling, deviations: float) -> Score:
    """What several say as one score with their standard deviation: the mean, the least, or the mean less deviations."""
    mean, deviation = float(np.mean(values)), float(np.std(values))
    value = {"mean": mean, "min": min(values), "lower": mean - deviations * deviation}[by]
    return Score.of(value, deviation)


Scorer = Callable[[Sequence[Group]], list[tuple[Score, ...]]]
"""Scores of all answers of all Groups. Whole Groups, so that a scorer may look at the answers side by side."""


def no_models(name: str, members: bool = False) -> NoReturn:
    """For scorers that run none."""
    raise ConfigError(f"there is no model here to score with{f': {name}' if name else ''}")


class Writer(NamedTuple):
    """Who writes, and what turns text into its tokens: nothing where it is elsewhere."""

    generator: Generator
    renderer: Renderer | None


def _unheard(kind: str, values: Mapping[str, Any]) -> None:
    """For scorers that nobody listens to."""


def _unwatched(finished: int) -> None:
    """For scorers that nobody stops."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What scorers that run a model are given.

    engines: engines for the reward model of this name, "" for the run's own: of the model itself, or of its members.
    language: an engine for the language model of this name, "" for the run's own.
    budget: tokens run at once.
    process: an engine for the process reward model of this name, "" for the run's own.
    writer: the language model of this name as one that writes. seed: of what it draws.
    tell: takes the kind of an event and what there is to say. on_finished: is told how many replies are written, and
        may raise to stop.
    """

    engines: Callable[[str, bool], Sequence[Engine]]
    language: Callable[[str], Engine]
    budget: int = 2048
    process: Callable[[str], Engine] = no_models
    writer: Callable[[str], Writer] = no_models
    seed: int = 0
    tell: Callable[[str, Mapping[str, Any]], None] = _unheard
    on_finished: Callable[[int], None] = _unwatched


NO_TOOLS = Tools(no_models, no_models)


def each(say: Callable[[Group, Completion], Score]) -> Scorer:
    """A scorer that looks at one answer at a time."""
    return lambda groups: [tuple(say(group, answer) for answer in group.completions) for group in groups]
