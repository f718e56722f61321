"""How strongly is each comparison meant, and which labels are probably wrong: by the vote of several reward models.

The method of "Secrets of RLHF II" (arXiv:2401.06080), section 2, where ten models each score the data that they were
trained on. Here no model does, unless `folds = 1` asks for it: what is learned by heart always looks right.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from truing import formats, statistics
from truing.blending import opening
from truing.errors import ConfigError, DataError
from truing.models import read_renderer
from truing.records import Group, comparison
from truing.rendering import Row
from truing.scoring.answers import rewards
from truing.signatures import Count, Fraction
from truing.stages.arranging import Judged, judge, judged_rows
from truing.stages.context import Context, Groups, Model, write_json
from truing.stages.preference import fit
from truing.stages.reward_model import RewardModel
from truing.stages.training import describe_data, load_trainable, render_rows, step_count
from truing.statistics import Interval

FILE = "groups.jsonl"
FINDINGS = "audit.json"
SHOWN = 20
"""Comparisons of each kind that are shown with their text."""

POINTS = 101
"""Points of the curve of means in order."""
BINS = 20
"""Pieces of that order in which the deviation is averaged."""

Treatment = Literal["keep", "flip", "drop"]


class Audit(RewardModel):
    """Settings of `audit`."""

    members: Count = Field(4, description="reward models that vote on each comparison; the paper has 10")
    folds: Count = Field(
        2, description="parts of the data; each is scored by models trained on the others; 1: on all, as the paper"
    )
    wrong: Treatment = Field("keep", description="what becomes of labels that are probably wrong: keep, flip or drop")
    wrong_share: Fraction | None = Field(
        None,
        description="share of the comparisons, the weakest, taken for wrong; none: those the vote turns",
    )
    ambiguous_share: Fraction = Field(0.0, description="share of the comparisons, those nearest to 0, that is dropped")

    @property
    def trainings(self) -> tuple[float, int]:
        """Each member's models train on all folds but one each, and read every row once."""
        return self.members * max(self.folds - 1, 1), self.members

    def once(self) -> Self:
        """One model, trained on all comparisons."""
        return self.model_copy(update={"members": 1, "folds": 1})

    @model_validator(mode="after")
    def _live(self) -> Self:
        if self.meta is not None:
            raise ConfigError("an audit has no unlabelled answers: take the setting `meta` out")
        if self.wrong == "keep" and self.wrong_share is not None:
            raise ConfigError('wrong_share changes nothing with wrong = "keep": set flip or drop, or take it out')
        return self


class Vote(NamedTuple):
    """What the models say of one comparison: score of the chosen answer less that of the rejected one.

    mean, deviation: over the models, with the number of models as the divisor. for_label: share of models that agree.
    """

    mean: float
    deviation: float
    for_label: float

    @classmethod
    def of(cls, gaps: Sequence[float]) -> Vote:
        """Of each model's difference."""
        values = np.array(gaps)
        agree = (values > 0).mean() + (values == 0).mean() / 2
        return cls(float(values.mean()), float(values.std()), float(agree))


def audit(context: Context, settings: Audit, model: Model, data: Groups) -> None:
    """Trains reward models on parts of the comparisons, lets them vote on the others, and treats what stands out.

    Makes the comparisons with the mean difference as their `strength`, for objectives with a margin.
    """
    judged = [one for row in judged_rows(settings.bound(), data.read(), settings.pairs) for one in comparisons(row)]
    renderer = read_renderer(model.source, context.chat_template)
    rows, kept, refused = render_rows(renderer, [one.group for one in judged], settings)
    used = [judged[place] for place in kept]
    groups = [one.group for one in used]
    describe_data(context, data, len(judged), groups, rows, refused)
    gaps: list[list[float]] = [[] for _ in rows]
    parts = list(_parts(context, settings, groups))
    for part in parts:
        for place, gap in zip(part.scored, _gaps(part, settings, model, rows, used), strict=True):
            gaps[place].append(gap)
    votes = [Vote.of(some) for some in gaps]
    fates = _trusted_fates(context, votes, settings)
    treated = [_treated(group, vote, fate) for group, vote, fate in zip(groups, votes, fates, strict=True)]
    steps = sum(step_count(len(part.trained), settings) for part in parts)
    with context.output({"groups": FILE, "audit": FINDINGS, "steps": steps}) as folder:
        formats.write_data((group for group in treated if group is not None), folder / FILE, format="group")
        write_json(folder / FINDINGS, findings(groups, votes, fates, settings))
    for part in parts:
        context.run.discard_checkpoints(part.context.key)


def comparisons(judged: Judged) -> list[Judged]:
    """Every comparison of a row by itself, which shares the row's weight with the others."""
    count = len(judged.pairs)
    return [
        judge(
            replace(
                judged.group,
                completions=tuple(judged.group.completions[place] for place in pair),
                weight=judged.group.weight / count,
            ),
            "pair",
        )
        for pair in judged.pairs
    ]


def _trusted_fates(context: Context, votes: Sequence[Vote], settings: Audit) -> list[Treatment]:
    """What becomes of each comparison; all stay as they are where the models may be guessing."""
    agreed = agreement(votes)
    if agreed.low > 0.5:
        return fates_of(votes, settings)
    treats = settings.wrong != "keep" or settings.ambiguous_share > 0
    spared = ", and none was turned round or left out" if treats else ""
    context.warn(
        f"the models agree with {agreed.percent} of the labels, which a coin may do too: what they say of each is "
        f"chance{spared}: give them more rows, epochs or a higher learning rate"
    )
    return ["keep"] * len(votes)


def agreement(votes: Sequence[Vote]) -> Interval:
    """How often the vote sides with the label."""
    return statistics.proportion(sum(vote.mean > 0 for vote in votes), len(votes))


def fates_of(votes: Sequence[Vote], settings: Audit) -> list[Treatment]:
    """What becomes of each comparison. Those taken for wrong are not counted among the ambiguous ones."""
    order = sorted(range(len(votes)), key=lambda place: votes[place].mean)
    if settings.wrong_share is None:
        wrong = [place for place in order if votes[place].mean < 0]
    else:
        wrong = order[: round(settings.wrong_share * len(votes))]
    fates: list[Treatment] = ["keep"] * len(votes)
    if settings.wrong != "keep":
        for place in wrong:
            fates[place] = settings.wrong
    left = [place for place in order if fates[place] == "keep"]
    near = sorted(left, key=lambda place: abs(votes[place].mean))
    for place in near[: round(settings.ambiguous_share * len(votes))]:
        fates[place] = "drop"
    return fates


def findings(groups: Sequence[Group], votes: Sequence[Vote], fates: Sequence[Treatment], settings: Audit) -> Any:
    """What the report shows: the means in order, the deviation along them, and the comparisons that stand out."""
    order = sorted(range(len(votes)), key=lambda place: votes[place].mean)
    agreed = agreement(votes)
    divided = sorted(order, key=lambda place: abs(votes[place].for_label - 0.5))

    def shown(places: Sequence[int]) -> list[dict[str, Any]]:
        return [_shown(groups[place], votes[place], fates[place]) for place in places[:SHOWN]]

    return {
        "comparisons": len(votes),
        "members": settings.members,
        "folds": settings.folds,
        "agree_with_label": agreed.plain,
        "fates": {fate: fates.count(fate) for fate in ("keep", "flip", "drop")},
        "sorted": [votes[order[int(q * (len(order) - 1) / (POINTS - 1))]].mean for q in range(POINTS)],
        "bins": [_bin([votes[place] for place in some]) for some in _even(order, min(BINS, len(order)))],
        "deciles": [_bin([votes[place] for place in some]) for some in _even(order, min(10, len(order)))],
        "wrong": shown([place for place in order if votes[place].mean < 0]),
        "ambiguous": shown(divided),
        "strong": shown(order[::-1]),
    }


class _Part(NamedTuple):
    """One model: what it is trained on, what it scores, and a context of its own, by which it goes on where it was."""

    context: Context
    trained: list[int]
    scored: list[int]


def _parts(context: Context, settings: Audit, groups: Sequence[Group]) -> Iterator[_Part]:
    """The folds of each member, by dialogue, so that no model scores an answer in a dialogue that it knows."""
    first_step = context.first_step
    for member in range(settings.members):
        fold_of = _folds([str(opening(group)) for group in groups], settings.folds, f"{context.seed}:{member}")
        for fold in range(settings.folds):
            scored = [place for place in range(len(groups)) if fold_of[place] == fold]
            trained = [place for place in range(len(groups)) if fold_of[place] != fold or settings.folds == 1]
            if not trained or not scored:
                raise DataError(f"{len(groups)} comparisons are too few for {settings.folds} folds: set fewer")
            name = f"{member + 1}-{fold + 1}"
            seed = context.seed * 1009 + member * settings.folds + fold
            yield _Part(
                replace(context, key=f"{context.key}-{name}", seed=seed, first_step=first_step), trained, scored
            )
            first_step += step_count(len(trained), settings)


def _folds(dialogues: Sequence[str], folds: int, seed: str) -> list[int]:
    """The fold of each row: dialogues in an order drawn by seed, dealt out in turn."""
    unique = sorted(set(dialogues))
    random.Random(seed).shuffle(unique)
    fold_of = {dialogue: place % folds for place, dialogue in enumerate(unique)}
    return [fold_of[dialogue] for dialogue in dialogues]


def _gaps(part: _Part, settings: Audit, model: Model, rows: Sequence[Row], judged: Sequence[Judged]) -> list[float]:
    """What the part's model makes of its comparisons, kept as soon as it is known."""
    context = part.context
    done = context.run.artifact(context.key)
    if done is None:
        trained = [replace(rows[place], index=number) for number, place in enumerate(part.trained)]
        loaded = load_trainable(context, model, settings)
        engine, _ = fit(context, settings, loaded, model, trained, [judged[place] for place in part.trained])
        scored = [rows[place] for place in part.scored]
        with context.reporter.task(f"{context.stage}: scoring", len(scored)) as task:
            found = rewards(engine, scored, budget=settings.forest_tokens, on_scored=task.advance)
        with context.output({"part": context.key}) as folder:
            write_json(folder / "gaps.json", [chosen - rejected for chosen, rejected in found])
        done = context.run.artifact(context.key)
        assert done is not None, "it was just made"
    gaps: list[float] = json.loads((done.path / "gaps.json").read_text())
    return gaps


def _treated(group: Group, vote: Vote, fate: Treatment) -> Group | None:
    """The comparison with its vote; scores go, as the vote takes their place."""
    if fate == "drop":
        return None
    said = {"mean": vote.mean, "deviation": vote.deviation, "for_label": vote.for_label, "flipped": fate == "flip"}
    chosen, rejected = group.completions if fate == "keep" else group.completions[::-1]
    return comparison(
        group.prompt,
        replace(chosen, score=None, label=None),
        replace(rejected, score=None, label=None),
        weight=group.weight,
        strength=vote.mean if fate == "keep" else -vote.mean,
        extra={**group.extra, "audit": said},
        file=group.file,
        line=group.line,
    )


def _bin(votes: Sequence[Vote]) -> dict[str, float]:
    names = ("mean", "deviation", "for_label")
    return {name: sum(getattr(vote, name) for vote in votes) / len(votes) for name in names}


def _even(order: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Cut into so many pieces of like size."""
    return [order[len(order) * n // parts : len(order) * (n + 1) // parts] for n in range(parts)]


def _shown(group: Group, vote: Vote, fate: Treatment) -> dict[str, Any]:
    chosen, rejected = group.completions
    return {
        "place": group.place,
        "prompt": [{"role": message.role, "content": message.content} for message in group.prompt],
        "chosen": chosen.text,
        "rejected": rejected.text,
        **vote._asdict(),
        "fate": fate,
    }
