"""Rows that nobody here wrote, counted a second time by plain loops."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from truing import formats
from truing.curation import balancing, contamination, duplicates, private, quality
from truing.curation.texts import content, messages
from truing.records import Group

DATA = Path(os.environ.get("TRUING_DATA") or Path(__file__).parents[3] / "shared" / "data")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not at {DATA}: set TRUING_DATA to its folder"),
]


def rows_of(name: str, most: int | None = None) -> list[Group]:
    return formats.read_groups(DATA / name, max_bad=100, limit=most)


def sets_of(group: Group) -> tuple[tuple[str, ...], list[frozenset[tuple[str, ...]]]]:
    turns = list(messages(group))
    found = []
    for turn in turns:
        said = tuple(re.findall(r"\w+", turn.content.lower())) or (turn.content,)
        found.append(frozenset(said[i : i + 3] for i in range(max(1, len(said) - 2))))
    return tuple(turn.role for turn in turns), found


def resembling(groups: Sequence[Group], threshold: float) -> dict[int, int]:
    """Every row beside every earlier one that is kept."""
    known = [sets_of(group) for group in groups]
    kept: list[int] = []
    found: dict[int, int] = {}
    for place, (roles, sets) in enumerate(known):
        like = next(
            (
                other
                for other in kept
                if known[other][0] == roles
                and all(len(a & b) >= threshold * len(a | b) for a, b in zip(known[other][1], sets, strict=True))
            ),
            None,
        )
        if like is None:
            kept.append(place)
        else:
            found[place] = like
    return found


@pytest.mark.parametrize(
    ("name", "most", "threshold", "count"),
    [
        ("hh_harmless/pairs.jsonl.gz", None, 0.8, 0),
        ("finegrained_qa_feedback/pairs.jsonl.gz", 1000, 0.8, 47),
        ("truthfulqa/finetune_truth.jsonl.gz", 1500, 0.8, 69),
        ("truthfulqa/finetune_truth.jsonl.gz", 1000, 0.5, 120),
    ],
)
def test_near_duplicates(name: str, most: int | None, threshold: float, count: int) -> None:
    groups = rows_of(name, most)
    found = duplicates.near(groups, threshold, 3)
    assert found == resembling(groups, threshold)
    assert len(found) == count


def test_equal_rows() -> None:
    groups = rows_of("truthfulqa/finetune_truth.jsonl.gz")
    said = [" ".join(f"{turn.role} {' '.join(turn.content.split())}" for turn in messages(group)) for group in groups]
    assert len(duplicates.exact(groups)) == len(said) - len(set(said)) > 4000


def test_hh_harmless_by_form() -> None:
    groups = rows_of("hh_harmless/pairs.jsonl.gz")
    empty = [group.line for group in groups if any(not turn.content.strip() for turn in messages(group))]
    assert [group.line for group in groups if quality.empty(group)] == empty
    assert len(empty) == 3
    assert sum(map(quality.equal_answers, groups)) == 0
    longer = [len(group.completions[0].text) - len(group.completions[1].text) for group in groups]
    wins, losses = sum(gap > 0 for gap in longer), sum(gap < 0 for gap in longer)
    assert len(balancing.unbalanced(groups, 0)) == abs(wins - losses) > 100
    mails = [group.line for group in groups if any(re.search(r"\w@\w+\.\w", content(turn)) for turn in messages(group))]
    found = [
        group.line
        for group in groups
        if any(one.kind == "e-mail address" for turn in messages(group) for one in private.find(content(turn)))
    ]
    assert found == mails


def test_pieces_of_mt_bench_in_code() -> None:
    file = DATA / "mt_bench_questions" / "question.jsonl"
    questions = [turn for line in file.read_text().splitlines() for turn in json.loads(line)["turns"]]
    answers = [turn for line in file.read_text().splitlines() for turn in json.loads(line).get("reference", [])]
    tests = {run for text in questions + answers for run in runs_of(text)}
    groups = rows_of("gpteacher/codegen.jsonl.gz")
    expected = [
        place for place, group in enumerate(groups) if any(tests & runs_of(turn.content) for turn in messages(group))
    ]
    assert (
        list(contamination.contaminated(groups, contamination.read_pieces({"mt_bench": str(file)}, 13), 13)) == expected
    )
    assert len(expected) > 10


def runs_of(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}
