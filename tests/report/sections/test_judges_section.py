"""What the page of a run says of judges: how they were tried, and what of them was counted."""

from __future__ import annotations

from typing import Any

import fake_runs
import pytest
from reading_html import PAYLOAD, Page, built

from truing.scoring.agreement import Scored, findings, verdict
from truing.statistics import proportion


def outcome(**given: Any) -> dict[str, Any]:
    by_control = {"empty": {"high": 0, "scored": 15}, PAYLOAD: {"high": 3, "scored": 14}}
    told = {"judge": "judge_pairs", "put": 30, "scored": 29, "high": 3, "above": 0.5, "most": 0.01}
    return {**told, "by_control": by_control, "unread": {"no verdict": 1}, **given}


def page_of(tmp_path: Any, *outcomes: dict[str, Any], **data: Any) -> Page:
    with fake_runs.opened(tmp_path / "run") as run:
        run.event("score", "start", settings={}, inputs={}, key="k")
        for one in outcomes:
            run.event("score", "controls", **one)
        run.event("score", "data", source="rows", rows=4, used=3, refused={}, **data)
        run.event("score", "end", seconds=1.0, peak_memory_bytes=1)
    return built(tmp_path / "run")


def test_a_judge_that_falls_for_controls(tmp_path: Any) -> None:
    page = page_of(tmp_path, outcome())
    assert page.problems == []
    said = page.section("judges")
    assert "score: judge_pairs" in said
    assert "3 of 29 control answers got a score above 0.500: 10 %, and 1 % may. The judge was refused." in said
    assert "empty 0 15" in said
    assert "no verdict 1" in said
    assert PAYLOAD not in page.source
    assert "#judges" in [link.get("href") for link in page.all("a")]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"most": 1.0}, "100 % may. What it says is to be doubted."),
        ({"high": 0}, "0 of 29 control answers got a score above 0.500: 0 %, and 1 % may. Control answers"),
        ({"high": 0, "scored": 0}, "No control answer got a score, so they do not tell what the judge is worth."),
    ],
)
def test_other_outcomes(tmp_path: Any, given: dict[str, Any], words: str) -> None:
    assert words in page_of(tmp_path, outcome(**given)).section("judges")


def test_each_trial_is_shown_and_what_was_counted(tmp_path: Any) -> None:
    page = page_of(tmp_path, outcome(), outcome(judge="judge"), counts={"replies": 12, "unread: no score": 2})
    assert page.section("judges").count("control answers got") == 2
    assert "Counted while judging replies 12 unread: no score 2" in page.section("data")


def test_a_run_without_judges_has_no_such_section(tmp_path: Any) -> None:
    page = page_of(tmp_path)
    assert "How the judges were tried" not in page.text
    assert "Counted while judging" not in page.text


def test_a_scorer_that_was_measured(tmp_path: Any) -> None:
    rows = [Scored(f"{n}", (float(n % 3 > 0), 0.0), (4 + n % 5, 4), ((0, 1),)) for n in range(30)]
    found = findings(rows, bins=10, seed=0) | {"reward": "m", "unused": {}, "categories": None, "unit": "words"}
    found |= {"scorer": "judge_pairs", "orders": proportion(24, 30).plain}
    found |= {"replies": {"asked": 1200, "unread": {"no verdict": 7, "cut off": 5}}}
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.evaluate_reward(run, found | {"verdict": verdict(found)})
    page = built(tmp_path / "run")
    assert page.problems == []
    said = page.section("reward")
    assert "How far the scorer can be trusted" in said
    assert f"The same in both orders {proportion(24, 30).percent}" in said
    assert "Replies that say nothing 12 of 1,200: 7 no verdict, 5 cut off; none of them counts" in said
    assert "By words that the chosen answer has more" in said
