"""Scores of the answers, by any scorer, and the choice of answers by them: for rejection sampling and comparisons."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from truing import formats
from truing.errors import DataError, by_reason
from truing.records import Completion, Group, written_by
from truing.scoring.score import Score, Scorer, added
from truing.scoring.scorers import Spec, make
from truing.signatures import Count, Settings
from truing.stages.context import Context, Groups, Judges, write_json

PART = 256
"""Rows whose scores are kept on disk together: what an interruption loses at most."""
FILE = "groups.jsonl"
SCORES = "scores.json"
POINTS = 101
"""Points of the curve of scores in order."""

Keep = Literal["all", "best", "best_and_worst", "ranking"]
KEPT: dict[Keep, int | None] = {"all": None, "best": 1, "best_and_worst": 2, "ranking": None}
"""How many answers of a row go on at most."""

OnFailure = Literal["drop_row", "drop_answer", "stop"]


class ScoreAnswers(Settings):
    """Settings of `score`."""

    scorer: Spec = Field(
        "reward_model",
        description="the scorer's name, or a table with name and settings",
        validate_default=True,
    )
    keep: Keep = Field(
        "all",
        description="answers that go on: all, the best, best_and_worst as a comparison, or ranking: all that differ",
    )
    ranks: Literal["keep", "replace"] = Field(
        "keep", description="ranks and thumbs that answers already have: keep, or let the scores replace them"
    )
    on_failure: OnFailure = Field(
        "drop_row", description="where an answer gets no score: drop_row, drop_answer, or stop the run"
    )
    forest_tokens: Count = Field(2048, description="tokens that a reward model reads at once; changes time and memory")


def score(context: Context, settings: ScoreAnswers, data: Groups, judges: Judges) -> None:
    """Gives every answer a score, and keeps those that the settings ask for."""
    groups = data.read()
    said = scores_of(context, settings.scorer, judges, groups, budget=settings.forest_tokens)
    refused: Counter[str] = Counter()
    made = [
        kept
        for group, scores in zip(groups, said, strict=True)
        if (kept := chosen(group, scores, settings, refused)) is not None
    ]
    if not made:
        raise DataError(f"stage '{context.stage}' has no row left; left out: {by_reason(refused)}")
    context.event(
        "data",
        source=data.description,
        rows=len(groups),
        used=len(made),
        refused=dict(refused),
        reasons=reasons_of(said),
        counts=counts_of(said),
        scores=curves(made),
        mean_score=mean_of(said),
        written_by=written_by(made),
    )
    with context.output({"groups": FILE, "rows": len(made)}) as folder:
        formats.write_data(made, folder / FILE, format="group")


def scores_of(
    context: Context,
    spec: Mapping[str, Any],
    judges: Judges,
    groups: Sequence[Group],
    *,
    budget: int,
    name: str = "scores",
) -> list[tuple[Score, ...]]:
    """What a scorer says of all answers, kept in the run a part at a time.

    budget: tokens read at once. name: by which the parts are kept.
    """
    scorer = functools.cache(lambda: make(spec, context.tools(judges, budget)))
    said: list[tuple[Score, ...]] = []
    with context.reporter.task(f"{context.stage}: {spec['name']}", len(groups)) as task:
        for start in range(0, len(groups), PART):
            context.check_stop()
            said += _part(context, scorer, groups[start : start + PART], f"{name}-{start}")
            task.advance(len(said))
    return said


def chosen(group: Group, scores: Sequence[Score], settings: ScoreAnswers, refused: Counter[str]) -> Group | None:
    """The row with its scores and the answers that go on, or None; `refused` counts why answers and rows do not."""
    failed = [score.reason for score in scores if score.value is None]
    if failed and settings.on_failure == "stop":
        raise DataError(f'{group.place}: no score: {failed[0]}: mend it, or set on_failure = "drop_row"')
    refused.update(failed if settings.on_failure == "drop_answer" else failed[:1])
    if failed and settings.on_failure == "drop_row":
        return None
    answers = [
        _scored(answer, score, settings)
        for answer, score in zip(group.completions, scores, strict=True)
        if score.value is not None
    ]
    if not answers:
        refused.update([] if failed else ["no answer"])
        return None
    if settings.keep != "all":
        answers.sort(key=_value, reverse=True)  # stable: of equal ones the first
        answers = {"best": answers[:1], "best_and_worst": [answers[0], answers[-1]], "ranking": answers}[settings.keep]
    if settings.keep == "ranking":
        different: dict[str, Completion] = {}
        for answer in answers:
            different.setdefault(answer.text.strip(), answer)
        answers = list(different.values())
    if settings.keep in ("best_and_worst", "ranking") and _value(answers[0]) == _value(answers[-1]):
        refused["no answer is better than another"] += 1
        return None
    if settings.keep == "best_and_worst" and answers[0].messages == answers[-1].messages:
        refused["the best answer and the worst are the same words"] += 1  # one came to its end, the other did not
        return None
    deviations = [score.deviation for score in scores if score.value is not None]
    known = {"deviation": deviations} if settings.keep == "all" and any(d is not None for d in deviations) else {}
    return replace(
        group,
        completions=tuple(answers),
        strength=group.strength if settings.ranks == "keep" and settings.keep == "all" else None,
        extra={**group.extra, **known},
    )


def reasons_of(said: Sequence[Sequence[Score]]) -> dict[str, int]:
    """Of the answers that got a number, how often which reason was given for it."""
    return dict(Counter(one.reason for scores in said for one in scores if one.value is not None and one.reason))


def counts_of(said: Sequence[Sequence[Score]]) -> dict[str, int]:
    """What was counted on the way to the scores of all answers, such as replies of a judge that say none."""
    return added(*(one.counts for scores in said for one in scores))


def mean_of(said: Sequence[Sequence[Score]]) -> float:
    """The mean score of all answers that got one, those that do not go on among them."""
    return float(np.mean([one.value for scores in said for one in scores if one.value is not None]))


def curves(groups: Sequence[Group]) -> dict[str, list[float]]:
    """Scores at even steps from the lowest to the highest, of all answers and of the best one of each row."""
    each = [[_value(answer) for answer in group.completions] for group in groups]
    found = {"every answer": [value for values in each for value in values]}
    if any(len(values) > 1 for values in each):
        found["best of each row"] = [max(values) for values in each]
    return {name: in_order(values) for name, values in found.items()}


def in_order(values: Sequence[float]) -> list[float]:
    """Values at even steps from the lowest to the highest."""
    found: list[float] = np.quantile(values, np.linspace(0, 1, POINTS)).tolist()
    return found


def _part(context: Context, scorer: Callable[[], Scorer], groups: Sequence[Group], key: str) -> list[tuple[Score, ...]]:
    """The scores of some rows, kept as soon as they are known."""
    done = context.run.artifact(f"{context.key}-{key}")
    if done is None:
        said = scorer()(groups)
        with context.output({"rows": len(groups)}, part=key) as folder:
            write_json(folder / SCORES, said)
        done = context.run.artifact(f"{context.key}-{key}")
        assert done is not None, "it was just made"
    return [tuple(Score(*one) for one in row) for row in json.loads((done.path / SCORES).read_text())]


def _scored(answer: Completion, score: Score, settings: ScoreAnswers) -> Completion:
    if settings.ranks == "replace" or settings.keep != "all":
        return replace(answer, score=score.value, rank=None, label=None)
    return replace(answer, score=score.value)


def _value(answer: Completion) -> float:
    assert answer.score is not None, "every answer that goes on has a score"
    return answer.score
