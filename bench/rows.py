"""What is trained on: synthetic rows of known lengths or real ones, and which of them form a step."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from truing.formats import read_groups
from truing.models import read_config, read_renderer
from truing.rendering import Answer, Row

ROOT = Path(__file__).resolve().parent.parent
POOL = 400
"""Rows that steps are taken from: fifty steps of eight, the span in which `group_by_length` sorts."""
SIGMA = 0.6
MAX_LENGTH = 1024
"""TRL's default limit of a prompt and one answer; no row is longer, so no side ever cuts one."""


class Profile(NamedTuple):
    """Mean tokens of a prompt and of an answer; both are log-normal."""

    prompt: int
    answer: int


PROFILES = {
    "hh": Profile(127, 59),
    "ultrafeedback": Profile(120, 289),
    "tldr": Profile(382, 34),
    "tiny": Profile(12, 6),
}
"""`tiny` is for tests."""
REAL = "real"


class NotThereError(Exception):
    """What is to be measured is not at hand; the message says what and why."""


def pool(profile: str, model: str, count: int = POOL) -> list[Row]:
    """Rows of a profile, each a prompt with two answers; the same ones every time."""
    return _real(model, count) if profile == REAL else _synthetic(PROFILES[profile], model, count)


def first_answers(rows: Sequence[Row]) -> list[Row]:
    """The same rows with one answer each."""
    return [Row(row.prompt, row.answers[:1], row.index) for row in rows]


def shuffled_steps(rows: Sequence[Row], batch: int, count: int) -> list[list[int]]:
    """The first `count` steps of an epoch in random order."""
    order = random.Random(0).sample(range(len(rows)), len(rows))
    return [order[(step * batch) % len(rows) :][:batch] for step in range(count)]


def grouped_steps(rows: Sequence[Row], batch: int, warm_up: int, timed: int) -> list[list[int]]:
    """Steps of rows of like length, as transformers' `group_by_length` forms them.

    The longest group comes first, for the warm-up, so that the peak of memory is that of an epoch; the timed ones
    stand evenly over the range of lengths.
    """
    order = sorted(range(len(rows)), key=lambda place: (-rows[place].longest, place))
    groups = [order[start : start + batch] for start in range(0, len(order) - batch + 1, batch)]
    spread = [groups[int((step + 0.5) / timed * len(groups))] for step in range(timed)]
    return [groups[step % len(groups)] for step in range(warm_up)] + spread


def as_json(rows: Sequence[Row]) -> list[list[Any]]:
    """[prompt, [answer, ...]] of each row, as token ids."""
    return [[list(row.prompt), [list(answer.tokens) for answer in row.answers]] for row in rows]


def from_json(rows: Sequence[Sequence[Any]]) -> list[Row]:
    """What `as_json` made; every answer token is scored."""
    return [
        Row(tuple(prompt), tuple(Answer(tuple(a), (True,) * len(a)) for a in answers), index)
        for index, (prompt, answers) in enumerate(rows)
    ]


def _synthetic(profile: Profile, model: str, count: int) -> list[Row]:
    """Random ordinary tokens; what they say does not change what they cost."""
    rng = np.random.default_rng(0)
    special = set(read_renderer(model).tokenizer.all_special_ids)
    vocabulary = [token for token in range(read_config(model).get_text_config().vocab_size) if token not in special]

    def some(mean: int, limit: int) -> list[int]:
        length = round(float(rng.lognormal(math.log(mean) - SIGMA**2 / 2, SIGMA)))
        return [int(token) for token in rng.choice(vocabulary, min(max(length, 2), limit))]

    drawn: list[list[Any]] = []
    for _ in range(count):
        prompt = some(profile.prompt, MAX_LENGTH * 3 // 4)
        drawn.append([prompt, [some(profile.answer, MAX_LENGTH - len(prompt)) for _ in range(2)]])
    return from_json(drawn)


def _real(model: str, count: int) -> list[Row]:
    """Rows of HH-RLHF's harmless half, through the model's chat template."""
    path = _data_folder() / "hh_harmless" / "pairs.jsonl.gz"
    if not path.exists():
        raise NotThereError(f"{path} is not there: set TRUING_DATA to the folder that holds hh_harmless/")
    renderer = read_renderer(model)
    groups = read_groups(path, max_bad=10**9)
    kept: list[list[Any]] = []
    for group in random.Random(0).sample(groups, len(groups)):
        row = renderer.render(group)
        if row.longest <= MAX_LENGTH and all(all(answer.scored) for answer in row.answers):
            kept += as_json([row])
        if len(kept) == count:
            break
    return from_json(kept)


def _data_folder() -> Path:
    return Path(os.environ.get("TRUING_DATA") or ROOT.parent / "shared" / "data")
