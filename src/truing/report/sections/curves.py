"""What was measured at each training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from truing.report import charts, words
from truing.report.charts import Line, Points
from truing.report.figures import Figure
from truing.report.metrics import in_order, metric
from truing.report.stages import Curve, Stage


def stage_figures(stage: Stage) -> list[Figure]:
    """The curves of a stage, in the order in which one looks at them; those of its rollouts have a section."""
    told = {name for rollout in stage.rollouts for name in (*rollout.metrics, "ratio/clipped")}
    return [_curve_figure(stage, name) for name in in_order(stage.curves) if name not in told]


def overlaid_figures(stages: Sequence[Stage | None], names: Sequence[str]) -> list[Figure]:
    """One chart for every metric that at least two of the runs have in this stage."""
    present = [(number, stage) for number, stage in enumerate(stages) if stage is not None]
    metrics = dict.fromkeys(name for _, stage in present for name in stage.curves)
    figures = []
    for name in in_order(metrics):
        having = [(number, stage) for number, stage in present if name in stage.curves]
        if len(having) > 1:
            figures.append(_overlay(name, having, names))
    return figures


def _curve_figure(stage: Stage, name: str) -> Figure:
    curve, known = stage.curves[name], metric(name, stage.settings)
    summary = _summary(curve)
    points, legend = [], []
    watched = [held for held in stage.held_out if held.accuracy is not None]
    if name == "reward/accuracy" and watched:
        estimates = [held.accuracy for held in watched if held.accuracy is not None]
        points = [Points("held-out accuracy", "base", [held.step for held in watched], estimates)]
        legend = [("policy", "in training"), ("base", "held out, with interval")]
    chart = charts.line_chart(
        f"{known.heading} of {stage.name}, {len(curve.steps):,} steps: {summary}",
        [Line(known.heading, "policy", curve.steps, curve.values, known.shown)],
        points,
        known.rule,
    )
    return Figure(known.heading, summary, known.hint, chart, legend)


def _overlay(name: str, having: Sequence[tuple[int, Stage]], names: Sequence[str]) -> Figure:
    known = metric(name, having[0][1].settings)
    shown: Literal["values", "average"] = "values" if known.shown == "values" else "average"
    lines = [
        Line(names[number], f"run{number}", stage.curves[name].steps, stage.curves[name].values, shown)
        for number, stage in having
    ]
    ends = "; ".join(f"{names[number]} {_summary(stage.curves[name])}" for number, stage in having)
    legend = [(line.tone, line.label) for line in lines]
    return Figure(
        known.heading, "", known.hint, charts.line_chart(f"{known.heading}: {ends}", lines, (), known.rule), legend
    )


def _summary(curve: Curve) -> str:
    """The first value and the mean of the last tenth."""
    if not curve.values:
        return "no values"
    return f"{words.number(curve.values[0])} → {words.number(curve.end)}"
