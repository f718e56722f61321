"""Judgements that agree with people's, as demonstrations of judging (the EFT data of arXiv:2401.10020)."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from truing import formats
from truing.errors import ConfigError, DataError, by_reason
from truing.records import Completion, Group, assistant, user
from truing.scoring.judges import Points, demand_scale
from truing.scoring.replies import REPLIES, UNREAD, Reply
from truing.scoring.rubric import HIGHEST, LOWEST, RUBRIC, points_in, points_request
from truing.scoring.score import Score
from truing.signatures import Count, Fraction
from truing.stages.arranging import Judged, Pairs, judge
from truing.stages.context import Context, Groups, Model
from truing.stages.replies import Writing, writer_of_several

FILE = "groups.jsonl"
DISAGREES = "no judgement has all points in people's order"
UNREADABLE = "no judgement has points for each answer"
COMMON = "judgements left out since their points are over-common"
POINTS = "judgements kept of {:g} points"


class Judgements(Writing):
    """Settings of `judgements`."""

    criteria: str = Field(RUBRIC, description="what to look at, and for what to give how many points, as in `judge`")
    low: Points = Field(LOWEST, description="the fewest points")
    high: Points = Field(HIGHEST, description="the most points; other than 0 and 5 they need criteria of your own")
    pairs: Pairs = Field(
        "all", description="which answers of a ranking are to be in people's order: all, best_worst or adjacent"
    )
    samples: Count = Field(1, description="judgements of each row at most; the first that agrees with people is kept")
    most: Annotated[Fraction, Field(gt=0)] = Field(
        0.4, description="share of all judgements that agree which those of one number of points may have; 1: any"
    )
    max_new_tokens: Count = Field(256, description="limit of a judgement in tokens; what is cut off there is not read")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        demand_scale("judgements", self.criteria, self.low, self.high)
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(
                f"samples = {self.samples} are all alike at temperature = 0: set temperature, such as 0.7"
            )
        return self


class Lesson(NamedTuple):
    """A judgement worth learning: what was asked, what was said, and the points in it."""

    request: str
    reply: str
    points: float


def judgements(context: Context, settings: Judgements, data: Groups, model: Model | None = None) -> None:
    """Has a judge say of each answer of rankings why and how many points, and keeps what agrees with people's ranking.

    Of a row all judgements are kept or none: those of one draw, with more points for each answer that people prefer.
    Points that come too often are thinned by chance. What is left is demonstrations: a stage `sft` on them makes a
    model a judge by the same words that the scorer `judge` asks it with.
    """
    groups = data.read()
    refused: Counter[str] = Counter()
    rows = comparing(groups, settings.pairs, refused)
    requests = [requests_of(row, settings) for row in rows]
    write = writer_of_several(context, settings, model, settings.samples)
    said = iter(write([request for several in requests for request in several], "judgements"))
    lessons: list[list[Lesson]] = []
    counts: Counter[str] = Counter()
    for row, several in zip(rows, requests, strict=True):
        found, reason = agreeing(row, several, [next(said) for _ in several], settings, counts)
        lessons.append(found)
        refused.update([reason] if reason else [])
    every = [lesson for row in lessons for lesson in row]
    if not every:
        raise DataError(
            f"stage '{context.stage}' has no judgement that agrees with people: {by_reason(refused)}{_unread(counts)}: "
            "take a better judge by model or endpoint, or more samples"
        )
    kept = thinned(every, settings.most, context.seed)
    counts[COMMON] = len(every) - len(kept)
    counts.update(POINTS.format(lesson.points) for lesson in sorted(kept, key=lambda lesson: lesson.points))
    used = sum(map(bool, lessons))
    context.event(
        "data", source=data.description, rows=len(groups), used=used, refused=dict(refused), counts=dict(+counts)
    )
    with context.output({"groups": FILE, "rows": len(kept)}) as folder:
        formats.write_data([demonstration(lesson) for lesson in kept], folder / FILE, format="group")


def comparing(groups: Sequence[Group], pairs: Pairs, refused: Counter[str]) -> list[Judged]:
    """The rows whose answers people put in an order; `refused` counts why others have none."""
    found: list[Judged] = []
    for group in groups:
        try:
            found.append(judge(group, "pair", pairs))
        except DataError as error:
            refused[str(error).removeprefix(f"{group.place}: ")] += 1
    return found


def compared(row: Judged) -> list[int]:
    """Places of the answers that are in any pair, the best first."""
    return sorted({place for pair in row.pairs for place in pair})


def requests_of(row: Judged, settings: Judgements) -> list[str]:
    """What the judge is asked, of each compared answer, in the words of the scorer `judge`."""
    prompt, answers = row.group.prompt, row.group.completions
    low, high = settings.low, settings.high
    return [
        points_request(prompt, answers[place].text, criteria=settings.criteria, low=low, high=high)
        for place in compared(row)
    ]


def agreeing(
    row: Judged,
    requests: Sequence[str],
    replies: Sequence[Sequence[Reply]],
    settings: Judgements,
    counts: Counter[str],
) -> tuple[list[Lesson], str]:
    """The first judgement of a row whose points are all in people's order, or why there is none.

    requests: one for each compared answer. replies: to each of them as many as there are judgements. counts: takes
    the replies that are read, and why others are not.
    """
    answers = compared(row)
    judgements: list[dict[int, Lesson]] = [{} for _ in range(settings.samples)]
    for answer, request, several in zip(answers, requests, replies, strict=True):
        for judgement, reply in zip(judgements, several, strict=False):  # what is too long is not put, and has one
            score = Score.failed(reply.failure) if reply.failure else points_in(reply.text, settings.low, settings.high)
            counts[REPLIES] += 1
            if score.value is None:
                counts[f"{UNREAD}{score.reason}"] += 1
            else:
                judgement[answer] = Lesson(request, reply.text.strip(), score.value)
    whole = [judgement for judgement in judgements if len(judgement) == len(answers)]
    for judgement in whole:
        if all(judgement[chosen].points > judgement[rejected].points for chosen, rejected in row.pairs):
            return [judgement[answer] for answer in answers], ""
    return [], DISAGREES if whole else UNREADABLE


def thinned(lessons: Sequence[Lesson], most: float, seed: int) -> list[Lesson]:
    """The judgements, in their order, with at most a share `most` of them all for any one number of points.

    Judges give nearly everything the same points, and a judge that learns from that says nothing else.
    """
    limit = max(1, math.floor(most * len(lessons)))
    order = list(range(len(lessons)))
    random.Random(seed).shuffle(order)
    left: Counter[float] = Counter()
    kept: list[int] = []
    for place in order:
        if left[lessons[place].points] < limit:
            left[lessons[place].points] += 1
            kept.append(place)
    return [lessons[place] for place in sorted(kept)]


def demonstration(lesson: Lesson) -> Group:
    """The request, answered as the judgement did."""
    return Group((user(lesson.request),), (Completion((assistant(lesson.reply),)),))


def _unread(counts: Counter[str]) -> str:
    """Why replies could not be read, if any could not."""
    why = {name.removeprefix(UNREAD): count for name, count in counts.items() if name.startswith(UNREAD)}
    return f"; of {counts[REPLIES]} replies left unread: {by_reason(why)}" if why else ""
