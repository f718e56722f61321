"""What a stage was trained on: rows read, refused and used, how long they are, and one as the model sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from truing.blending import Share
from truing.report import charts, words
from truing.report.figures import Figure, by_percentile
from truing.report.reading import mapping, real

LENGTHS = ("chosen_tokens", "rejected_tokens", "answer_tokens", "prompt_tokens")


@dataclass(frozen=True)
class Data:
    """What a stage read, refused and used.

    lengths: tokens of each row by name, such as `chosen_tokens`. scores: at even steps from the lowest to the highest.
    shares: what each source of a blend gave. reasons: what scores are owed to, each with its number of answers. counts:
    what was counted on the way to them, such as a judge's replies.
    mean_score: of all answers, also those that did not go on. written_by: how many answers each writer gave.
    """

    source: str
    rows: int | None
    used: int | None
    refused: dict[str, int]
    lengths: dict[str, list[int]]
    scores: dict[str, list[float]]
    shares: list[Share]
    reasons: dict[str, int]
    counts: dict[str, int]
    mean_score: float | None
    written_by: dict[str, int]


@dataclass(frozen=True)
class Preview:
    """One row as the model sees it: pieces of text, each with whether it is scored."""

    row: str
    pieces: list[tuple[str, bool]]


def read_data(event: Mapping[str, Any]) -> Data:
    """As an event says it."""
    return Data(
        source=" ".join(str(event[name]) for name in ("source", "format") if event.get(name)),
        rows=event.get("rows"),
        used=event.get("used"),
        refused=mapping(event.get("refused")),
        lengths={name: list(event[name]) for name in LENGTHS if event.get(name)},
        scores=mapping(event.get("scores")),
        shares=[Share(**share) for share in event.get("shares", [])],
        reasons=mapping(event.get("reasons")),
        counts=mapping(event.get("counts")),
        mean_score=real(event.get("mean_score")),
        written_by=mapping(event.get("written_by")),
    )


def read_preview(event: Mapping[str, Any]) -> Preview:
    """As an event says it."""
    return Preview(str(event.get("row", "")), [(str(text), bool(scored)) for text, scored in event.get("pieces", [])])


def data_figure(data: Data) -> Figure | None:
    """The scores of the answers where there are some, or else their lengths."""
    if data.scores:
        return by_percentile("Scores, lowest first", "", data.scores, ("policy", "base"))
    return _length_figure(data)


def _length_figure(data: Data) -> Figure | None:
    """Chosen against rejected lengths, or else the lengths of the answers."""
    chosen, rejected = data.lengths.get("chosen_tokens"), data.lengths.get("rejected_tokens")
    if chosen and rejected:
        summary = (
            f"{words.number(float(np.mean(chosen)))} and {words.number(float(np.mean(rejected)))} tokens on average"
        )
        chart = charts.histogram(
            f"Lengths of chosen and rejected answers: {summary}", {"chosen": chosen, "rejected": rejected}
        )
        legend = (("chosen", "chosen"), ("rejected", "rejected"))
        return Figure("Chosen and rejected lengths", summary, _length_bias(chosen, rejected), chart, legend)
    for name, what in (("answer_tokens", "Answer"), ("prompt_tokens", "Prompt")):
        if name in data.lengths:
            summary = f"{words.number(float(np.mean(data.lengths[name])))} tokens on average"
            chart = charts.histogram(f"{what} lengths: {summary}", {"chosen": data.lengths[name]})
            return Figure(f"{what} lengths", summary, "", chart)
    return None


def _length_bias(chosen: Sequence[int], rejected: Sequence[int]) -> str:
    if len(chosen) != len(rejected):
        return ""
    longer = float(np.mean(np.asarray(chosen) > np.asarray(rejected)))
    hint = f"The chosen answer is the longer one in {words.percent(longer)} of the rows."
    return f"{hint} The model may learn length instead of what is meant." if longer > 0.6 else hint
