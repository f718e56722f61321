"""New prompts that a language model writes after examples (self-instruct, arXiv:2212.10560), each unlike all others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from truing import formats
from truing.curation.texts import words
from truing.errors import ConfigError, DataError, by_reason
from truing.records import TEXT_ROLE, Group, user
from truing.scoring.principle import is_looping
from truing.scoring.replies import Reply
from truing.selection.instructions import KEYWORDS, instruction_in, instruction_request, refusal
from truing.selection.turns import turns_of
from truing.signatures import Count, Fraction
from truing.stages.context import Context, Earlier, Groups, Model
from truing.stages.replies import Writing, writer

FILE = "groups.jsonl"
LOOPS = "goes round in circles"


class SelfInstruct(Writing):
    """Settings of `self_instruct`: those of self-rewarding models (arXiv:2401.10020) where none are given."""

    prompts: Count = Field(100, description="prompts to make")
    attempts: Count = Field(10, description="replies, for each prompt to make, after which the stage ends with fewer")
    batch: Count = Field(32, description="replies asked for at a time; the next ones see prompts that these made")
    seeds: Count = Field(6, description="examples in a request that are prompts of the data")
    own: Annotated[int, Field(ge=0)] = Field(2, description="examples that are prompts made before, once there are any")
    similarity: Fraction = Field(
        0.7, description="ROUGE-L to any example or kept prompt from which a prompt is refused"
    )
    min_words: Count = Field(3, description="shorter prompts are refused")
    max_words: Count = Field(150, description="longer prompts are refused")
    keywords: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        KEYWORDS, description="words that a prompt may not have, such as those of what no language model can see"
    )
    temperature: float = Field(0.6, ge=0, description="divides the logits; 0 is greedy")
    top_p: float = Field(0.9, gt=0, le=1, description="draw from the likeliest tokens that hold this much probability")
    max_new_tokens: Count = Field(192, description="limit of a prompt in tokens; what is cut off there is refused")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.min_words > self.max_words:
            raise ConfigError(f"min_words = {self.min_words} is above max_words = {self.max_words}")
        return self


def self_instruct(
    context: Context, settings: SelfInstruct, data: Groups, model: Model | None = None, earlier: Earlier | None = None
) -> None:
    """Writes new prompts. Each request shows some prompts of the data and some that were made before, drawn by chance.

    What is cut off, too long or short, has a forbidden word, or is too much like a prompt of the data or an earlier
    one, is refused and counted by the reason. In a loop those of earlier rounds were made before, too.
    """
    seeds = requests_in(data.read())
    if len(seeds) < settings.seeds:
        raise DataError(
            f"stage '{context.stage}' shows {settings.seeds} prompts of the data as examples, and they have "
            f"{len(seeds)}: bring more rows, or lower seeds"
        )
    write = writer(context, settings, model)
    before = requests_in(earlier.read()) if earlier else []
    kept = [words(request) for request in (*seeds, *before)]
    made: list[str] = []
    refused: Counter[str] = Counter()
    asked = 0
    while len(made) < settings.prompts and asked < settings.attempts * settings.prompts:
        numbers = range(asked, min(asked + settings.batch, settings.attempts * settings.prompts))
        own = [*before, *made]
        requests = [instruction_request(examples(seeds, own, settings, f"{context.seed}:{n}")) for n in numbers]
        for reply in write(requests, f"from-{asked}"):
            if len(made) == settings.prompts:
                break
            asked += 1
            text = instruction_in(reply.text)
            if reason := _refusal(reply, text, kept, settings):
                refused[reason] += 1
            else:
                made.append(text)
                kept.append(words(text))
    if not made:
        raise DataError(
            f"stage '{context.stage}' made no prompt of {asked} replies: {by_reason(refused)}: name a model that can "
            "write requests, by model or endpoint"
        )
    if len(made) < settings.prompts:
        context.warn(f"{len(made)} prompts of {settings.prompts} are made: attempts = {settings.attempts} are used up")
    context.event("data", source=data.description, rows=asked, used=len(made), refused=dict(refused))
    with context.output({"groups": FILE, "rows": len(made)}) as folder:
        formats.write_data([Group((user(text),)) for text in made], folder / FILE, format="group")


def requests_in(rows: Sequence[Group]) -> list[str]:
    """The different requests that rows begin with."""
    return list(dict.fromkeys(filter(None, map(first_request, rows))))


def first_request(group: Group) -> str:
    """The request that a conversation begins with, or "": what follows a system prompt is not understood without it."""
    if not group.prompt or group.prompt[0].role not in ("user", TEXT_ROLE):
        return ""
    return turns_of(group.prompt, ())[0].instruction.strip()


def examples(seeds: Sequence[str], made: Sequence[str], settings: SelfInstruct, seed: str) -> list[str]:
    """What one request shows, drawn and put in order by chance."""
    chance = random.Random(seed)
    shown = chance.sample(seeds, settings.seeds) + chance.sample(made, min(settings.own, len(made)))
    chance.shuffle(shown)
    return shown


def _refusal(reply: Reply, text: str, kept: Sequence[Sequence[str]], settings: SelfInstruct) -> str:
    if reply.failure:
        return reply.failure
    return refusal(
        text,
        kept,
        similarity=settings.similarity,
        min_words=settings.min_words,
        max_words=settings.max_words,
        keywords=settings.keywords,
    ) or (LOOPS if is_looping(text) else "")
