"""Grades of variants that a judge sees side by side, as lessons for a model that is to grade alone (DEITA)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from truing import formats
from truing.errors import DataError, by_reason
from truing.selection.evolution import Variant, chains, from_group
from truing.selection.expectation import GRADES
from truing.selection.ranking import MOST, grades_in, in_order_of_chance, lesson, ranking_request
from truing.signatures import Count, NonNegative
from truing.stages.context import Context, Groups, Model, write_json
from truing.stages.evolve import variant_shown
from truing.stages.replies import Writing, writer

FILE = "groups.jsonl"
FINDINGS = "ranking.json"
SHOWN = 6
"""Seeds, and replies without grades that hold, that are shown with their text."""
ALONE = "a seed without a variant to compare it with"
TWICE = "a text that an earlier row of its seed has too"


class Rank(Writing):
    """Settings of `rank`."""

    temperature: NonNegative = Field(0.0, description="divides the logits; 0 is greedy")
    max_new_tokens: Count = Field(256, description="length limit of the judge's reply in tokens")


class Graded(NamedTuple):
    """The variants of one seed in the order in which the judge saw them, with what he said of each."""

    variants: list[Variant]
    grades: list[int]


def rank(context: Context, settings: Rank, data: Groups, model: Model | None = None) -> None:
    """Has a judge grade all variants of a seed at once, and makes of each variant a request for its grade.

    Such rows teach a language model to grade: a stage `sft` on them, whose name is then `model` in the scorers
    `complexity`, `quality` and `deita`.
    """
    rows = [from_group(group) for group in data.read()]
    together = chains(rows)
    crowd = next((chain for chain in together if len(chain) > MOST), None)
    if crowd:
        raise DataError(f"seed {crowd[0].seed} has {len(crowd)} variants, and a judge can grade {MOST} at once")
    shown = [in_order_of_chance(chain, context.seed) for chain in together if len(chain) > 1]
    dropped = Counter({ALONE: len(together) - len(shown)})  # seeds
    refused = Counter({ALONE: dropped[ALONE], TWICE: len(rows) - sum(map(len, together))})  # rows
    unread: list[dict[str, str]] = []
    graded: list[Graded] = []
    replies = writer(context, settings, model)([ranking_request(variants) for variants in shown], "ranking")
    for variants, reply in zip(shown, replies, strict=True):
        grades = reply.failure or grades_in(reply.text, len(variants))
        if isinstance(grades, str):
            dropped[grades] += 1
            refused[grades] += len(variants)
            unread.append({"reason": grades, "reply": reply.text})
        else:
            graded.append(Graded(variants, grades))
    if not graded:
        raise DataError(
            f"stage '{context.stage}' got no grades that hold of {len(together)} seeds: {by_reason(+dropped)}: "
            "name a judge that can do it, by model or endpoint"
        )
    lessons = [lesson(*pair) for one in graded for pair in zip(one.variants, one.grades, strict=True)]
    found = findings(graded) | {"seeds": len(together), "graded": len(graded), "dropped": dict(+dropped)}
    context.event("data", source=data.description, rows=len(rows), used=len(lessons), refused=dict(+refused))
    with context.output({"groups": FILE, "ranking": FINDINGS, "rows": len(lessons)}) as folder:
        formats.write_data(lessons, folder / FILE, format="group")
        write_json(folder / FINDINGS, found | {"unread": unread[:SHOWN]})


def findings(graded: Sequence[Graded]) -> dict[str, Any]:
    """What the report shows, by kind: how often each grade was given, the mean grade of each round, and examples."""
    kinds = {}
    for kind in dict.fromkeys(one.variants[0].kind for one in graded):
        own = [one for one in graded if one.variants[0].kind == kind]
        pairs = [pair for one in own for pair in zip(one.variants, one.grades, strict=True)]
        given = Counter(grade for _, grade in pairs)
        rounds = sorted({variant.round for variant, _ in pairs})
        by_round = {number: [grade for variant, grade in pairs if variant.round == number] for number in rounds}
        kinds[kind] = {
            "grades": {grade: given[int(grade)] for grade in GRADES},
            "rounds": [[number, float(np.mean(grades)), len(grades)] for number, grades in by_round.items()],
            "examples": [_example(one) for one in own[:SHOWN]],
        }
    return {"kinds": kinds}


def _example(one: Graded) -> list[dict[str, Any]]:
    """The variants of a seed in the order of their rounds, with their grades."""
    pairs = sorted(zip(one.variants, one.grades, strict=True), key=lambda pair: pair[0].round)
    return [variant_shown(variant) | {"grade": grade} for variant, grade in pairs]
