"""Self-instruct: a prompt that is kept is new, any other is counted by its reason, and chance is the seed's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from fake_endpoint import Said, serving

from truing import formats
from truing.errors import ConfigError, DataError, Interrupted
from truing.records import Group, assistant, user
from truing.records import Message as Turn
from truing.scoring.replies import CUT
from truing.selection.instructions import ALIKE, EMPTY, KEYWORD, LONG, SHORT
from truing.signatures import validated
from truing.stages import sample as sampling
from truing.stages.context import Context, Earlier
from truing.stages.replies import writer
from truing.stages.self_instruct import LOOPS, SelfInstruct, examples, first_request, self_instruct
from truing.store import Run

SEEDS = tiny_model.prompts(8)


def written(
    run: Run, say: Callable[[dict[str, Any]], Said], earlier: Earlier | None = None, **settings: Any
) -> list[str]:
    with serving(say) as url:
        table = {"endpoint": {"url": url, "model": "m", "at_once": 1}, "batch": 4, **settings}
        self_instruct(
            tiny_model.context(run, "write"),
            validated(SelfInstruct, table, "test"),
            tiny_model.given(SEEDS),
            earlier=earlier,
        )
    made = next(artifact for artifact in run.artifacts() if "groups" in artifact.meta)
    groups = formats.read_groups(made.path / "groups.jsonl", format="group")
    assert not any(group.completions for group in groups)
    return [group.prompt[0].content for group in groups]


def one_after_the_other(*replies: str | Said) -> Callable[[dict[str, Any]], Said]:
    """By the number of the example that a request asks for, each reply in turn, whatever order they come in."""
    left = list(replies)

    def say(_: dict[str, Any]) -> Said:
        said = left.pop(0) if len(left) > 1 else left[0]
        return said if isinstance(said, Said) else Said(said)

    return say


def test_each_reply_is_a_new_prompt_or_counted_by_its_reason(runs: Callable[[], Run]) -> None:
    run = runs()
    replies = (
        "Name three rivers of Asia", "Request 9: Name three rivers of Asia!", "Sing", "...", "Draw a cat for me",
        "rain 1?", Said("Tell me about", "length"), "long " * 30, "again and again " * 50,
        "Explain how bees find their way home",
    )  # fmt: skip
    settings = {"prompts": 2, "min_words": 2, "max_words": 29, "keywords": ["draw"], "batch": 1}
    assert written(run, one_after_the_other(*replies), **settings) == [replies[0], replies[-1]]
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"]) == (len(replies), 2)
    assert event["refused"] == {ALIKE: 2, SHORT: 1, EMPTY: 1, KEYWORD: 1, CUT: 1, LONG: 2}


def test_what_goes_round_in_circles_is_refused(runs: Callable[[], Run]) -> None:
    run = runs()
    written(run, one_after_the_other("tea and cake " * 40, "Name a river"), prompts=1, batch=1)
    assert next(run.events(kind="data"))["refused"] == {LOOPS: 1}


def test_it_ends_with_fewer_prompts_where_attempts_are_used_up(runs: Callable[[], Run]) -> None:
    run = runs()
    bodies: list[Any] = []
    say = one_after_the_other("Name a river", "Name a river")
    assert written(run, lambda body: bodies.append(body) or say(body), prompts=3, attempts=2) == ["Name a river"]
    assert len(bodies) == 6, "two replies for each of three prompts, the last batch cut short"
    (warning,) = run.events(kind="warning")
    assert "1 prompts of 3" in warning["message"]
    with pytest.raises(DataError, match=r"made no prompt of 10 replies: fewer words than min_words \(10\)"):
        written(runs(), lambda _: Said("No"), prompts=1)


def test_a_request_shows_six_prompts_of_the_data_and_two_of_its_own() -> None:
    settings = SelfInstruct()
    seeds, made = [f"seed {n}" for n in range(20)], [f"own {n}" for n in range(20)]
    shown = examples(seeds, made, settings, "0:1")
    assert len(set(shown)) == 8
    assert sum(one.startswith("own") for one in shown) == 2
    assert shown == examples(seeds, made, settings, "0:1") != examples(seeds, made, settings, "0:2")
    assert len(examples(seeds, made[:1], settings, "0:1")) == 7
    assert len(examples(seeds, [], settings, "0:1")) == 6


def test_later_requests_show_prompts_that_earlier_ones_made(runs: Callable[[], Run]) -> None:
    asked: list[str] = []
    lines = one_after_the_other("Name a river", "Explain how bees fly", "Count to ten in Greek", "Why is the sea salt?")

    def say(body: dict[str, Any]) -> Said:
        asked.append(body["messages"][0]["content"])
        return lines(body)

    written(runs(), say, prompts=4, batch=1)
    assert ["Name a river" in request for request in asked[:3]] == [False, True, True]
    assert sum(request.count("\n\nRequest") for request in asked) == 6 + 7 + 8 + 8


def test_what_earlier_rounds_made_is_shown_and_not_made_again(runs: Callable[[], Run]) -> None:
    asked: list[str] = []
    lines = one_after_the_other("Name three rivers of Asia!", "Explain how bees fly")

    def say(body: dict[str, Any]) -> Said:
        asked.append(body["messages"][0]["content"])
        return lines(body)

    rounds = [tiny_model.given([Group((user(one),))]) for one in ("Name three rivers of Asia", "What is a fig?")]
    run = runs()
    assert written(run, say, Earlier(tuple(rounds)), prompts=1, batch=1) == ["Explain how bees fly"]
    assert next(run.events(kind="data"))["refused"] == {ALIKE: 1}
    assert [(request.count("\n\nRequest"), "Asia" in request) for request in asked] == [(8, True)] * 2


def test_the_same_seed_writes_the_same_prompts_and_a_stage_that_is_cut_short_goes_on(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model here: what a first process drew stands on disk, and the second draws the rest alone."""
    settings = validated(SelfInstruct, {"prompts": 6, "batch": 3, "min_words": 1, "max_new_tokens": 8, "keywords": [],
                                        "temperature": 2.0, "top_p": 1.0, "similarity": 1.0, "seeds": 2,
                                        "attempts": 40}, "test")  # fmt: skip

    def go(about: Context) -> list[str]:
        self_instruct(about, settings, tiny_model.given(SEEDS), model=tiny_model.model_of(folder))
        (made,) = (artifact for artifact in about.run.artifacts() if "groups" in artifact.meta)
        return [group.prompt[0].content for group in formats.read_groups(made.path / "groups.jsonl", format="group")]

    def parts(run: Run) -> list[str]:
        return [str(artifact.meta["part"]) for artifact in run.artifacts() if "part" in artifact.meta]

    one, other = runs(), runs()
    whole = go(tiny_model.context(one, "write"))
    about = tiny_model.context(other, "write")
    real = sampling._drawn
    drawn: list[str] = []

    def stopped(generator: Any, prompts: Sequence[Group], *given: Any) -> Any:
        drawn.append(prompts[0].prompt[0].content)
        about.stop.requested = len(drawn) == 2
        return real(generator, prompts, *given)

    monkeypatch.setattr(sampling, "_drawn", stopped)
    with pytest.raises(Interrupted, match="run the same command again"):
        go(about)
    assert parts(other) == ["from-0-0"]
    assert go(tiny_model.context(other, "write")) == whole
    assert parts(other) == parts(one)
    assert len(drawn) == len(parts(one)) + 1, "the stopped part alone is drawn again"
    assert drawn[1] == drawn[2] != drawn[0]


def test_the_same_request_gets_another_reply_each_time(folder: Path, runs: Callable[[], Run]) -> None:
    """So that a model here is not asked in vain again where its reply was refused."""
    settings = validated(SelfInstruct, {"max_new_tokens": 8, "temperature": 2.0}, "test")

    def both(run: Run) -> list[str]:
        write = writer(tiny_model.context(run, "write"), settings, tiny_model.model_of(folder))
        return [reply.text for name in ("first", "second") for reply in write(["Why?"], name)]

    run = runs()
    first, second = both(run)
    assert first != second
    assert both(run) == both(runs()) == [first, second]


@pytest.mark.parametrize(
    ("turns", "request_"),
    [
        ((user(" Why? "),), "Why?"),
        ((user("Why?"), assistant("So."), user("And now?")), "Why?"),
        ((Turn("system", "Be brief."), user("Why?")), ""),
        ((assistant("Hello."), user("Why?")), ""),
        ((), ""),
    ],
)  # fmt: skip
def test_the_first_request_counts_unless_something_comes_before_it(turns: tuple[Turn, ...], request_: str) -> None:
    assert first_request(Group(turns)) == request_


def test_too_few_examples_and_settings_that_nothing_fits_are_told(folder: Path, runs: Callable[[], Run]) -> None:
    with pytest.raises(DataError, match=r"shows 9 prompts of the data as examples, and they have 8"):
        written(runs(), lambda _: Said("Name a river"), seeds=9)
    with pytest.raises(ConfigError, match="min_words = 5 is above max_words = 4"):
        validated(SelfInstruct, {"min_words": 5, "max_words": 4}, "test")
