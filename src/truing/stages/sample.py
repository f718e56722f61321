"""Drawing answers: to plain prompts (`sample`), or under opposed instructions to get comparisons (`contrast`)."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from truing import __version__, formats
from truing.compute import Generator, Sampling
from truing.compute.generate.native import NativeGenerator
from truing.errors import DataError, by_reason
from truing.progress import Task
from truing.records import Completion, Group, comparison, to_json, written_by
from truing.scoring.principle import Principle, instructed, says_nothing
from truing.scoring.verify import REFERENCE
from truing.signatures import Count, NonNegative, Settings
from truing.stages.arranging import best
from truing.stages.context import Context, Groups, Model
from truing.store import hash_of
from truing.store.cache import cache_folder, cached

PART = 256
"""Prompts whose answers are kept on disk together: what an interruption loses at most."""
FILE = "groups.jsonl"
APART = 1_000_003
"""How far the seeds of two turns of a stage are apart, so that runs with neighbouring seeds share none."""


class SamplingSettings(Settings):
    """How answers are drawn."""

    temperature: NonNegative = Field(0.7, description="divides the logits; 0 is greedy")
    top_k: int = Field(0, ge=0, description="draw from the k likeliest tokens; 0 is all")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest tokens that hold this much probability")
    max_new_tokens: Count = Field(256, description="length limit of an answer in tokens")
    live_answers: Count = Field(64, description="answers written at one time; changes time and memory")

    def sampling(self) -> Sampling:
        """The settings as the generator takes them."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.max_new_tokens)


class Sample(SamplingSettings):
    """Settings of `sample`."""

    answers: Count = Field(1, description="answers to each prompt")
    limit: Count | None = Field(None, description="use only so many prompts")
    data_answers: Literal["leave_out", "prefer"] = Field(
        "leave_out",
        description="answers that the data have: leave_out; or prefer, the best one of a row goes before all that are "
        "drawn, as a comparison or ranking (SPIN)",
    )


class Contrast(SamplingSettings):
    """Settings of `contrast`."""

    retries: Count = Field(5, description="attempts at a prompt before it is given up")
    chosen_finished: bool = Field(True, description="refuse pairs whose preferred answer hit the length limit")
    limit: Count | None = Field(None, description="use only so many prompts")


def sample(context: Context, settings: Sample, model: Model, data: Groups) -> None:
    """Draws answers to the prompts of the data. Those that the data have are left out, or preferred to what is drawn.

    That of a demonstration stays as the column `answer`, for scorers that check answers against it. Preferred to the
    model's own, the data's make the comparisons of self-play (SPIN, arXiv:2401.01335); an answer that equals the data's
    is left out, and so is a row without another one.
    """
    read = data.read()[: settings.limit]
    rows, refused = to_prefer(read) if settings.data_answers == "prefer" else (read, Counter[str]())
    generator = make_generator(context, model, settings)
    drawn = draw(context, generator, [bare(row) for row in rows], settings, settings.answers)
    if settings.data_answers == "prefer":
        drawn = [preferred(row, answers, refused) for row, answers in zip(rows, drawn, strict=True)]
    groups = [
        replace(row, completions=answers, strength=None, extra={**demonstrated(row), **row.extra})
        for row, answers in zip(rows, drawn, strict=True)
        if answers
    ]
    if not groups:
        raise DataError(f"stage '{context.stage}' has no row left; left out: {by_reason(refused)}")
    sampled = [answer.sampled for group in groups for answer in group.completions if answer.sampled]
    context.event(
        "data",
        source=data.description,
        rows=len(read),
        used=len(groups),
        refused=dict(refused),
        written_by=written_by(groups),
        answer_tokens=[len(one.tokens) for one in sampled],
    )
    _put_out(context, groups)


def to_prefer(rows: Sequence[Group]) -> tuple[list[Group], Counter[str]]:
    """The rows whose best answer can be preferred to one that is drawn, and how many others there are, by reason.

    Raises DataError where a row has no answer, or several and none is best.
    """
    why = [_unfit(best(row).completions[0]) for row in rows]
    return [row for row, reason in zip(rows, why, strict=True) if not reason], Counter(filter(None, why))


def _unfit(answer: Completion) -> str:
    """Why an answer of the data is not preferred to one that is drawn, or nothing."""
    if answer.label is False:
        return "an answer with a thumb down"
    return "an answer of several turns, where one is drawn" if len(answer.messages) > 1 else ""


def preferred(row: Group, drawn: Sequence[Completion], refused: Counter[str]) -> tuple[Completion, ...]:
    """The row's best answer before those that were drawn, which are not ranked among each other; none if all are it."""
    (chosen,) = best(row).completions
    others = [replace(answer, rank=1) for answer in drawn if answer.text.strip() != chosen.text.strip()]
    if len(others) < len(drawn):
        refused["an answer that equals the data's"] += len(drawn) - len(others)
    return (replace(chosen, rank=0, score=None, label=None), *others) if others else ()


def contrast(context: Context, settings: Contrast, model: Model, data: Groups, principle: Principle) -> None:
    """Comparisons out of a principle alone (RLCD, arXiv:2307.12950).

    Each prompt is answered once under an instruction for the principle and once under its opposite; the first answer
    counts as preferred. No judge is asked. Empty, equal and unfinished answers are drawn again, `retries` times.
    """
    prompts = [bare(group) for group in data.read()][: settings.limit]
    generator = make_generator(context, model, settings)
    made: dict[int, Group] = {}
    refused: dict[str, int] = {}
    waiting = list(range(len(prompts)))
    for attempt in range(settings.retries):
        if not waiting:
            break
        pairs = [_pair(principle, f"{context.seed}:{prompts[place].id}:{attempt}") for place in waiting]
        asked = [
            replace(prompts[place], prompt=instructed(prompts[place].prompt, first, second, principle.style))
            for place, sides in zip(waiting, pairs, strict=True)
            for first, second in (sides, sides[::-1])
        ]
        drawn = draw(context, generator, asked, settings, 1, name=f"attempt-{attempt + 1}", turn=attempt)
        for number, place in enumerate(waiting):
            chosen, rejected = drawn[2 * number][0], drawn[2 * number + 1][0]
            reason = _refusal(chosen, rejected, settings)
            if reason is None:
                made[place] = comparison(prompts[place].prompt, chosen, rejected, extra=prompts[place].extra)
            elif attempt == settings.retries - 1:
                refused[reason] = refused.get(reason, 0) + 1
        waiting = [place for place in waiting if place not in made]
    if not made:
        raise DataError(
            f"stage '{context.stage}' got no usable pair in {settings.retries} attempts: {by_reason(refused)}"
        )
    groups = [made[place] for place in sorted(made)]
    context.event(
        "data",
        source=principle.text,
        rows=len(prompts),
        used=len(groups),
        refused=refused,
        written_by=written_by(groups),
        **_lengths(groups),
    )
    _put_out(context, groups)


def make_generator(context: Context, model: Model, settings: SamplingSettings) -> Generator:
    """A generator with the model's weights."""
    return NativeGenerator(context.load(model), policy=model.key, max_rows=settings.live_answers)


def draw(
    context: Context,
    generator: Generator,
    prompts: Sequence[Group],
    settings: SamplingSettings,
    answers: int,
    *,
    name: str = "sampling",
    turn: int = 0,
) -> list[tuple[Completion, ...]]:
    """Answers to every prompt, kept in the run a part at a time, so that going on after a stop draws the same ones.

    turn: how often the stage has drawn before. Each turn has random numbers of its own, so what was of no use is not
    drawn again.
    """

    def part(some: Sequence[Group], start: int, on_finished: Callable[[int], None]) -> Path:
        key = f"{name}-{start}"
        kept = context.run.artifact(f"{context.key}-{key}")
        if kept is not None:
            return kept.path
        drawn = _drawn(generator, some, settings, answers, context.seed + APART * turn, on_finished)
        with context.output({"rows": len(some)}, part=key) as folder:
            formats.write_data(drawn, folder / FILE, format="group")
        made = context.run.artifact(f"{context.key}-{key}")
        assert made is not None
        return made.path

    return _in_parts(context, prompts, answers, name, part)


def draw_once(
    context: Context, model: Model, prompts: Sequence[Group], settings: SamplingSettings, answers: int, *, name: str
) -> list[tuple[Completion, ...]]:
    """As `draw`, for answers that stages and runs have in common: kept in the cache under all they depend on."""
    generator = functools.cache(functools.partial(make_generator, context, model, settings))
    template = context.chat_template.read_text(encoding="utf-8") if context.chat_template else ""

    def part(some: Sequence[Group], start: int, on_finished: Callable[[int], None]) -> Path:
        key = hash_of(
            model.key, template, [to_json(group) for group in some], asdict(settings.sampling()), answers,
            context.seed, str(context.device), context.precision, settings.live_answers, torch.__version__, __version__,
        )  # fmt: skip

        def make(folder: Path) -> None:
            drawn = _drawn(generator(), some, settings, answers, context.seed, on_finished)
            formats.write_data(drawn, folder / FILE, format="group")

        return cached(cache_folder("answers") / key, kind="answers", meta={"model": model.key}, make=make)

    return _in_parts(context, prompts, answers, name, part)


def _in_parts(
    context: Context,
    prompts: Sequence[Group],
    answers: int,
    name: str,
    part: Callable[[Sequence[Group], int, Callable[[int], None]], Path],
) -> list[tuple[Completion, ...]]:
    """The answers to all prompts. part: gives the folder that holds the answers to some of them."""
    found: list[tuple[Completion, ...]] = []
    with context.reporter.task(f"{context.stage}: {name}", len(prompts) * answers) as task:
        for start in range(0, len(prompts), PART):
            count = _counter(context, task, len(found) * answers)
            folder = part(prompts[start : start + PART], start, count)
            found += [group.completions for group in formats.read_groups(folder / FILE, format="group")]
            task.advance(len(found) * answers)
    return found


def _drawn(
    generator: Generator,
    prompts: Sequence[Group],
    settings: SamplingSettings,
    answers: int,
    seed: int,
    on_finished: Callable[[int], None],
) -> list[Group]:
    drawn = generator.generate(prompts, settings.sampling(), answers=answers, seed=seed, on_finished=on_finished)
    return [replace(group, completions=own) for group, own in zip(prompts, drawn, strict=True)]


def bare(group: Group) -> Group:
    """The prompt alone."""
    return replace(group, completions=())


def demonstrated(group: Group) -> dict[str, str]:
    """A demonstration's answer as a column, which the row's own column of this name goes before."""
    shown = group.completions[0] if len(group.completions) == 1 else None
    return {REFERENCE: shown.text} if shown is not None and shown.label is None and shown.score is None else {}


def _counter(context: Context, task: Task, before: int) -> Callable[[int], None]:
    def count(finished: int) -> None:
        context.check_stop()
        task.advance(before + finished)

    return count


def _pair(principle: Principle, seed: str) -> tuple[str, str]:
    return random.Random(seed).choice(list(zip(principle.positive, principle.negative, strict=True)))


def _refusal(chosen: Completion, rejected: Completion, settings: Contrast) -> str | None:
    """Why a pair cannot be used, or None."""
    if says_nothing(chosen) or says_nothing(rejected):
        return "an empty or repetitive answer"
    if chosen.text.strip() == rejected.text.strip():
        return "two equal answers"
    if settings.chosen_finished and not chosen.finished:
        return "the preferred answer hit the length limit"
    return None


def _lengths(groups: Sequence[Group]) -> dict[str, list[int]]:
    def tokens(place: int) -> Iterator[int]:
        for group in groups:
            sampled = group.completions[place].sampled
            assert sampled is not None
            yield len(sampled.tokens)

    return {"chosen_tokens": list(tokens(0)), "rejected_tokens": list(tokens(1))}


def _put_out(context: Context, groups: Sequence[Group]) -> None:
    with context.output({"groups": FILE, "rows": len(groups)}) as folder:
        formats.write_data(groups, folder / FILE, format="group")
