"""Grades and difficulty by a language model, against plain forward passes of an ordinary model."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError
from truing.records import Completion, Group, Message, assistant, text, user
from truing.scoring.grades import _total
from truing.scoring.score import Score, Tools, no_models
from truing.scoring.scorers import make, named_in, spelled_out
from truing.selection.expectation import Grade
from truing.selection.turns import Turn, complexity_request, quality_request

TALK = Group(
    (user("What is tea?"), assistant("A leaf."), user("And rain?")),
    (Completion((assistant("Water."),)), Completion((assistant("The sky is wet."),))),
)
TURNS = [Turn("What is tea?", "A leaf."), Turn("And rain?", "Water.")]


def tools(*, template: str | None = tiny.PLAIN_TEMPLATE, budget: int = 512, tokenizer: Any = None) -> Tools:
    loaded = tiny.loaded_model(torch.float64, template=template)
    if tokenizer is not None:
        loaded.renderer.tokenizer = tokenizer
    return Tools(no_models, lambda name: LocalEngine(loaded, trainable=False), budget)


def scores(spec: Any, *groups: Group, **settings: Any) -> list[tuple[Score, ...]]:
    return make(spelled_out(spec), tools(**settings))(groups)


def grade(request: str, *, template: str | None = tiny.PLAIN_TEMPLATE) -> float:
    """By the logits after the whole request, digit by digit."""
    tokenizer = tiny.tokenizer(template)
    turn = [{"role": "user", "content": request}]
    chat = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) if template else request
    ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = tiny.plain_model(torch.float64)(torch.tensor([ids])).logits[0, -1]
    digits = [tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(1, 7)]
    share = logits[digits].softmax(0)
    return sum(k * float(p) for k, p in zip(range(1, 7), share, strict=True))


def of(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "mass": 0.0, **settings}


def test_grades_are_expectations_summed_over_the_turns() -> None:
    complexities = [grade(complexity_request(turn)) for turn in TURNS]
    qualities = [grade(quality_request(turn)) for turn in TURNS]
    assert scores(of("complexity"), TALK)[0][0].value == pytest.approx(sum(complexities), abs=1e-8)
    assert scores(of("quality"), TALK)[0][0].value == pytest.approx(sum(qualities), abs=1e-8)
    products = sum(c * q for c, q in zip(complexities, qualities, strict=True))
    assert scores(of("deita"), TALK)[0][0].value == pytest.approx(products, abs=1e-8)
    assert 1 < complexities[0] < 6


def test_the_products_of_the_turns_are_added_and_not_the_grades_multiplied() -> None:
    turns = [[Grade(2.0, 0.0, 1.0), Grade(5.0, 0.0, 1.0)], [Grade(3.0, 0.0, 1.0), Grade(4.0, 0.0, 1.0)]]
    assert _total(turns, 0.5).value == 2 * 5 + 3 * 4
    unsure = Grade(3.0, 0.0, 0.4)
    assert _total([*turns, [unsure, unsure]], 0.5).value is None, "a turn without a grade leaves the row without one"


def test_every_answer_has_its_own_quality_and_the_row_its_complexity() -> None:
    ((one, other),) = scores(of("quality"), TALK)
    assert one != other
    ((one, other),) = scores(of("complexity"), TALK)
    assert one == other


def test_neither_neighbours_nor_the_budget_change_a_grade() -> None:
    single = Group((user("Rain?"),), (Completion((assistant("Yes."),)),))
    together = scores(of("deita"), TALK, single, TALK)
    alone = [scores(of("deita"), group, budget=100_000)[0] for group in (TALK, single, TALK)]
    for row, same in zip(together, alone, strict=True):
        assert [score.value for score in row] == pytest.approx([score.value for score in same], abs=1e-9)


def test_a_model_without_turns_is_asked_in_plain_text() -> None:
    plain = Group((text("Tea is "),), (Completion((text("a leaf."),)),))
    value = scores(of("complexity"), plain, template=None)[0][0].value
    assert value == pytest.approx(grade(complexity_request(Turn("Tea is ", "a leaf.")), template=None), abs=1e-8)


def test_what_cannot_be_graded_has_failed() -> None:
    bare, silent = Group((user("Rain?"),), (Completion(()),)), Group((), (Completion((assistant("Yes."),)),))
    assert scores(of("complexity"), bare)[0][0].value is not None
    for name, group in (("quality", bare), ("deita", bare), ("complexity", silent)):
        assert scores(of(name), group)[0][0].reason.startswith("no request that is graded")
    assert "max_length is 9" in scores(of("deita", max_length=9), TALK)[0][0].reason
    assert "less than 0.99" in scores(of("deita", mass=0.99), TALK)[0][0].reason


def test_a_tokenizer_that_joins_digits_to_what_ends_a_turn_is_refused() -> None:
    two = tiny.tokenizer(tiny.PLAIN_TEMPLATE.replace("m['content']", "'.' + m['content']"))
    with pytest.raises(ConfigError, match="writes '1' as 2 tokens"):
        make(spelled_out("deita"), tools(tokenizer=two))


def loss(prompt: list[int], answer: list[int], scored: list[int]) -> float:
    """Mean negative log-likelihood of some of an answer's tokens, by a plain forward pass."""
    with torch.no_grad():
        logits = tiny.plain_model(torch.float64)(torch.tensor([prompt + answer])).logits[0]
    found = logits.log_softmax(-1)
    return -sum(float(found[len(prompt) + place - 1, answer[place]]) for place in scored) / len(scored)


@pytest.mark.parametrize("words", ["A leaf in hot water.", "Rain."])
def test_difficulty_is_the_ratio_of_two_plain_passes_over_the_same_tokens(words: str) -> None:
    group = Group((user("What is tea?"),), (Completion((assistant(words),)),))
    tokenizer = tiny.tokenizer()
    turn = [{"role": "user", "content": "What is tea?"}]
    chat = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(chat, add_special_tokens=False)["input_ids"]
    answer = tokenizer(words + tiny.END, add_special_tokens=False)["input_ids"]
    scored = list(range(1, len(answer)))
    ratio = loss(prompt, answer, scored) / loss([], answer, scored)
    ((score,),) = scores("ifd", group)
    if ratio < 1:
        assert score.value == pytest.approx(ratio, abs=1e-8)
    else:
        assert score.reason == "the prompt makes the answer no likelier (IFD of 1 or more)"


def test_difficulty_counts_the_first_token_where_bos_stands_before_it() -> None:
    tokenizer = tiny.tokenizer(None, adds_bos=True)
    group = Group((text("Tea is "),), (Completion((text("a leaf"),)), Completion((text("the wet rain"),))))
    loaded = tiny.loaded_model(torch.float64, template=None)
    renderer = type(loaded.renderer)(tokenizer)
    engine = LocalEngine(type(loaded)(loaded.model, renderer, "tiny"), trainable=False)
    (found,) = make(spelled_out("ifd"), Tools(no_models, lambda name: engine))([group])
    row = renderer.render(group)
    for score, answer in zip(found, row.answers, strict=True):
        tokens, places = list(answer.tokens), list(range(len(answer.tokens)))
        ratio = loss(list(row.prompt), tokens, places) / loss([tokenizer.bos_token_id], tokens, places)
        assert score.value == (pytest.approx(ratio, abs=1e-8) if ratio < 1 else None)
    assert any(score.value is not None for score in found)


def test_rows_that_have_no_difficulty_fail_for_themselves() -> None:
    one_token = Group((text("Tea is "),), (Completion((text(""),)),))
    good = Group((text("Tea is "),), (Completion((text("the leaf"),)),))
    asks = Group((user("What?"),), (Completion((user("Who?"),)),))
    short, fine, wrong = scores("ifd", one_token, good, asks)
    assert short[0].reason == "the answer is too short to have a difficulty"
    assert fine[0].value is not None or "no likelier" in fine[0].reason
    assert "starts with a turn of 'user'" in wrong[0].reason


def test_the_models_that_scorers_name() -> None:
    both = spelled_out({"name": "weighted", "of": ["deita", {"name": "ifd", "model": "m"}, "reward_model"],
                        "weights": [1, 1, 1]})  # fmt: skip
    assert named_in(both, "language_model") == ["", "m"]
    assert named_in(both, "model") == [""]
    with pytest.raises(ConfigError, match="no model here"):
        make(spelled_out("deita"))


def test_a_system_message_is_no_request() -> None:
    told = Group((Message("system", "Be kind."), *TALK.prompt), TALK.completions)
    assert scores(of("complexity"), told) == scores(of("complexity"), TALK)
