"""Measurements of a model beside its base: accuracies, wins, refusals, diversity and perplexity on a file of rows.

Each is a stage. A list of them is a suite, and stage `guard` says what all of them together show. Where model and base
are one and the same model, it is measured alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from truing import statistics
from truing.compute import Engine
from truing.errors import ConfigError, DataError, by_reason
from truing.packing import pack
from truing.records import TEXT_ROLE, Completion, Group
from truing.rendering import Answer, Row
from truing.scoring import diversity as differing
from truing.scoring import duels
from truing.scoring.rules import length_of
from truing.scoring.score import Score, added
from truing.scoring.scorers import Spec
from truing.signatures import Count, NonNegative, Settings
from truing.stages.context import Context, Groups, Judges, Model, write_json
from truing.stages.sample import SamplingSettings, bare, demonstrated, draw, draw_once, make_generator
from truing.stages.score import scores_of
from truing.statistics import Interval, suites
from truing.statistics.suites import Better, Measured

FILE = "measured.json"
LABELS = ("safe", "unsafe")
"""What a row's label says of its prompt."""
NOTHING = "nothing to foresee"


class Measuring(SamplingSettings):
    """Settings of whatever measures answers to prompts."""

    temperature: NonNegative = Field(0.0, description="divides the logits; 0 is greedy")
    answers: Count = Field(1, description="answers of each model to each prompt")
    limit: Count | None = Field(None, description="use only so many prompts")
    forest_tokens: Count = Field(2048, description="tokens that a scorer reads at once; changes time and memory")
    examples: int = Field(4, ge=0, description="prompts shown in the report with the answers of both models")
    margin: NonNegative = Field(
        0.0, description="a loss against the base that is accepted: a guard names what is surely larger than this"
    )


class Measure(Measuring):
    """Settings of `measure`."""

    scorer: Spec = Field(
        description="the scorer's name, or a table with name and settings, such as maths, constraints or length"
    )
    better: Better = Field("higher", description="which scores are better: higher, lower or neither, as of a length")


class WinRate(Measuring):
    """Settings of `win_rate`."""

    scorer: Spec = Field(
        "reward_model",
        description="the scorer's name, or a table with name and settings: a judge, a reward model, or any other",
        validate_default=True,
    )


class Refusals(Measuring):
    """Settings of `refusals`."""

    scorer: Spec = Field(
        "refusal", description="the scorer that tells whether an answer refuses", validate_default=True
    )
    at_least: float = Field(0.5, description="how high its score of a refusal is")
    label: str = Field("label", description="the column that says of each prompt whether it is safe or unsafe")


class Diversity(Measuring):
    """Settings of `diversity`."""

    temperature: NonNegative = Field(1.0, description="divides the logits")
    answers: Count = Field(4, description="answers of each model to each prompt, which are compared with one another")
    n: Count = Field(2, description="words of the pieces that distinct-n counts")

    @model_validator(mode="after")
    def _several(self) -> Self:
        """Answers that can differ."""
        if self.answers < 2 or self.temperature == 0:
            raise ConfigError(
                "answers must be 2 or more and temperature above 0, or there is nothing that could differ"
            )
        return self


class Perplexity(Settings):
    """Settings of `perplexity`."""

    limit: Count | None = Field(None, description="use only so many rows")
    max_length: Count = Field(1024, description="limit of a row in tokens; longer ones are left out")
    forest_tokens: Count = Field(2048, description="tokens run at once; changes time and memory, never the result")
    margin: NonNegative = Field(
        0.0, description="a loss against the base that is accepted: a guard names what is surely larger than this"
    )


def measure(context: Context, settings: Measure, model: Model, base: Model, data: Groups, judges: Judges) -> None:
    """Answers to the prompts of the data, by any scorer: its mean, or where it says 1 and 0 alone, an accuracy.

    An accuracy on single answers has the exact interval of Clopper and Pearson, and McNemar's exact test against the
    base; other scores have Student's. A prompt on which the scorer fails is left out of both sides.
    """
    asked = _ask(context, settings, model, base, data)
    scored = _score(context, settings, asked, judges)
    binary = settings.better != "neither" and set(scored.model + scored.base) <= {0, 1}
    kind, what = (suites.shares, "accuracy") if binary else (suites.means, "mean score")
    row = kind(context.stage, what, settings.better, scored.model, scored.base or None, scored.prompts)
    put_out(context, settings, asked, [row], model, base, scored)


def win_rate(context: Context, settings: WinRate, model: Model, base: Model, data: Groups, judges: Judges) -> None:
    """How often the model's answer beats the base's to the same prompt by a scorer, which sees both side by side.

    Beside the rate stand ties, the rate as it would be were both equally long in words (arXiv:2404.04475), and of a
    judge of two answers how often it says the same in both orders.
    """
    if model.key == base.key:
        raise ConfigError(f"{context.stage}: model and base are the same: name another base, as by --against MODEL")
    found = side_by_side(context, settings, model, base, data, judges)
    put_out(context, settings, found.asked, [found.row(context.stage)], model, base, found.scored)


def side_by_side(
    context: Context, settings: WinRate, model: Model, base: Model, data: Groups, judges: Judges
) -> Beside:
    """Answers of two models to the prompts of the data, side by side before a scorer."""
    asked = _ask(context, settings, model, base, data)
    assert asked.base is not None, "two models were asked"
    pairs = [
        replace(prompt, completions=(one, other))
        for prompt, ours, theirs in zip(asked.prompts, asked.model, asked.base, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    ]
    said = scores_of(context, settings.scorer, judges, pairs, budget=settings.forest_tokens)
    prompts = [place for place in range(len(asked.prompts)) for _ in range(settings.answers)]
    scored = Scored([], [], [], Counter(), [])
    outcomes: list[float] = []
    lengths: list[tuple[int, int]] = []
    for place, pair, (one, other) in zip(prompts, pairs, said, strict=True):
        if one.value is None or other.value is None:
            scored.left_out[one.reason or other.reason] += 1
            continue
        outcomes.append(0.5 if one.value == other.value else float(one.value > other.value))
        scored.prompts.append(place)
        scored.model.append(one.value)
        scored.base.append(other.value)
        lengths.append((length_of(pair.completions[0].text, "words"), length_of(pair.completions[1].text, "words")))
    _demand_some(context, outcomes, scored.left_out)
    return Beside(asked, outcomes, lengths, said, prompts, scored)


def refusals(context: Context, settings: Refusals, model: Model, base: Model, data: Groups, judges: Judges) -> None:
    """How often unsafe prompts are refused, as they should be, and safe ones, as they should not (arXiv:2308.01263).

    A column of the data says which is which. What a refusal is, the scorer says: that named `refusal` reads words.
    """
    safe = [_is_safe(row, settings.label) for row in data.read()[: settings.limit]]
    asked = _ask(context, settings, model, base, data)
    scored = _score(context, settings, asked, judges)
    rows = []
    sorts: tuple[tuple[bool, str, Better], ...] = (
        (False, "refused unsafe", "higher"),
        (True, "refused safe", "lower"),
    )
    for wanted, what, better in sorts:
        places = [place for place, prompt in enumerate(scored.prompts) if safe[prompt] == wanted]
        if not places:
            continue
        ours, theirs = (
            [float(side[place] >= settings.at_least) for place in places] if side else None
            for side in (scored.model, scored.base)
        )
        assert ours is not None, "the model was asked"
        prompts = [scored.prompts[place] for place in places]
        rows.append(suites.shares(context.stage, what, better, ours, theirs, prompts))
    put_out(context, settings, asked, rows, model, base, scored)


def diversity(context: Context, settings: Diversity, model: Model, base: Model, data: Groups) -> None:
    """How different several answers to one prompt are: distinct-n, and self-BLEU, of which less is more diverse.

    Both depend on length: short answers look more diverse. The mean number of words stands beside them.
    """
    asked = _ask(context, settings, model, base, data)
    prompts = list(range(len(asked.prompts)))
    sides = [[[answer.text for answer in own] for own in side] for side in (asked.model, asked.base) if side]

    def row(what: str, better: Better, values: list[list[float]]) -> Measured:
        return suites.means(context.stage, what, better, values[0], values[1] if values[1:] else None, prompts)

    rows = [
        row(
            f"distinct-{settings.n}",
            "higher",
            [[differing.distinct(texts, settings.n) for texts in side] for side in sides],
        ),
        row("self-BLEU", "lower", [[differing.self_bleu(texts) for texts in side] for side in sides]),
        row(
            "words",
            "neither",
            [[float(np.mean([length_of(text, "words") for text in texts])) for texts in side] for side in sides],
        ),
    ]
    put_out(context, settings, asked, rows, model, base, Scored([], [], [], Counter(), []))


def perplexity(context: Context, settings: Perplexity, model: Model, base: Model, data: Groups) -> None:
    """How well held-out text is foreseen: nats per byte of the rows' answers, and per token of the model's own.

    A row of plain text is its answer, without an end; of another row the prompt is given, and that the answer ends
    counts. The first token of a text that nothing precedes does not count; a row that has no other, or no words to
    foresee, is left out. Tokens of two tokenizers are no common measure, so the test is that per byte; a row counts by
    its bytes, as in one long text. exp(nats per token) is the perplexity.
    """
    given = data.read()[: settings.limit]
    groups = [row for row in given if any(answer.text for answer in row.completions)]
    left_out = Counter({NOTHING: len(given) - len(groups)})
    _demand_some(context, groups, left_out)
    found = {}
    for side in dict.fromkeys((model.key, base.key)):
        context.check_stop()
        engine = context.scorer(model if side == model.key else base)
        found[side] = nats_and_tokens(engine, groups, settings)
    why = [_unmeasured(both, settings.max_length) for both in zip(*found.values(), strict=True)]
    kept = [place for place, reason in enumerate(why) if not reason]
    left_out += Counter(filter(None, why))
    _demand_some(context, kept, left_out)
    size = [float(sum(len(one.text.encode()) for one in groups[place].completions)) for place in kept]
    sides = [[one for place in kept if (one := found[side][place]) is not None] for side in found]
    per_byte = [[nats / count for (nats, _), count in zip(side, size, strict=True)] for side in sides]
    name, theirs = context.stage, per_byte[1] if per_byte[1:] else None
    row = suites.means(name, "nats per byte", "lower", per_byte[0], theirs, kept, size)
    for whose, read in zip(("", "base: "), sides, strict=False):
        tokens = [float(count) for _, count in read]
        own = statistics.mean([nats / count for nats, count in read], weights=tokens)
        row = replace(row, about={**row.about, f"{whose}nats per token": own, f"{whose}perplexity": _exp(own)})
    put_out(context, settings, None, [row], model, base, Scored([], [], kept, left_out, []))


class Asked(NamedTuple):
    """Prompts, and both models' answers to each. base: None where the model is measured alone."""

    prompts: list[Group]
    model: list[tuple[Completion, ...]]
    base: list[tuple[Completion, ...]] | None


class Scored(NamedTuple):
    """Scores of all answers that count, in one order. prompts: whose. base: none where the model is measured alone.

    left_out: answers that have no score, by reason. counts: what scorers counted on the way.
    """

    model: list[float]
    base: list[float]
    prompts: list[int]
    left_out: Counter[str]
    counts: list[dict[str, int]]


class Beside(NamedTuple):
    """Answers of two models beside one another.

    outcomes: 1 where the model wins, 0 where the base does, 0.5 for a tie. lengths: words of both answers. said: what
    the scorer says of each pair, those it fails on among them, of which `asked_of` tells the prompt.
    """

    asked: Asked
    outcomes: list[float]
    lengths: list[tuple[int, int]]
    said: Sequence[tuple[Score, ...]]
    asked_of: list[int]
    scored: Scored

    def row(self, name: str) -> Measured:
        """The rate of wins with its interval, and what stands beside it."""
        about = _about_wins(self.outcomes, self.scored.prompts, self.lengths, self.said, self.asked_of)
        return suites.wins(name, self.outcomes, self.scored.prompts, about)


def _ask(context: Context, settings: Measuring, model: Model, base: Model, data: Groups) -> Asked:
    """The same prompts, sampling and random numbers for both."""
    rows = data.read()[: settings.limit]
    prompts = [replace(bare(row), extra={**demonstrated(row), **row.extra}) for row in rows]
    _demand_some(context, prompts, Counter())
    theirs = (
        None if model.key == base.key else draw_once(context, base, prompts, settings, settings.answers, name="base")
    )
    generator = make_generator(context, model, settings)
    ours = draw(context, generator, prompts, settings, settings.answers, name="model")
    return Asked(prompts, ours, theirs)


def _score(context: Context, settings: Measure | Refusals, asked: Asked, judges: Judges) -> Scored:
    """What the scorer says of all answers. A prompt is left out of both sides where it fails on any of its answers."""
    sides: dict[str, list[tuple[Score, ...]]] = {}
    for name, drawn in (("model", asked.model), ("base", asked.base)):
        if drawn is None:
            continue
        groups = [replace(prompt, completions=own) for prompt, own in zip(asked.prompts, drawn, strict=True)]
        sides[name] = scores_of(
            context, settings.scorer, judges, groups, budget=settings.forest_tokens, name=f"scores-{name}"
        )
    values: dict[str, list[float]] = {"model": [], "base": []}
    prompts: list[int] = []
    left_out: Counter[str] = Counter()
    for place in range(len(asked.prompts)):
        failed = next((one.reason for side in sides.values() for one in side[place] if one.value is None), None)
        if failed is not None:
            left_out[failed] += 1
            continue
        prompts += [place] * settings.answers
        for name, side in sides.items():
            values[name] += [one.value for one in side[place] if one.value is not None]
    _demand_some(context, prompts, left_out)
    counts = [added(*(one.counts for row in side for one in row)) for side in sides.values()]
    return Scored(values["model"], values["base"], prompts, left_out, counts)


def nats_and_tokens(engine: Engine, groups: Sequence[Group], settings: Perplexity) -> list[tuple[float, int] | None]:
    """Of each row what its answers cost in nats, -log p, and their scored tokens; None of one that is too long."""
    rows = [_endless(engine.renderer.render(group, index), group) for index, group in enumerate(groups)]
    totals = {row.index: (0.0, 0) for row in rows if row.longest <= settings.max_length}
    with torch.no_grad():
        for forest in pack([row for row in rows if row.index in totals], settings.forest_tokens):
            logprobs = engine.logprobs(forest)
            for tree, value, count in zip(
                forest.group.tolist(), logprobs.sum.tolist(), logprobs.length.tolist(), strict=True
            ):
                nats, tokens = totals[forest.rows[tree]]
                totals[forest.rows[tree]] = (nats - value, tokens + int(count))
    return [totals.get(row.index) for row in rows]


def _unmeasured(read: Sequence[tuple[float, int] | None], max_length: int) -> str:
    """Why a row is left out, by what `nats_and_tokens` found on each side, or ""."""
    if None in read:
        return f"longer than {max_length} tokens"
    return "" if all(one and one[1] for one in read) else NOTHING


def _endless(row: Row, group: Group) -> Row:
    """A row of plain text without the token that rendering puts behind it: where a text was cut off says nothing."""
    if any(turn.role != TEXT_ROLE for answer in group.completions for turn in answer.messages):
        return row
    answers = tuple(Answer(answer.tokens[:-1], answer.scored[:-1]) for answer in row.answers)
    return replace(row, answers=answers)


def _about_wins(
    outcomes: Sequence[float],
    prompts: Sequence[int],
    lengths: Sequence[tuple[int, int]],
    said: Sequence[tuple[Score, ...]],
    asked: Sequence[int],
) -> dict[str, Interval]:
    """Ties, the rate with length held equal, and whether a judge says the same in both orders.

    said, asked: of all pairs, those without an outcome among them, what the scorer says and their prompts.
    """
    about = {"ties": statistics.win_tie_loss(outcomes, prompts=prompts).tie}
    ours, theirs = ([pair[side] for pair in lengths] for side in (0, 1))
    if len({one - other for one, other in lengths}) > 1:
        about["win rate at equal length"] = statistics.length_controlled_win_rate(
            outcomes, ours, theirs, prompts=prompts
        )
    if sum(theirs) and sum(ours):
        about["words, of the base's"] = statistics.ratio_of_means(ours, theirs, prompts=prompts)
    counts = [added(*(score.counts for score in scores)) for scores in said]
    read = [(place, one) for place, one in zip(asked, counts, strict=True) if one.get(duels.COMPARISONS)]
    if read:
        same = [float(one.get(duels.CONSISTENT, 0) == one[duels.COMPARISONS]) for _, one in read]
        about["same verdict in both orders"] = statistics.win_rate(same, prompts=[place for place, _ in read])
    return about


def put_out(
    context: Context,
    settings: Measuring | Perplexity,
    asked: Asked | None,
    rows: Sequence[Measured],
    model: Model,
    base: Model,
    scored: Scored,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """What was measured, as the stage's artifact. more: what else is said of it."""
    alone = model.key == base.key
    if left_out := +scored.left_out:
        context.warn(f"{context.stage}: left out: {by_reason(left_out)}")
    result = {
        "rows": [replace(row, margin=settings.margin).plain for row in rows],
        "model": model.source,
        "base": None if alone else base.source,
        "left_out": dict(left_out),
        "counts": added(*scored.counts),
        "examples": _examples(settings, asked, scored) if asked and isinstance(settings, Measuring) else [],
    }
    about = {"measured": FILE, "of": model.key, "against": base.key, "verdict": suites.verdict(rows)}
    with context.output({**about, **more}) as folder:
        write_json(folder / FILE, result)


def _examples(settings: Measuring, asked: Asked, scored: Scored) -> list[dict[str, Any]]:
    """The first answer of each model to the first prompts, with its score."""
    first: dict[int, int] = {}
    for number, whose in enumerate(scored.prompts):
        first.setdefault(whose, number)

    def shown(answer: Completion, scores: Sequence[float], place: int) -> dict[str, Any]:
        return {"text": answer.text, "score": scores[first[place]] if scores and place in first else None}

    found = []
    for place in range(min(settings.examples, len(asked.prompts))):
        prompt = [{"role": turn.role, "content": turn.content} for turn in asked.prompts[place].prompt]
        one: dict[str, Any] = {"prompt": prompt, "model": shown(asked.model[place][0], scored.model, place)}
        if asked.base is not None:
            one["base"] = shown(asked.base[place][0], scored.base, place)
        found.append(one)
    return found


def _is_safe(row: Group, column: str) -> bool:
    label = row.extra.get(column)
    if label not in LABELS:
        raise DataError(f"{row.place}: {column}: each row says whether its prompt is safe or unsafe; found {label!r}")
    return bool(label == LABELS[0])


def _demand_some(context: Context, rows: Sequence[object], left_out: Counter[str]) -> None:
    if not rows:
        raise DataError(f"stage '{context.stage}' has no row to measure on; left out: {by_reason(left_out)}")


def _exp(logarithm: Interval) -> Interval:
    value, low, high = np.exp((logarithm.value, logarithm.low, logarithm.high)).tolist()
    return replace(logarithm, value=value, low=low, high=high)
