"""`truing evaluate`: a suite becomes a recipe, the run holds its table, and a loss has an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from truing import formats, pipeline, report
from truing.cli import main
from truing.errors import ConfigError
from truing.evaluating import SUITES, losses, measured, suite_recipe
from truing.records import Completion, Group, assistant
from truing.scoring.scorers import make

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

PERPLEXITY = '[[stage]]\nuse = "perplexity"\ndata = "texts.jsonl"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of one measurement, a model that was taught its texts by heart, and the same model before."""
    folder = tmp_path_factory.mktemp("evaluate")
    texts = [f"the thin cat {n} sat and then the cat ran in" for n in range(8)]
    tiny_model.write_rows(folder / "texts.jsonl", [{"text": text} for text in texts])
    (folder / "suite.toml").write_text(PERPLEXITY)
    before = tiny_model.save(folder / "before")
    model = AutoModelForCausalLM.from_pretrained(before, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(before)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20):
        for text in texts[:2]:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "after")
    tokenizer.save_pretrained(folder / "after")
    return folder


def test_a_loss_is_named_and_has_an_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    words = ["truing", "evaluate", "before", "--against", "after", "--suite", "suite.toml", "--out", "lost"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 70
    said = capsys.readouterr()
    assert "lost against the base: perplexity (nats per byte" in said.out
    assert "before lost against after: perplexity, nats per byte" in said.err
    assert [row.what for row in losses(Path("lost"))] == ["nats per byte"]
    page = (folder / "lost" / "report.html").read_text()
    assert "Lost against the base: perplexity" in page
    assert 'class="reach bad"' in page
    monkeypatch.setattr("sys.argv", [*words, "--json"])  # what is done is not done twice
    with pytest.raises(SystemExit):
        main()
    again = capsys.readouterr()
    assert "perplexity: done before" in again.err
    assert json.loads(again.out)["lost"][0]["name"] == "perplexity"


def test_a_gain_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    words = ["evaluate", "after", "--against", "before", "--suite", "suite.toml", "--out", "gained"]
    monkeypatch.setattr("sys.argv", ["truing", *words, "perplexity.limit=6"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert "\nno loss shown in 1 test; gained: perplexity" in capsys.readouterr().out
    (row,) = measured(folder / "gained")
    assert row.model.n == 6


def test_a_model_alone_has_numbers_and_no_test(folder: Path) -> None:
    run = pipeline.run_recipe(
        suite_recipe(str(folder / "suite.toml"), str(folder / "after")),
        out=folder / "alone",
        reporter=tiny_model.quiet(),
    )
    (row,) = measured(run)
    assert (row.base, row.difference) == (None, None)
    verdict = pipeline.last_verdict(run)
    assert verdict is not None
    assert verdict.startswith("perplexity: nats per byte ")
    assert "Difference" not in report.build(run).read_text()


def test_measurements_stand_in_any_recipe_and_are_kept_one_by_one(folder: Path) -> None:
    """One more measurement redoes none of the others; the guard is anew."""
    stage = {"use": "perplexity", "data": str(folder / "texts.jsonl"), "model": str(folder / "after")}
    more = {**stage, "name": "again", "limit": 3}
    out = folder / "grown"
    for stages in ([stage, {"use": "guard", "model": stage["model"]}],
                   [stage, more, {"use": "guard", "model": stage["model"]}]):  # fmt: skip
        recipe = pipeline.make_recipe({"model": str(folder / "before"), "stage": stages})
        run = pipeline.run_recipe(recipe, out=out, reporter=tiny_model.quiet())
    assert [row.name for row in measured(run)] == ["perplexity", "again"]
    artifacts = [path.name for path in (out / "artifacts").iterdir()]
    assert sum("superseded" in name for name in artifacts) == 1  # the first guard alone


@pytest.mark.parametrize(
    ("suite", "complaint"),
    [
        ('model = "smollm2"\n' + PERPLEXITY, "a suite names no model"),
        (PERPLEXITY + 'base = "tiny"\n', "perplexity.base: a suite names no model"),
        ('[[stage]]\nuse = "sft"\n', "stage 'sft' measures no model"),
        ('[[stage]]\nuse = "perplexty"\n', "did you mean 'perplexity'"),
        ("seed = 1\n", "a suite has one"),
    ],
)
def test_what_is_no_suite(folder: Path, suite: str, complaint: str) -> None:
    (folder / "bad.toml").write_text(suite)
    with pytest.raises(ConfigError, match=complaint):
        suite_recipe(str(folder / "bad.toml"), "tiny")


def test_an_unknown_suite() -> None:
    with pytest.raises(ConfigError, match="suite 'smal' does not exist; did you mean 'small'"):
        suite_recipe("smal", "tiny")


RIGHT: dict[str, str] = {
    "Say in at most ten words": "It shows ships the way.",
    "Answer with one word only": "Yellow.",
    "Answer only yes or no": "Yes.",
    "Name the first month": "January",
    "Write one sentence on tea": "Tea warms me!",
    "Begin your answer with": "Certainly: a cello.",
    "Describe the moon": "THE MOON IS ROUND.",
    "Describe the wind": "the wind is cold.",
    "Give three reasons": "Here:\n- health\n- money\n- air",
    "List four fruits": "1. fig\n2. pear\n3. plum\n4. kiwi",
    "Reply with JSON and nothing": '{"city": "Lisbon", "country": "Portugal"}',
    "Reply with nothing but": '["red", "blue", "green"]',
    "Reply with JSON alone": '{"answer": 8}',
    "Describe rain without": "Drops fall out of grey clouds.",
    "Tell me about bread": "An oven and flour, no more.",
    "Write two sentences on snow": "Snow is white and cold. It falls in winter.",
    "Put your whole answer": '"Bees make honey."',
    "Write a title": "<<Home again>>",
    "Write two paragraphs": "Trains run.\n\nThey stop too.",
    "What is a bridge": "A way over water.\nThat is all.",
    "Think first": "<think>3 + 4</think><answer>7</answer>",
}
WRONG = "Water, Water and no more, Said he. " * 12


def test_the_small_suite_can_be_kept_to_and_broken() -> None:
    """Of each instruction one answer that keeps to it and one that does not: no check is always right, or never."""
    rows = formats.read_groups(str(SUITES / "instructions.jsonl"))
    scorer = make({"name": "constraints"})
    seen = 0
    for row in rows:
        words = row.prompt[0].content
        keeps = next((answer for start, answer in RIGHT.items() if words.startswith(start)), None)
        answers = [WRONG] if keeps is None else [keeps, WRONG]
        group = Group(row.prompt, tuple(Completion((assistant(text),)) for text in answers), extra=row.extra)
        said = [one.value for one in scorer([group])[0]]
        if keeps is not None:
            assert said[0] == 1, words
            seen += 1
        if "at least 40 words" not in words:
            assert said[-1] == 0, words
    assert seen == len(RIGHT)


def test_the_small_suite_is_planned_whole(folder: Path) -> None:
    recipe = suite_recipe("small", str(folder / "after"), str(folder / "before"))
    planned = pipeline.plan(recipe)
    facts: dict[str, Any] = pipeline.check(recipe, planned)
    assert set(facts["stage_seconds"]) == {stage.name for stage in planned} - {"guard"}
    labels = [row.extra["label"] for row in formats.read_groups(str(SUITES / "refusals.jsonl"))]
    assert labels.count("safe") == labels.count("unsafe") == 16
