"""How well an answer fits a principle, by the model itself: how much an instruction for it raises its probability."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import model_validator

from truing.compute import Engine
from truing.records import TEXT_ROLE, Completion, Group, Message
from truing.scoring.answers import of_answers
from truing.signatures import Settings


class Principle(Settings):
    """What the model is to do, in words, and pairs of instructions that pull it towards and away from that.

    text: the principle, for people.
    positive: instructions that ask for it; drawn at random.
    negative: as many that ask for the opposite, each matched with the positive one in its place.
    style: `system` sets an instruction as the system message, `affix` adds it in brackets to the last turn and its
        opposite to earlier ones.
    """

    text: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    style: Literal["system", "affix"] = "system"

    @model_validator(mode="after")
    def _matched(self) -> Principle:
        if not self.positive or len(self.positive) != len(self.negative):
            raise ValueError("positive and negative need the same number of instructions, at least one")
        return self


LOOP = 3.0
SHORT = 80
"""Texts of fewer bytes are not looked at: too little to compress."""


def instructed(prompt: tuple[Message, ...], asked: str, opposite: str, style: str) -> tuple[Message, ...]:
    """The prompt with an instruction: as the system message, or as an affix with its opposite on earlier turns.

    The affix form is that of RLCD (arXiv:2307.12950): the last turn asks for one side, earlier ones for the other, so
    that the answer stands out against the conversation so far.
    """
    if prompt and prompt[0].role == TEXT_ROLE:
        return _tagged(prompt, asked, opposite)
    if style == "system":
        rest = prompt[1:] if prompt and prompt[0].role == "system" else prompt
        kept = [prompt[0].content] if rest is not prompt else []
        return (Message("system", "\n".join([*kept, asked])), *rest)
    last = max((place for place, message in enumerate(prompt) if message.role == "user"), default=-1)
    return tuple(
        replace(message, content=f"{message.content} ({asked if place == last else opposite})")
        if message.role == "user"
        else message
        for place, message in enumerate(prompt)
    )


def principle_scores(
    engine: Engine,
    groups: Sequence[Group],
    principle: Principle,
    *,
    budget: int,
    on_scored: Callable[[int], None] = lambda _: None,
) -> list[tuple[float, ...]]:
    """log p(answer | instruction) - log p(answer | its opposite), in nats, averaged over the instruction pairs.

    It is the log-odds with which the model itself would say that an answer was written under the principle. The
    prompt's own probability plays no part, and a longer answer has no advantage by its length alone.
    """
    totals = [[0.0] * len(group.completions) for group in groups]
    done = 0
    for positive, negative in zip(principle.positive, principle.negative, strict=True):
        for asked, opposite, sign in ((positive, negative, 1.0), (negative, positive, -1.0)):
            told = [replace(g, prompt=instructed(g.prompt, asked, opposite, principle.style)) for g in groups]
            for place, sums in enumerate(answer_logprobs(engine, told, budget=budget)):
                for number, value in enumerate(sums):
                    totals[place][number] += sign * value / len(principle.positive)
            done += 1
            on_scored(done)
    return [tuple(row) for row in totals]


def answer_logprobs(
    engine: Engine, groups: Sequence[Group], *, budget: int, temperature: float = 1.0
) -> list[tuple[float, ...]]:
    """Log-probability in nats of every answer of every Group; an answer without any token has 0."""
    rows = [engine.renderer.render(group, index) for index, group in enumerate(groups)]
    return of_answers(rows, lambda forest: engine.logprobs(forest, temperature=temperature).sum, budget=budget)


def _tagged(prompt: tuple[Message, ...], asked: str, opposite: str) -> tuple[Message, ...]:
    """A transcript whose last line is a speaker's tag such as `Assistant:`: the affix goes into the tag."""
    text = "".join(message.content for message in prompt)
    head, _, tag = text.rpartition("\n")
    speaker = tag.strip().removesuffix(":")
    earlier = head.replace(f"\n{speaker}:", f"\n{speaker} ({opposite}):")
    return (Message(TEXT_ROLE, f"{earlier}\n{speaker} ({asked}):"),)


def says_nothing(completion: Completion) -> bool:
    """Whether an answer is empty or goes round in circles."""
    return not completion.text.strip() or is_looping(completion.text)


def is_looping(text: str) -> bool:
    """Whether a text repeats itself: it compresses to less than 1 / LOOP of its size, as no ordinary prose does."""
    raw = text.encode("utf-8", "replace")
    return len(raw) > SHORT and len(zlib.compress(raw, 9)) * LOOP < len(raw)
