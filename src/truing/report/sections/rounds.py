"""What a loop measured round by round, which model went on, and who wrote the answers that were learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from truing.report import charts, words
from truing.report.charts import Line, Points
from truing.report.figures import Figure
from truing.report.sections.data import Data
from truing.report.sections.measured import Suite
from truing.report.sections.reward import Reward
from truing.report.sections.verdict import Evaluation
from truing.report.stages import Chosen, Curve, Stage
from truing.report.view import View, from_where
from truing.statistics import Interval

Value = Interval | float
Scale = Literal["number", "share", "coin"]
"""What a value is: a share of which a half is chance is a coin's."""
LENGTHS = {
    "answer_tokens": "Length of the answers",
    "chosen_tokens": "Length of the chosen answers",
    "rejected_tokens": "Length of the rejected answers",
}
LATEST = {"reward": "Reward at the end", "length": "Length at the end", "kl": "KL at the end"}
"""What trainings tell of their answers by rollout or by step, the mean of its last tenth."""
WINS = "Win rate"
NOBODY = "the data, which name no writer"


class Number(NamedTuple):
    """What a stage says of itself. beside: whether it only stands beside another number, and has no curve."""

    heading: str
    value: Value
    scale: Scale = "number"
    beside: bool = False


@dataclass(frozen=True)
class Measure:
    """One number, as a stage of the body gave it. values: by round; None where it did not, or not yet."""

    stage: str
    heading: str
    scale: Scale
    beside: bool
    values: list[Value | None]

    @property
    def said(self) -> list[str]:
        """The values as they are read."""
        return [_said(value, self.scale) for value in self.values]


@dataclass(frozen=True)
class Matrix:
    """How often each round's model won against others, by a stage of the body.

    columns: the others, those of rounds last. rows: by round; None where a pair was not measured, or not yet.
    """

    stage: str
    columns: list[str]
    rows: list[list[Interval | None]]


@dataclass(frozen=True)
class Choice:
    """Which model went on from a round. name: of that model."""

    round: int
    stage: str
    chosen: Chosen
    name: str


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
    matrices: list[Matrix]
    choices: list[Choice]
    origins: list[Origin]


def loops(run: View) -> list[Loop]:
    """The loops of a run, in their order."""
    names = dict.fromkeys(stage.round.loop for stage in run.stages if stage.round)
    return [_loop(run, name) for name in names]


def figures(loop: Loop) -> list[Figure]:
    """A curve over rounds for each number that has one, that at least two of them have, and not all the same."""
    own = [one for one in loop.measures if not one.beside]
    return [_figure(one) for one in own if len({value for value in one.values if value is not None}) > 1]


def writers(run: View, written_by: Mapping[str, int]) -> dict[str, int]:
    """Who wrote answers, as a reader knows them; nothing where nobody is named."""
    if not any(written_by):
        return {}
    return {from_where(run, name) if name else NOBODY: count for name, count in written_by.items()}


def _loop(run: View, name: str) -> Loop:
    body = [(stage.round, stage) for stage in run.stages if stage.round and stage.round.loop == name]
    begun = max(round.number for round, _ in body)
    found: dict[tuple[str, str], Measure] = {}
    choices: list[Choice] = []
    origins: list[Origin] = []
    stages: dict[str, None] = {}
    matrices = _matrices(run, [stage for _, stage in body], begun)
    drawn = {matrix.stage for matrix in matrices}
    for round, stage in body:
        short = stage.name.removeprefix(round.stage(""))
        own, _, one_of_several = short.partition("/")
        stages[own] = None
        for one in _measured(run, stage):
            if own in drawn and one_of_several and one.heading.startswith(WINS):  # that stands in the matrix
                continue
            empty: list[Value | None] = [None] * begun
            measure = Measure(short, one.heading, one.scale, one.beside, empty)
            found.setdefault((short, one.heading), measure).values[round.number - 1] = one.value
        if stage.chosen is not None:
            choices.append(Choice(round.number, short, stage.chosen, from_where(run, stage.chosen.model)))
        for data in stage.data[-1:]:
            if who := writers(run, data.written_by):
                origins.append(Origin(round.number, short, data.used, who))
    return Loop(name, begun, body[0][0].of, list(stages), list(found.values()), matrices, choices, origins)


def _matrices(run: View, body: Sequence[Stage], begun: int) -> list[Matrix]:
    """A matrix for each stage of the body that measured a round's model against another round's. What a choice between
    two was made by stands with the choice.
    """
    made = {stage.key: stage.round.number for stage in body if stage.round}
    wins: dict[str, dict[tuple[int, str], Interval]] = {}
    for stage in body:
        rate = next((one.value for one in _measured(run, stage) if one.heading == WINS), None)
        if stage.round and stage.chosen is None and isinstance(rate, Interval):
            short = stage.name.removeprefix(stage.round.stage("")).partition("/")[0]
            wins.setdefault(short, {})[stage.round.number, stage.inputs.get("base", "")] = rate
    found = []
    for short, cells in wins.items():
        bases = sorted(dict.fromkeys(base for _, base in cells), key=lambda base: made.get(base, 0))
        if not any(base in made for base in bases):
            continue
        columns = [f"round {made[base]}" if base in made else from_where(run, base) for base in bases]
        rows = [[cells.get((number, base)) for base in bases] for number in range(1, begun + 1)]
        found.append(Matrix(short, columns, rows))
    return found


def _measured(run: View, stage: Stage) -> Iterator[Number]:
    """What a stage says of itself in numbers."""
    for data in stage.data[-1:]:
        yield from _of_rows(data, stage)
    if "loss" in stage.curves:
        yield Number("Loss at the end", stage.curves["loss"].end)
    yield from (
        Number(heading, Curve([], stage.latest[name]).end) for name, heading in LATEST.items() if name in stage.latest
    )
    for held in stage.held_out[-1:]:
        if held.accuracy is not None:
            yield Number("Held-out accuracy", held.accuracy, "coin")
        if held.loss is not None:
            yield Number("Held-out loss", held.loss)
    if stage.gain is not None:
        yield Number("Reward of held-out prompts", stage.gain.after)
    for evaluation in run.evaluations:
        if evaluation.stage == stage.name:
            yield from _of_evaluation(evaluation)
    for reward in run.found["reward"]:
        if reward.stage == stage.name:
            yield from _of_reward(reward)
    for suite in run.found["measured"]:
        if suite.stage == stage.name and not suite.guards:
            yield from _of_suite(suite)


def _of_rows(data: Data, stage: Stage) -> Iterator[Number]:
    if data.rows is not None and data.used is not None:
        yield Number("Rows used", float(data.used), beside=True)
        yield Number("Rows left out", float(data.rows - data.used), beside=True)
    if data.mean_score is not None:
        yield Number("Mean score of all answers", data.mean_score)
    if "every answer" in data.scores and stage.settings.get("keep") != "all":
        yield Number("Mean score of those kept", float(np.mean(data.scores["every answer"])))
    if "best of each row" in data.scores:
        yield Number("Mean score of the best", float(np.mean(data.scores["best of each row"])))
    for name, heading in LENGTHS.items():
        if name in data.lengths:
            yield Number(heading, float(np.mean(data.lengths[name])))


def _of_evaluation(evaluation: Evaluation) -> Iterator[Number]:
    if evaluation.win_rate is not None:
        yield Number(WINS, evaluation.win_rate, "coin")
    if evaluation.kl is not None:
        yield Number("KL from its base", evaluation.kl)
    if evaluation.length_ratio is not None:
        yield Number("Length against its base", evaluation.length_ratio)


def _of_suite(suite: Suite) -> Iterator[Number]:
    """The model's numbers, and what stands beside them."""
    for row in suite.rows:
        heading = row.what[:1].upper() + row.what[1:]
        yield Number(heading, row.model, "coin" if heading == WINS else row.scale)
        for name, one in row.about.items():
            yield Number(f"{heading}: {name}", one, row.scale_of(name), beside=True)


def _of_reward(reward: Reward) -> Iterator[Number]:
    yield Number(f"Accuracy of the {'scorer' if reward.scorer else 'reward model'}", reward.accuracy, "coin")
    if not reward.scorer:
        return
    found = {
        "Rankings that it has exactly": reward.exact,
        "Best answers among its highest": reward.best_of_highest,
        "Spearman with people": reward.spearman,
        "Kendall with people": reward.kendall,
    }
    yield from (Number(heading, value) for heading, value in found.items() if value is not None)


def _said(value: Value | None, scale: Scale) -> str:
    if value is None:
        return "–"
    if isinstance(value, Interval):
        return words.interval(value) if scale == "number" else value.percent
    return words.number(value)


def _figure(measure: Measure) -> Figure:
    having = [(number, value) for number, value in enumerate(measure.values, 1) if value is not None]
    numbers = [number for number, _ in having]
    ranges = [value for _, value in having if isinstance(value, Interval)]
    middle = [value.value if isinstance(value, Interval) else value for _, value in having]
    summary = " → ".join(
        words.number(end) if measure.scale == "number" else words.percent(end) for end in (middle[0], middle[-1])
    )
    whiskers = measure.scale != "number" and len(ranges) == len(having)
    chart = charts.line_chart(
        f"{measure.heading} of {measure.stage} by round: {summary}",
        [Line(measure.heading, "policy", numbers, middle, "values")],
        [Points(measure.heading, "policy", numbers, ranges, "in round {}")] if whiskers else [],
        0.5 if measure.scale == "coin" else None,
    )
    return Figure(f"{measure.heading}, {measure.stage}", summary, "", chart)
