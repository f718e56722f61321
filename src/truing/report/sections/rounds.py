"""What a loop measured round by round, and which round and model wrote the answers that were learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from truing.report import charts, words
from truing.report.charts import Line, Points
from truing.report.figures import Figure
from truing.report.sections.data import Data
from truing.report.sections.reward import Reward
from truing.report.sections.verdict import Evaluation
from truing.report.stages import Stage
from truing.report.view import View, from_where
from truing.statistics import Interval

Value = Interval | float
LENGTHS = {
    "answer_tokens": "Length of the answers",
    "chosen_tokens": "Length of the chosen answers",
    "rejected_tokens": "Length of the rejected answers",
}
NOBODY = "the data, which name no writer"


@dataclass(frozen=True)
class Measure:
    """One number, as a stage of the body gave it. values: by round; None where it did not, or not yet.

    is_coin: whether it is a share of which a half is chance.
    """

    stage: str
    heading: str
    is_coin: bool
    values: list[Value | None]

    @property
    def said(self) -> list[str]:
        """The values as they are read."""
        return [_said(value, self.is_coin) for value in self.values]


@dataclass(frozen=True)
class Origin:
    """The rows that a stage took in one round, and how many of their answers who wrote."""

    round: int
    stage: str
    rows: int | None
    writers: dict[str, int]


@dataclass(frozen=True)
class Loop:
    """A loop as far as it has come. stages: of its body."""

    name: str
    begun: int
    of: int
    stages: list[str]
    measures: list[Measure]
    origins: list[Origin]


def loops(run: View) -> list[Loop]:
    """The loops of a run, in their order."""
    names = dict.fromkeys(stage.round.loop for stage in run.stages if stage.round)
    return [_loop(run, name) for name in names]


def figures(loop: Loop) -> list[Figure]:
    """A curve over rounds for each number that at least two of them have, and that is not the same in all."""
    return [_figure(one) for one in loop.measures if len({value for value in one.values if value is not None}) > 1]


def writers(run: View, written_by: Mapping[str, int]) -> dict[str, int]:
    """Who wrote answers, as a reader knows them; nothing where nobody is named."""
    if not any(written_by):
        return {}
    return {from_where(run, name) if name else NOBODY: count for name, count in written_by.items()}


def _loop(run: View, name: str) -> Loop:
    body = [(stage.round, stage) for stage in run.stages if stage.round and stage.round.loop == name]
    begun = max(round.number for round, _ in body)
    found: dict[tuple[str, str], Measure] = {}
    origins: list[Origin] = []
    stages: dict[str, None] = {}
    for round, stage in body:
        short = stage.name.removeprefix(round.stage(""))
        stages[short] = None
        for heading, value, is_coin in _measured(run, stage):
            empty: list[Value | None] = [None] * begun
            found.setdefault((short, heading), Measure(short, heading, is_coin, empty)).values[round.number - 1] = value
        for data in stage.data[-1:]:
            if who := writers(run, data.written_by):
                origins.append(Origin(round.number, short, data.used, who))
    return Loop(name, begun, body[0][0].of, list(stages), list(found.values()), origins)


def _measured(run: View, stage: Stage) -> Iterator[tuple[str, Value, bool]]:
    """Heading and value of what a stage says of itself, and whether half of it is chance."""
    for data in stage.data[-1:]:
        yield from ((heading, value, False) for heading, value in _of_rows(data, stage))
    if "loss" in stage.curves:
        yield "Loss at the end", stage.curves["loss"].end, False
    for held in stage.held_out[-1:]:
        if held.accuracy is not None:
            yield "Held-out accuracy", held.accuracy, True
        if held.loss is not None:
            yield "Held-out loss", held.loss, False
    if stage.gain is not None:
        yield "Reward of held-out prompts", stage.gain.after, False
    for evaluation in run.evaluations:
        if evaluation.stage == stage.name:
            yield from _of_evaluation(evaluation)
    for reward in run.found["reward"]:
        if reward.stage == stage.name:
            yield from _of_reward(reward)


def _of_rows(data: Data, stage: Stage) -> Iterator[tuple[str, Value]]:
    if data.rows is not None and data.used is not None:
        yield "Rows used", float(data.used)
        yield "Rows left out", float(data.rows - data.used)
    if data.mean_score is not None:
        yield "Mean score of all answers", data.mean_score
    if "every answer" in data.scores and stage.settings.get("keep") != "all":
        yield "Mean score of those kept", float(np.mean(data.scores["every answer"]))
    if "best of each row" in data.scores:
        yield "Mean score of the best", float(np.mean(data.scores["best of each row"]))
    for name, heading in LENGTHS.items():
        if name in data.lengths:
            yield heading, float(np.mean(data.lengths[name]))


def _of_evaluation(evaluation: Evaluation) -> Iterator[tuple[str, Value, bool]]:
    if evaluation.win_rate is not None:
        yield "Win rate", evaluation.win_rate, True
    if evaluation.kl is not None:
        yield "KL from its base", evaluation.kl, False
    if evaluation.length_ratio is not None:
        yield "Length against its base", evaluation.length_ratio, False


def _of_reward(reward: Reward) -> Iterator[tuple[str, Value, bool]]:
    yield f"Accuracy of the {'scorer' if reward.scorer else 'reward model'}", reward.accuracy, True
    if not reward.scorer:
        return
    found = {
        "Rankings that it has exactly": reward.exact,
        "Best answers among its highest": reward.best_of_highest,
        "Spearman with people": reward.spearman,
        "Kendall with people": reward.kendall,
    }
    yield from ((heading, value, False) for heading, value in found.items() if value is not None)


def _said(value: Value | None, is_coin: bool) -> str:
    if value is None:
        return "–"
    if isinstance(value, Interval):
        return value.percent if is_coin else words.interval(value)
    return words.number(value)


def _figure(measure: Measure) -> Figure:
    having = [(number, value) for number, value in enumerate(measure.values, 1) if value is not None]
    numbers = [number for number, _ in having]
    ranges = [value for _, value in having if isinstance(value, Interval)]
    middle = [value.value if isinstance(value, Interval) else value for _, value in having]
    summary = " → ".join(
        words.percent(end) if measure.is_coin else words.number(end) for end in (middle[0], middle[-1])
    )
    whiskers = measure.is_coin and len(ranges) == len(having)
    chart = charts.line_chart(
        f"{measure.heading} of {measure.stage} by round: {summary}",
        [Line(measure.heading, "policy", numbers, middle, "values")],
        [Points(measure.heading, "policy", numbers, ranges, "in round {}")] if whiskers else [],
        0.5 if measure.is_coin else None,
    )
    return Figure(f"{measure.heading}, {measure.stage}", summary, "", chart)
