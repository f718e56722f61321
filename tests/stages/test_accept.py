"""What of scored answers goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from truing import formats
from truing.errors import DataError
from truing.records import Completion, Group, assistant, user
from truing.signatures import validated
from truing.stages.accept import Accept, Threshold, accept, lowest, threshold
from truing.store import Run


def scored(prompt: str, *answers: tuple[str, float], weight: float = 1.0) -> Group:
    return Group((user(prompt),), tuple(Completion((assistant(t),), score=s) for t, s in answers), weight=weight)


def made(run: Run) -> list[Group]:
    (found,) = (one for one in run.artifacts() if "groups" in one.meta)
    return formats.read_groups(found.path / str(found.meta["groups"]), format="group")


def accepting(run: Run, rows: list[Group], **settings: Any) -> list[Group]:
    accept(tiny_model.context(run), validated(Accept, settings, "t"), tiny_model.given(rows))
    return made(run)


def above(run: Run, rows: list[Group], **settings: Any) -> list[Group]:
    threshold(tiny_model.context(run), validated(Threshold, settings, "t"), tiny_model.given(rows))
    return made(run)


def test_accepted_answers_meet_and_share_the_row_s_weight(runs: Callable[[], Run]) -> None:
    run = runs()
    rows = [
        scored("p", ("a", 1.0), ("b", 3.0), ("c", 2.0), ("d", 0.0), weight=2.0),
        scored("q", ("a", 1.0), ("b", 1.0)),
    ]
    found = accepting(run, rows, answers=4, beta=1e9)  # all, in their order
    assert [tuple(answer.text for answer in row.completions) for row in found] == [("b", "a"), ("c", "d"), ("b", "c")]
    assert [row.weight for row in found] == pytest.approx([2 / 3] * 3)
    (event,) = run.events(kind="data")
    assert event["refused"] == {"no accepted answer is better than another": 1}


def test_answers_of_the_same_words_are_no_comparison(runs: Callable[[], Run]) -> None:
    rows = [scored("p", ("a", 1.0), (" a ", 3.0)), scored("q", ("a", 1.0), ("b", 2.0))]
    assert [row.prompt[0].content for row in accepting(runs(), rows, beta=1e9)] == ["q"]


def test_answers_above_one_threshold_for_all_rows_become_rows(runs: Callable[[], Run]) -> None:
    rows = [
        scored("p", ("a", 1.0), ("b", 3.0)),
        scored("q", ("c", 2.5), ("d", 2.0)),
        scored("r", ("e", 0.0), ("f", 1.5)),
    ]
    run = runs()
    found = above(run, rows, share=0.5)
    assert [(row.prompt[0].content, row.completions[0].text) for row in found] == [("p", "b"), ("q", "c"), ("q", "d")]
    (event,) = run.events(kind="threshold")
    assert event["value"] == 2.0


def test_the_clearest_comparisons_stay(runs: Callable[[], Run]) -> None:
    rows = [
        scored("p", ("a", 1.0), ("b", 0.5)), scored("q", ("a", 0.0), ("b", 2.0)), scored("r", ("a", 9.0), ("a", 0.0)),
        scored("s", ("a", 9.0)), scored("t", ("a", 3.0), ("b", 2.0)),
    ]  # fmt: skip
    run = runs()
    found = above(run, rows, of="comparisons", share=0.6)
    assert [row.prompt[0].content for row in found] == ["q", "t"]
    (event,) = run.events(kind="data")
    assert event["refused"] == {"both answers are the same words": 1, "not two answers": 1, "below the threshold": 1}


def test_without_scores_it_is_said_what_to_do(runs: Callable[[], Run]) -> None:
    for stage in (lambda rows: accepting(runs(), rows), lambda rows: above(runs(), rows, share=0.5)):
        with pytest.raises(DataError, match="an answer without a score: put a stage 'score' before this one"):
            stage(tiny_model.pairs(2))


def test_of_equal_scores_all_stay_or_none_and_that_is_told(runs: Callable[[], Run]) -> None:
    few = [scored(f"p{n}", ("a", float(n < 5))) for n in range(100)]
    run = runs()
    assert len(above(run, few, share=0.1)) == 5
    (warning,) = run.events(kind="warning")
    assert warning["message"].startswith("5 of 100 answers reach the threshold, where share = 0.1 asks for 10:")
    run = runs()
    assert len(above(run, few[5:], share=0.1)) == 95, "none is better than another"
    assert [one["message"][:13] for one in run.events(kind="warning")] == ["95 of 95 answ"]
    run = runs()
    assert len(above(run, few, share=0.05)) == 5
    assert not list(run.events(kind="warning"))


@given(values=st.lists(st.integers(0, 4).map(float), min_size=1, max_size=12), share=st.floats(0.01, 1))
def test_no_more_than_the_share_reaches_the_threshold_and_as_many_as_can(values: list[float], share: float) -> None:
    most = max(1, round(share * len(values)))
    fitting = [one for one in values if sum(other >= one for other in values) <= most]
    assert lowest(values, share) == (min(fitting) if fitting else max(values))


@pytest.mark.parametrize(("share", "value"), [(0.01, 4.0), (0.5, 3.0), (0.75, 2.0), (1.0, 1.0)])
def test_the_threshold_is_what_a_share_of_the_values_reaches(share: float, value: float) -> None:
    assert lowest([2.0, 4.0, 1.0, 3.0], share) == value
