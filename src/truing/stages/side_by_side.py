"""Comparisons as rows for a pairwise judge: both answers in one request, and the letter of the better one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from truing import formats
from truing.errors import DataError, by_reason
from truing.formats import AS_READ
from truing.models import read_renderer
from truing.records import Group
from truing.rendering import Renderer
from truing.scoring.choices import asked
from truing.scoring.duels import LETTERS, duel
from truing.signatures import Settings
from truing.stages.arranging import Judged, Pairs, judge
from truing.stages.context import Context, Groups, Model

FILE = "groups.jsonl"


class SideBySide(Settings):
    """Settings of `side_by_side`."""

    pairs: Pairs = Field("all", description="which answers of a ranking are compared: all, best_worst or adjacent")


def side_by_side(context: Context, settings: SideBySide, model: Model, data: Groups) -> None:
    """Asks of each comparison twice, in both orders, which answer is better; the right letter is the best answer.

    Trained on these rows, by SFT for one, the model is a judge that the scorer `pairwise` asks.
    """
    renderer = read_renderer(model.source, context.chat_template)
    groups, refused = data.read(), Counter[str]()
    made = placed(settings, renderer, groups, refused)
    used = len(groups) - refused.total()
    context.event("data", source=data.description, rows=len(groups), used=used, refused=dict(refused))
    with context.output({"groups": FILE, "rows": len(made)}) as folder:
        formats.write_data(made, folder / FILE, format="group")


def placed(settings: SideBySide, renderer: Renderer, groups: Sequence[Group], refused: Counter[str]) -> list[Group]:
    """The rows made of all comparisons; `refused` counts why rows compare nothing. Raises DataError where all do."""
    made: list[Group] = []
    for group in groups:
        try:
            made += duels(renderer, judge(group, "pair", settings.pairs))
        except DataError as error:
            refused[str(error).removeprefix(f"{group.place}: ")] += 1
    if not made:
        raise DataError(
            f"no row can be put side by side: {by_reason(refused)}: bring comparisons, rankings, or answers with scores"
        )
    return made


def duels(renderer: Renderer, judged: Judged) -> list[Group]:
    """Two rows for each comparison, which share its weight: the better answer first, and second."""
    group, found = judged.group, []
    answers = [answer.text for answer in group.completions]
    kept = {name: value for name, value in group.extra.items() if name not in (AS_READ, "tools")}
    for chosen, rejected in judged.pairs:
        for places, letters in (((chosen, rejected), LETTERS), ((rejected, chosen), LETTERS[::-1])):
            row = asked(renderer, duel(group.prompt, *(answers[place] for place in places)), letters)
            ranked = tuple(replace(letter, rank=rank) for rank, letter in enumerate(row.completions))
            weight = group.weight / (2 * len(judged.pairs))
            found.append(replace(row, completions=ranked, weight=weight, extra=kept, file=group.file, line=group.line))
    return found
