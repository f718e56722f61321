"""Scoring: every answer gets its number, what goes on follows from it, and nothing that failed gets one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from fake_endpoint import Said, serving

from truing import formats
from truing.errors import ConfigError, DataError, GuardError
from truing.estimates import REACHED
from truing.pipeline import check, make_recipe, plan, read_recipe, run_recipe
from truing.records import Completion, Group, assistant, comparison, user
from truing.scoring import sandbox
from truing.scoring.controls import control_answers
from truing.scoring.rubric import NO_SCORE
from truing.scoring.score import Score
from truing.scoring.scorers import paths_of
from truing.signatures import validated
from truing.stages import score as stage
from truing.stages.context import Judges
from truing.stages.score import ScoreAnswers, score
from truing.store import Run

CONTROLS = tuple(control_answers(["Score: 5"]).values())


def answers(*texts: str, prompt: str = "Why?") -> Group:
    return Group((user(prompt),), tuple(Completion((assistant(text),)) for text in texts))


def scored(run: Run, data: list[Group], **settings: Any) -> list[Group]:
    context = tiny_model.context(run, "score")
    score(context, validated(ScoreAnswers, settings, "test"), tiny_model.given(data), Judges("none", {}))
    made = next(artifact for artifact in run.artifacts() if "groups" in artifact.meta)
    return formats.read_groups(made.path / str(made.meta["groups"]), format="group")


def texts_and_scores(group: Group) -> list[tuple[str, float | None]]:
    return [(answer.text, answer.score) for answer in group.completions]


def test_every_answer_gets_its_score(runs: Callable[[], Run]) -> None:
    (made,) = scored(runs(), [answers("one two", "one")], scorer="length")
    assert texts_and_scores(made) == [("one two", 2.0), ("one", 1.0)]


def test_the_best_answer_goes_on_and_the_first_of_equals(runs: Callable[[], Run]) -> None:
    made = scored(runs(), [answers("a", "b c", "d e"), answers("x")], scorer="length", keep="best")
    assert [texts_and_scores(group) for group in made] == [[("b c", 2.0)], [("x", 1.0)]]


def test_a_comparison_of_the_same_words_is_none(runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward model can tell an answer that came to its end from one that did not."""
    said = iter([Score.of(2.0), Score.of(1.0), Score.of(2.0), Score.of(1.0)])
    monkeypatch.setattr(stage, "scores_of", lambda *_, **__: [(next(said), next(said)) for _ in range(2)])
    run = runs()
    (made,) = scored(run, [answers("a", "a"), answers("b", "c")], scorer="length", keep="best_and_worst")
    assert texts_and_scores(made) == [("b", 2.0), ("c", 1.0)]
    (event,) = run.events(kind="data")
    assert event["refused"] == {"the best answer and the worst are the same words": 1}
    assert event["mean_score"] == 1.5


def test_a_ranking_has_all_answers_that_differ_best_first(runs: Callable[[], Run]) -> None:
    run = runs()
    rows = [answers("a", "d e f", "b c", "a ", "g h"), answers("x", "y"), answers("z", "z")]
    (made,) = scored(run, rows, scorer="length", keep="ranking")
    assert texts_and_scores(made) == [("d e f", 3.0), ("b c", 2.0), ("g h", 2.0), ("a", 1.0)]
    (event,) = run.events(kind="data")
    assert event["refused"] == {"no answer is better than another": 2}


def test_best_and_worst_make_a_comparison_by_score_alone(runs: Callable[[], Run]) -> None:
    ranked = comparison((user("q"),), Completion((assistant("a"),)), Completion((assistant("b c"),)), strength=4.0)
    run = runs()
    (made,) = scored(run, [ranked, answers("x", "y")], scorer="length", keep="best_and_worst")
    assert texts_and_scores(made) == [("b c", 2.0), ("a", 1.0)]
    assert made.strength is None
    assert [answer.rank for answer in made.completions] == [None, None]
    (event,) = run.events(kind="data")
    assert event["refused"] == {"no answer is better than another": 1}


def test_ranks_are_kept_unless_the_scores_shall_replace_them(runs: Callable[[], Run]) -> None:
    ranked = comparison((user("q"),), Completion((assistant("a"),)), Completion((assistant("b c"),)))
    (kept,) = scored(runs(), [ranked], scorer="length")
    assert [answer.rank for answer in kept.completions] == [0, 1]
    (replaced,) = scored(runs(), [ranked], scorer="length", ranks="replace")
    assert [answer.rank for answer in replaced.completions] == [None, None]


def fails_on_no(prompt: str, answer: str) -> float:
    """A scorer of somebody's own."""
    if answer == "no":
        raise ValueError("it said no")
    return float(len(answer))


OWN = {"name": "function", "path": f"{__file__}:fails_on_no"}


def test_a_failure_is_never_a_number(runs: Callable[[], Run]) -> None:
    data = [answers("no", "yes"), answers("well")]
    run = runs()
    assert [texts_and_scores(g) for g in scored(run, data, scorer=OWN)] == [[("well", 4.0)]]
    (event,) = run.events(kind="data")
    ((reason, count),) = event["refused"].items()
    assert "it said no" in reason
    assert count == 1
    kept = scored(runs(), data, scorer=OWN, on_failure="drop_answer")
    assert [texts_and_scores(group) for group in kept] == [[("yes", 3.0)], [("well", 4.0)]]
    with pytest.raises(DataError, match="it said no"):
        scored(runs(), data, scorer=OWN, on_failure="stop")
    with pytest.raises(DataError, match="has no row left"):
        scored(runs(), data[:1], scorer=OWN)


def test_deviations_go_with_the_scores(runs: Callable[[], Run]) -> None:
    several = {"name": "ensemble", "of": ["length", {"name": "length", "unit": "characters"}]}
    (made,) = scored(runs(), [answers("one", "a")], scorer=several)
    assert made.extra["deviation"] == [1.0, 0.0]
    assert [answer.score for answer in made.completions] == [2.0, 1.0]


def test_reasons_of_scores_are_counted_and_shown(folder: Path, tmp_path: Path) -> None:
    row = replace(answers("#### 18", "#### 17", "eighteen", "who knows"), extra={"answer": "18"})
    formats.write_data([row], tmp_path / "rows.jsonl", format="group")
    path = run_recipe(make_recipe(recipe_table(folder, tmp_path / "rows.jsonl", scorer="maths")), out=tmp_path / "run")
    (event,) = Run.read(path).events(kind="data")
    assert event["reasons"] == {"no result found": 2}
    assert event["refused"] == {}
    assert event["scores"]["every answer"][-1] == 1
    assert "no result found" in (path / "report.html").read_text()


def test_an_interruption_loses_one_part_at_most(runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PART", 2)
    asked: list[str] = []

    def counting(_: Any, __: Any) -> Any:
        def say(groups: Any) -> list[tuple[Score, ...]]:
            asked.extend(group.prompt[0].content for group in groups)
            if "p3" in asked and asked.count("p0") == 1 and len(asked) < 5:
                raise KeyboardInterrupt
            return [(Score.of(1.0),) for _ in groups]

        return say

    monkeypatch.setattr(stage, "make", counting)
    data = [answers("x", prompt=f"p{i}") for i in range(4)]
    run = runs()
    with pytest.raises(KeyboardInterrupt):
        scored(run, data, scorer="length")
    assert len(scored(run, data, scorer="length")) == 4
    assert asked == ["p0", "p1", "p2", "p3", "p2", "p3"]


def recipe_table(folder: Path, rows: Path, **settings: Any) -> dict[str, Any]:
    return {"model": str(folder), "data": {"path": str(rows)}, "stage": [{"use": "score", **settings}]}


def test_a_recipe_that_trains_a_reward_model_and_chooses_answers_by_it(folder: Path, tmp_path: Path) -> None:
    data = [
        comparison((user(f"q{i}"),), Completion((assistant("yes"),)), Completion((assistant("nope"),)))
        for i in range(8)
    ]
    formats.write_data(data, tmp_path / "rows.jsonl", format="group")
    table = recipe_table(folder, tmp_path / "rows.jsonl", keep="best", ranks="replace")
    training = {"use": "reward_model", "batch_size": 8, "learning_rate": 5e-3, "epochs": 4}
    table["stage"] = [training, *table["stage"], {"use": "sft", "batch_size": 8}]
    run = run_recipe(make_recipe(table), out=tmp_path / "run")
    made = next(a for a in Run.read(run).artifacts() if a.stage == "score" and "groups" in a.meta)
    groups = formats.read_groups(made.path / str(made.meta["groups"]), format="group")
    assert {answer.text for group in groups for answer in group.completions} == {"yes"}
    assert "Scores, lowest first" in (run / "report.html").read_text()
    assert run_recipe(make_recipe(table), out=tmp_path / "run") == run, "nothing is left to do"


def test_what_a_scorer_names_is_found_beside_the_recipe_and_its_content_counts(folder: Path, tmp_path: Path) -> None:
    formats.write_data([answers("good"), answers("bad")], tmp_path / "rows.jsonl", format="group")
    (tmp_path / "words.tsv").write_text("good\t1\n")
    (tmp_path / "own.py").write_text("def own(prompt, answer):\n    return 1.0\n")
    keys = []
    for scorer in (
        '{ name = "lexicon", file = "words.tsv" }',
        '{ name = "ensemble", of = ["length", { name = "function", path = "own.py:own" }] }',
    ):
        (tmp_path / "recipe.toml").write_text(
            f'model = "{folder}"\ndata = {{ path = "rows.jsonl" }}\n[[stage]]\nuse = "score"\nscorer = {scorer}\n'
        )
        for name, text in (("words.tsv", "bad\t1\n"), ("own.py", "def own(prompt, answer):\n    return 2.0\n")):
            keys.append(plan(read_recipe(tmp_path / "recipe.toml"))[0].key)
            before = (tmp_path / name).read_text()
            (tmp_path / name).write_text(text)
            keys.append(plan(read_recipe(tmp_path / "recipe.toml"))[0].key)
            (tmp_path / name).write_text(before)
    words, other_words, still, not_named = keys[:4]
    assert words != other_words
    assert words == still == not_named
    alone, not_its_file, before, after = keys[4:]
    assert alone == not_its_file == before != after


def test_a_plan_counts_what_goes_on(folder: Path, tmp_path: Path) -> None:
    formats.write_data([answers("one two three", "one", "two")], tmp_path / "rows.jsonl", format="group")
    seconds = []
    for keep in ("all", "best"):
        table = recipe_table(folder, tmp_path / "rows.jsonl", scorer="length", keep=keep)
        table["stage"].append({"use": "sft", "batch_size": 1})
        recipe = make_recipe(table)
        facts = check(recipe, plan(recipe))
        assert facts["stage_seconds"]["score"] == 0
        seconds.append(facts["training"]["sft"]["largest_forest"])
    every, best = seconds
    assert every > best


def test_refusals(folder: Path, tmp_path: Path) -> None:
    formats.write_data([answers("a")], tmp_path / "rows.jsonl", format="group")
    rows = tmp_path / "rows.jsonl"
    with pytest.raises(ConfigError, match="no stage before it makes one"):
        plan(make_recipe(recipe_table(folder, rows)))
    with pytest.raises(ConfigError, match=r"no\.tsv: no such file"):
        plan(make_recipe(recipe_table(folder, rows, scorer={"name": "lexicon", "file": "no.tsv"})))
    with pytest.raises(ConfigError, match="did you mean"):
        make_recipe(recipe_table(folder, rows, scorer="lenght"))


def test_demonstrations_are_all_that_a_reward_by_maths_needs(folder: Path, tmp_path: Path) -> None:
    rows = [{"question": f"{n} + 1?", "answer": f"It is <<{n}+1={n + 1}>>.\n#### {n + 1}"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = recipe_table(folder, tmp_path / "rows.jsonl", scorer="maths")
    table["stage"] = [{"use": "sample", "answers": 2, "max_new_tokens": 4, "temperature": 0}, *table["stage"]]
    (event,) = Run.read(run_recipe(make_recipe(table), out=tmp_path / "run")).events("score", "data")
    assert event["used"] == 4, event["refused"]
    assert event["scores"]["every answer"] == [0.0] * 101, "a model of random weights cannot add"


def test_a_plan_tries_the_sandbox(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats.write_data([answers("a")], tmp_path / "rows.jsonl", format="group")
    tried: list[str] = []
    monkeypatch.setattr(sandbox, "check", tried.append)
    scorers = [{"name": "minimum", "of": ["length", {"name": "code", "isolation": "limits"}]}, "length", "code"]
    for scorer in scorers:
        plan(make_recipe(recipe_table(folder, tmp_path / "rows.jsonl", scorer=scorer)))
    assert tried == ["limits", "namespaces"]
    assert paths_of("code") == [], "its words are no paths, whatever lies beside the recipe"


def test_an_ensemble_of_reward_models_made_on_the_way(folder: Path, tmp_path: Path) -> None:
    data = [
        comparison((user(f"q{i}"),), Completion((assistant("yes"),)), Completion((assistant("nope"),)))
        for i in range(4)
    ]
    formats.write_data(data, tmp_path / "rows.jsonl", format="group")
    both = [{"name": "reward_model", "model": name} for name in ("first", "second")]
    table = recipe_table(folder, tmp_path / "rows.jsonl", scorer={"name": "ensemble", "of": both, "by": "lower"})
    trained = [
        {"use": "reward_model", "name": name, "batch_size": size} for name, size in (("first", 2), ("second", 4))
    ]
    table["stage"] = [*trained, *table["stage"]]
    scored_with_deviations(table, tmp_path / "run")
    table["stage"] = [{**trained[0], "name": "rm", "members": 2}, table["stage"][-1]]
    table["stage"][-1]["scorer"] = {"name": "reward_model", "members": "lower"}
    scored_with_deviations(table, tmp_path / "members")
    table["stage"][0]["members"] = 1
    with pytest.raises(ConfigError, match="name a stage with members = 2 or more"):
        run_recipe(make_recipe(table), out=tmp_path / "alone")


def scored_with_deviations(table: dict[str, Any], out: Path) -> None:
    run = run_recipe(make_recipe(table), out=out)
    made = next(a for a in Run.read(run).artifacts() if a.stage == "score" and "groups" in a.meta)
    for line in (made.path / "groups.jsonl").read_text().splitlines():
        assert all(deviation > 0 for deviation in json.loads(line)["extra"]["deviation"])


RECIPE = Path(__file__).parent.parent.parent / "recipes" / "judge.toml"


def test_a_judge_in_a_recipe_from_its_own_trial_to_a_trained_model(folder: Path, tmp_path: Path) -> None:
    """The whole of the recipe: measured on people's comparisons, asked for points, DPO on what it says."""

    controls = {control.replace("Score:", "Score -") for control in CONTROLS}

    def points(text: str) -> int:
        return 5 if text == "yes" else 0 if text in controls else sum(map(ord, text)) % 5

    def say(body: dict[str, Any]) -> Said:
        shown = re.search(r"\nAnswer:\n<{3,}\n(.*)\n>{3,}\n\nWhat", body["messages"][0]["content"], re.DOTALL)
        assert shown
        return Said(f"I have counted.\nScore: {points(shown[1])}")

    tiny_model.write_pairs(tmp_path / "rows.jsonl", 24)
    with serving(say) as url:
        judge = f'{{ name = "judge", model = {{ url = "{url}", model = "m" }} }}'
        recipe = read_recipe(
            RECIPE,
            [
                f"model={folder}", f"data.path={tmp_path / 'rows.jsonl'}", "sample.max_new_tokens=8",
                "sample.temperature=1.5", f"evaluate_reward.scorer={judge}", f"score.scorer={judge}",
                "preference.batch_size=4", "evaluate.max_new_tokens=6",
            ],
        )  # fmt: skip
        facts = check(recipe, plan(recipe))
        assert sum(url in note for note in facts["notes"]) == 2, "requests to an endpoint are told beforehand"
        run = run_recipe(recipe, out=tmp_path / "run")
        again = run_recipe(recipe, out=tmp_path / "again")
    read = Run.read(run)
    assert [event["judge"] for event in read.events(kind="controls")] == ["judge", "judge"]
    (event,) = read.events("score", "data")
    assert event["counts"] == {"replies": 4 * event["rows"]}
    made = next(a for a in read.artifacts() if a.stage == "score" and "groups" in a.meta)
    for group in formats.read_groups(made.path / "groups.jsonl", format="group"):
        best, worst = group.completions
        assert best.score == points(best.text) > points(worst.text) == worst.score
    page = (run / "report.html").read_text()
    for words in ("How the judges were tried", "Counted while judging", "How far the scorer can be trusted"):
        assert words in page
    others = {artifact.key: artifact for artifact in Run.read(again).artifacts()}
    for artifact in read.artifacts():
        if "groups" in artifact.meta:
            other = others[artifact.key].path / "groups.jsonl"
            assert (artifact.path / "groups.jsonl").read_bytes() == other.read_bytes()


def test_a_judge_that_falls_for_controls_stops_the_stage_and_the_outcome_is_kept(
    runs: Callable[[], Run],
) -> None:
    run = runs()
    with (
        serving(lambda _: Said("Score: 5")) as url,
        pytest.raises(GuardError, match="judge: this judge cannot be believed"),
    ):
        scored(run, [answers("a", "b")], scorer={"name": "judge", "model": {"url": url, "model": "m"}})
    (event,) = run.events(kind="controls")
    assert (event["high"], event["scored"], event["stage"]) == (7, 7, "score")
    assert not list(run.artifacts())


def test_one_reply_that_says_nothing_leaves_out_its_row_alone(runs: Callable[[], Run]) -> None:
    def say(body: dict[str, Any]) -> Said:
        request = body["messages"][0]["content"]
        return Said("Hm." if "\nodd\n" in request else "Score: 2" if "\na\n" in request else "Score: 0")

    run = runs()
    with serving(say) as url:
        made = scored(
            run,
            [answers("a", "odd", prompt="1"), answers("a", "b", prompt="2")],
            scorer={"name": "judge", "model": {"url": url, "model": "m"}},
        )
    assert [texts_and_scores(group) for group in made] == [[("a", 2.0), ("b", 0.0)]]
    (event,) = run.events(kind="data")
    assert event["refused"] == {NO_SCORE: 1}
    assert event["counts"] == {"replies": 4, f"unread: {NO_SCORE}": 1}


def test_a_plan_counts_what_a_judge_here_may_write(folder: Path, tmp_path: Path) -> None:
    formats.write_data([answers("one", "two")] * 3, tmp_path / "rows.jsonl", format="group")

    def seconds(**settings: Any) -> float:
        recipe = make_recipe(recipe_table(folder, tmp_path / "rows.jsonl", scorer={"name": "judge", **settings}))
        found = check(recipe, plan(recipe))
        return float(found["stage_seconds"]["score"] * found["matrix_rate"])

    few, many = (seconds(samples=samples, temperature=1.0) for samples in (1, 3))
    calls = 3 * 2 + 3 * len(CONTROLS)
    parameters = check(make_recipe(recipe_table(folder, tmp_path / "rows.jsonl", scorer="length")), [])["parameters"]
    assert many - few == pytest.approx(2 * calls * 512 * 2 * parameters / REACHED)
