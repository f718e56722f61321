"""Selection: which rows go on, what is said of those that do not, and that nothing is computed twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_model
import torch

from truing import formats
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError
from truing.estimates import check
from truing.models import sentence
from truing.models.sentence import SentenceModel
from truing.pipeline import make_recipe, plan, read_recipe, run_recipe
from truing.records import Completion, Group, assistant, comparison, user
from truing.scoring.score import Score
from truing.signatures import validated
from truing.stages import score as scoring
from truing.stages import select as stage
from truing.stages.context import Judges, Model
from truing.stages.select import ALIKE, BEYOND, Select, head, row_means, row_text, select
from truing.store import Artifact, Run


def row(prompt: str, *texts: str) -> Group:
    return Group((user(prompt),), tuple(Completion((assistant(text),)) for text in texts))


ROWS = [row("a?", "one"), row("b?", "one two three"), row("c?", "one two"), row("d?", "one two three four")]


def artifact(run: Run) -> Artifact:
    return next(artifact for artifact in run.artifacts() if "groups" in artifact.meta)


def selected(run: Run, data: list[Group], encoder: Model | None = None, **settings: Any) -> list[Group]:
    context = tiny_model.context(run, "select")
    judges = Judges("none", {}, {"": encoder} if encoder else {})
    select(context, validated(Select, settings, "test"), tiny_model.given(data), judges, encoder)
    return formats.read_groups(artifact(run).path / "groups.jsonl", format="group")


def prompts(groups: list[Group]) -> str:
    return "".join(group.prompt[0].content[0] for group in groups)


def found(run: Run) -> dict[str, Any]:
    return dict(json.loads((artifact(run).path / "selection.json").read_text()))


def test_the_best_rows_go_on_in_the_order_of_the_data(runs: Callable[[], Run]) -> None:
    run = runs()
    made = selected(run, ROWS, by="length", keep=2, similarity="none")
    assert prompts(made) == "bd"
    assert [group.extra["selection"]["score"] for group in made] == [3.0, 4.0]
    assert [answer.score for group in made for answer in group.completions] == [None, None]
    assert found(run)["refused"] == {BEYOND: 2}
    assert [one["score"] for one in found(run)["best"]] == [4.0, 3.0]
    assert [one["score"] for one in found(run)["worst"]] == [1.0, 2.0, 3.0, 4.0]
    assert (found(run)["words"]["every row"][0], found(run)["words"]["kept"][0]) == (1.0, 3.0)
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"]) == (4, 2)


@pytest.mark.parametrize(("keep", "count"), [(1, 1), (1.0, 4), (0.5, 2), (0.01, 1), (99, 4)])
def test_a_whole_number_counts_rows_and_a_fraction_is_their_share(
    keep: float, count: int, runs: Callable[[], Run]
) -> None:
    assert len(selected(runs(), ROWS, by="random", keep=keep, similarity="none")) == count


def test_the_preferred_answer_speaks_for_a_row(runs: Callable[[], Run]) -> None:
    ranked = comparison((user("r"),), Completion((assistant("one two"),)), Completion((assistant("one two three"),)))
    turned = Group(ranked.prompt, ranked.completions[::-1])
    assert head(ranked).completions == head(turned).completions == ranked.completions[:1]
    rated = Group((), tuple(Completion((), score=score) for score in (1.0, 3.0, 2.0)))
    assert head(rated).completions[0].score == 3.0
    made = selected(runs(), [*ROWS, ranked], by="length", keep=0.8, similarity="none")
    assert made[-1].completions == ranked.completions
    assert made[-1].extra["selection"]["score"] == 2.0


def test_what_has_no_score_is_left_out_and_counted(runs: Callable[[], Run]) -> None:
    own = {"name": "function", "path": f"{__file__}:fails_on_one"}
    run = runs()
    assert prompts(selected(run, ROWS, by=own, keep=1.0, similarity="none")) == "bcd"
    ((reason, count),) = found(run)["refused"].items()
    assert "is too short" in reason
    assert count == 1
    with pytest.raises(DataError, match="no row with a score"):
        selected(runs(), ROWS[:1], by=own, similarity="none")


def fails_on_one(prompt: object, answer: str) -> float:
    """A scorer of somebody's own."""
    if answer == "one":
        raise ValueError("it is too short")
    return float(len(answer))


def test_no_two_rows_are_alike(folder: Path, runs: Callable[[], Run]) -> None:
    data = [row("why is it so?", "because it is so"), *ROWS, row("why is it so?", "because it is so")]
    run = runs()
    made = selected(run, data, tiny_model.model_of(folder), by="length", keep=1.0, similarity=0.999)
    assert len(made) == 5
    assert made[0].prompt == data[0].prompt
    assert found(run)["refused"] == {ALIKE: 1}
    (pair,) = found(run)["alike"]
    assert pair["cosine"] == pytest.approx(1, abs=1e-6)
    assert pair["row"]["answer"] == pair["better"]["answer"] == "because it is so"


def test_prompts_alone_are_graded_and_compared(folder: Path, runs: Callable[[], Run]) -> None:
    data = [*tiny_model.prompts(6), *tiny_model.prompts(1)]
    by = {"name": "complexity", "mass": 0.0}
    made = selected(runs(), data, tiny_model.model_of(folder), by=by, keep=1.0, similarity=0.9999)
    assert [group.prompt for group in made] == [group.prompt for group in data[:6]]


def test_a_rows_vector_is_the_mean_over_its_tokens() -> None:
    loaded = tiny.loaded_model(torch.float64)
    engine = LocalEngine(loaded, trainable=False)
    groups = [*ROWS, *tiny_model.prompts(2)]
    vectors = row_means(engine, groups, 64)
    for group, vector in zip(groups, vectors, strict=True):
        whole = engine.renderer.render(group)
        path = [*whole.prompt, *(token for answer in whole.answers for token in answer.tokens)]
        with torch.no_grad():
            states = tiny.plain_model(torch.float64).model(torch.tensor([path])).last_hidden_state[0]
        np.testing.assert_allclose(vector, states.mean(0).numpy(), rtol=0, atol=1e-6)


def test_hidden_states_are_compared_less_what_all_of_them_share(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "row_means", lambda engine, groups, budget: 100 + np.eye(len(groups), dtype=np.float32))
    made = selected(runs(), ROWS, tiny_model.model_of(folder), by="length", keep=1.0)
    assert prompts(made) == "abcd"


def test_an_interruption_loses_one_part_at_most(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PART", 2)
    monkeypatch.setattr(scoring, "PART", 2)
    scored: list[str] = []
    embedded: list[str] = []
    real = row_means

    def counting(_: Any, __: Any) -> Any:
        def say(groups: Any) -> list[tuple[Score, ...]]:
            scored.extend(group.prompt[0].content[0] for group in groups)
            return [(Score.of(1.0),) for _ in groups]

        return say

    def embed(engine: Any, groups: Any, budget: int) -> Any:
        embedded.extend(group.prompt[0].content[0] for group in groups)
        if embedded == list("abcd"):
            raise KeyboardInterrupt
        return real(engine, groups, budget)

    monkeypatch.setattr(scoring, "make", counting)
    monkeypatch.setattr(stage, "row_means", embed)
    run, encoder = runs(), tiny_model.model_of(folder)
    with pytest.raises(KeyboardInterrupt):
        selected(run, ROWS, encoder, by="length", keep=1.0, similarity=1.0)
    assert prompts(selected(run, ROWS, encoder, by="length", keep=1.0, similarity=1.0)) == "abcd"
    assert "".join(scored) == "abcd"
    assert "".join(embedded) == "abcdcd"


def save_sentence_model(path: Path, pooling: str = "mean") -> Path:
    """An encoder with random weights and the tiny tokenizer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    settings = {"vocab_size": tiny.VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**settings, intermediate_size=16, max_position_embeddings=12)).save_pretrained(path)
    tiny.tokenizer(None).save_pretrained(path)
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}_tokens": True}))
    return path


def test_sentence_models_read_texts_without_padding_and_cut_long_ones(tmp_path: Path) -> None:
    from transformers import BertModel

    source = save_sentence_model(tmp_path / "bert")
    assert sentence.is_sentence_model(str(source))
    texts = ["one", "two", "a b c", "a very long text of many words", "one"]
    vectors = SentenceModel(str(source), torch.device("cpu")).embed(texts)
    plain = BertModel.from_pretrained(source).eval()
    for text, vector in zip(texts, vectors, strict=True):
        ids = tiny.tokenizer(None)(text)["input_ids"][:12]
        with torch.no_grad():
            states = plain(torch.tensor([ids])).last_hidden_state[0]
        np.testing.assert_allclose(vector, states.mean(0).numpy(), rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="mean over its tokens"):
        SentenceModel(str(save_sentence_model(tmp_path / "cls", "cls")), torch.device("cpu"))


def test_the_installed_sentence_model_knows_what_is_alike() -> None:
    texts = ["How do I boil an egg?", "What is the way to boil an egg?", "Who wrote Hamlet?"]
    vectors = SentenceModel(sentence.installed(), torch.device("cpu")).embed(texts)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near, far = unit[0] @ unit[1], unit[0] @ unit[2]
    assert near > 0.9
    assert far < 0.2


def test_a_rows_text_has_all_its_words() -> None:
    assert row_text(row("a?", "one")) == "a?\n\none"


def table(folder: Path, rows: Path, **settings: Any) -> dict[str, Any]:
    return {"model": str(folder), "data": {"path": str(rows)}, "stage": [{"use": "select", **settings}]}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    formats.write_data([row(f"why {i} is?", "one " * (i % 5 + 1)) for i in range(10)], tmp_path / "rows.jsonl",
                       format="group")  # fmt: skip
    return tmp_path / "rows.jsonl"


def test_a_recipe_that_selects_and_trains_by_the_model_made_before(folder: Path, rows: Path, tmp_path: Path) -> None:
    recipe = table(folder, rows, by={"name": "deita", "mass": 0.0}, keep=0.4, similarity=0.99, embeddings="first")
    trained = {"use": "sft", "batch_size": 4}
    recipe["stage"] = [{**trained, "name": "first"}, *recipe["stage"], {**trained, "name": "second"}]
    run = run_recipe(make_recipe(recipe), out=tmp_path / "run")
    assert len(Run.read(run).artifacts()) == 5  # two trainings, the selection, its scores and its vectors
    made = next(a for a in Run.read(run).artifacts() if "selection" in a.meta)
    selection = json.loads((made.path / "selection.json").read_text())
    assert "artifacts" in selection["encoder"] or "checkpoint" in selection["encoder"]
    assert selection["kept"] <= 4
    page = (run / "report.html").read_text()
    assert f"{selection['kept']} of 10 rows kept, by deita" in page
    assert "Words of the answers" in page


def test_what_decides_a_selection_is_in_its_key(folder: Path, rows: Path, tmp_path: Path) -> None:
    other = tiny_model.save(tmp_path / "other", seed=1)

    def keys(**settings: Any) -> list[str]:
        return [plan(make_recipe(table(model, rows, **settings)))[-1].key for model in (folder, other)]

    own = keys(by="deita", similarity="none")
    assert own[0] != own[1]
    named = keys(by={"name": "deita", "model": str(folder)}, similarity="none")
    assert named[0] == named[1]
    compared = keys(by="length", embeddings=str(folder))
    assert compared[0] == compared[1] != keys(by="length", embeddings=str(other))[0]
    assert len(set(keys(by="length", similarity="none"))) == 1


def test_auto_takes_the_sentence_model_that_is_installed(
    folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_sentence_model(tmp_path / "bert")
    for place in (str(source), ""):
        monkeypatch.setattr(sentence, "installed", lambda place=place: place)
        (planned,) = plan(make_recipe(table(folder, rows, by="length")))
        assert planned.inputs["encoder"].source == (place or str(folder))
    monkeypatch.setattr(sentence, "installed", lambda: str(source))
    run = run_recipe(make_recipe(table(folder, rows, by="length", keep=0.5)), out=tmp_path / "run")
    made = next(a for a in Run.read(run).artifacts() if "selection" in a.meta)
    assert json.loads((made.path / "selection.json").read_text())["encoder"] == str(source)


def test_a_folder_beside_a_recipe_is_meant_relative_to_it(folder: Path, rows: Path, tmp_path: Path) -> None:
    save_sentence_model(tmp_path / "bert")
    lines = [f'model = "{folder}"', "[data]", f'path = "{rows}"', "[[stage]]"]
    lines += ['use = "select"', 'by = "length"', 'embeddings = "bert"']
    (tmp_path / "recipe.toml").write_text("\n".join(lines))
    (planned,) = plan(read_recipe(tmp_path / "recipe.toml"))
    assert planned.inputs["encoder"].source == str(tmp_path / "bert")


def test_a_plan_counts_the_rows_that_go_on(folder: Path, rows: Path) -> None:
    steps = {}
    for keep in (2, 1.0):
        settings = table(folder, rows, by={"name": "deita", "mass": 0.0}, keep=keep, embeddings=str(folder))
        settings["stage"].append({"use": "sft", "batch_size": 1, "epochs": 1})
        recipe = make_recipe(settings)
        facts = check(recipe, plan(recipe))
        assert facts["stage_seconds"]["select"] > 0
        steps[keep] = facts["training"]["sft"]["steps"]
    assert steps == {2: 2, 1.0: 10}


def test_refusals(folder: Path, rows: Path) -> None:
    for settings, message in (
        ({"by": "deito"}, "did you mean"),
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"similarity": 1.5}, "similarity"),
        ({"embeddings": "./none"}, "no model there"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan(make_recipe(table(folder, rows, **settings)))
