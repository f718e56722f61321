"""What came of learning from the policy's own answers: curves over rollouts, answers, and tokens in colour."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from truing.report import charts, health, words
from truing.report.charts import Line
from truing.report.figures import Figure
from truing.report.health import Finding
from truing.report.metrics import ROLLOUT
from truing.report.rollouts import Gain, Rollout, Shown, Traced
from truing.report.stages import Stage

SHOWN = 6
"""Rollouts whose best and worst answers are shown, spread evenly."""
REASONS = 20
"""Reasons of failure that are shown."""
QUANTITIES = {
    "advantage": ("Advantage", "how much better than expected the answer was, as it is learnt from"),
    "reward": ("Reward", "the answer's on its last token, less the price of KL on each"),
    "value": ("Value", "what the critic expected before the token was chosen"),
    "kl": ("KL", "log-probability under the policy less that under the reference, in nats"),
}
"""What is shown of each token: heading and meaning."""
STEPS = ("far below 0", "below 0", "near 0", "above 0", "far above 0")
"""The five marks of a token, which differ in colour and in how it is underlined."""


@dataclass(frozen=True)
class Coloured:
    """An answer with one number of each token. tokens: text, place in STEPS, number. reach: of the scale."""

    heading: str
    meaning: str
    reach: float
    tokens: list[tuple[str, int, float]]


def online_figures(stage: Stage) -> list[Figure]:
    """The means of the rollouts, one chart for each."""
    names = [name for name in ROLLOUT if any(name in rollout.metrics for rollout in stage.rollouts)]
    found = [_figure(stage, name) for name in names]
    clipped = stage.curves.get("ratio/clipped")
    if clipped is not None:
        summary = f"{words.number(clipped.values[0])} → {words.number(clipped.end)}"
        line = Line("Tokens out of bounds", "policy", clipped.steps, clipped.values)
        chart = charts.line_chart(f"Tokens out of bounds of {stage.name}, by step: {summary}", [line], (), 0.0)
        hint = "By optimizer step: 0 at the first one of a rollout, then below a fifth."
        found.append(Figure("Tokens out of bounds", summary, hint, chart))
    return found


def _figure(stage: Stage, name: str) -> Figure:
    known = ROLLOUT[name]
    having = [rollout for rollout in stage.rollouts if name in rollout.metrics]
    numbers, values = [one.number for one in having], [one.metrics[name] for one in having]
    last = values[-max(1, len(values) // 10) :]
    summary = f"{words.number(values[0])} → {words.number(sum(last) / len(last))}"
    title = f"{known.heading} of {stage.name}, {len(values):,} rollouts: {summary}"
    line = Line(known.heading, "policy", numbers, values, known.shown)
    return Figure(known.heading, summary, known.hint, charts.line_chart(title, [line], (), known.rule))


def gain_tone(gain: Gain) -> str:
    """Which way the interval of the gain points."""
    return "good" if gain.gain.low > 0 else "bad" if gain.gain.high < 0 else "open"


def signed(value: float) -> str:
    """`+0.31`, `−0.02`."""
    return f"+{words.number(value)}" if value > 0 else words.number(value)


def failures(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """Prompts that were left out, by reason, the most frequent first. A reason may quote its row: there can be many."""
    total: Counter[str] = Counter()
    for rollout in rollouts:
        total.update(rollout.failed)
    return dict(total.most_common(REASONS))


def spread(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """A few of them, the first and the last among them."""
    having = [rollout for rollout in rollouts if rollout.shown]
    if len(having) <= SHOWN:
        return having
    return [having[round(place * (len(having) - 1) / (SHOWN - 1))] for place in range(SHOWN)]


def extremes(rollout: Rollout) -> list[tuple[str, Shown]]:
    """What did best and what did worst; one answer where all are alike."""
    names = ("Best", "Worst") if len(rollout.shown) > 1 else ("All alike",)
    return list(zip(names, rollout.shown, strict=False))


def stage_health(stage: Stage) -> list[Finding]:
    """Its watched numbers of late. What is told of rollouts is taken by rollout, what is left by step."""
    return health.findings(stage.latest)


def coloured(answer: Traced, beside: Sequence[Traced]) -> list[Coloured]:
    """The answer once for each number that its tokens have, marked on one scale with those beside it."""
    return [
        _coloured(answer, name, max(map(abs, _finite(name, beside)), default=0.0))
        for name in QUANTITIES
        if name in answer.numbers
    ]


def mark(value: float, reach: float) -> int:
    """The place in STEPS of a number on a scale from -reach to reach: a fifth of the scale each."""
    if not math.isfinite(value) or reach == 0:
        return 2
    return 2 + (1 if value > 0 else -1) * (0 if abs(value) < reach / 5 else 1 if abs(value) < 3 * reach / 5 else 2)


def _coloured(answer: Traced, name: str, reach: float) -> Coloured:
    heading, meaning = QUANTITIES[name]
    tokens = [
        (piece, mark(value, reach), value) for piece, value in zip(answer.pieces, answer.numbers[name], strict=True)
    ]
    return Coloured(heading, meaning, reach, tokens)


def _finite(name: str, answers: Sequence[Traced]) -> list[float]:
    return [value for one in answers for value in one.numbers.get(name, ()) if math.isfinite(value)]
