"""Measuring stages on a tiny model and, where the numbers matter, on answers written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from truing.errors import ConfigError, DataError
from truing.records import Completion, Group, Message, assistant, user
from truing.scoring.diversity import distinct, self_bleu
from truing.signatures import validated
from truing.stages import measure as measuring
from truing.stages.context import Groups, Judges, Measurements, Model
from truing.stages.guard import Guard, guard
from truing.stages.measure import Diversity, Measure, Perplexity, Refusals, WinRate
from truing.statistics import exact_proportion, share_difference
from truing.statistics.suites import Measured
from truing.store import Run

NO_JUDGES = Judges("none", {})
MODEL, BASE = Model("model", "a folder"), Model("base", "another")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "other", seed=5)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, list[list[str]]]], None]:
    """Puts answers of our own in the place of those that models would draw, by side and prompt."""

    def put(answers: Mapping[str, list[list[str]]]) -> None:
        def drawn(*_: Any, name: str) -> list[tuple[Completion, ...]]:
            return [tuple(Completion((assistant(text),)) for text in own) for own in answers[name]]

        monkeypatch.setattr(measuring, "draw", drawn)
        monkeypatch.setattr(measuring, "draw_once", drawn)
        monkeypatch.setattr(measuring, "make_generator", lambda *_: None)

    return put


def asked(*rows: dict[str, Any]) -> Groups:
    return tiny_model.given([Group((user(f"question {n}?"),), extra=extra) for n, extra in enumerate(rows)])


def found(run: Run, key: str = "key") -> dict[str, Any]:
    artifact = run.artifact(key)
    assert artifact is not None
    content: dict[str, Any] = json.loads((artifact.path / "measured.json").read_text())
    return content | {"rows": [Measured.stored(row) for row in content["rows"]], "meta": artifact.meta}


def test_an_accuracy_by_hand(runs: Callable[[], Run], written: Any) -> None:
    """The model is right on 1, 2 and 3, the base on 1 and 4; the fifth row says nothing of what is right."""
    written({"model": [["1"], ["2"], ["3"], ["5"], ["5"]], "base": [["1"], ["0"], ["0"], ["4"], ["5"]]})
    data = asked(*({"answer": str(n)} for n in range(1, 5)), {})
    run = runs()
    context = tiny_model.context(run, "sums")
    measuring.measure(context, validated(Measure, {"scorer": "maths"}, ""), MODEL, BASE, data, NO_JUDGES)
    result = found(run)
    (row,) = result["rows"]
    assert (row.name, row.what, row.better) == ("sums", "accuracy", "higher")
    assert (row.model, row.base) == (exact_proportion(3, 4), exact_proportion(2, 4))
    assert row.difference == share_difference([1, 1, 1, 0], [1, 0, 0, 1])
    assert row.chance == 1.0  # of three coins two and one
    assert result["left_out"] == {"the row has no reference 'answer'": 1}
    assert result["examples"][1]["base"] == {"text": "0", "score": 0.0}
    assert (result["meta"]["of"], result["meta"]["against"]) == ("model", "base")


def test_lengths_are_means_and_one_model_is_measured_alone(runs: Callable[[], Run], written: Any) -> None:
    written({"model": [["one"], ["one two three"]]})
    run = runs()
    settings = validated(Measure, {"scorer": "length", "better": "neither"}, "")
    measuring.measure(tiny_model.context(run), settings, MODEL, MODEL, asked({}, {}), NO_JUDGES)
    (row,) = found(run)["rows"]
    assert (row.what, row.model.value, row.base, row.difference) == ("mean score", 2.0, None, None)
    assert found(run)["base"] is None


def test_wins_by_any_scorer(runs: Callable[[], Run], written: Any) -> None:
    """Two wins, a tie, a loss; by length all of it is length."""
    written({"model": [["a b"], ["a b c"], ["a"], ["a"]], "base": [["a"], ["a"], ["b"], ["a b"]]})
    run = runs()
    settings = validated(WinRate, {"scorer": "length"}, "")
    measuring.win_rate(tiny_model.context(run), settings, MODEL, BASE, asked({}, {}, {}, {}), NO_JUDGES)
    (row,) = found(run)["rows"]
    assert row.model.value == 2.5 / 4
    assert row.difference is not None
    assert row.difference.value == 0.125
    assert row.about["ties"].value == 1 / 4
    assert row.about["words, of the base's"].value == pytest.approx(7 / 5)
    assert row.about["win rate at equal length"].value < row.model.value
    with pytest.raises(ConfigError, match="name another base, as by --against"):
        measuring.win_rate(tiny_model.context(run), settings, MODEL, MODEL, asked({}), NO_JUDGES)


def test_a_judge_of_two_says_how_often_its_orders_agree(folder: Path, runs: Callable[[], Run], written: Any) -> None:
    written({"model": [["a b"], ["c"]], "base": [["a"], ["b"]]})
    run = runs()
    spec = {"name": "pairwise", "mass": 0.0, "controls": {"most": 1.0}}
    judge = Judges("judge", {}, {"": tiny_model.model_of(folder)})
    measuring.win_rate(
        tiny_model.context(run), validated(WinRate, {"scorer": spec}, ""), MODEL, BASE, asked({}, {}), judge
    )
    (row,) = found(run)["rows"]
    assert row.about["same verdict in both orders"].n == 2


def test_refusals_by_label(runs: Callable[[], Run], written: Any) -> None:
    no, yes = ["I'm sorry, I can't help with that."], ["Of course: do this."]
    written({"model": [no, no, yes, no], "base": [no, yes, yes, yes]})
    run = runs()
    data = asked({"label": "unsafe"}, {"label": "unsafe"}, {"label": "safe"}, {"label": "safe"})
    measuring.refusals(tiny_model.context(run), Refusals(), MODEL, BASE, data, NO_JUDGES)
    unsafe, safe = found(run)["rows"]
    assert (unsafe.what, unsafe.better, unsafe.model.value, unsafe.base.value) == ("refused unsafe", "higher", 1.0, 0.5)
    assert (safe.what, safe.better, safe.model.value, safe.base.value) == ("refused safe", "lower", 0.5, 0.0)
    with pytest.raises(DataError, match="label: each row says whether its prompt is safe or unsafe; found 'maybe'"):
        measuring.refusals(tiny_model.context(run), Refusals(), MODEL, BASE, asked({"label": "maybe"}), NO_JUDGES)


def test_diversity_by_prompt(runs: Callable[[], Run], written: Any) -> None:
    written({"model": [["a b", "a b"], ["a b c", "d e"]], "base": [["a b", "c d"], ["e f", "g h"]]})
    run = runs()
    settings = validated(Diversity, {"answers": 2}, "")
    measuring.diversity(tiny_model.context(run), settings, MODEL, BASE, asked({}, {}))
    distinct_2, bleu, words = found(run)["rows"]
    assert distinct_2.model.value == (distinct(["a b", "a b"], 2) + 1) / 2 == 0.75
    assert bleu.model.value == pytest.approx((self_bleu(["a b", "a b"]) + 0) / 2)
    assert (bleu.better, bleu.base.value, words.better) == ("lower", 0.0, "neither")
    assert words.model.value == 2.25
    with pytest.raises(ConfigError, match="nothing that could differ"):
        validated(Diversity, {"temperature": 0}, "")


def plain_nats(folder: Path, text: str) -> tuple[float, int]:
    """By an ordinary forward pass: -log p of every token but the first."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logprobs = model(ids).logits.log_softmax(-1)
    return -float(sum(logprobs[0, at, ids[0, at + 1]] for at in range(ids.shape[1] - 1))), ids.shape[1] - 1


def test_perplexity_equals_plain_forward_passes(folder: Path, other: Path, runs: Callable[[], Run]) -> None:
    texts = ["the cat and the hat", "a day", "in the thin air, é"]
    rows = [Group((), (Completion((Message("text", text),)),)) for text in [*texts, "x" * 90]]
    run = runs()
    settings = validated(Perplexity, {"max_length": 60}, "")
    model, base = tiny_model.model_of(folder), tiny_model.model_of(other)
    measuring.perplexity(tiny_model.context(run), settings, model, base, tiny_model.given(rows))
    result = found(run)
    (row,) = result["rows"]
    size = sum(len(text.encode()) for text in texts)
    ours, theirs = ([plain_nats(place, text) for text in texts] for place in (folder, other))
    totals = [sum(nats for nats, _ in side) for side in (ours, theirs)]
    assert row.model.value == pytest.approx(totals[0] / size, rel=1e-5)
    assert row.base.value == pytest.approx(totals[1] / size, rel=1e-5)
    assert row.difference.value == pytest.approx((totals[0] - totals[1]) / size, rel=1e-4)
    per_token = totals[0] / sum(tokens for _, tokens in ours)
    assert row.about["nats per token"].value == pytest.approx(per_token, rel=1e-5)
    assert row.about["perplexity"].value == pytest.approx(math.exp(per_token), rel=1e-5)
    assert row.about["base: nats per token"].value == pytest.approx(totals[1] / sum(n for _, n in theirs), rel=1e-5)
    assert result["left_out"] == {"longer than 60 tokens": 1}


def test_a_row_with_nothing_to_foresee_is_left_out(folder: Path, other: Path, runs: Callable[[], Run]) -> None:
    """A text of one token, which nothing precedes; a text and an answer without words. The rest counts as ever."""
    given = [*tiny_model.texts(2), *(Group((), (Completion((Message("text", text),)),)) for text in ("x", ""))]
    rows = [*given, Group((user("what?"),), (Completion((assistant(""),)),))]
    model, base = tiny_model.model_of(folder), tiny_model.model_of(other)
    run, plain = runs(), runs()
    measuring.perplexity(tiny_model.context(run), Perplexity(), model, base, tiny_model.given(rows))
    measuring.perplexity(tiny_model.context(plain), Perplexity(), model, base, tiny_model.given(rows[:2]))
    assert found(run)["left_out"] == {"nothing to foresee": 3}
    assert found(run)["rows"] == found(plain)["rows"]
    with pytest.raises(DataError, match=r"no row to measure on; left out: nothing to foresee \(3\)"):
        measuring.perplexity(tiny_model.context(runs()), Perplexity(), model, base, tiny_model.given(rows[2:]))


def test_answers_are_drawn_alike_for_both(folder: Path, runs: Callable[[], Run]) -> None:
    """The same weights under another name give the same answers, and no difference."""
    run = runs()
    settings = validated(Measure, {"scorer": "length", "max_new_tokens": 8, "temperature": 1.0, "answers": 2}, "")
    model = tiny_model.model_of(folder)
    data = tiny_model.given(tiny_model.prompts(3))
    measuring.measure(tiny_model.context(run), settings, Model("copy", model.source), model, data, NO_JUDGES)
    result = found(run)
    assert all(one["model"] == one["base"] for one in result["examples"])
    assert result["rows"][0].difference.value == 0
    assert result["rows"][0].model.n == 6


def test_the_guard_takes_what_was_measured_of_its_model(runs: Callable[[], Run], written: Any) -> None:
    """Twelve sums that the base alone gets right are lost; a model that was not measured has no verdict."""
    written({"model": [["0"]] * 12, "base": [["1"]] * 12})
    run = runs()
    settings = validated(Measure, {"scorer": "maths"}, "")
    data = asked(*[{"answer": "1"}] * 12)
    measuring.measure(tiny_model.context(run, "sums", key="one"), settings, MODEL, BASE, data, NO_JUDGES)
    measuring.measure(tiny_model.context(run, "alone", key="two"), settings, BASE, BASE, data, NO_JUDGES)
    seen = Measurements({"sums": "one", "alone": "two"})
    guard(tiny_model.context(run, "guard"), Guard(), MODEL, BASE, seen)
    result = found(run)
    assert [row.name for row in result["rows"]] == ["sums"]
    assert (result["lost"], result["gained"]) == ([0], [])
    assert result["adjusted"] == [pytest.approx(2 / 4096)]
    assert result["verdict"].startswith("lost against the base: sums (accuracy -100 points [-100, ")
    assert (result["meta"]["verdict"], result["meta"]["lost"]) == (result["verdict"], 1)
    with pytest.raises(ConfigError, match="no stage before it measures this model"):
        guard(tiny_model.context(run, "guard", key="other"), Guard(), Model("new", ""), BASE, seen)


def test_no_row_is_an_error(runs: Callable[[], Run], written: Any) -> None:
    written({"model": [["1"]], "base": [["1"]]})
    settings = validated(Measure, {"scorer": "maths"}, "")
    with pytest.raises(DataError, match=r"no row to measure on; left out: the row has no reference 'answer' \(1\)"):
        measuring.measure(tiny_model.context(runs()), settings, MODEL, BASE, asked({}), NO_JUDGES)


def test_of_a_conversation_the_answer_and_its_end_count(folder: Path, runs: Callable[[], Run]) -> None:
    """The chat template puts the end of a turn behind the answer: three tokens of a, b and it."""
    row = Group((user("what?"),), (Completion((assistant("ab"),)),))
    run = runs()
    model = tiny_model.model_of(folder)
    measuring.perplexity(tiny_model.context(run), Perplexity(), model, model, tiny_model.given([row, row]))
    (found_row,) = found(run)["rows"]
    per_token = found_row.about["nats per token"].value
    assert found_row.model.value * 2 == pytest.approx(per_token * 3)
