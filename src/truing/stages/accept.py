"""What of scored answers goes on: by rejection sampling (`accept`), or those above a threshold (`threshold`)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from truing import formats
from truing.errors import DataError, by_reason
from truing.records import Completion, Group, written_by
from truing.scoring.rejection import accepted, tournament
from truing.signatures import Count, Positive, Settings
from truing.stages.context import Context, Groups

FILE = "groups.jsonl"
EQUAL = "no accepted answer is better than another"
FEW = "fewer than two answers accepted"
NOT_TWO = "not two answers"
SAME = "both answers are the same words"

Share = Annotated[float, Field(gt=0, le=1)]


class Accept(Settings):
    """Settings of `accept`."""

    answers: Count = Field(8, description="answers of a row that are accepted at most")
    beta: Positive = Field(0.5, description="temperature of the policy that is aimed at, in units of the scores")


class Threshold(Settings):
    """Settings of `threshold`."""

    share: Share = Field(
        description="how many of all answers, or comparisons, reach the threshold; fewer where scores are equal"
    )
    of: Literal["answers", "comparisons"] = Field(
        "answers",
        description="answers: each becomes a row of its own, and their scores count; comparisons: rows of two answers "
        "stay, and the difference of their scores counts",
    )


def accept(context: Context, settings: Accept, data: Groups) -> None:
    """Comparisons of answers that statistical rejection sampling accepts (RSO, arXiv:2309.06657).

    The rows need many answers with scores, from a stage `score`. Accepted ones meet in a tournament, by score; the
    comparisons of a row share its weight.
    """
    groups, refused = data.read(), Counter[str]()
    made = [pair for row in groups for pair in _met(row, settings, context.seed, refused)]
    _put_out(context, data, len(groups), made, refused)


def threshold(context: Context, settings: Threshold, data: Groups) -> None:
    """The best share of all answers (ReST, arXiv:2308.08998), or the clearest one of all comparisons (West-of-N).

    The threshold is one score for all rows, so an easy prompt may give several answers, and a hard one none. Of equal
    scores all are kept or none: fewer than the share, but where all of them are the highest. That is warned of.
    """
    groups, refused = data.read(), Counter[str]()
    if settings.of == "answers":
        candidates = [_alone(row, answer) for row in groups for answer in row.completions]
        heights = [_score(row, row.completions[0]) for row in candidates]
    else:
        candidates = [row for row in groups if _two(row, refused)]
        heights = [abs(_score(row, row.completions[0]) - _score(row, row.completions[1])) for row in candidates]
    least = lowest(heights, settings.share)
    made = [row for row, height in zip(candidates, heights, strict=True) if height >= least]
    refused["below the threshold"] += len(candidates) - len(made)
    asked = count_of(len(candidates), settings.share)
    if made and len(made) != asked:
        context.warn(
            f"{len(made):,} of {len(candidates):,} {settings.of} reach the threshold, where share = {settings.share:g} "
            f"asks for {asked:,}: equal scores are kept or left out together"
        )
    context.event("threshold", of=settings.of, share=settings.share, value=least)
    _put_out(context, data, len(groups), made, +refused)


def lowest(values: Sequence[float], share: float) -> float:
    """The smallest of the values that no more than this share of them reach; where none is, the highest."""
    if not values:
        return 0.0
    ordered, most = sorted(values, reverse=True), count_of(len(values), share)
    if most == len(ordered):
        return ordered[-1]
    return min((value for value in ordered if value > ordered[most]), default=ordered[0])


def count_of(values: int, share: float) -> int:
    """How many values this share of them is, and at least one."""
    return max(1, round(share * values))


def _met(row: Group, settings: Accept, seed: int, refused: Counter[str]) -> list[Group]:
    """The comparisons of a row's accepted answers; `refused` counts why a row has none."""
    scores = [_score(row, answer) for answer in row.completions]
    found = accepted(scores, settings.beta, settings.answers, random.Random(f"{seed}:{row.id}"))
    pairs = [
        (one, other) for one, other in tournament(found, scores)
        if row.completions[one].text.strip() != row.completions[other].text.strip()
    ]  # fmt: skip
    if not pairs:
        refused[FEW if len(found) < 2 else EQUAL] += 1
    return [
        replace(row, completions=(row.completions[one], row.completions[other]), weight=row.weight / len(pairs),
                strength=None)
        for one, other in pairs
    ]  # fmt: skip


def _two(row: Group, refused: Counter[str]) -> bool:
    """Whether a row is a comparison of different words."""
    texts = [answer.text.strip() for answer in row.completions]
    reason = NOT_TWO if len(texts) != 2 else SAME if texts[0] == texts[1] else ""
    refused.update([reason] if reason else [])
    return not reason


def _alone(row: Group, answer: Completion) -> Group:
    return replace(row, completions=(replace(answer, rank=None),), strength=None)


def _score(row: Group, answer: Completion) -> float:
    if answer.score is None:
        raise DataError(f"{row.place}: an answer without a score: put a stage 'score' before this one")
    return answer.score


def _put_out(context: Context, data: Groups, rows: int, made: Sequence[Group], refused: Counter[str]) -> None:
    if not made:
        raise DataError(f"stage '{context.stage}' has no row left; left out: {by_reason(refused)}")
    context.event(
        "data", source=data.description, rows=rows, used=len(made), refused=dict(refused), written_by=written_by(made)
    )
    with context.output({"groups": FILE, "rows": len(made)}) as folder:
        formats.write_data(made, folder / FILE, format="group")
