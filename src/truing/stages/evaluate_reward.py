"""How far a reward model, or any scorer, can be trusted: held-out comparisons, each scored once, and what else explains
its choices.
"""

from __future__ import annotations

import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from truing import formats, statistics
from truing.compute import Engine
from truing.errors import ConfigError, DataError, GuardError, by_reason, did_you_mean
from truing.records import Group
from truing.scoring import agreement, best_of, duels, replies
from truing.scoring.agreement import Comparisons, Scored
from truing.scoring.answers import rewards
from truing.scoring.best_of import BestOf
from truing.scoring.rules import length_of
from truing.scoring.score import NOTHING, added
from truing.scoring.scorers import Spec
from truing.signatures import Count, Settings
from truing.stages.arranging import Judged, Pairs, has_strength, judge
from truing.stages.context import Context, Groups, Judges, Model, write_json
from truing.stages.score import scores_of
from truing.stages.training import TooLong, render_rows
from truing.store import hash_of

FILE = "reward.json"
UNNAMED = "no source"
"""Where rows are from that do not say it."""


class EvaluateReward(Settings):
    """Settings of `evaluate_reward`."""

    scorer: Spec | None = Field(
        None, description="a scorer that is measured instead of a reward model, such as a judge"
    )
    pairs: Pairs = Field("all", description="which answers of a ranking are compared: all, best_worst or adjacent")
    source: str | None = Field(None, description="the column of the data that says where a row is from; none: its file")
    categories: dict[str, str] = Field(
        {}, description="by category a file of comparisons, each measured by itself, such as those of RewardBench"
    )
    gold: Spec | None = Field(
        None,
        description="a scorer to trust: what it makes of the best of n answers of `unlabelled` by the model",
    )
    bins: Count = Field(10, description="points of the reliability curve")
    limit: Count | None = Field(None, description="use only so many held-out rows")
    max_length: Count = Field(1024, description="limit in tokens of a prompt and one answer")
    too_long: TooLong = Field("drop", description="what becomes of rows over the limit")
    forest_tokens: Count = Field(2048, description="tokens scored at once; changes time and memory, never the result")

    @model_validator(mode="after")
    def _heard(self) -> Self:
        """Settings that a scorer would not hear of are refused; it has limits of its own."""
        here = {"max_length": self.max_length, "too_long": self.too_long}
        for name, value in here.items() if self.scorer else ():
            if value != EvaluateReward.model_fields[name].default:
                raise ConfigError(f"{name} changes nothing where a scorer is measured: take it out")
        return self


class Material(NamedTuple):
    """Rows that compare answers, and how many were left out by what they lack."""

    judged: list[Judged]
    unused: dict[str, int]


class Read(NamedTuple):
    """What is said of rows.

    kept: which rows have a score of each answer. scores, lengths: of the answers of each of those. refused: reasons why
    rows were left out, and how many. counts: of each row, kept or not, what was counted on the way.
    """

    kept: list[int]
    scores: list[tuple[float, ...]]
    lengths: list[tuple[int, ...]]
    refused: Mapping[str, int]
    counts: Sequence[Mapping[str, int]]


Reader = Callable[[str, Sequence[Group]], Read]
"""Reads rows, under a name by which that is shown and kept."""


def evaluate_reward(
    context: Context,
    settings: EvaluateReward,
    held_out: Groups,
    judges: Judges,
    reward: Model | None = None,
    unlabelled: Groups | None = None,
) -> None:
    """Measures accuracy, calibration and love of length of a reward model or scorer on held-out comparisons.

    With a gold scorer also what that makes of the best of n answers by it (arXiv:2210.10760).
    """
    if (settings.gold is None) != (unlabelled is None):
        raise ConfigError(
            f"{context.stage}: `gold` and `unlabelled` go together: name a scorer, and the stage that samples answers"
        )
    materials = {"": comparable(settings, held_out.read()), **category_rows(settings)}
    demand_source(context.stage, settings, materials[""])
    reader = _reader(context, settings, judges, reward)
    scored: dict[str, list[Scored]] = {}
    said: dict[str, Any] = {}
    for name, material in materials.items():
        groups = [one.group for one in material.judged]
        found = reader(name, groups)
        scored[name] = _scored(settings, material, found)
        said = said or spoken(groups, found.counts)  # of the held-out rows, which come first
    result = {
        "reward": reward.source if reward else judges.description,
        "scorer": settings.scorer["name"] if settings.scorer else None,
        "unit": "words" if settings.scorer else "tokens",
        "unused": materials[""].unused,
        "rankings": agreement.of_rankings(scored[""], _highest(settings)) if settings.pairs == "all" else None,
        **agreement.findings(scored.pop(""), bins=settings.bins, seed=context.seed),
        **said,
        "categories": of_categories(scored) if scored else None,
    }
    result["verdict"] = agreement.verdict(result)
    if settings.gold is not None and unlabelled is not None:
        picked = best_of_n(context, settings, reader, judges, unlabelled.read())
        result["best_of"] = [one.plain for one in picked]
        result["verdict"] += f"; {best_of.verdict(picked)}"
    of = {"of": reward.key} if reward else {}
    with context.output({"measured": FILE, "verdict": result["verdict"], **of}) as folder:
        write_json(folder / FILE, result)


def _highest(settings: EvaluateReward) -> float | None:
    """The most points that the scorer can give, where it says so."""
    return None if settings.scorer is None else settings.scorer.get("high")


def _reader(context: Context, settings: EvaluateReward, judges: Judges, reward: Model | None) -> Reader:
    """By the scorer where one is named, and else by the reward model."""
    if settings.scorer is not None:
        return functools.partial(_by_scorer, context, settings, settings.scorer, judges)
    assert reward is not None, "a plan gives a reward model where no scorer is named"
    return functools.partial(_by_reward_model, context, settings, context.scorer(reward, of="answers"))


def comparable(settings: EvaluateReward, groups: Sequence[Group]) -> Material:
    """The rows that prefer one answer to another, the best first. Raises DataError where there is none."""
    judged: list[Judged] = []
    unused: dict[str, int] = {}
    for group in groups[: settings.limit]:
        try:
            if group.weight == 0:
                raise DataError("it counts nothing")
            judged.append(judge(group, "pair", settings.pairs))
        except DataError:
            reason = _lacks(group)
            unused[reason] = unused.get(reason, 0) + 1
    if not judged:
        raise DataError(
            f"there is no comparison to measure a reward model on; left out: {by_reason(unused)}: each row needs two "
            "answers, and which one is better"
        )
    return Material(judged, unused)


def demand_source(stage: str, settings: EvaluateReward, material: Material) -> None:
    """Refuses a column by which rows are to be told apart and that none has."""
    columns = dict.fromkeys(name for one in material.judged for name in one.group.extra)
    if settings.source is not None and settings.source not in columns:
        raise ConfigError(
            f"{stage}.source: the data have no column '{settings.source}'{did_you_mean(settings.source, columns)}"
        )


def category_rows(settings: EvaluateReward) -> dict[str, Material]:
    """The rows of each category's file."""
    without = settings.model_copy(update={"source": None, "limit": None})
    found = {}
    for name, path in settings.categories.items():
        try:
            found[name] = comparable(without, formats.read_groups(path))
        except DataError as error:
            raise DataError(f"category '{name}': {path}: {str(error).removeprefix(f'{path}: ')}") from error
    return found


def best_of_n(
    context: Context, settings: EvaluateReward, reader: Reader, judges: Judges, groups: Sequence[Group]
) -> list[BestOf]:
    """Both scores of all answers, as far as both scorers have one."""
    assert settings.gold is not None, "asked for only with a gold scorer"
    several = [group for group in groups if len(group.completions) > 1]
    read = reader("best of n", several)
    asked = [several[place] for place in read.kept]
    gold = scores_of(context, settings.gold, judges, asked, budget=settings.forest_tokens, name="gold")
    whole = [
        (ours, tuple(one.value for one in theirs if one.value is not None))
        for ours, theirs in zip(read.scores, gold, strict=True)
        if all(one.value is not None for one in theirs)
    ]
    if len(whole) < len(several):
        context.warn(f"{len(several) - len(whole)} of {len(several)} rows have no gold score of each answer: left out")
    if not whole:
        raise DataError(f"{context.stage}: no row of `unlabelled` has two answers with a gold score each")
    return best_of.curve(*zip(*whole, strict=True))


def of_categories(scored: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    """The accuracy of each category, and their mean, in which each counts alike."""
    found = {name: agreement.accuracy(Comparisons.of(rows)) for name, rows in scored.items()}
    return {
        "accuracy": {name: rate.plain for name, rate in found.items()},
        "mean": statistics.mean_of(list(found.values())).plain,
    }


def _lacks(group: Group) -> str:
    """Why a row compares nothing."""
    if group.weight == 0:
        return "rows of weight 0"
    if len(group.completions) < 2:
        return "rows with one answer" if group.completions else "rows without an answer"
    return "rows that do not say which of their answers is better"


def spoken(groups: Sequence[Group], counts: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """What a judge's counts say: how often it says the same in both orders, and how many of its replies say nothing."""
    consistent = [
        (float(number < row.get(duels.CONSISTENT, 0)), _prompt(group))
        for group, row in zip(groups, counts, strict=True)
        for number in range(row.get(duels.COMPARISONS, 0))
    ]
    orders = statistics.win_rate([one for one, _ in consistent], prompts=[prompt for _, prompt in consistent])
    total = added(*counts)
    unread = {
        name.removeprefix(replies.UNREAD): count for name, count in total.items() if name.startswith(replies.UNREAD)
    }
    return {
        "orders": orders.plain if consistent else None,
        "replies": {"asked": total.get(replies.REPLIES, 0), "unread": unread},
    }


def _by_reward_model(
    context: Context, settings: EvaluateReward, engine: Engine, name: str, groups: Sequence[Group]
) -> Read:
    """Every answer scored once. Rows over the length limit are left out."""
    rows, kept, refused = render_rows(engine.renderer, groups, settings)
    what = f"{context.stage}: scoring" + (f" {name}" if name else "")
    with context.reporter.task(what, len(rows)) as task:
        found = rewards(engine, rows, budget=settings.forest_tokens, on_scored=task.advance)
    lengths = [tuple(len(answer.tokens) for answer in row.answers) for row in rows]
    reasons = {f"rows {reason}": count for reason, count in refused.items()}
    return Read(kept, found, lengths, reasons, [NOTHING] * len(groups))


def _by_scorer(
    context: Context,
    settings: EvaluateReward,
    scorer: Mapping[str, Any],
    judges: Judges,
    name: str,
    groups: Sequence[Group],
) -> Read:
    """A scorer may look at a row's answers side by side, so it does not see them best first, but as chance will."""
    orders = [_order_of_chance(group, context.seed) for group in groups]
    turned = [
        replace(group, completions=tuple(group.completions[place] for place in order))
        for group, order in zip(groups, orders, strict=True)
    ]
    part = f"scores-{hash_of(name)[:8]}"  # of a category's name not every letter may stand in a folder's
    said = scores_of(context, scorer, judges, turned, budget=settings.forest_tokens, name=part)
    kept: list[int] = []
    scores: list[tuple[float, ...]] = []
    refused: Counter[str] = Counter()
    for place, (order, found) in enumerate(zip(orders, said, strict=True)):
        values = {answer: score.value for answer, score in zip(order, found, strict=True) if score.value is not None}
        if len(values) < len(order):
            reason = next(score.reason for score in found if score.value is None)
            refused[f"rows without a score: {reason}"] += 1
            continue
        kept.append(place)
        scores.append(tuple(values[answer] for answer in range(len(order))))
    lengths = [tuple(length_of(answer.text, "words") for answer in groups[place].completions) for place in kept]
    return Read(kept, scores, lengths, refused, [added(*(score.counts for score in found)) for found in said])


def _order_of_chance(group: Group, seed: int) -> list[int]:
    places = list(range(len(group.completions)))
    random.Random(f"{seed}:{group.id}").shuffle(places)
    return places


def _scored(settings: EvaluateReward, material: Material, read: Read) -> list[Scored]:
    """The rows with their scores. Those without are counted among the unused ones."""
    material.unused.update(read.refused)
    used = [material.judged[place] for place in read.kept]
    return [_joined(settings, *one) for one in zip(used, read.scores, read.lengths, strict=True)]


def _joined(settings: EvaluateReward, judged: Judged, scores: tuple[float, ...], lengths: tuple[int, ...]) -> Scored:
    group = judged.group
    if not all(math.isfinite(score) for score in scores):
        raise GuardError(f"{group.place}: the reward model gives {scores}: it is broken, train it again")
    return Scored(
        prompt=_prompt(group),
        scores=scores,
        tokens=lengths,
        pairs=judged.pairs,
        strength=judged.strength if has_strength(group) else None,
        weight=group.weight,
        source=_source(group, settings.source),
    )


def _prompt(group: Group) -> str:
    return str(group.prompt or group.id)  # without a prompt a row shares it with no other


def _source(group: Group, column: str | None) -> str:
    """Where a row is from: what its column says, or the name of its file."""
    if column is not None:
        return str(group.extra.get(column, UNNAMED))
    return Path(group.file).name if group.file else UNNAMED
