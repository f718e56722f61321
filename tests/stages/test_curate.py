"""The stage as a whole: what is refused and why, and what is written about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model

from truing import formats
from truing.errors import ConfigError, DataError
from truing.pipeline import check, make_recipe, plan, run_recipe
from truing.records import Completion, Group, assistant, comparison, to_json, user
from truing.signatures import validated
from truing.stages.curate import Curate, curate, rules
from truing.store import Run

OFF: dict[str, Any] = {
    "equal": False, "empty": False, "unicode": False, "fences": False, "loops": 0, "duplicates": False, "near": 0.0,
    "leaks": "keep", "private": False,
}  # fmt: skip
MAIL = "ada@example.org"
TEST_TEXT = "one two three four five six seven eight nine ten eleven twelve thirteen"


def compared(prompt: str, chosen: str, rejected: str, **row: Any) -> Group:
    return comparison((user(prompt),), Completion((assistant(chosen),)), Completion((assistant(rejected),)), **row)


def broken() -> list[tuple[Group, str | None]]:
    """Rows, each with the reason for which it is to be refused."""
    rows: list[tuple[Group, str | None]] = [
        (compared("first question", "yes", "not at all"), None),
        (compared("second question", "same", "same "), "equal answers"),
        (compared("third question", "", "no"), "empty prompt or answer"),
        (compared("fourth question", "caf\ufffd", "no"), "broken Unicode"),
        (compared("fifth question", "```\nx", "no"), "open block of code"),
        (compared("sixth question", "and so on\n" * 9, "no"), "repeated lines"),
        (compared("seventh question, a long one", "no", "yes"), "length of the prompt"),
        (compared("eighth question", "a" * 200, "yes"), "length of an answer"),
        (compared("9th", f"So {TEST_TEXT}.", "no"), "in a test set"),
        (compared("first  question", "yes", "not at all"), "duplicate"),
        (compared("First question!", "Yes.", "Not at all"), "near duplicate"),
        (compared("kept out", "a", "bb"), "prompt is held out"),
        (compared("write to me", f"at {MAIL}", "no", extra={"topic": "b"}), None),
        (compared("another one", "a", "yes", extra={"topic": "b"}), "too many of its source"),
    ]
    placed = [(replace(row, file="rows.jsonl", line=n), why) for n, (row, why) in enumerate(rows, start=1)]
    return [(replace(row, extra={"topic": "a"} | dict(row.extra)), why) for row, why in placed]


def strict(folder: Path) -> dict[str, Any]:
    tiny_model.write_rows(folder / "test.jsonl", [{"question": TEST_TEXT}])
    return {
        "max_prompt": 20, "max_answer": 100, "test_sets": {"quiz": str(folder / "test.jsonl")}, "leaks": "drop",
        "source": "topic", "cap": 1,
    }  # fmt: skip


def curated(
    run: Run, data: list[Group], held_out: list[Group] | None = None, **settings: Any
) -> tuple[list[Group], list[dict[str, Any]], dict[str, Any]]:
    kept_out = tiny_model.given(held_out, "held_out") if held_out else None
    curate(tiny_model.context(run, "curate"), validated(Curate, settings, "test"), tiny_model.given(data), kept_out)
    (made,) = [artifact for artifact in run.artifacts() if "curation" in artifact.meta]
    groups = formats.read_groups(made.path / str(made.meta["groups"]), format="group")
    refused = [json.loads(line) for line in (made.path / "refused.jsonl").read_text().splitlines()]
    return groups, refused, json.loads((made.path / str(made.meta["curation"])).read_text())


def test_every_rule_refuses_its_row(tmp_path: Path, runs: Callable[[], Run]) -> None:
    rows = broken()
    held_out = [compared("Kept out?", "x", "y", file="held.jsonl", line=7)]
    groups, refused, found = curated(runs(), [row for row, _ in rows], held_out, **strict(tmp_path))
    assert [to_json(group) for group in groups] == [to_json(row) for row, why in rows if why is None]
    expected = [(row.place, why) for row, why in rows if why is not None]
    assert [(line["place"], line["reason"]) for line in refused] == expected
    details = {line["reason"]: line["detail"] for line in refused if "detail" in line}
    assert details == {
        "in a test set": f"quiz, {tmp_path / 'test.jsonl'}:1",
        "duplicate": "rows.jsonl:1",
        "near duplicate": "rows.jsonl:1",
        "prompt is held out": "held.jsonl:7",
        "too many of its source": "b",
    }
    assert list(found["refused"]) == [why for _, why in expected], "in the order of the rules"
    assert set(found["refused"].values()) == {1}
    assert (found["rows"], found["kept"]) == (len(rows), 2)
    assert found["warnings"] == {"e-mail address": {"rows": 1, "places": ["rows.jsonl:13"]}}
    assert found["lengths"]["before"]["answer"]["most"] == 200
    assert found["lengths"]["after"]["answer"] == pytest.approx(
        {"mean": (3 + 10 + 18 + 2) / 4, "least": 2, "5 %": 2.15, "median": 6.5, "95 %": 16.8, "most": 18}
    )


def test_every_rule_can_be_switched_off(runs: Callable[[], Run]) -> None:
    rows = [row for row, _ in broken()]
    groups, refused, found = curated(runs(), rows, rows, **OFF)
    assert [to_json(group) for group in groups] == [to_json(row) for row in rows]
    assert (refused, found["refused"], found["warnings"]) == ([], {}, {})
    assert rules(validated(Curate, OFF, "test"), rows, 0) == {}


def test_curating_again_refuses_nothing(tmp_path: Path, runs: Callable[[], Run]) -> None:
    draw = [compared(f"prompt number {n % 40}", "word " * (n % 7 + 1), "other " * (n % 5 + 1)) for n in range(120)]
    settings = {**strict(tmp_path), "source": None, "cap": None, "balance": True, "test_sets": {}}
    groups, refused, _ = curated(runs(), draw, **settings)
    assert refused
    again, refused_again, _ = curated(runs(), groups, **settings)
    assert [to_json(group) for group in again] == [to_json(group) for group in groups]
    assert refused_again == []


def test_secrets_are_masked_in_all_that_is_written_of_them(runs: Callable[[], Run]) -> None:
    row = compared("write to me", f"at {MAIL}", "no", extra={"author": MAIL})
    run = runs()
    groups, refused, found = curated(run, [row, row])
    assert MAIL in groups[0].completions[0].text, "what is kept is not changed"
    assert MAIL not in json.dumps([refused, found])
    assert refused[0]["row"]["extra"]["author"] == "[e-mail address]"
    assert found["examples"]["duplicate"][0]["answers"][0] == "at [e-mail address]"
    (said,) = [event["message"] for event in run.events(kind="warning")]
    assert said.startswith("1 rows seem to hold 'e-mail address'")
    assert MAIL not in said


def test_a_leak_is_an_error_that_names_the_rows(runs: Callable[[], Run]) -> None:
    data = [compared(f"question {n}", "a", "b", file="d.jsonl", line=n) for n in range(1, 14)]
    held_out = [compared(f"Question {n}?", "c", "d", file="h.jsonl", line=n) for n in range(2, 14)]
    with pytest.raises(DataError) as error:
        curated(runs(), data, held_out)
    first, *named = str(error.value).splitlines()
    assert first.startswith('12 prompts are held out too, or nearly so: set leaks = "drop"')
    assert named[0] == "  d.jsonl:2 is also held out as h.jsonl:2"
    assert named[-1] == "  and 2 more"
    groups, _, _ = curated(runs(), data, held_out, near=0.0)
    assert len(groups) == 13, "without near ones only equal prompts are leaks"
    groups, _, _ = curated(runs(), data, held_out, leaks="drop")
    assert [group.prompt[0].content for group in groups] == ["question 1"]


def test_refusals(runs: Callable[[], Run]) -> None:
    for settings, words in (
        ({"cap": 3}, "source and cap"),
        ({"source": "file"}, "source and cap"),
        ({"min_answer": 5, "max_answer": 4}, "min_answer is 5 and max_answer 4"),
        ({"nearly": 1}, "no such setting; did you mean"),
    ):
        with pytest.raises(ConfigError, match=words):
            validated(Curate, settings, "test")
    with pytest.raises(DataError, match="none of 2 rows is left; most are refused for 'equal answers'"):
        curated(runs(), [compared("q", "a", "a")] * 2)


def recipe_of(folder: Path, tmp_path: Path, **settings: Any) -> Any:
    formats.write_data([row for row, _ in broken()], tmp_path / "rows.jsonl", format="group")
    return make_recipe(
        {
            "model": str(folder),
            "data": {"path": str(tmp_path / "rows.jsonl")},
            "stage": [
                {"use": "curate", **strict(tmp_path), **settings},
                {"use": "sft", "batch_size": 2, "max_steps": 1},
            ],
        }
    )


def test_a_recipe_from_curate_to_sft(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, tmp_path)
    facts = check(recipe, plan(recipe))
    assert facts["training"]["sft"]["seconds"] > 0, "what is curated counts as if nothing were refused"
    run = run_recipe(recipe, out=tmp_path / "run")
    page = (run / "report.html").read_text()
    for words in (
        "Curation of the data",
        "2 of 14 rows are kept, 12 refused",
        "repeated lines: 1 of 14",
        "rows.jsonl:13",
    ):
        assert words in page
    assert MAIL not in page.split('id="curation"')[1].split("</section>")[0]
    (data,) = Run.read(run).events(stage="sft", kind="data")
    assert data["rows"] == 2
    assert run_recipe(recipe, out=tmp_path / "run") == run, "nothing is left to do"


def test_a_changed_test_set_is_another_stage(folder: Path, tmp_path: Path) -> None:
    before = plan(recipe_of(folder, tmp_path))[0].key
    assert plan(recipe_of(folder, tmp_path))[0].key == before
    recipe = recipe_of(folder, tmp_path)
    tiny_model.write_rows(tmp_path / "test.jsonl", [{"question": "another one"}])
    assert plan(recipe)[0].key != before
