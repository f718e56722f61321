"""The charts of a run and of several, each with the words that stand around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from truing.report import charts, words
from truing.report.charts import Line, Points
from truing.report.metrics import in_order, metric
from truing.report.view import Audit, Bin, Curve, Data, Reward, Selection, Stage


@dataclass(frozen=True)
class Figure:
    """A chart with the words around it."""

    heading: str
    summary: str
    hint: str
    chart: Markup
    legend: Sequence[tuple[str, str]] = ()


def stage_figures(stage: Stage) -> list[Figure]:
    """The curves of a stage, in the order in which one looks at them."""
    return [_curve_figure(stage, name) for name in in_order(stage.curves)]


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


def audit_figures(audit: Audit) -> list[Figure]:
    """The strengths in order, how far the models are apart along them, and how many of them agree with the label."""
    percentiles = list(np.linspace(0, 100, len(audit.ordered)))
    middle = [100 * (place + 0.5) / len(audit.bins) for place in range(len(audit.bins))]
    tenths = [100 * (place + 0.5) / len(audit.deciles) for place in range(len(audit.deciles))]
    below = 100 * sum(value < 0 for value in audit.ordered) / len(audit.ordered)
    means, apart = (
        Line("mean", "policy", percentiles, audit.ordered, "values"),
        [one["deviation"] for one in audit.bins],
    )
    agree = Line("agree", "policy", tenths, [100 * one["for_label"] for one in audit.deciles], "values")
    return [
        Figure(
            "Preference strength, weakest first",
            f"{below:.0f} % below 0",
            "Mean difference of the rewards over the models. Below 0 (dashed) they side with the rejected answer: such "
            "labels are probably wrong. Near 0 they see no difference.",
            charts.line_chart("Preference strength by percentile of the comparisons", [means], rule=0.0),
        ),
        Figure(
            "Deviation between the models",
            "",
            "Along the same order. In the paper it is high at both ends (arXiv:2401.06080).",
            charts.line_chart("Deviation by percentile", [Line("deviation", "policy", middle, apart, "values")]),
        ),
        Figure(
            "Models that agree with the label",
            "per cent, by tenth of the comparisons",
            "Half (dashed) is a coin.",
            charts.line_chart("Agreement by tenth of the comparisons", [agree], rule=50.0),
        ),
    ]


def selection_figures(selection: Selection) -> list[Figure]:
    """Scores and lengths of the rows that were kept beside those of all."""
    return [
        _before_and_after("Scores, lowest first", f"Rows by {selection.by}.", selection.scores),
        _before_and_after(
            "Words of the answers, shortest first",
            "Many scores like length: see whether this one does.",
            selection.words,
        ),
    ]


def reward_figures(reward: Reward) -> list[Figure]:
    """Whether its probabilities are so, and how often it is right by strength and by length."""
    found = [_reliability_figure(reward)]
    if len(reward.by_strength) > 1:
        found.append(_strength_figure(reward.by_strength))
    if len(reward.by_length) > 1:
        found.append(_longer_figure(reward.by_length))
    if reward.best_of:
        found.append(_best_of_figure(reward))
    return found


def data_figure(data: Data) -> Figure | None:
    """The scores of the answers where there are some, or else their lengths."""
    return _score_figure(data.scores) if data.scores else _length_figure(data)


def _score_figure(scores: Mapping[str, Sequence[float]]) -> Figure:
    return _in_order("Scores, lowest first", "", scores, ("policy", "base"))


def _before_and_after(heading: str, hint: str, values: Mapping[str, Sequence[float]]) -> Figure:
    return _in_order(heading, hint, values, ("base", "policy"))


def _in_order(heading: str, hint: str, curves: Mapping[str, Sequence[float]], tones: Sequence[str]) -> Figure:
    """Values from the lowest to the highest, a curve for each name."""
    tone = dict(zip(curves, tones, strict=False))
    lines = [
        Line(name, tone[name], list(np.linspace(0, 100, len(values))), values, "values")
        for name, values in curves.items()
    ]
    summary = "; ".join(f"{name}: {words.number(float(np.mean(values)))} on average" for name, values in curves.items())
    chart = charts.line_chart(f"{heading}, by percentile: {summary}", lines)
    return Figure(heading, summary, hint, chart, [(tone[name], name) for name in curves])


def _length_figure(data: Data) -> Figure | None:
    """Chosen against rejected lengths, or else the lengths of the answers."""
    chosen, rejected = data.lengths.get("chosen_tokens"), data.lengths.get("rejected_tokens")
    if chosen and rejected:
        summary = (
            f"{words.number(float(np.mean(chosen)))} and {words.number(float(np.mean(rejected)))} tokens on average"
        )
        chart = charts.histogram(
            f"Lengths of chosen and rejected answers: {summary}", {"chosen": chosen, "rejected": rejected}
        )
        legend = (("chosen", "chosen"), ("rejected", "rejected"))
        return Figure("Chosen and rejected lengths", summary, _length_bias(chosen, rejected), chart, legend)
    for name, what in (("answer_tokens", "Answer"), ("prompt_tokens", "Prompt")):
        if name in data.lengths:
            summary = f"{words.number(float(np.mean(data.lengths[name])))} tokens on average"
            chart = charts.histogram(f"{what} lengths: {summary}", {"chosen": data.lengths[name]})
            return Figure(f"{what} lengths", summary, "", chart)
    return None


def _reliability_figure(reward: Reward) -> Figure:
    said = [100 * predicted for predicted, _ in reward.curve]
    points = Points("observed", "policy", said, [observed for _, observed in reward.curve], "where it says {} %")
    chart = charts.line_chart(
        "Observed share by predicted probability", [Line("right", "base", [0, 100], [0, 1], "values")], [points]
    )
    return Figure(
        "What it says and what is so",
        f"off by {100 * reward.error:.1f} points, by chance {100 * reward.error_by_chance:.1f}",
        "The answers of each comparison in an order drawn by chance. Across: the probability, in per cent, that the "
        "first one is the chosen one. Up: how often it is. Flatter than the line is too sure, steeper not sure enough.",
        chart,
        (("policy", "observed, with interval"), ("base", "as it should be")),
    )


def _strength_figure(bins: Sequence[Bin]) -> Figure:
    counts = [one.accuracy.n for one in bins]
    middle = [100 * (sum(counts[:place]) + counts[place] / 2) / sum(counts) for place in range(len(counts))]
    points = Points("accuracy", "policy", middle, [one.accuracy for one in bins], "at percentile {}")
    return Figure(
        "Accuracy by strength of preference",
        f"strengths from {words.number(bins[0].low)} to {words.number(bins[-1].high)}",
        "By percentile of the comparisons, the weakest first; half (dashed) is a coin. It should rise.",
        charts.line_chart("Accuracy by percentile of strength", [], [points], rule=0.5),
    )


def _longer_figure(bins: Sequence[Bin]) -> Figure:
    points = Points(
        "accuracy", "policy", [one.mean for one in bins], [one.accuracy for one in bins], "at {} tokens more"
    )
    return Figure(
        "Accuracy by length",
        "",
        "By tokens that the chosen answer has more than the rejected one; half (dashed) is a coin. High on the right "
        "and low on the left, the model likes length.",
        charts.line_chart("Accuracy by length of the chosen answer", [], [points], rule=0.5),
    )


def _best_of_figure(reward: Reward) -> Figure:
    kl = [one for one, _, _ in reward.best_of]
    sides = {
        "policy": ("its own score", [proxy for _, proxy, _ in reward.best_of]),
        "base": ("gold score", [gold for _, _, gold in reward.best_of]),
    }
    lines = [Line(name, tone, kl, [one.value for one in values], "values") for tone, (name, values) in sides.items()]
    points = [Points(name, tone, kl, values, "at {} nats") for tone, (name, values) in sides.items()]
    return Figure(
        "The best of n answers",
        "",
        "In deviations of all answers, by the KL from the policy that drew them. Where the gold score falls back while "
        "its own rises, the model is over-optimised.",
        charts.line_chart("Scores of the best of n answers by KL", lines, points, rule=0.0),
        [(tone, name) for tone, (name, _) in sides.items()],
    )


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


def _length_bias(chosen: Sequence[int], rejected: Sequence[int]) -> str:
    if len(chosen) != len(rejected):
        return ""
    longer = float(np.mean(np.asarray(chosen) > np.asarray(rejected)))
    hint = f"The chosen answer is the longer one in {words.percent(longer)} of the rows."
    return f"{hint} The model may learn length instead of what is meant." if longer > 0.6 else hint
