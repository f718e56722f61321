"""Language models that judge one answer at a time: in words that end in points, or by the digit they would say.

A judge is tried on control answers first (see `controls`). Two answers side by side are judged in `duels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from truing.compute import Sampling
from truing.errors import ConfigError
from truing.records import Group
from truing.scoring.choices import choice_ids, choice_logprobs
from truing.scoring.controls import USUAL, Case, Controls, Say, controlled
from truing.scoring.grades import MASS
from truing.scoring.replies import MAX_LENGTH, asking, averaged
from truing.scoring.requests import Judging, Principles, guide_of, principle_of, put
from truing.scoring.rubric import HIGHEST, LOWEST, MARK, RUBRIC, digit_request, points_in, points_request
from truing.scoring.score import LanguageModelName, Score, Scorer, Tools
from truing.selection.expectation import expected
from truing.signatures import Count, Fraction, NonNegative

Points = Annotated[int, Field(ge=0)]
Digit = Annotated[int, Field(ge=0, le=9)]


def judge(
    tools: Tools,
    *,
    model: Judging = "",
    criteria: str = RUBRIC,
    low: Points = LOWEST,
    high: Points = HIGHEST,
    principle: Principles = (),
    reference: str = "",
    samples: Count = 1,
    temperature: NonNegative = 0.0,
    max_new_tokens: Count = 512,
    max_length: Count = MAX_LENGTH,
    controls: Controls = USUAL,
) -> Scorer:
    """The points, 0 to 5, that a language model gives an answer after it has said why.

    The rubric of self-rewarding models (arXiv:2401.10020), in words of our own. A reply without points that hold is
    counted by its reason; an answer none of whose replies can be read has failed.

    model: a model, its folder or hub id, or the stage that trains it; none: the run's own; or, of a model behind an
        OpenAI-compatible endpoint, { url = "http://localhost:8000/v1", model = "NAME" }.
    criteria: what to look at, and for what to give how many points.
    low: the fewest points.
    high: the most points; other than 0 and 5 they need criteria of your own.
    principle: what to judge by above all; of several texts one is drawn for each row, by the seed.
    reference: the column that holds a right answer for the judge to see, or the source of an answer that is one.
    samples: replies to each answer, whose points are averaged.
    temperature: divides the judge's logits; 0 is greedy.
    max_new_tokens: limit of a reply in tokens of its own, the request not counted; a reply that reaches it has failed.
    max_length: longer requests to a model here, in tokens, fail.
    controls: rows, high and most: how the judge is tried on answers that deserve nothing, and when it is refused.
    """
    demand_scale("judge", criteria, low, high)
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    ask = asking(tools, model, samples=samples, sampling=sampling, max_length=max_length)

    def request(case: Case, rule: str, guide: str) -> str:
        known = {"principle": rule, "reference": guide}
        return points_request(case.group.prompt, case.answer, criteria=criteria, low=low, high=high, **known)

    def say(cases: Sequence[Case]) -> list[Score]:
        said = put(_requests(cases, request, principle, reference, tools.seed), ask)
        return [averaged(replies, lambda text: points_in(text, low, high)) for replies in said]

    return _one_by_one("judge", say, controls, tools, f"{MARK}: {high}", low, high)


def judge_digit(
    tools: Tools,
    *,
    model: LanguageModelName = "",
    criteria: str = RUBRIC,
    low: Digit = LOWEST,
    high: Digit = HIGHEST,
    principle: Principles = (),
    reference: str = "",
    max_length: Count = MAX_LENGTH,
    mass: Fraction = MASS,
    controls: Controls = USUAL,
) -> Scorer:
    """The points that a language model would give an answer at once: the mean over the digits that it may say next.

    As `judge`, without reasons and without chance: one pass gives the probability of each digit.

    model: a model, its folder or hub id, or the stage that trains it; none: the run's own.
    criteria: what to look at, and for what to give how many points.
    low: the fewest points, one digit.
    high: the most points, one digit; other than 0 and 5 they need criteria of your own.
    principle: what to judge by above all; of several texts one is drawn for each row, by the seed.
    reference: the column that holds a right answer for the judge to see, or the source of an answer that is one.
    max_length: longer requests, in tokens, fail.
    mass: least probability that the model gives to all digits together; with less its points mean nothing, and fail.
    controls: rows, high and most: how the judge is tried on answers that deserve nothing, and when it is refused.
    """
    demand_scale("judge_digit", criteria, low, high)
    engine = tools.language(model)
    ids = choice_ids(engine.renderer, [str(digit) for digit in range(low, high + 1)])

    def request(case: Case, rule: str, guide: str) -> str:
        known = {"principle": rule, "reference": guide}
        return digit_request(case.group.prompt, case.answer, criteria=criteria, low=low, high=high, **known)

    def read(logprobs: tuple[float, ...] | Score) -> Score:
        if isinstance(logprobs, Score):
            return logprobs
        points = expected(logprobs, low)
        if points.mass < mass:
            return Score.failed(f"the model gives all digits together less than {mass:g} of the probability")
        return Score.of(points.value, points.deviation)

    def say(cases: Sequence[Case]) -> list[Score]:
        requests = _requests(cases, request, principle, reference, tools.seed)
        return [
            read(said)
            for said in put(requests, lambda some: choice_logprobs(engine, ids, some, max_length, tools.budget))
        ]

    return _one_by_one("judge_digit", say, controls, tools, str(high), low, high)


def demand_scale(name: str, criteria: str, low: int, high: int) -> None:
    """Refuses points that the criteria do not mean."""
    if low >= high:
        raise ConfigError(f"{name}: low = {low} is not below high = {high}")
    if criteria == RUBRIC and (low, high) != (LOWEST, HIGHEST):
        raise ConfigError(
            f"{name}: the rubric gives {LOWEST} to {HIGHEST} points: for {low} to {high} set criteria of your own too"
        )


def _requests(
    cases: Sequence[Case],
    request: Callable[[Case, str, str], str],
    principles: Sequence[str],
    reference: str,
    seed: int,
) -> list[str | Score]:
    """What is asked of each answer, by its row's principle and reference, or why nothing can be."""
    guides = [guide_of(case.group, reference) for case in cases]
    return [
        guide if isinstance(guide, Score) else request(case, principle_of(case.group, principles, seed), guide)
        for case, guide in zip(cases, guides, strict=True)
    ]


def _one_by_one(name: str, say: Say, controls: Controls, tools: Tools, claim: str, low: int, high: int) -> Scorer:
    """A scorer of single answers, tried on control answers first."""

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        said = iter(say([Case(group, answer.text) for group in groups for answer in group.completions]))
        return [tuple(next(said) for _ in group.completions) for group in groups]

    above = low + controls.high * (high - low)
    return controlled(score, say, controls, tools, name=name, claims=[claim], high=above)
