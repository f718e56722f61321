"""What a run folder says, gathered for the page: verdict, curves, data, examples, lineage."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from truing.report import words
from truing.report.charts import Line, Points, histogram, line_chart, outcome_bar, share_bar
from truing.statistics import Interval, reading
from truing.store import Run

CURVES = {
    "loss": ("Loss", "falls; for DPO it starts at ln 2 = 0.693"),
    "reward/accuracy": (
        "Preferred answer rewarded more",
        "rises from 50 % towards 60-95 %; 100 % at once means too easy",
    ),
    "reward/margin": ("Reward margin", "rises steadily; a jump by several units means the learning rate is too high"),
    "reward/chosen": ("Reward of the chosen answer", "near 0 or rising; a steep fall means it is being forgotten"),
    "gradient_norm": ("Gradient norm", "even; spikes are clipped, a steady rise is a warning"),
    "learning_rate": ("Learning rate", "as the schedule says"),
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart and what is healthy in it."""

    title: str
    hint: str
    chart: Markup


@dataclass(slots=True)
class StageView:
    """What one stage did."""

    name: str
    seconds: float | None = None
    peak_memory: float | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    key: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] | None = None
    preview: list[tuple[str, bool]] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """Done, or where it stopped."""
        if self.seconds is not None:
            return "done"
        return f"stopped after step {self.steps[-1]['step']}" if self.steps else "not finished"


@dataclass(frozen=True, slots=True)
class View:
    """A run as the page shows it."""

    name: str
    info: dict[str, Any]
    settings: str
    stages: list[StageView]
    evaluation: dict[str, Any] | None
    artifacts: list[Any]


def view(folder: Path) -> View:
    """Everything the page needs, read from the run folder."""
    run = Run.read(folder)
    info = run.info
    evaluations = [a for a in run.artifacts() if a.meta.get("evaluation")]
    evaluation = json.loads((evaluations[-1].path / "evaluation.json").read_text("utf-8")) if evaluations else None
    return View(
        name=str(info.get("name", folder.name)),
        info=info,
        settings=(folder / "recipe.resolved.toml").read_text("utf-8"),
        stages=_stages(run),
        evaluation=evaluation,
        artifacts=[a for a in run.artifacts() if not a.meta.get("part")],
    )


def curves(stage: StageView, tone: str = "policy") -> list[Curve]:
    """The charts of a training stage."""
    found = []
    for name, (title, hint) in CURVES.items():
        steps = [event["step"] for event in stage.steps if name in event["metrics"]]
        if not steps:
            continue
        values = [finite(event["metrics"][name]) for event in stage.steps if name in event["metrics"]]
        points = _held_out_points(stage, tone) if name == "reward/accuracy" else []
        line = Line(title, tone, steps, values, raw=name != "learning_rate")
        found.append(Curve(title, hint, line_chart(f"{title} by step", [line], points)))
    return found


def not_finite(stage: StageView) -> list[str]:
    """Which metrics were NaN or infinite at which step: said loudly."""
    return [
        f"{stage.name}: {name} was {value} at step {event['step']}"
        for event in stage.steps
        for name, value in event["metrics"].items()
        if isinstance(value, str)
    ]


def lengths(stage: StageView) -> Markup | None:
    """Length of the chosen answers against the rejected ones, or of all answers."""
    data = stage.data or {}
    if data.get("chosen_tokens") and data.get("rejected_tokens"):
        return histogram(
            "Length in tokens: chosen against rejected",
            {"policy": data["chosen_tokens"], "base": data["rejected_tokens"]},
        )
    if data.get("answer_tokens"):
        return histogram("Length of the answers in tokens", {"policy": data["answer_tokens"]})
    return None


def verdict(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation in words and bars."""
    rate = as_interval(evaluation["win_rate"])
    return {
        "rate": rate,
        "percent": words.percent(rate.value),
        "bar": share_bar(
            f"win rate {words.percent(rate.value)}, interval to {words.percent(rate.high)}", rate, "policy"
        ),
        "outcomes": outcome_bar(evaluation["wins"], evaluation["ties"], evaluation["losses"]),
        "reading": reading(rate),
        "kl": words.interval(as_interval(evaluation["kl"]))
        if evaluation.get("kl")
        else "not defined for greedy answers",
        "length": words.interval(as_interval(evaluation["length_ratio"])),
        "finished": as_interval(evaluation["model"]["finished"]),
        "base_finished": as_interval(evaluation["base"]["finished"]),
    }


def as_interval(plain: Mapping[str, Any]) -> Interval:
    """An interval as it was written to a file."""
    return Interval(finite(plain["value"]), finite(plain["low"]), finite(plain["high"]), int(plain["n"]))


def mean(values: Sequence[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)


def _stages(run: Run) -> list[StageView]:
    """One view per stage name, in order of first appearance; a stage that was started again goes on in its view."""
    found: dict[str, StageView] = {}
    for event in run.events():
        stage = found.setdefault(event["stage"], StageView(event["stage"]))
        match event["kind"]:
            case "start":
                stage.inputs, stage.key = event["inputs"], event["key"]
            case "end":
                stage.seconds = (stage.seconds or 0) + event["seconds"]
                stage.peak_memory = event["peak_memory_bytes"]
            case "step":
                stage.steps.append(event)
            case "held_out":
                stage.held_out = [e for e in stage.held_out if e["step"] != event["step"]] + [event]
            case "data":
                stage.data = event
            case "preview":
                stage.preview = [(str(text), bool(scored)) for text, scored in event["pieces"]]
            case "warning":
                stage.warnings.append(event["message"])
    return list(found.values())


def _held_out_points(stage: StageView, tone: str) -> list[Points]:
    if not stage.held_out:
        return []
    steps = [event["step"] for event in stage.held_out]
    return [Points("held-out accuracy", tone, steps, [as_interval(event["accuracy"]) for event in stage.held_out])]


def finite(value: Any) -> float:
    """A number as the store wrote it; what was not finite was written as text."""
    return (
        float(value)
        if not isinstance(value, str)
        else {"Infinity": math.inf, "-Infinity": -math.inf}.get(value, math.nan)
    )
