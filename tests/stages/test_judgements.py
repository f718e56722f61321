"""Judgements: what agrees with people becomes a demonstration, the rest is counted, common points are thinned."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import tiny_model
from fake_endpoint import Said, serving

from truing import formats
from truing.errors import ConfigError, DataError
from truing.records import Completion, Group, assistant, user
from truing.scoring.replies import CUT, REPLIES, UNREAD
from truing.scoring.rubric import NO_SCORE, OFF, points_request
from truing.signatures import validated
from truing.stages.judgements import COMMON, DISAGREES, UNREADABLE, Judgements, Lesson, judgements, thinned
from truing.store import Run


def ranking(prompt: str, *answers: str) -> Group:
    """Best first."""
    return Group((user(prompt),), tuple(Completion((assistant(text),), rank=rank) for rank, text in enumerate(answers)))


def shown(body: dict[str, Any]) -> str:
    found = re.search(r"\nAnswer:\n<<<\n(.*)\n>>>\n\nWhat stands", body["messages"][0]["content"], re.DOTALL)
    assert found
    return found[1]


def stated(body: dict[str, Any]) -> Said:
    """The judge says the number that the answer ends with."""
    return Said(f"I counted. Score: {shown(body).split()[-1]}")


def judged(
    run: Run, rows: list[Group], say: Callable[[dict[str, Any]], Said] = stated, **settings: Any
) -> tuple[list[Group], dict[str, Any]]:
    with serving(say) as url:
        table = {"endpoint": {"url": url, "model": "m", "at_once": 1}, "most": 1.0, **settings}
        judgements(tiny_model.context(run), validated(Judgements, table, "test"), tiny_model.given(rows))
    made = next(artifact for artifact in run.artifacts() if not artifact.meta.get("part"))
    return formats.read_groups(made.path / "groups.jsonl", format="group"), next(run.events(kind="data"))


def test_judgements_in_people_s_order_become_demonstrations_of_judging(runs: Callable[[], Run]) -> None:
    rows = [
        ranking("a", "is 5", "is 3", "is 0"),
        ranking("b", "is 2", "is 4"),  # the other way round
        ranking("c", "so 3", "is 3"),  # tied
        ranking("d", "is 4", "is 4.5", "is 1"),  # half right
        ranking("e", "is 9", "is 1"),  # off the scale
        ranking("f", "is good", "is 1"),
        ranking("g", "is 1"),
        ranking("h", "is 4", "is 1.5"),
    ]
    found, event = judged(runs(), rows)
    wanted = {("a", "is 5"): "5", ("a", "is 3"): "3", ("a", "is 0"): "0", ("h", "is 4"): "4", ("h", "is 1.5"): "1.5"}
    assert {(one.prompt[0].content, one.completions[0].text) for one in found} == {
        (points_request((user(prompt),), answer), f"I counted. Score: {points}")
        for (prompt, answer), points in wanted.items()
    }
    assert (event["rows"], event["used"]) == (8, 2)
    refused = dict(event["refused"])
    assert (refused.pop(DISAGREES), refused.pop(UNREADABLE)) == (3, 2)
    assert list(refused.values()) == [1], "a row with one answer"
    assert event["counts"][REPLIES] == 16
    assert event["counts"][f"{UNREAD}{OFF}"] == 1
    assert event["counts"][f"{UNREAD}{NO_SCORE}"] == 1
    assert {name: count for name, count in event["counts"].items() if name.startswith("judgements kept")} == {
        f"judgements kept of {points} points": 1 for points in ("0", "1.5", "3", "4", "5")
    }


def test_the_first_of_several_judgements_that_agrees_is_kept_whole(runs: Callable[[], Run]) -> None:
    """Numbers of two judgements are never mixed: 2 over 1 is the second one's, though the first has a 2 as well."""
    turns: Counter[str] = Counter()
    points = {"good": ["2", "2", "5"], "bad": ["3", "1", "0"]}

    def say(body: dict[str, Any]) -> Said:
        answer = shown(body)
        turns[answer] += 1
        return Said(f"This is number {turns[answer]}. Score: {points[answer][turns[answer] - 1]}")

    found, event = judged(runs(), [ranking("a", "good", "bad")], say, samples=3)
    texts = [one.completions[0].text for one in found]
    assert texts == ["This is number 2. Score: 2", "This is number 2. Score: 1"]
    assert (event["used"], event["counts"][REPLIES]) == (1, 6)


def test_what_is_cut_off_is_not_read(runs: Callable[[], Run]) -> None:
    def say(body: dict[str, Any]) -> Said:
        return Said("Score: 4", "length") if shown(body) == "is 4" else stated(body)

    found, event = judged(runs(), [ranking("a", "is 4", "is 1"), ranking("b", "is 3", "is 2")], say)
    assert len(found) == 2
    assert event["refused"] == {UNREADABLE: 1}
    assert event["counts"][f"{UNREAD}{CUT}"] == 1


def test_best_and_worst_alone_can_be_asked_for(runs: Callable[[], Run]) -> None:
    found, event = judged(runs(), [ranking("a", "is 5", "is 0", "is 3")], pairs="best_worst")
    assert [one.completions[0].text for one in found] == ["I counted. Score: 5", "I counted. Score: 3"]
    assert event["counts"][REPLIES] == 2


def test_over_common_points_are_thinned_to_a_share_of_all(runs: Callable[[], Run]) -> None:
    """Ten judgements, of which six give 4 points: 0.4 of ten is four."""
    lessons = [Lesson(f"{place}", "", points) for place, points in enumerate([4, 4, 1, 4, 2, 4, 3, 4, 5, 4])]
    kept = thinned(lessons, 0.4, 0)
    assert Counter(one.points for one in kept) == {4: 4, 1: 1, 2: 1, 3: 1, 5: 1}
    assert [one.request for one in kept] == sorted((one.request for one in kept), key=int), "in their order"
    assert kept == thinned(lessons, 0.4, 0)
    assert any(thinned(lessons, 0.4, seed) != kept for seed in range(1, 9)), "which ones go is chance"
    assert thinned(lessons, 1.0, 0) == lessons
    assert Counter(one.points for one in thinned(lessons, 0.01, 0)) == {4: 1, 1: 1, 2: 1, 3: 1, 5: 1}
    rows = [ranking(f"{n}", "is 4", f"is {n % 4}") for n in range(8)]
    _, event = judged(runs(), rows, most=0.25)
    assert event["counts"][COMMON] == 4
    assert event["counts"]["judgements kept of 4 points"] == 4


def test_a_judge_who_never_agrees_and_settings_that_mean_nothing_are_told(runs: Callable[[], Run]) -> None:
    with pytest.raises(DataError, match=rf"no judgement that agrees with people: .*{DISAGREES}.*take a better judge"):
        judged(runs(), [ranking("a", "is 1", "is 2")])
    with pytest.raises(DataError, match=rf"{UNREADABLE} \(1\); of 2 replies left unread: {NO_SCORE} \(2\): take"):
        judged(runs(), [ranking("a", "is good", "is bad")])
    with pytest.raises(ConfigError, match=r"samples = 2 are all alike at temperature = 0"):
        validated(Judgements, {"samples": 2, "temperature": 0}, "test")
    with pytest.raises(ConfigError, match=r"judgements: the rubric gives 0 to 5 points"):
        validated(Judgements, {"high": 10}, "test")
