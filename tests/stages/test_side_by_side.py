"""Win rates by a model that reads two answers at a time, against plain forward passes; and how one is trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_model
import torch

from truing import models
from truing.compute.engine.local import LocalEngine
from truing.costs import Lengths
from truing.errors import ConfigError, DataError
from truing.estimates import sizes_of
from truing.formats import read_groups
from truing.models import read_renderer
from truing.pipeline import make_recipe, plan
from truing.records import Completion, Group, Message, assistant, text, user
from truing.rendering import Renderer
from truing.scoring.duels import LETTERS, duel
from truing.scoring.score import Score, Tools, no_models
from truing.scoring.scorers import make, spelled_out
from truing.signatures import validated
from truing.stages.arranging import judge
from truing.stages.sft import Sft, sft
from truing.stages.side_by_side import SideBySide, duels, side_by_side

LENIENT = {"most": 1.0}

ROW = Group(
    (user("What is tea?"), assistant("A leaf."), user("And rain?")),
    tuple(Completion((assistant(words),)) for words in ("Water.", "The sky is wet.", "No.")),
)


def tools(template: str | None = tiny.PLAIN_TEMPLATE, budget: int = 512) -> Tools:
    loaded = tiny.loaded_model(torch.float64, template=template)
    return Tools(no_models, lambda name: LocalEngine(loaded, trainable=False), budget)


def scores(*groups: Group, template: str | None = tiny.PLAIN_TEMPLATE, budget: int = 512, **settings: Any) -> Any:
    lenient = {"mass": 0.0, "controls": LENIENT}  # weights drawn by chance make no judge
    return make(spelled_out({"name": "pairwise", **lenient, **settings}), tools(template, budget))(groups)


def chance(request: str, template: str | None) -> float:
    """That the first answer is better, by the logits after the whole request."""
    tokenizer = tiny.tokenizer(template)
    turn = [{"role": "user", "content": request}]
    chat = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) if template else request
    with torch.no_grad():
        ids = torch.tensor([tokenizer(chat, add_special_tokens=False)["input_ids"]])
        logits = tiny.plain_model(torch.float64)(ids).logits[0, -1]
    return float(logits[tokenizer.convert_tokens_to_ids(list(LETTERS))].softmax(0)[0])


@pytest.mark.parametrize("template", [tiny.PLAIN_TEMPLATE, None], ids=["turns", "text"])
@pytest.mark.parametrize("budget", [64, 100_000])
def test_win_rates_are_means_over_both_orders(template: str | None, budget: int) -> None:
    plain = Group((text("And rain? "),), tuple(Completion((text(a.text),)) for a in ROW.completions))
    row = ROW if template else plain
    words = [answer.text for answer in row.completions]
    won = {
        (i, j): chance(duel(row.prompt, words[i], words[j]), template) for i, j in itertools.permutations(range(3), 2)
    }
    rate = [sum((won[i, j] + 1 - won[j, i]) / 2 for j in range(3) if j != i) / 2 for i in range(3)]
    (said,) = scores(row, template=template, budget=budget)
    assert [score.value for score in said] == pytest.approx(rate, abs=1e-8)
    assert sum(rate) == pytest.approx(1.5), "half of the comparisons of three answers are lost"
    assert max(rate) - min(rate) > 1e-3


def test_neither_the_order_of_the_answers_nor_other_rows_count() -> None:
    turned = replace(ROW, completions=ROW.completions[::-1])
    other = Group((user("Hi"),), (Completion((assistant("a"),)), Completion((assistant("a"),))))
    usual, same, back = scores(ROW, other, turned)
    assert [score.value for score in back[::-1]] == pytest.approx([score.value for score in usual], abs=1e-9)
    assert [score.value for score in scores(ROW)[0]] == pytest.approx([score.value for score in usual], abs=1e-9)
    assert [score.value for score in same] == pytest.approx([0.5, 0.5]), "of two equal answers none is better"


def test_failures_have_reasons() -> None:
    alone = Group((user("Hi"),), (Completion((assistant("a"),)),))
    assert scores(alone, Group((user("Hi"),))) == [(Score.failed("there is no other answer to compare it with"),), ()]
    (unsure,) = scores(ROW, mass=1.0)
    assert {score.reason for score in unsure} == {
        "the model gives both letters together less than 1 of the probability"
    }
    ((one, other, third),) = scores(ROW, max_length=10)
    assert "and max_length is 10" in one.reason
    assert (one.value, other.value, third.value) == (None, None, None)


def test_a_tokenizer_that_joins_letters_to_other_text_is_refused() -> None:
    joining = tiny.PLAIN_TEMPLATE.replace("m['content']", "'.' + m['content']")
    with pytest.raises(ConfigError, match="the tokenizer writes 'A' as 2 tokens"):
        scores(ROW, template=joining)


def test_a_request_holds_all_that_is_to_be_judged() -> None:
    asked = duel(ROW.prompt, "first {second}", "second")
    assert asked.index("user: What is tea?") < asked.index("assistant: A leaf.") < asked.index("user: And rain?")
    assert asked.index("And rain?") < asked.index("first {second}") < asked.index("\nsecond\n")
    assert "\nHi\n" in duel((Message("user", "Hi"),), "a", "b"), "one request stands by itself"


def ranked() -> Group:
    given = [replace(answer, rank=rank) for rank, answer in enumerate(ROW.completions)]
    return replace(ROW, completions=tuple(given), weight=3.0, extra={"topic": "rain"})


def test_each_comparison_becomes_two_rows_in_both_orders() -> None:
    made = duels(Renderer(tiny.tokenizer()), judge(ranked(), "pair"))
    first, second, third = (answer.text for answer in ROW.completions)
    pairs = [(first, second), (first, third), (second, third)]
    expected = [
        (duel(ROW.prompt, *both), letters)
        for good, bad in pairs
        for both, letters in (((good, bad), ["A", "B"]), ((bad, good), ["B", "A"]))
    ]
    assert [(row.prompt[0].content, [a.text for a in row.completions]) for row in made] == expected
    assert all([answer.rank for answer in row.completions] == [0, 1] for row in made)
    assert sum(row.weight for row in made) == pytest.approx(3.0), "together they weigh what the row did"
    assert {row.extra["topic"] for row in made} == {"rain"}
    assert len(duels(Renderer(tiny.tokenizer()), judge(ranked(), "pair", "best_worst"))) == 2
    (plain, *_) = duels(Renderer(tiny.tokenizer(None)), judge(ranked(), "pair"))
    assert plain.prompt[0].role == "text"


def test_the_stage_counts_rows_that_compare_nothing(folder: Path, runs: Callable[[], Any]) -> None:
    run = runs()
    data = [*tiny_model.pairs(3), *tiny_model.demonstrations(2)]
    arguments = (validated(SideBySide, {}, "test"), tiny_model.model_of(folder))
    side_by_side(tiny_model.context(run, "s"), *arguments, tiny_model.given(data))
    (artifact,) = run.artifacts()
    assert len(read_groups(artifact.path / "groups.jsonl", format="group")) == 6
    (event,) = run.events("s", "data")
    assert (event["rows"], event["used"], sum(event["refused"].values())) == (5, 3, 2)
    assert len(event["refused"]) == 1, "one reason, whatever the row"
    with pytest.raises(DataError, match=r"no row can be put side by side: .* this row has 1 \(2\): bring"):
        side_by_side(tiny_model.context(run, "t", key="t"), *arguments, tiny_model.given(tiny_model.demonstrations(2)))


def test_a_plan_counts_the_requests(folder: Path, tmp_path: Path) -> None:
    """Exactly, of comparisons that are there; and those of answers that are yet to be drawn as if two were compared."""
    stages = [{"use": "side_by_side"}, {"use": "sft", "max_length": 4096}]
    path = str(tiny_model.write_pairs(tmp_path / "prefs.jsonl", 6))
    renderer = read_renderer(str(folder))
    sizes = sizes_of(plan(make_recipe({"model": str(folder), "data": {"path": path}, "stage": stages})), renderer, 0)
    rows = [row for group in read_groups(path) for row in duels(renderer, judge(group, "pair"))]
    assert sizes["sft"] == [Lengths.of(renderer.render(row)) for row in rows]
    drawn = [{"use": "sample", "answers": 3, "max_new_tokens": 9}, {"use": "score", "scorer": "length"}, *stages]
    found = sizes_of(plan(make_recipe({"model": str(folder), "data": {"path": path}, "stage": drawn})), renderer, 0)
    assert len(found["sft"]) == 12
    assert found["sft"][0].answers == sizes["sft"][0].answers
    assert abs(found["sft"][0].prompt - sizes["sft"][0].prompt) < 40


def test_a_judge_that_is_trained_so_tells_answers_apart_that_it_never_saw(
    folder: Path, runs: Callable[[], Any]
) -> None:
    """By SFT on the right letters; the better answer wins in either place."""
    renderer = read_renderer(str(folder))
    rows = [row for group in tiny_model.pairs(12) for row in duels(renderer, judge(group, "pair"))]
    run = runs()
    plan = {"batch_size": 4, "epochs": 20, "learning_rate": 3e-3, "max_length": 2048}
    sft(tiny_model.context(run, "s"), validated(Sft, plan, "test"), tiny_model.model_of(folder), tiny_model.given(rows))
    made = run.checkpoints()[-1].path
    loaded = models.load(str(made), dtype=torch.float32, device=torch.device("cpu"))
    judging = Tools(no_models, lambda name: LocalEngine(loaded, trainable=False))
    held_out = tiny_model.pairs(6, start=40)
    pairwise = spelled_out({"name": "pairwise", "controls": LENIENT})
    said = make(pairwise, judging)(held_out)
    turned = make(pairwise, judging)([replace(group, completions=group.completions[::-1]) for group in held_out])
    for (good, bad), (bad_first, good_second) in zip(said, turned, strict=True):
        assert good.value is not None
        assert good.value > 0.9
        assert good.value == pytest.approx(good_second.value)
        assert bad.value == pytest.approx(bad_first.value)
