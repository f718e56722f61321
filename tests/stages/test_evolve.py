"""Evolution: chains from seeds, replies that are no variants, by whom they are written, and going on after a stop."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from fake_endpoint import Said, serving

from truing import formats
from truing.errors import ConfigError, DataError, MissingError
from truing.estimates import check
from truing.pipeline import make_recipe, plan
from truing.records import Completion, Group, Message, assistant, comparison, text, user
from truing.scoring.replies import CUT, REFUSED, TOO_LONG
from truing.selection.evolution import COPY, EMPTY, TALK, Variant, chains, from_group
from truing.signatures import validated
from truing.stages import sample
from truing.stages.evolve import LOOPS, NO_ANSWER, NO_REQUEST, PREFACED, TWICE, Evolve, begun, evolve
from truing.store import Artifact, Run


def row(prompt: str, *texts: str) -> Group:
    return Group((user(prompt),), tuple(Completion((assistant(one),)) for one in texts))


ROWS = [row("What is tea?", "A leaf."), row("What is rain?", "Water.")]


def parts(body: dict[str, Any]) -> list[str]:
    """The texts that a request shows."""
    return re.findall(r"<<<\n(.*?)\n>>>", str(body["messages"][0]["content"]), re.DOTALL)


def more(body: dict[str, Any]) -> Said:
    """Writes what it was to better, and a word more."""
    return Said(f"{parts(body)[-1]} more")


def artifact(run: Run) -> Artifact:
    return next(artifact for artifact in run.artifacts() if "groups" in artifact.meta)


def evolved(
    run: Run, data: list[Group], say: Callable[[dict[str, Any]], Said], *, at_once: int = 8, **settings: Any
) -> list[Variant]:
    with serving(say) as url:
        # the port differs from test to test, and is no part of what is tested
        asked = validated(Evolve, {"endpoint": {"url": url, "model": "m", "at_once": at_once}, **settings}, "test")
        evolve(tiny_model.context(run, "evolve"), asked, tiny_model.given(data))
    return [from_group(group) for group in formats.read_groups(artifact(run).path / "groups.jsonl", format="group")]


def found(run: Run) -> dict[str, Any]:
    return dict(json.loads((artifact(run).path / "evolution.json").read_text()))


def test_each_round_goes_on_from_the_last(runs: Callable[[], Run]) -> None:
    run = runs()
    tea_asks, tea_says, rain_asks, _ = chains(evolved(run, ROWS, more, rounds=3))
    assert [v.text for v in tea_asks] == ["What is tea?" + " more" * number for number in range(4)]
    assert [v.text for v in tea_says] == ["A leaf." + " more" * number for number in range(4)]
    assert [(v.round, v.parent) for v in tea_asks] == [(0, None), (1, 0), (2, 1), (3, 2)]
    assert {v.turn.answer for v in tea_asks} == {""}
    assert {v.turn.instruction for v in tea_says} == {"What is tea?"}
    assert rain_asks[0].text == "What is rain?"
    kinds = found(run)["kinds"]
    assert {kind: (one["seeds"], one["made"], one["dropped"]) for kind, one in kinds.items()} == {
        "complexity": (2, [2, 2, 2], {}),
        "quality": (2, [2, 2, 2], {}),
    }
    assert [one["request"] for one in kinds["complexity"]["chains"][0]] == [v.text for v in tea_asks]
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"]) == (2, 2)


def test_what_is_no_variant_is_counted_and_dropped_and_the_chain_goes_on(runs: Callable[[], Run]) -> None:
    bad = {
        "a?": Said("A!"),
        "b?": Said(" \n"),
        "c?": Said("Here is the rewritten request: c, and why?"),
        "d?": Said("d, and", "length"),
        "e?": Said("again and again " * 40),
        "f?": Said("no", status=400),
        "g?": Said("g, and why?"),
    }
    data = [row(name, "x") for name in bad]
    asked: list[str] = []

    def say(body: dict[str, Any]) -> Said:
        asked.append(parts(body)[0])
        return bad[parts(body)[0]] if len(asked) <= 7 else more(body)

    run = runs()
    made = chains(evolved(run, data, say, rounds=2, of=["complexity"]))
    assert found(run)["kinds"]["complexity"]["made"] == [1, 7]
    assert found(run)["kinds"]["complexity"]["dropped"] == dict.fromkeys([COPY, EMPTY, TALK, CUT, LOOPS, REFUSED], 1)
    assert [[v.round for v in chain] for chain in made] == [[0, 2]] * 6 + [[0, 1, 2]]
    assert [v.text for v in made[-1]] == ["g?", "g, and why?", "g, and why? more"]
    assert sorted(asked[7:]) == ["a?", "b?", "c?", "d?", "e?", "f?", "g, and why?"]
    assert found(run)["dropped"][COPY] == [{"kind": "complexity", "parent": "a?", "text": "A!"}]
    assert found(run)["dropped"][EMPTY] == [], "there is nothing to show"


def test_seeds_are_first_requests_with_the_preferred_answer() -> None:
    talk = Group((user("one?"), assistant("1"), user("two?")), (Completion((assistant("2"),)),))
    ranked = comparison((user("r?"),), Completion((assistant("good"),)), Completion((assistant("bad"),)))
    turned = Group(ranked.prompt, ranked.completions[::-1])
    plain = Group((text("Once "),), (Completion((text("upon"),)),))
    made, unused = begun([talk, ranked, turned, plain], ["quality", "complexity"])
    assert [(chain[0].kind, *chain[0].turn) for chain in made] == [
        ("quality", "one?", "1"), ("complexity", "one?", ""), ("quality", "r?", "good"), ("complexity", "r?", ""),
        ("quality", "Once ", "upon"), ("complexity", "Once ", ""),
    ]  # fmt: skip
    assert unused == {TWICE: 1}


def test_rows_that_cannot_begin() -> None:
    bare, silent = row("a?"), Group((), (Completion((assistant("x"),)),))
    made, unused = begun([bare, silent, row("b?", "x"), row("b?", "y")], ["quality"])
    assert [chain[0].text for chain in made] == ["x", "y"]
    assert unused == {NO_ANSWER: 1, NO_REQUEST: 1}
    told = Group((Message("system", "Answer in rhymes."), *bare.prompt), row("a?", "x").completions)
    greeted = Group((assistant("Hi!"), *bare.prompt))
    made, unused = begun([told, greeted, row("c?", "x")], ["complexity", "quality"])
    assert [chain[0].text for chain in made] == ["c?", "x"]
    assert unused == {PREFACED: 2}
    made, unused = begun([bare, row("a?", "x")], ["complexity", "quality"])
    assert [chain[0].kind for chain in made] == ["complexity", "quality"]
    assert not unused


def test_no_seed_and_no_variant_are_errors(runs: Callable[[], Run]) -> None:
    with pytest.raises(DataError, match="no row to begin with"):
        evolved(runs(), [Group((), (Completion((assistant("x"),)),))], more)
    with pytest.raises(DataError, match="made no variant of 4 seeds"):
        evolved(runs(), ROWS, lambda _: Said(""))


def test_a_model_here_writes_and_long_requests_are_not_put(folder: Path, runs: Callable[[], Run]) -> None:
    def made(seed: int, **settings: Any) -> tuple[list[str], dict[str, Any]]:
        run = runs()
        spelled = validated(Evolve, {"rounds": 2, "max_new_tokens": 90, "temperature": 1.0, **settings}, "test")
        context = tiny_model.context(run, "evolve", seed=seed)
        data = [*ROWS, row("a long one " * 60, "x")]
        evolve(context, spelled, tiny_model.given(data), tiny_model.model_of(folder))
        rows = formats.read_groups(artifact(run).path / "groups.jsonl", format="group")
        return [from_group(one).text for one in rows], found(run)["kinds"]["complexity"]["dropped"]

    texts, dropped = made(0, max_length=900)
    assert dropped[TOO_LONG] == 2
    assert TOO_LONG not in made(0, max_length=4000)[1]
    assert made(0, max_length=900) == (texts, dropped)
    assert made(1, max_length=900)[0] != texts


def test_going_on_after_a_stop_asks_nothing_twice(runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "PART", 2)
    monkeypatch.setattr("time.sleep", lambda _: None)
    data = [row(name, "x") for name in "abcde"]
    asked: list[str] = []
    broken = [True]

    def say(body: dict[str, Any]) -> Said:
        asked.append(parts(body)[0])
        return Said("", status=500) if broken[0] and asked[-1] == "d more" else more(body)

    run, settings = runs(), {"of": ["complexity"], "rounds": 2, "at_once": 1}
    with pytest.raises(MissingError, match="same command again"):
        evolved(run, data, say, **settings)
    assert asked[:8] == [*"abcde", "a more", "b more", "c more"]
    asked.clear()
    broken[0] = False
    resumed = evolved(run, data, say, **settings)
    assert asked == ["c more", "d more", "e more"], "the part in which it stopped, and what comes after"
    assert resumed == evolved(runs(), data, say, **settings)


def table(folder: Path, rows: Path, **settings: Any) -> dict[str, Any]:
    return {"model": str(folder), "data": {"path": str(rows)}, "stage": [{"use": "evolve", **settings}]}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    formats.write_data([*ROWS, row("c?", "x" * 50)], tmp_path / "rows.jsonl", format="group")
    return tmp_path / "rows.jsonl"


def test_who_writes_is_in_the_key_and_nobody_else(folder: Path, rows: Path, tmp_path: Path) -> None:
    other = tiny_model.save(tmp_path / "other", seed=1)
    endpoint = {"url": "http://localhost:1/v1", "model": "m"}

    def keys(**settings: Any) -> list[str]:
        return [plan(make_recipe(table(model, rows, **settings)))[0].key for model in (folder, other)]

    assert len(set(keys())) == 2
    assert len(set(keys(endpoint=endpoint))) == 1
    assert keys(endpoint=endpoint) != keys(endpoint={**endpoint, "model": "n"})
    assert keys(model=str(other))[0] == keys(model=str(other))[1] == keys()[1]
    assert keys(model="recipe") == keys()


def test_a_plan_counts_what_is_written(folder: Path, rows: Path) -> None:
    def facts(**settings: Any) -> dict[str, Any]:
        spelled = table(folder, rows, rounds=3, max_new_tokens=100, **settings)
        spelled["stage"] += [{"use": "rank", "max_new_tokens": 10}, {"use": "sft", "batch_size": 1, "epochs": 1}]
        recipe = make_recipe(spelled)
        return check(recipe, plan(recipe))

    here = facts()
    assert set(here["stage_seconds"]) == {"evolve", "rank", "sft"}
    assert here["training"]["sft"]["steps"] == 3 * 2 * 4, "of 3 rows, both kinds, the seed and three variants"
    assert facts(limit=1, of=["quality"])["training"]["sft"]["steps"] == 4
    away = facts(endpoint={"url": "http://e/v1", "model": "m"})
    assert set(away["stage_seconds"]) == {"rank", "sft"}
    assert away["notes"] == [
        "evolve: 18 requests at most go to http://e/v1; their time and price are not in the estimate"
    ]


def test_a_recipe_spelled_out_means_the_same(folder: Path, rows: Path) -> None:
    recipe = make_recipe(table(folder, rows, endpoint={"url": "http://e/v1", "model": "m"}))
    assert make_recipe(tomllib.loads(recipe.resolved())) == recipe


def test_refusals(folder: Path, rows: Path) -> None:
    endpoint = {"url": "http://e/v1", "model": "m"}
    for settings, message in (
        ({"of": ["size"]}, "of"),
        ({"of": []}, "of"),
        ({"of": ["quality", "quality"]}, "'quality' twice"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 26}, "rounds"),
        ({"endpoint": {"url": "http://u"}}, "endpoint.model: this setting is required"),
        ({"endpoint": {**endpoint, "modle": "m"}}, "did you mean 'model'"),
        ({"endpoint": endpoint, "top_k": 3}, "top_k changes nothing where an endpoint writes"),
        ({"endpoint": endpoint, "max_length": 3}, "max_length changes nothing"),
        ({"endpoint": endpoint, "live_answers": 3}, "live_answers changes nothing"),
        ({"endpoint": endpoint, "model": str(folder)}, "both say who writes"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            plan(make_recipe(table(folder, rows, **settings)))
