"""How far a reward model can be trusted: held-out comparisons, each scored once, and what else explains its choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from truing import formats, statistics
from truing.compute import Engine
from truing.errors import ConfigError, DataError, GuardError, by_reason, did_you_mean
from truing.records import Group
from truing.rendering import Row
from truing.scoring import agreement, best_of
from truing.scoring.agreement import Comparisons, Scored
from truing.scoring.answers import rewards
from truing.scoring.best_of import BestOf
from truing.scoring.scorers import Spec
from truing.signatures import Count, Settings
from truing.stages.arranging import Judged, Pairs, has_strength, judge
from truing.stages.context import Context, Groups, Judges, Model, write_json
from truing.stages.score import scores_of
from truing.stages.training import TooLong, render_rows

FILE = "reward.json"
UNNAMED = "no source"
"""Where rows are from that do not say it."""


class EvaluateReward(Settings):
    """Settings of `evaluate_reward`."""

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


class Material(NamedTuple):
    """Rows that compare answers, and how many were left out by what they lack."""

    judged: list[Judged]
    unused: dict[str, int]


def evaluate_reward(
    context: Context,
    settings: EvaluateReward,
    reward: Model,
    held_out: Groups,
    judges: Judges,
    unlabelled: Groups | None = None,
) -> None:
    """Measures accuracy, calibration and love of length of a reward model on held-out comparisons or rankings.

    With a gold scorer also what that makes of the best of n answers by the model (arXiv:2210.10760).
    """
    if (settings.gold is None) != (unlabelled is None):
        raise ConfigError(
            f"{context.stage}: `gold` and `unlabelled` go together: name a scorer, and the stage that samples answers"
        )
    materials = {"": comparable(settings, held_out.read()), **category_rows(settings)}
    demand_source(context.stage, settings, materials[""])
    engine = context.scorer(reward, of="answers")
    scored: dict[str, list[Scored]] = {}
    for name, material in materials.items():
        scored[name] = _scored(context, settings, engine, name, material)
    result = {
        "reward": reward.source,
        "unused": materials[""].unused,
        **agreement.findings(scored.pop(""), bins=settings.bins, seed=context.seed),
        "categories": of_categories(scored) if scored else None,
    }
    result["verdict"] = agreement.verdict(result)
    if settings.gold is not None and unlabelled is not None:
        picked = best_of_n(context, settings, engine, judges, unlabelled.read())
        result["best_of"] = [one.plain for one in picked]
        result["verdict"] += f"; {best_of.verdict(picked)}"
    with context.output({"measured": FILE, "verdict": result["verdict"], "of": reward.key}) as folder:
        write_json(folder / FILE, result)


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
    context: Context, settings: EvaluateReward, engine: Engine, judges: Judges, groups: Sequence[Group]
) -> list[BestOf]:
    """Both scores of all answers, as far as both scorers have one."""
    assert settings.gold is not None, "asked for only with a gold scorer"
    several = [group for group in groups if len(group.completions) > 1]
    rows, kept, _ = render_rows(engine.renderer, several, settings)
    asked = [several[place] for place in kept]
    gold = scores_of(context, settings.gold, judges, asked, budget=settings.forest_tokens)
    with context.reporter.task(f"{context.stage}: best of n", len(rows)) as task:
        proxy = rewards(engine, rows, budget=settings.forest_tokens, on_scored=task.advance)
    whole = [
        (ours, tuple(one.value for one in theirs if one.value is not None))
        for ours, theirs in zip(proxy, gold, strict=True)
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


def _scored(context: Context, settings: EvaluateReward, engine: Engine, name: str, material: Material) -> list[Scored]:
    """Every answer scored once. Rows over the length limit are counted among the unused ones."""
    rows, kept, refused = render_rows(engine.renderer, [one.group for one in material.judged], settings)
    material.unused.update({f"rows {reason}": count for reason, count in refused.items()})
    what = f"{context.stage}: scoring" + (f" {name}" if name else "")
    with context.reporter.task(what, len(rows)) as task:
        found = rewards(engine, rows, budget=settings.forest_tokens, on_scored=task.advance)
    used = [material.judged[place] for place in kept]
    return [_joined(settings, *one) for one in zip(used, rows, found, strict=True)]


def _joined(settings: EvaluateReward, judged: Judged, row: Row, scores: tuple[float, ...]) -> Scored:
    group = judged.group
    if not all(math.isfinite(score) for score in scores):
        raise GuardError(f"{group.place}: the reward model gives {scores}: it is broken, train it again")
    return Scored(
        prompt=str(group.prompt or group.id),  # without a prompt a row shares it with no other
        scores=scores,
        tokens=tuple(len(answer.tokens) for answer in row.answers),
        pairs=judged.pairs,
        strength=judged.strength if has_strength(group) else None,
        weight=group.weight,
        source=_source(group, settings.source),
    )


def _source(group: Group, column: str | None) -> str:
    """Where a row is from: what its column says, or the name of its file."""
    if column is not None:
        return str(group.extra.get(column, UNNAMED))
    return Path(group.file).name if group.file else UNNAMED
