"""Which of a few answers of one token a language model gives to a request, read off its next token."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from truing.compute import Engine
from truing.records import Completion, Group, assistant, text, user
from truing.rendering import Answer, Renderer, Row
from truing.scoring.answers import of_answers, rendered
from truing.scoring.score import Score
from truing.selection.expectation import sole_ids


def asked(renderer: Renderer, request: str, choices: Sequence[str] = ()) -> Group:
    """A request with answers to it, as the model takes them: as turns, or as text where it knows no turns."""
    plain = renderer.tokenizer.chat_template is None
    told, said = (text, text) if plain else (user, assistant)
    return Group((told(request),), tuple(Completion((said(choice),)) for choice in choices))


def choice_ids(renderer: Renderer, choices: Sequence[str]) -> tuple[int, ...]:
    """The token of each choice in the very place where a model answers a request."""
    answers = renderer.render(asked(renderer, "1?\n", choices)).answers
    return sole_ids(choices, [answer.tokens for answer in answers], renderer.stop_ids)


def choice_logprobs(
    engine: Engine, ids: Sequence[int], requests: Sequence[str], max_length: int, budget: int
) -> list[tuple[float, ...] | Score]:
    """The log-probability of each choice after each request, or why there is none. Equal requests are read once."""
    found: dict[str, tuple[float, ...] | Score] = {}
    rows: list[Row] = []
    read: list[str] = []
    answers = tuple(Answer((token,), (True,)) for token in ids)
    for request in dict.fromkeys(requests):
        row = rendered(functools.partial(_row, engine.renderer, answers), asked(engine.renderer, request), max_length)
        if isinstance(row, Row):
            rows.append(row)
            read.append(request)
        else:
            found[request] = row
    said = of_answers(rows, lambda forest: engine.logprobs(forest).sum, budget=budget)
    found |= dict(zip(read, said, strict=True))
    return [found[request] for request in requests]


def _row(renderer: Renderer, answers: tuple[Answer, ...], group: Group) -> Row:
    return Row(renderer.prompt(group.prompt), answers, 0)
