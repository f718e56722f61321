"""Scorers that a language model is read for: grades of instruction and answer, and how hard an answer is to foresee.

Nothing is written: a grade is the mean over the digits that the model may say next, so one pass gives it exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from truing.compute import Engine
from truing.records import Group, text
from truing.rendering import Renderer, Row
from truing.scoring.answers import of_answers, rendered
from truing.scoring.choices import choice_ids, choice_logprobs
from truing.scoring.score import LanguageModelName, Score, Scorer, Tools
from truing.selection.difficulty import MISALIGNED, difficulty
from truing.selection.expectation import GRADES, Grade, expected
from truing.selection.turns import Turn, complexity_request, quality_request, turns_of
from truing.signatures import Count, Fraction

MASS = 0.01
NO_TURN = "no request that is graded in the row"


def complexity(
    tools: Tools, *, model: LanguageModelName = "", max_length: Count = 4096, mass: Fraction = MASS
) -> Scorer:
    """How demanding the instructions are, graded 1 to 6 by a language model and added up over the turns.

    model: a model, its folder or hub id, or the stage that trains it; none: the run's own.
    max_length: longer requests, in tokens, fail.
    mass: least probability that the model gives to all grades together; with less its grades mean nothing, and fail.
    """
    return _graded(tools, model, max_length, mass, (complexity_request,))


def quality(tools: Tools, *, model: LanguageModelName = "", max_length: Count = 4096, mass: Fraction = MASS) -> Scorer:
    """How good the answers are, graded 1 to 6 by a language model and added up over the turns.

    model: a model, its folder or hub id, or the stage that trains it; none: the run's own.
    max_length: longer requests, in tokens, fail.
    mass: least probability that the model gives to all grades together; with less its grades mean nothing, and fail.
    """
    return _graded(tools, model, max_length, mass, (quality_request,))


def deita(tools: Tools, *, model: LanguageModelName = "", max_length: Count = 4096, mass: Fraction = MASS) -> Scorer:
    """Complexity times quality, added up over the turns (arXiv:2312.15685).

    model: a model, its folder or hub id, or the stage that trains it; none: the run's own.
    max_length: longer requests, in tokens, fail.
    mass: least probability that the model gives to all grades together; with less its grades mean nothing, and fail.
    """
    return _graded(tools, model, max_length, mass, (complexity_request, quality_request))


def ifd(tools: Tools, *, model: LanguageModelName = "", max_length: Count = 4096) -> Scorer:
    """Instruction-following difficulty: how little the prompt helps a model to foresee the answer (arXiv:2308.12032).

    The mean negative log-likelihood of the answer's tokens after the prompt, over that of the same tokens on their own.
    Of a conversation, the prompt is what stands before the answer's first turn. Where it is 1 or more, the prompt makes
    the answer no likelier, and the score has failed.

    model: a model, its folder or hub id, or the stage that trains it; none: the run's own.
    max_length: longer rows, in tokens, fail.
    """
    engine = tools.language(model)

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        read = [rendered(engine.renderer.render, group, max_length) for group in groups]
        after = [row for row in read if isinstance(row, Row)]
        alone = [_alone(engine.renderer, row) for row in after]
        same = [_same_tokens(row, bare) for row, bare in zip(after, alone, strict=True)]
        said = iter(zip(_mean_loss(engine, same, tools.budget), _mean_loss(engine, alone, tools.budget), strict=True))
        return [
            tuple(_difficulty(*losses) for losses in zip(*next(said), strict=True))
            if isinstance(row, Row)
            else (row,) * len(group.completions)
            for row, group in zip(read, groups, strict=True)
        ]

    return score


Request = Callable[[Turn], str]


def _graded(tools: Tools, model: str, max_length: int, mass: float, requests: Sequence[Request]) -> Scorer:
    """The product of the grades that a model gives on some requests, added up over the turns."""
    engine = tools.language(model)
    ids = choice_ids(engine.renderer, GRADES)

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        asked = [(group, answer) for group in groups for answer in group.completions]
        turns = [turns_of(group.prompt, answer.messages) for group, answer in asked]
        if quality_request in requests:
            turns = [[turn for turn in some if turn.answer] for some in turns]
        wanted = [request(turn) for some in turns for turn in some for request in requests]
        grades = iter(_grades(engine, ids, wanted, max_length, tools.budget))
        said = iter([_total([[next(grades) for _ in requests] for _ in some], mass) for some in turns])
        return [tuple(next(said) for _ in group.completions) for group in groups]

    return score


def _total(turns: Sequence[Sequence[Grade | Score]], mass: float) -> Score:
    """The product of the grades of each turn, added up over the turns."""
    if not turns:
        return Score.failed(NO_TURN)
    total = 0.0
    for grades in turns:
        product = 1.0
        for grade in grades:
            if isinstance(grade, Score):
                return grade
            if grade.mass < mass:
                return Score.failed(f"the model gives all grades together less than {mass:g} of the probability")
            product *= grade.value
        total += product
    return Score.of(total)


def _grades(
    engine: Engine, ids: Sequence[int], requests: Sequence[str], max_length: int, budget: int
) -> list[Grade | Score]:
    """The grade that answers each request, or why there is none."""
    said = choice_logprobs(engine, ids, requests, max_length, budget)
    return [one if isinstance(one, Score) else expected(one) for one in said]


def _alone(renderer: Renderer, row: Row) -> Row:
    """The answers after nothing but what the tokenizer puts before any text."""
    return replace(row, prompt=renderer.prompt((text(""),)))


def _same_tokens(row: Row, alone: Row) -> Row:
    """The row with the tokens scored that are scored without its prompt too: nothing foresees a text's first one."""
    if alone.prompt:
        return row
    return replace(row, answers=tuple(replace(a, scored=(False, *a.scored[1:])) for a in row.answers))


def _mean_loss(engine: Engine, rows: Sequence[Row], budget: int) -> list[tuple[float, ...]]:
    """Mean negative log-likelihood of each answer, in nats per token; 0 where no token is scored."""
    return of_answers(rows, lambda forest: -engine.logprobs(forest).mean, budget=budget)


def _difficulty(after: float, alone: float) -> Score:
    if not alone:
        return Score.failed("the answer is too short to have a difficulty")
    value = difficulty(after, alone)
    if value >= MISALIGNED:
        return Score.failed("the prompt makes the answer no likelier (IFD of 1 or more)")
    return Score.of(value)
