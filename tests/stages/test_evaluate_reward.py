"""A reward model is measured by one pass over held-out answers, and what is written is what plain scores say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from fake_endpoint import Said, serving
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from truing import formats, models, pipeline
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError, GuardError
from truing.packing import forest
from truing.records import Completion, Group, Message, assistant, comparison, user
from truing.rendering import Row
from truing.scoring.duels import UNCLEAR
from truing.signatures import validated
from truing.stages.context import Judges, Model
from truing.stages.evaluate_reward import EvaluateReward, comparable, evaluate_reward
from truing.store import Run

CPU = torch.device("cpu")
WORDS = ("yes", "nope", "yes yes", "nope and nope", "a", "so it is")


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose head is drawn by chance."""
    folder = tmp_path_factory.mktemp("reward")
    language = tiny_model.save(folder / "tiny")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(language, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(language)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    return folder / "reward"


def answers_in(request: str) -> tuple[str, str]:
    """The two answers that a judge is shown."""
    first, second = re.findall(r"^Answer [AB]:\n<{3,}\n(.*?)\n>{3,}$", request, re.DOTALL | re.MULTILINE)
    return first, second


def ranking(number: int, count: int, **row: Any) -> Group:
    answers = tuple(
        Completion((assistant(WORDS[(number + place) % len(WORDS)]),), score=float(count - place))
        for place in range(count)
    )
    return Group((user(f"question {number}?"),), answers, **row)


def rows_held_out() -> list[Group]:
    """Comparisons and rankings, two rows with one prompt, and rows that compare nothing."""
    found = [ranking(number, 2 + number % 3, extra={"topic": "ab"[number % 2]}) for number in range(8)]
    found.append(replace(ranking(9, 2, weight=3.0), prompt=found[0].prompt))
    found += tiny_model.pairs(3)
    found += [*tiny_model.demonstrations(2), *tiny_model.prompts(1), ranking(20, 2, weight=0.0)]
    return [*found, Group((user("both?"),), (Completion((assistant("a"),)), Completion((assistant("b"),))))]


def measured(run: Run, reward: Path, data: list[Group], **settings: Any) -> dict[str, Any]:
    evaluate_reward(
        tiny_model.context(run, "evaluate_reward"),
        validated(EvaluateReward, settings, "test"),
        tiny_model.given(data),
        Judges("none", {}),
        Model("the reward model", str(reward)),
    )
    (made,) = run.artifacts()
    assert made.meta["of"] == "the reward model"
    found: dict[str, Any] = json.loads((made.path / str(made.meta["measured"])).read_text())
    assert made.meta["verdict"] == found["verdict"]
    return found


def plainly(reward: Path, rows: list[Group]) -> list[list[float]]:
    """Each answer by itself, in the order of the row."""
    renderer = models.read_renderer(str(reward))
    engine = LocalEngine(models.load(str(reward), dtype=torch.float32, device=CPU, outputs=1), trainable=False)
    found = []
    with torch.no_grad():
        for group in rows:
            whole = renderer.render(group)
            single = [Row(whole.prompt, (answer,), 0) for answer in whole.answers]
            found.append([float(engine.scores(forest([row]))[0].last[0]) for row in single])
    return found


def test_every_answer_is_scored_as_if_alone(reward: Path, runs: Callable[[], Run]) -> None:
    data = rows_held_out()
    found = measured(runs(), reward, data)
    assert found["unused"] == {
        "rows with one answer": 2,
        "rows without an answer": 1,
        "rows of weight 0": 1,
        "rows that do not say which of their answers is better": 1,
    }
    used = data[:12]
    right = weight = losses = 0.0
    comparisons = 0
    for group, scores in zip(used, plainly(reward, used), strict=True):
        count = len(scores)
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        comparisons += len(pairs)
        weight += group.weight
        for i, j in pairs:
            right += group.weight / len(pairs) * (0.5 if scores[i] == scores[j] else float(scores[i] > scores[j]))
            losses += group.weight / len(pairs) * math.log1p(math.exp(scores[j] - scores[i]))
    assert found["comparisons"] == comparisons
    assert found["accuracy"]["value"] == pytest.approx(right / weight)
    assert found["calibration"]["log_loss"]["value"] == pytest.approx(losses / weight, rel=1e-4)
    assert (found["rows"], found["prompts"]) == (12, 11)
    strengths = sum(one["accuracy"]["n"] for one in found["by_strength"])
    assert strengths == comparisons - 3, "the comparisons without scores have no strength"
    assert list(found["by_source"]) == ["no source"]
    assert found["categories"] is None


def test_rows_without_a_prompt_share_none(reward: Path, runs: Callable[[], Run]) -> None:
    def row(number: int) -> Group:
        answers = [Completion((Message("text", f"{word} {number}"),)) for word in ("yes", "nope")]
        return comparison((), *answers)

    found = measured(runs(), reward, [row(number) for number in range(12)])
    assert (found["comparisons"], found["prompts"]) == (12, 12)


def test_settings_change_what_is_measured(reward: Path, runs: Callable[[], Run]) -> None:
    data = rows_held_out()
    assert measured(runs(), reward, data, limit=3)["rows"] == 3
    assert measured(runs(), reward, data, pairs="best_worst")["comparisons"] == 12
    assert list(measured(runs(), reward, data, source="topic")["by_source"]) == ["a", "b", "no source"]
    assert len(measured(runs(), reward, data, bins=2)["calibration"]["curve"]) == 2
    short = measured(runs(), reward, data, max_length=30)
    assert short["rows"] + short["unused"]["rows longer than 30 tokens"] == 12
    small = measured(runs(), reward, data, forest_tokens=16)
    assert small["accuracy"] == measured(runs(), reward, data)["accuracy"]
    with pytest.raises(ConfigError, match=r"\.source: the data have no column 'topik'; did you mean 'topic'"):
        measured(runs(), reward, data, source="topik")


def test_files_of_categories(reward: Path, runs: Callable[[], Run], tmp_path: Path) -> None:
    files = {"easy": tiny_model.pairs(6), "hard": [ranking(number, 2) for number in range(9)]}
    for name, rows in files.items():
        formats.write_data(rows, tmp_path / f"{name}.jsonl", format="group")
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in files}
    found = measured(runs(), reward, rows_held_out(), categories=paths, source="topic", limit=5)
    rates = found["categories"]["accuracy"]
    for name, rows in files.items():
        scores = plainly(reward, rows)
        right = [0.5 if one == other else float(one > other) for one, other in scores]
        assert (rates[name]["value"], rates[name]["n"]) == (pytest.approx(sum(right) / len(right)), len(rows))
    mean = found["categories"]["mean"]
    assert mean["value"] == pytest.approx((rates["easy"]["value"] + rates["hard"]["value"]) / 2)
    assert mean["low"] < mean["value"] < mean["high"]
    assert "in the mean of 2 categories" in found["verdict"]
    assert found["rows"] == 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "category 'bare': .*holds no rows"),
        ('{"prompt": [{"role": "user", "content": "hi"}]}\n', "category 'bare': .*there is no comparison"),
        (None, "category 'bare': .*no such file"),
    ],
)
def test_a_category_without_a_comparison_is_refused_before_a_model_loads(
    reward: Path, runs: Callable[[], Run], tmp_path: Path, content: str | None, says: str
) -> None:
    file = tmp_path / "bare.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=says):
        measured(runs(), tmp_path / "nowhere", rows_held_out(), categories={"bare": str(file)})


def test_nothing_to_compare_is_refused() -> None:
    settings = validated(EvaluateReward, {}, "test")
    with pytest.raises(DataError, match=r"no comparison to measure .* rows with one answer \(3\): each row needs two"):
        comparable(settings, tiny_model.demonstrations(3))


def test_a_broken_model_is_named(reward: Path, runs: Callable[[], Run], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in reward.iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(GuardError, match=r"score\.weight: .* values are NaN"):
        measured(runs(), broken, rows_held_out())


def recipe_of(folder: Path, here: Path, *between: Any, **evaluation: Any) -> Any:
    formats.write_data(tiny_model.pairs(40), here / "rows.jsonl", format="group")
    formats.write_data(tiny_model.pairs(8, start=60), here / "easy.jsonl", format="group")
    table = {
        "model": str(folder),
        "precision": "fp32",
        "data": {"path": str(here / "rows.jsonl"), "held_out": 0.4},
        "stage": [
            {"use": "reward_model", "batch_size": 4, "epochs": 3, "learning_rate": 5e-3},
            *between,
            {"use": "evaluate_reward", "categories": {"easy": str(here / "easy.jsonl")}, **evaluation},
        ],
    }
    return pipeline.make_recipe(table)


def test_a_recipe_from_reward_model_to_verdict(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, tmp_path)
    facts = pipeline.check(recipe, pipeline.plan(recipe))
    assert facts["stage_seconds"]["evaluate_reward"] > 0
    run = pipeline.run_recipe(recipe, out=tmp_path / "run", reporter=tiny_model.quiet())
    line = pipeline.last_verdict(run)
    assert line is not None
    assert line.startswith("the reward model orders 100 % [")
    page = (run / "report.html").read_text()
    for words in ("How far the reward model can be trusted", "What it says and what is so", "By category", "easy"):
        assert words in page
    (checkpoint,) = Run.read(run).checkpoints()
    assert line in (checkpoint.path / "README.md").read_text()
    assert json.loads(next(run.glob("artifacts/*/reward.json")).read_text())["accuracy"]["value"] == 1
    with pytest.raises(ConfigError, match="bins: input should be greater"):
        recipe_of(folder, tmp_path, bins=0)


def test_the_best_of_n_answers_is_asked_of_a_gold_scorer(folder: Path, tmp_path: Path) -> None:
    drawn = {"use": "sample", "answers": 3, "max_new_tokens": 6, "temperature": 1.5}
    recipe = recipe_of(folder, tmp_path, drawn, gold="length", unlabelled="sample")
    run = pipeline.run_recipe(recipe, out=tmp_path / "run", reporter=tiny_model.quiet())
    found = json.loads(next(run.glob("artifacts/*/reward.json")).read_text())
    assert [one["n"] for one in found["best_of"]] == [1, 2, 3]
    assert found["best_of"][0]["proxy"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["best_of"][2]["proxy"]["value"] > found["best_of"][1]["proxy"]["value"] > 0
    assert "of 3 answers it picks one" in found["verdict"]
    assert "The best of n answers" in (run / "report.html").read_text()
    with pytest.raises(ConfigError, match="`gold` and `unlabelled` go together"):
        pipeline.run_recipe(
            recipe_of(folder, tmp_path, gold="length"), out=tmp_path / "other", reporter=tiny_model.quiet()
        )


def test_a_reward_model_in_a_folder_is_measured(folder: Path, reward: Path, tmp_path: Path) -> None:
    trained = recipe_of(folder, tmp_path)
    stage = trained.stage[1].model_copy(update={"inputs": {"reward": str(reward)}})
    recipe = trained.model_copy(update={"stage": (stage,)})
    run = pipeline.run_recipe(recipe, out=tmp_path / "run", reporter=tiny_model.quiet())
    found = json.loads(next(run.glob("artifacts/*/reward.json")).read_text())
    assert found["reward"] == str(reward)


def test_a_language_model_has_no_scores_to_measure(folder: Path, tmp_path: Path) -> None:
    """Its head would be drawn by chance."""
    recipe = recipe_of(folder, tmp_path)
    alone = recipe.stage[1].model_copy(update={"inputs": {"reward": str(folder)}})
    with pytest.raises(ConfigError, match="a language model, which has no head for scores: name a reward model"):
        pipeline.plan(recipe.model_copy(update={"stage": (alone,)}))
    scoring = {"use": "score", "scorer": {"name": "reward_model", "model": str(folder)}}
    table = {"model": str(folder), "data": {"path": str(tmp_path / "rows.jsonl")}, "stage": [scoring]}
    with pytest.raises(ConfigError, match="a language model, which has no head for scores: name a reward model"):
        pipeline.plan(pipeline.make_recipe(table))


def test_what_is_in_a_category_decides_the_key(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, tmp_path)
    before = [planned.key for planned in pipeline.plan(recipe)]
    assert [planned.key for planned in pipeline.plan(recipe)] == before
    formats.write_data(tiny_model.pairs(9, start=60), tmp_path / "easy.jsonl", format="group")
    after = [planned.key for planned in pipeline.plan(recipe)]
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_files_of_categories_lie_beside_the_recipe(folder: Path, tmp_path: Path) -> None:
    recipe_of(folder, tmp_path)
    (tmp_path / "recipe.toml").write_text(
        f'model = "{folder}"\n[data]\npath = "rows.jsonl"\nheld_out = 0.4\n[[stage]]\nuse = "reward_model"\n'
        '[[stage]]\nuse = "evaluate_reward"\ncategories = { easy = "easy.jsonl" }\n'
    )
    recipe = pipeline.read_recipe(tmp_path / "recipe.toml")
    assert recipe.stage[1].settings["categories"] == {"easy": str(tmp_path / "easy.jsonl")}
    with pytest.raises(ConfigError, match="needs 'reward': put a stage 'reward_model' before it"):
        pipeline.plan(recipe.model_copy(update={"stage": recipe.stage[1:]}))


def test_held_out_rows_without_a_comparison_are_told_before_training(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, tmp_path)
    formats.write_data(tiny_model.demonstrations(4, start=80), tmp_path / "held.jsonl", format="group")
    stage = recipe.stage[1].model_copy(update={"inputs": {"held_out": str(tmp_path / "held.jsonl")}})
    recipe = recipe.model_copy(update={"stage": (recipe.stage[0], stage)})
    with pytest.raises(DataError, match="no comparison to measure"):
        pipeline.run_recipe(recipe, out=tmp_path / "run", reporter=tiny_model.quiet())
    assert not (tmp_path / "run").exists()


class TestAnyScorer:
    """A scorer is measured as a reward model is: here by rules, and by judges behind an endpoint."""

    def measured(self, run: Run, data: list[Group], scorer: Any, **settings: Any) -> dict[str, Any]:
        evaluate_reward(
            tiny_model.context(run, "evaluate_reward"),
            validated(EvaluateReward, {"scorer": scorer, **settings}, "test"),
            tiny_model.given(data),
            Judges("none", {}),
        )
        made = next(artifact for artifact in run.artifacts() if "measured" in artifact.meta)
        assert "of" not in made.meta, "no checkpoint's card shows what is said of another judge"
        found: dict[str, Any] = json.loads((made.path / str(made.meta["measured"])).read_text())
        return found

    def test_by_a_rule(self, runs: Callable[[], Run]) -> None:
        """The letters of the two answers by a plain count."""
        data = rows_held_out()
        found = self.measured(runs(), data, {"name": "length", "unit": "characters"})
        used = data[:12]
        right = weight = 0.0
        for group in used:
            sizes = [len(answer.text) for answer in group.completions]
            pairs = [(i, j) for i in range(len(sizes)) for j in range(i + 1, len(sizes))]
            weight += group.weight
            right += (
                group.weight
                / len(pairs)
                * sum(0.5 + (sizes[i] > sizes[j]) / 2 - (sizes[i] < sizes[j]) / 2 for i, j in pairs)
            )
        assert found["accuracy"]["value"] == pytest.approx(right / weight)
        assert (found["scorer"], found["unit"], found["orders"]) == ("length", "words", None)
        assert found["replies"] == {"asked": 0, "unread": {}}
        assert found["verdict"].startswith("the scorer 'length' orders")
        assert "probabilities" not in found["verdict"]

    def test_by_a_judge_of_two_answers_with_what_it_leaves_unsaid(self, runs: Callable[[], Run]) -> None:
        """Of eight rows it is right on five, wrong on one, moved by the order on one, and silent on one."""
        data = tiny_model.pairs(8)
        kinds = dict(
            zip((group.prompt[0].content for group in data), ("right",) * 5 + ("wrong", "first", "silent"), strict=True)
        )

        def say(body: dict[str, Any]) -> Said:
            request = body["messages"][0]["content"]
            first, second = answers_in(request)
            if not {first, second} <= {"yes", "nope"}:
                return Said("Better: A" if first in ("yes", "nope") else "Better: B")
            kind = next(kind for prompt, kind in kinds.items() if f"\n{prompt}\n" in request)
            letter = {"right": "AB"[first != "yes"], "wrong": "AB"[first == "yes"], "first": "A", "silent": "neither"}[
                kind
            ]
            return Said(f"Better: {letter}")

        run = runs()
        with serving(say) as url:
            judge = {"name": "judge_pairs", "orders": "tie", "model": {"url": url, "model": "m"}}
            found = self.measured(run, data, judge)
        assert found["accuracy"]["value"] == pytest.approx((5 + 0.5) / 7)
        assert (found["comparisons"], found["ties"]) == (7, 1)
        assert found["orders"]["value"] == pytest.approx(6 / 7)
        assert found["replies"] == {"asked": 16, "unread": {UNCLEAR: 2}}
        assert found["unused"] == {f"rows without a score: {UNCLEAR}": 1}
        assert "it says the same in both orders of 86 % [" in found["verdict"]
        assert "2 of its 16 replies say nothing that counts" in found["verdict"]
        (event,) = run.events(kind="controls")
        assert (event["judge"], event["high"], event["scored"]) == ("judge_pairs", 0, 64)

    def test_a_judge_does_not_see_the_better_answer_first(self, runs: Callable[[], Run]) -> None:
        """One that takes the row's first answer for the best is as good as a coin, and not always right."""
        file = Path(__file__)
        found = self.measured(runs(), tiny_model.pairs(40), {"name": "function", "path": f"{file}:first_is_best"})
        assert 0.2 < found["accuracy"]["value"] < 0.8

    def test_settings_that_a_scorer_would_not_hear_of_are_refused(self, folder: Path, tmp_path: Path) -> None:
        for setting in ({"max_length": 9}, {"too_long": "error"}):
            with pytest.raises(ConfigError, match="changes nothing where a scorer is measured"):
                validated(EvaluateReward, {"scorer": "length", **setting}, "test")
        recipe = recipe_of(folder, tmp_path, scorer="length")
        alone = recipe.stage[1].model_copy(update={"inputs": {"reward": str(folder)}})
        with pytest.raises(ConfigError, match="'reward' and 'scorer' both say what is measured"):
            pipeline.plan(recipe.model_copy(update={"stage": (recipe.stage[0], alone)}))
        planned = pipeline.plan(recipe.model_copy(update={"stage": recipe.stage[1:]}))
        assert "reward" not in planned[0].inputs, "it needs none"

    def test_in_a_recipe_with_categories_and_the_best_of_n(self, folder: Path, tmp_path: Path) -> None:
        drawn = {"use": "sample", "answers": 2, "max_new_tokens": 4, "temperature": 1.5}
        recipe = recipe_of(folder, tmp_path, drawn, scorer="length", gold="random", unlabelled="sample")
        run = pipeline.run_recipe(
            recipe.model_copy(update={"stage": recipe.stage[1:]}), out=tmp_path / "run", reporter=tiny_model.quiet()
        )
        found = json.loads(next(run.glob("artifacts/*/reward.json")).read_text())
        assert found["categories"]["accuracy"]["easy"]["value"] == 0.5, "answers of one word each"
        assert [one["n"] for one in found["best_of"]] == [1, 2]
        page = (run / "report.html").read_text()
        assert "How far the scorer can be trusted" in page
        assert "By words that the chosen answer has more" in page or "Accuracy by length" not in page


_PLACES: dict[str, int] = {}


def first_is_best(prompt: list[dict[str, str]], answer: str) -> float:
    """Higher for what is asked about first."""
    _PLACES[prompt[0]["content"]] = _PLACES.get(prompt[0]["content"], 0) - 1
    return float(_PLACES[prompt[0]["content"]])
