"""Two answers side by side in one request, and which of them a language model takes for better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations
from statistics import fmean

from truing.records import TEXT_ROLE, Group, Message
from truing.scoring.choices import choice_ids, choice_logprobs
from truing.scoring.score import LanguageModelName, Score, Scorer, Tools
from truing.signatures import Count, Fraction

LETTERS = ("A", "B")
"""What a model says where the first answer is better, and where the second is."""


def duel(prompt: Sequence[Message], first: str, second: str) -> str:
    """Asks which of two answers to a prompt is better."""
    yes, no = LETTERS
    return f"""Two answers to the same request are shown below. Which of them serves the person better? Look at \
whether it is correct, does what was asked, and does no harm. Neither their order nor their length is a reason.

Request:
<<<
{_written(prompt)}
>>>

Answer {yes}:
<<<
{first}
>>>

Answer {no}:
<<<
{second}
>>>

Reply with one letter, {yes} or {no}, and nothing else. Better answer:
"""


def pairwise(tools: Tools, *, model: LanguageModelName = "", max_length: Count = 4096, mass: Fraction = 0.01) -> Scorer:
    """How often an answer beats the others of its row, from 0 to 1, by a model that reads two answers at a time.

    Each pair is read in both orders, whose chances are averaged, so a love of the first place cancels out. A row of n
    answers takes n (n - 1) requests. Where one of an answer's comparisons fails, its score does.

    model: a model, its folder or hub id, or the stage that trains it, such as SFT on the rows of stage `side_by_side`;
        none: the run's own.
    max_length: longer requests, in tokens, fail.
    mass: least probability that the model gives to both letters together; with less its choice says nothing, and fails.
    """
    engine = tools.language(model)
    ids = choice_ids(engine.renderer, LETTERS)

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        requests = [
            duel(group.prompt, one.text, other.text)
            for group in groups
            for one, other in permutations(group.completions, 2)
        ]
        said = iter(choice_logprobs(engine, ids, requests, max_length, tools.budget))
        return [_win_rates(len(group.completions), said, mass) for group in groups]

    return score


def _win_rates(answers: int, said: Iterator[tuple[float, ...] | Score], mass: float) -> tuple[Score, ...]:
    """Of each answer the mean chance over all its comparisons, of which it is the first in one half."""
    if answers == 1:
        return (Score.failed("there is no other answer to compare it with"),)
    chances = {pair: _chance(next(said), mass) for pair in permutations(range(answers), 2)}
    return tuple(_win_rate(answer, chances) for answer in range(answers))


def _win_rate(answer: int, chances: dict[tuple[int, int], float | Score]) -> Score:
    won: list[float] = []
    for (first, second), chance in chances.items():
        if answer not in (first, second):
            continue
        if isinstance(chance, Score):
            return chance
        won.append(chance if answer == first else 1 - chance)
    return Score.of(fmean(won))


def _chance(logprobs: tuple[float, ...] | Score, mass: float) -> float | Score:
    """That the first answer is better, among both letters; or why it is not known."""
    if isinstance(logprobs, Score):
        return logprobs
    first, second = logprobs
    if math.exp(first) + math.exp(second) < mass:
        return Score.failed(f"the model gives both letters together less than {mass:g} of the probability")
    return 1 / (1 + math.exp(min(second - first, 700.0)))


def _written(prompt: Sequence[Message]) -> str:
    """A conversation as text; what is one request alone stands without a speaker's name."""
    if len(prompt) == 1 or any(message.role == TEXT_ROLE for message in prompt):
        return "".join(message.content for message in prompt)
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt)
