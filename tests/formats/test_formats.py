"""The API: open a file, tell its format, read it, and say what is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from truing.errors import DataError
from truing.formats import FORMATS, BadRow, content_hash, open_data, read_groups
from truing.records import Group

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
NO = {"role": "assistant", "content": "No"}
START = "\n\nHuman: Hi\n\nAssistant:"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "format", "description"),
    [
        ({"text": "a"}, "language_modeling", "TRL language modeling, standard"),
        ({"messages": [HI, HELLO]}, "language_modeling", "TRL language modeling, conversational"),
        ({"conversation": [HI, HELLO]}, "language_modeling", "TRL language modeling, conversational"),
        ({"prompt": "Hi", "messages": [HI, HELLO]}, "language_modeling", "TRL language modeling, conversational"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion", "TRL prompt-completion, standard"),
        ({"prompt": [HI], "response": [HELLO]}, "prompt_completion", "TRL prompt-completion, conversational"),
        ({"prompt": "a", "completion": "b", "label": "bad"}, "prompt_completion", "TRL prompt-completion, standard"),
        ({"prompt": "a"}, "prompt_only", "TRL prompt-only, standard"),
        ({"prompt": [HI], "answer": "7"}, "prompt_only", "TRL prompt-only, conversational"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "preference",
            "TRL preference, standard, explicit prompt",
        ),
        (
            {"prompt": [HI], "chosen": [HELLO], "rejected": [NO]},
            "preference",
            "TRL preference, conversational, explicit prompt",
        ),
        (
            {"messages": [HI, HELLO], "rejected_response": "No"},
            "preference",
            "TRL preference, conversational, explicit prompt",
        ),
        ({"chosen": "a b", "rejected": "a c"}, "preference_implicit", "TRL preference, standard, implicit prompt"),
        (
            {"chosen": [HI, HELLO], "rejected": [HI, NO], "messages": [HI, HELLO]},
            "preference_implicit",
            "TRL preference, conversational, implicit prompt",
        ),
        (
            {"prompt": "a", "completion": "b", "label": True},
            "unpaired",
            "TRL unpaired preference, standard, thumbs",
        ),
        ({"messages": [HI, HELLO], "label": True}, "unpaired", "TRL unpaired preference, conversational, thumbs"),
        ({"instruction": "a", "output": "b"}, "alpaca", "Alpaca, conversational"),
        ({"question": "a", "chosen": "b", "rejected": "c"}, "alpaca", "Alpaca, conversational"),
        ({"question": "a", "answer": "b"}, "alpaca", "Alpaca, conversational"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            "sharegpt",
            "ShareGPT, conversational",
        ),
        (
            {"chosen": f"{START} a", "rejected": f"{START} b"},
            "hh_rlhf",
            "Anthropic hh-rlhf, conversational, transcripts",
        ),
        (
            {"prompt": START, "chosen": " a", "rejected": " b"},
            "hh_rlhf",
            "Anthropic hh-rlhf, conversational, transcripts",
        ),
        (
            {"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]},
            "ranked",
            "ranked answers, standard, a list for each prompt",
        ),
        (
            {"prompt": "a", "completions": ["b", "c"], "labels": [True, False]},
            "stepwise",
            "TRL stepwise supervision, standard",
        ),
        ({"prompt": [HI], "completions": [{"messages": [HELLO]}]}, "group", "Truing groups, conversational"),
    ],
)
def test_the_format_is_told(tmp_path: Path, row: dict[str, Any], format: str, description: str) -> None:
    data = open_data(write(tmp_path / "a.jsonl", row))
    assert (data.format, data.description) == (format, description)
    assert data.source == str(tmp_path / "a.jsonl")


def test_every_format_is_told_somewhere_above() -> None:
    [mark] = test_the_format_is_told.pytestmark  # type: ignore[attr-defined]
    assert {format for _, format, _ in mark.args[1]} == FORMATS.keys()


def test_a_few_bad_rows_do_not_change_the_format(tmp_path: Path) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = write(tmp_path / "a.jsonl", {"prompt": "a"}, 3, good, {"text": "x"}, good, good)
    data = open_data(path)
    assert data.format == "preference"
    assert [isinstance(row, Group) for row in data] == [False, False, True, False, True, True]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"turns": 1, "id": 2}], "a.jsonl:1: no format fits a row with the columns turns, id; rename columns, or set"),
        ([{"promt": "a", "chosen": "b", "rejected": "c", "x": 1}], "TRL"),
        ([{"choosen": "a", "rejected": "b"}], "did you mean 'chosen' by 'choosen'? rename columns, or set format to"),
        (
            [
                {"prompt": "a", "chosen": "b", "rejected": "c", "topic": "d"},
                {"prompt": "a", "chosen": "b", "topic": "d"},
            ],
            "a.jsonl:2: rejected: this column is missing; add it or drop the line; 1 of 2 rows have the format 'pref",
        ),
        ([{"prompt": "a", "text": "b"}], "a.jsonl:1: no format fits a row with the columns prompt, text;"),
        ([{"prompt": "a"}, {"text": "b"}], "no format fits a row with the columns prompt;"),
        (
            [{"prompt": "a", "system": "b", "chosen": "c", "rejected": "d"}],
            "more than one format fits a row with the columns prompt, system, chosen, rejected; "
            "set format to 'preference' or 'alpaca'",
        ),
    ],
)
def test_doubt_is_an_error(tmp_path: Path, rows: list[Any], problem: str) -> None:
    path = write(tmp_path / "a.jsonl", *rows)
    if problem == "TRL":
        assert open_data(path).format == "preference_implicit"
        return
    with pytest.raises(DataError) as error:
        open_data(path)
    assert problem in str(error.value)


def test_the_format_may_be_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "a", "system": "b", "chosen": "c", "rejected": "d"})
    [group] = read_groups(path, format="alpaca")
    assert [message.role for message in group.prompt] == ["system", "user"]
    [group] = read_groups(path, format="preference")
    assert [message.role for message in group.prompt] == ["text"]


def test_a_format_that_fits_no_row_is_described_by_its_name_alone(tmp_path: Path) -> None:
    data = open_data(write(tmp_path / "a.jsonl", {"prompt": "a"}), format="preference")
    assert data.description == "TRL preference, explicit prompt"
    assert [str(row) for row in data] == [f"{data.source}:1: chosen: this column is missing; add it or drop the line"]


def test_an_unknown_format_is_named_with_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown format 'preferences'; did you mean 'preference'"):
        open_data(write(tmp_path / "a.jsonl", {"prompt": "a"}), format="preferences")


def test_the_words_of_a_bad_row(tmp_path: Path) -> None:
    turn = {"role": "asistant", "content": "x"}
    rows = [
        {"prompt": [HI], "chosen": [HELLO], "rejected": [NO]},
        {"prompt": [HI], "chosen": [HELLO, turn], "rejected": [NO]},
    ]
    path = write(tmp_path / "prefs.jsonl", *rows)
    good, bad = open_data(path)
    assert isinstance(good, Group)
    assert good.place == f"{path}:1"
    expected = (
        "chosen[1].role: expected one of system, user, assistant, tool; found 'asistant'; fix the role or drop the line"
    )
    assert bad == BadRow(str(path), 2, expected)
    assert str(bad) == f"{path}:2: {expected}"


def test_too_many_bad_rows_are_shown_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[{"prompt": "a"}] * 3, *[{"prompt": 1}] * 12, {"prompt": "b"})
    with pytest.raises(DataError) as error:
        read_groups(path, max_bad=11)
    head, *lines = str(error.value).split("\n")
    assert head == f"{path}: 12 bad rows, 11 allowed; mend them, or allow them with max_bad = 12:"
    assert [line.split(": ")[0].strip() for line in lines[:10]] == [f"{path}:{i}" for i in range(4, 14)]
    assert lines[10:] == ["  and 2 more"]
    assert len(read_groups(path, max_bad=12)) == 4


def test_the_limit_counts_good_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "a"}, {"prompt": 1}, {"prompt": "b"}, {"prompt": "c"}, {"prompt": 2})
    assert len(read_groups(path, max_bad=1, limit=3)) == 3
    assert len(read_groups(path, max_bad=0, limit=1)) == 1
    assert read_groups(path, limit=0) == []


def test_the_hash_is_the_files_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "a"})
    assert content_hash(path) == content_hash(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="no such file"):
        content_hash(tmp_path / "b.jsonl")


def test_the_package_starts_light() -> None:
    heavy = ["torch", "numpy", "pyarrow", "datasets", "zstandard", "pydantic"]
    code = f"import sys, truing.formats; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
