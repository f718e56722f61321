"""Files that nobody here wrote: every row is read or refused for a known reason, and comes back as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from truing.errors import DataError
from truing.formats import FORMATS, BadRow, containers, open_data
from truing.formats.checks import difference
from truing.records import Group

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not at {DATA}"),
]

FILES = [
    ("hh_harmless/pairs.jsonl.gz", "Anthropic hh-rlhf, conversational, transcripts", 1837, 8),
    ("llamafactory_demos/dpo_en_demo.jsonl.gz", "ShareGPT, conversational", 300, 0),
    ("llamafactory_demos/dpo_zh_demo.jsonl.gz", "ShareGPT, conversational", 300, 0),
    ("llamafactory_demos/medicalgpt_dpo_zh_500.jsonl.gz", "ShareGPT, conversational", 500, 0),
    ("llamafactory_demos/glaive_toolcall_en_demo.jsonl.gz", "ShareGPT, conversational", 300, 0),
    ("llamafactory_demos/kto_en_demo.jsonl.gz", "TRL unpaired preference, conversational, thumbs", 300, 0),
    ("llamafactory_demos/alpaca_zh_demo.jsonl.gz", "Alpaca, conversational", 1000, 0),
    ("oasst1_en/pairs.jsonl.gz", "TRL preference, standard, explicit prompt", 855, 0),
    ("oasst1_zh/rm_ranked.jsonl.gz", "Alpaca, conversational", 769, 6),
    ("oasst1_zh/sft.jsonl.gz", "Alpaca, conversational", 766, 0),
    ("gpteacher/roleplay.jsonl.gz", "Alpaca, conversational", 1923, 0),
    ("dolly_slice/dolly_387.jsonl.gz", "Alpaca, conversational", 387, 0),
    ("finegrained_qa_feedback/pairs.jsonl.gz", "Alpaca, conversational", 2616, 0),
    ("xstest/xstest_prompts.csv", "TRL prompt-only, standard", 450, 0),
]


@pytest.mark.parametrize(("name", "description", "good", "bad"), FILES)
def test_every_row_is_counted_and_comes_back(name: str, description: str, good: int, bad: int) -> None:
    data = open_data(DATA / name)
    raw = dict(containers.rows(data.source))
    read = list(data)
    groups = [row for row in read if isinstance(row, Group)]
    assert (data.description, len(groups), len(read) - len(groups)) == (description, good, bad)
    changed = (difference(raw[group.line or 0], FORMATS[data.format].write(group)) for group in groups)
    assert [change for change in changed if change] == []


def test_hh_harmless() -> None:
    rows = list(open_data(DATA / "hh_harmless/pairs.jsonl.gz"))
    assert len(rows) == 1845
    reasons = Counter(row.problem.split("]: ")[-1] for row in rows if isinstance(row, BadRow))
    # Four say themselves that the answers belong to different dialogues; in four an assistant turn follows another.
    assert reasons == {
        "same_prompt: the two answers were given to different dialogues; drop the line": 4,
        "expected user or tool after assistant; found assistant; order the turns or drop the line": 4,
    }
    for row in rows:
        if isinstance(row, Group):
            roles = [message.role for message in row.prompt]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
            assert [answer.messages[0].role for answer in row.completions] == ["assistant", "assistant"]
            assert [answer.rank for answer in row.completions] == [0, 1]


def test_hh_harmless_as_whole_transcripts() -> None:
    """The same rows in the layout of the original, which is what they were split from."""
    hh = FORMATS["hh_rlhf"]
    rows = [row for _, row in containers.rows(str(DATA / "hh_harmless/pairs.jsonl.gz")) if isinstance(row, dict)]
    same = 0
    for row in (row for row in rows if row["same_prompt"]):
        whole = {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]}
        assert hh.matches(whole)
        try:
            split, group = hh.read(row), hh.read(whole)
        except DataError:
            continue
        assert (group.prompt, group.completions) == (split.prompt, split.completions)
        assert hh.write(group) == whole
        same += 1
    assert same == 1837


def test_tool_calls_of_glaive() -> None:
    groups = [
        row for row in open_data(DATA / "llamafactory_demos/glaive_toolcall_en_demo.jsonl.gz") if isinstance(row, Group)
    ]
    turns = [message for group in groups for message in group.completions[0].messages]
    assert sum("tool_calls" in turn.extra for turn in turns) == sum(turn.role == "tool" for turn in turns) == 211
    assert all(tool["type"] == "function" for group in groups for tool in group.extra["tools"])


@pytest.mark.parametrize("name", ["self_instruct_human/seed_tasks.jsonl.gz", "mt_bench_questions/question.jsonl"])
def test_layouts_that_nobody_knows_are_refused_with_their_columns(name: str) -> None:
    with pytest.raises(
        DataError, match=r":1: no format fits a row with the columns .*; rename columns, or set format to"
    ):
        open_data(DATA / name)
