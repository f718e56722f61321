"""Ranking: the judge's grades become lessons, what he says wrongly is dropped, and the whole of DEITA in one recipe."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from fake_endpoint import Said, serving

from truing import formats
from truing.errors import ConfigError, DataError
from truing.pipeline import make_recipe, plan, read_recipe, run_recipe
from truing.records import Completion, Group, assistant, user
from truing.scoring.replies import CUT
from truing.scoring.score import Tools, no_models
from truing.scoring.scorers import make, spelled_out
from truing.selection.evolution import Variant, grown, seed_of, to_group
from truing.selection.ranking import OFF, UNGRADED
from truing.selection.turns import Turn, complexity_request, quality_request
from truing.signatures import validated
from truing.stages.rank import ALONE, TWICE, Rank, rank
from truing.store import Artifact, Run

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "deita.toml"


def chain(kind: Any, name: str, count: int) -> list[Variant]:
    """A seed and variants, each with a `more` more."""
    found = [seed_of(kind, Turn(f"{name}?", f"{name}."))]
    for number in range(1, count):
        found.append(grown(found[-1], number, "depth", f"{found[-1].text} more"))
    return found


def rows(*chains: list[Variant]) -> list[Group]:
    return [to_group(variant) for variant in (v for one in chains for v in one)]


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def counting(body: dict[str, Any]) -> Said:
    """A judge who counts: 1, and 1 for each `more`."""
    shown = re.findall(r"^([A-Z]):\n<<<\n(.*?)\n>>>", asked(body), re.DOTALL | re.MULTILINE)
    return Said("\n".join(f"{letter}: {1 + text.count('more')}" for letter, text in shown))


def artifact(run: Run) -> Artifact:
    return next(artifact for artifact in run.artifacts() if "groups" in artifact.meta)


def ranked(run: Run, data: list[Group], say: Callable[[dict[str, Any]], Said]) -> list[Group]:
    with serving(say) as url:
        settings = validated(Rank, {"endpoint": {"url": url, "model": "m"}}, "test")
        rank(tiny_model.context(run, "rank"), settings, tiny_model.given(data))
    return formats.read_groups(artifact(run).path / "groups.jsonl", format="group")


def found(run: Run) -> dict[str, Any]:
    return dict(json.loads((artifact(run).path / "ranking.json").read_text()))


def test_every_variant_becomes_a_request_with_its_grade(runs: Callable[[], Run]) -> None:
    hard, good = chain("complexity", "tea", 4), chain("quality", "rain", 3)
    bodies: list[dict[str, Any]] = []
    run = runs()
    lessons = ranked(run, rows(hard, good), lambda body: bodies.append(body) or counting(body))
    wanted = {(complexity_request(v.turn), str(1 + v.round)) for v in hard}
    wanted |= {(quality_request(v.turn), str(1 + v.round)) for v in good}
    assert {(one.prompt[0].content, one.completions[0].text) for one in lessons} == wanted
    assert len(lessons) == 7
    assert len(bodies) == 2, "all variants of a seed go to the judge together"
    assert all(body["temperature"] == 0 for body in bodies)
    kinds = found(run)["kinds"]
    assert kinds["complexity"]["grades"] == {"1": 1, "2": 1, "3": 1, "4": 1, "5": 0, "6": 0}
    assert kinds["quality"]["rounds"] == [[0, 1.0, 1], [1, 2.0, 1], [2, 3.0, 1]]
    assert [one["grade"] for one in kinds["complexity"]["examples"][0]] == [1, 2, 3, 4]
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"], event["refused"]) == (7, 7, {})


def test_what_the_judge_says_wrongly_is_counted_and_never_graded(runs: Callable[[], Run]) -> None:
    sizes = {"a": 2, "b": 3, "c": 2, "e": 4, "d": 1}
    data = [chain("complexity", name, size) for name, size in sizes.items()]
    wrong = {"a?": Said("both are fine"), "b?": Said("A: 9\nB: 1\nC: 2"), "e?": Said("A: 2\nB: 1", "length")}

    def say(body: dict[str, Any]) -> Said:
        return next((said for name, said in wrong.items() if f"\n{name}" in asked(body)), counting(body))

    run = runs()
    lessons = ranked(run, rows(*data), say)
    assert [one.extra["evolution"]["seed"] for one in lessons] == [data[2][0].seed] * 2
    assert (found(run)["seeds"], found(run)["graded"]) == (5, 1)
    assert found(run)["dropped"] == {ALONE: 1, UNGRADED: 1, OFF: 1, CUT: 1}
    assert found(run)["unread"] == [
        {"reason": UNGRADED, "reply": "both are fine"},
        {"reason": OFF, "reply": "A: 9\nB: 1\nC: 2"},
        {"reason": CUT, "reply": "A: 2\nB: 1"},
    ]  # fmt: skip
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"]) == (12, 2)
    assert event["refused"] == {ALONE: 1, UNGRADED: 2, OFF: 3, CUT: 4}, "rows, as the others are"


def test_rows_that_come_twice_are_graded_once(runs: Callable[[], Run]) -> None:
    bodies: list[dict[str, Any]] = []
    data = rows(chain("quality", "a", 3))
    run = runs()
    lessons = ranked(run, [*data, *data[:2]], lambda body: bodies.append(body) or counting(body))
    assert len(lessons) == 3
    assert [len(re.findall("^[A-Z]:\n<<<", asked(body), re.MULTILINE)) for body in bodies] == [3]
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"], event["refused"]) == (5, 3, {TWICE: 2})


def test_errors_say_what_to_do(runs: Callable[[], Run]) -> None:
    with pytest.raises(DataError, match=r"got no grades that hold of 1 seeds.*name a judge that can do it"):
        ranked(runs(), rows(chain("quality", "a", 2)), lambda _: Said("fine"))
    with pytest.raises(DataError, match="put a stage 'evolve' before"):
        ranked(runs(), [Group((user("a"),))], counting)
    with pytest.raises(DataError, match="27 variants, and a judge can grade 26 at once"):
        ranked(runs(), rows(chain("quality", "a", 27)), counting)


def test_a_model_here_that_cannot_judge_is_told_by_its_counts(folder: Path, runs: Callable[[], Run]) -> None:
    data = tiny_model.given(rows(chain("quality", "a", 2)))
    settings = validated(Rank, {"max_new_tokens": 8}, "test")
    with pytest.raises(DataError, match=f"{CUT}|{UNGRADED}"):
        rank(tiny_model.context(runs(), "rank"), settings, data, tiny_model.model_of(folder))


LOUD = 30
"""Capitals that make a text harder by one grade."""


def louder(words: str, times: int = 1) -> str:
    """The text with so many more capitals, drawn by the text."""
    for _ in range(times):
        drawn = random.Random(words).choices(string.ascii_uppercase, k=LOUD)
        words += "".join(f" {''.join(drawn[place : place + 3])}" for place in range(0, LOUD, 3))
    return words


def growing(body: dict[str, Any]) -> Said:
    """A writer who gets louder, and the judge who hears it."""
    shown = re.findall(r"^([A-Z]):\n<<<\n(.*?)\n>>>", asked(body), re.DOTALL | re.MULTILINE)
    if shown:
        loud = {letter: sum(map(str.isupper, text)) // LOUD for letter, text in shown}
        return Said("\n".join(f"{letter}: {1 + times}" for letter, times in loud.items()))
    return Said(louder(re.findall(r"<<<\n(.*?)\n>>>", asked(body), re.DOTALL)[-1]))


@pytest.fixture
def url() -> Iterator[str]:
    with serving(growing) as url:
        yield url


def settings_of_a_small_run(folder: Path, data: Path, url: str) -> list[str]:
    endpoint = f'{{ url = "{url}", model = "m" }}'
    return [
        f"model={folder}", f"data.path={data}", f"evolve.endpoint={endpoint}", f"rank.endpoint={endpoint}",
        "evolve.rounds=3", "grader.batch_size=8", "grader.learning_rate=0.01", "grader.epochs=8",
        "select.keep=4", "select.embeddings=recipe", "sft.batch_size=4",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_whole_of_deita(folder: Path, url: str, tmp_path: Path) -> None:
    data = [
        Group((user(louder(word, i % 3)),), (Completion((assistant(louder(word[::-1], i % 3)),)),))
        for i, word in enumerate(tiny_model.WORDS)
    ]
    formats.write_data(data, tmp_path / "rows.jsonl", format="group")
    recipe = read_recipe(RECIPE, settings_of_a_small_run(folder, tmp_path / "rows.jsonl", url))
    run = run_recipe(recipe, out=tmp_path / "run")
    made = {a.stage: a for a in Run.read(run).artifacts() if "groups" in a.meta and not a.meta.get("part")}
    assert len(formats.read_groups(made["evolve"].path / "groups.jsonl", format="group")) == 12 * 2 * 4
    lessons = formats.read_groups(made["rank"].path / "groups.jsonl", format="group")
    assert len(lessons) == 12 * 2 * 4
    # what the grader learned is what the scorer reads: a grade, and by far the likeliest thing to say
    by = spelled_out({"name": "complexity", "mass": 0.9})
    grader = next(a for a in Run.read(run).artifacts() if a.stage == "grader" and "model" in a.meta)
    context = tiny_model.context(tiny_model.open_run(tmp_path / "other"))
    model = type(tiny_model.model_of(folder))(grader.key, str(run / str(grader.meta["model"])))
    engine = context.scorer(model)
    said = make(by, Tools(no_models, lambda _: engine))(data)
    values = [one.value or 0.0 for (one,) in said]
    assert all(1 <= value <= 6 for value in values)
    means = [sum(values[count::3]) / 4 for count in range(3)]
    assert means[0] + 0.3 < means[1] < means[2] - 0.3, "the judge gives 1, 2 and 3"
    selection = json.loads((made["select"].path / "selection.json").read_text())
    assert selection["rows"] == 12
    assert selection["kept"] <= 4
    chosen = formats.read_groups(made["select"].path / "groups.jsonl", format="group")
    assert all(any(group.prompt == row.prompt for row in data) for group in chosen)
    best = selection["best"][0]["prompt"][0]["content"]
    assert best in [row.prompt[0].content for row in data[2::3]]
    page = (run / "report.html").read_text()
    assert "Evolution" in page
    assert "Ranking" in page
    again = run_recipe(recipe, out=tmp_path / "again")
    assert [a.key for a in Run.read(again).artifacts()] == [a.key for a in Run.read(run).artifacts()]
    for name in ("evolve", "rank", "select"):
        own, other = (next(a for a in Run.read(r).artifacts() if a.key == made[name].key) for r in (run, again))
        assert (own.path / "groups.jsonl").read_bytes() == (other.path / "groups.jsonl").read_bytes()


def test_the_last_training_starts_from_the_model_as_it_came(folder: Path, tmp_path: Path) -> None:
    data = tiny_model.write_demonstrations(tmp_path / "rows.jsonl")
    planned = {one.name: one for one in plan(read_recipe(RECIPE, [f"model={folder}", f"data.path={data}"]))}
    assert planned["grader"].inputs["model"].source == planned["sft"].inputs["model"].source == str(folder)
    assert planned["grader"].inputs["data"].key == planned["rank"].key
    assert planned["select"].inputs["data"].key != planned["rank"].key
    assert planned["select"].inputs["judges"].language["grader"].key == planned["grader"].key
    assert planned["sft"].inputs["data"].key == planned["select"].key
    without = read_recipe(RECIPE, [f"model={folder}", f"data.path={data}", "sft.model=grader"])
    assert plan(without)[-1].inputs["model"].key == planned["grader"].key


def test_only_evolved_rows_are_ranked_in_a_plan_too(folder: Path, tmp_path: Path) -> None:
    data = tiny_model.write_demonstrations(tmp_path / "rows.jsonl")
    table = {"model": str(folder), "data": {"path": str(data)}, "stage": [{"use": "rank", "temperature": -1}]}
    with pytest.raises(ConfigError, match=r"rank\.temperature"):
        plan(make_recipe(table))
