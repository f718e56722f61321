"""What the events of a run tell of its stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from truing.report.reading import interval, mapping, real
from truing.report.rollouts import Gain, Rollout, read_gain, read_rollout
from truing.report.sections.data import Data, Preview, read_data, read_preview
from truing.report.sections.judges import Tried, read_tried
from truing.rounds import Round
from truing.statistics import Interval
from truing.store import Run


@dataclass
class Curve:
    """One metric over the steps. Values that are not finite are kept: they are news."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def broken(self) -> list[int]:
        """The steps at which the value was NaN or infinite."""
        return [step for step, value in zip(self.steps, self.values, strict=True) if not math.isfinite(value)]

    @property
    def end(self) -> float:
        """The mean of the last tenth of the values; one of them that is not finite spoils it, and shall."""
        last = self.values[-max(1, len(self.values) // 10) :]
        return sum(last) / len(last)


@dataclass(frozen=True)
class HeldOut:
    """How well the policy ranks held-out comparisons, at one step."""

    step: int
    accuracy: Interval | None
    loss: float | None


@dataclass(frozen=True)
class Chosen:
    """Which of two models went on: its key, whether it is the newer one, and how often the newer one won."""

    model: str
    newer: bool
    wins: Interval | None


@dataclass
class Stage:
    """One stage, as its events tell it.

    round: of the loop it is in. times: Unix time at the end of each step since it last began. heard: of its last event.
    """

    name: str
    key: str = ""
    round: Round | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data: list[Data] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    held_out: list[HeldOut] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    gain: Gain | None = None
    chosen: Chosen | None = None
    tried: list[Tried] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    heard: float = 0.0
    step: int = 0
    steps: int | None = None
    seconds: float | None = None
    memory: float | None = None
    ended: bool = False

    @property
    def state(self) -> str:
        """How it ended, or where it stands."""
        if self.ended:
            return "finished"
        return f"unfinished, at step {self.step:,} of {self.steps:,}" if self.steps else "unfinished"

    @property
    def scores(self) -> bool:
        """Whether it trained a reward model, and no policy."""
        return any(name.startswith("score/") for name in self.curves)

    @property
    def latest(self) -> dict[str, list[float]]:
        """The values of each metric in their order: by rollout what rollouts tell, by step what only steps do."""
        by_rollout: dict[str, list[float]] = {}
        for rollout in self.rollouts:
            for name, value in rollout.metrics.items():
                by_rollout.setdefault(name, []).append(value)
        return {name: curve.values for name, curve in self.curves.items()} | by_rollout

    @property
    def judges_steps(self) -> bool:
        """Whether it trained a reward model that judges steps."""
        return any(name.startswith("step/") for name in self.curves)

    @property
    def before_and_after(self) -> list[tuple[str, HeldOut]]:
        """The first and the last look at the held-out comparisons; after an interruption there may be only one."""
        if len(self.held_out) > 1:
            return [("Before", self.held_out[0]), ("After", self.held_out[-1])]
        return [("Before", held) for held in self.held_out]

    @property
    def broken(self) -> dict[str, list[int]]:
        """The steps at which a metric was not finite, by metric."""
        return {name: curve.broken for name, curve in self.curves.items() if curve.broken}


def stages_of(run: Run) -> list[Stage]:
    """The stages in the order in which they first spoke."""
    stages: dict[str, Stage] = {}
    for event in run.events():
        name = str(event["stage"])
        _hear(stages.setdefault(name, Stage(name)), event)
    return list(stages.values())


def _hear(stage: Stage, event: Mapping[str, Any]) -> None:
    """Adds what one event says to the stage."""
    stage.heard = float(event.get("time", 0.0))
    match event["kind"]:
        case "start":
            _start(stage, event)
        case "data":
            stage.data.append(read_data(event))
        case "preview":
            stage.previews.append(read_preview(event))
        case "step":
            _step(stage, event)
        case "held_out":
            _watch(stage, _held_out(event))
        case "rollout":
            stage.rollouts.append(read_rollout(event))
        case "held_out_reward":
            stage.gain = read_gain(event)
        case "chosen":
            stage.chosen = Chosen(str(event["model"]), bool(event["newer"]), interval(event.get("wins")))
        case "controls":
            stage.tried.append(read_tried(event))
        case "warning":
            message = str(event.get("message", ""))
            stage.warnings += [message] if message not in stage.warnings else []  # each session may say it again
        case "end":
            stage.seconds, stage.memory = real(event.get("seconds")), real(event.get("peak_memory_bytes"))
            stage.ended = True


def _start(stage: Stage, event: Mapping[str, Any]) -> None:
    """A stage that was interrupted starts again and says again what it said before its first step."""
    stage.key = str(event.get("key", ""))
    stage.round = Round(**event["round"]) if event.get("round") else None
    stage.settings = mapping(event.get("settings"))
    stage.inputs = {name: str(value) for name, value in mapping(event.get("inputs")).items()}
    stage.data, stage.previews, stage.times, stage.ended = [], [], [], False
    stage.tried = []


def _step(stage: Stage, event: Mapping[str, Any]) -> None:
    stage.step, stage.steps = int(event["step"]), event.get("steps")
    stage.times.append(float(event.get("time", 0.0)))
    for metric, value in mapping(event.get("metrics")).items():
        number = real(value)
        if number is not None:
            curve = stage.curves.setdefault(metric, Curve())
            curve.steps.append(stage.step)
            curve.values.append(number)


def _watch(stage: Stage, held: HeldOut) -> None:
    """A stage that goes on after an interruption looks at the same step again."""
    stage.held_out = [*(other for other in stage.held_out if other.step != held.step), held]


def _held_out(event: Mapping[str, Any]) -> HeldOut:
    return HeldOut(int(event.get("step", 0)), interval(event.get("accuracy")), real(event.get("loss")))
