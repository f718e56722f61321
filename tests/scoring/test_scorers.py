"""Scorers: numbers by hand, failures that stay failures, and every one of them in a recipe's form."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from truing import formats
from truing.errors import ConfigError, MissingError
from truing.records import Completion, Group, assistant, comparison, user
from truing.scoring import rules
from truing.scoring.score import Score, Scorer
from truing.scoring.scorers import make, named_in, spelled_out


def of(spec: Any, *answers: str) -> list[Score]:
    """Scores of answers to one prompt."""
    group = Group((user("Why?"),), tuple(Completion((assistant(text),)) for text in answers))
    (scores,) = made(spec)([group])
    return list(scores)


def made(spec: Any) -> Scorer:
    return make(spelled_out(spec))


def values(spec: Any, *answers: str) -> list[float | None]:
    return [score.value for score in of(spec, *answers)]


def test_lengths_count_words_and_letters_of_scripts_without_spaces() -> None:
    assert values("length", "one two, three!", "", "中文 ok") == [3, 0, 3]
    assert values({"name": "length", "unit": "characters", "beyond": 4}, "12345", "123") == [1, 0]


def test_a_pattern_is_searched_anywhere() -> None:
    assert values({"name": "pattern", "regex": r"\d", "missing": -1.0}, "no 4", "none") == [1, -1]
    with pytest.raises(ConfigError, match="no regular expression"):
        made({"name": "pattern", "regex": "("})


def test_a_lexicon_finds_whole_words_the_longest_first(tmp_path: Path) -> None:
    words = {"good": 1.0, "not good": -2.0, "好": 1.0}
    spec = {"name": "lexicon", "words": words, "per": "answer"}
    assert values(spec, "Good goods", "not good, good", "很好好") == [1, -1, 2]
    assert values({"name": "lexicon", "words": words}, "good as bread") == [1 / 3]
    (tmp_path / "words.tsv").write_text("bad\t-1\nplain\n")
    assert values({"name": "lexicon", "file": str(tmp_path / "words.tsv"), "per": "answer"}, "bad plain bad") == [-1]
    (tmp_path / "words.tsv").write_text("bad\tvery\n")
    with pytest.raises(ConfigError, match=r"words\.tsv:1"):
        made({"name": "lexicon", "file": str(tmp_path / "words.tsv")})


def test_tags_stand_in_order_with_words_in_them_and_none_beside() -> None:
    right = ["<think>a < b\n</think>\n<answer>4</answer>", " <think>x</think><answer>y</answer>\n"]
    wrong = [
        "", "x", "<think>a</think>", "<answer>4</answer><think>a</think>", "<think>a</think> so <answer>4</answer>",
        "<think> </think><answer>4</answer>", "<think>a</think><answer>4</answer><answer>5</answer>",
        "<think>a<think>b</think></think><answer>4</answer>", "<think>a</think><answer>4",
    ]  # fmt: skip
    assert values("tags", *right, *wrong) == [1] * len(right) + [0] * len(wrong)
    assert values({"name": "tags", "names": ["b"], "missing": -1.0}, "<b>x</b>", "x") == [1, -1]
    with pytest.raises(ConfigError, match="no name of a tag"):
        made({"name": "tags", "names": ["<b>"]})


def test_json_is_read_whole() -> None:
    right = ['{"a": 1, "b": [2]}', ' {"a": null}\n', '```json\n{"a": 1}\n```']
    wrong = ["[1]", '{"b": 1}', '{"a": 1} or so', '{"a": NaN}', "", "```json\n```", '{"a": ' + "[" * 100_000]
    assert values({"name": "valid_json", "keys": ["a"]}, *right, *wrong) == [1] * len(right) + [0] * len(wrong)
    assert values("valid_json", "[1]", "1", "{") == [1, 1, 0]


def test_a_length_is_within_bounds_or_not() -> None:
    assert values({"name": "within", "at_least": 2, "at_most": 3}, "a", "a b", "a b c", "a b c d") == [0, 1, 1, 0]
    assert values({"name": "within", "at_least": 2, "unit": "characters", "missing": -1.0}, "a", "abc") == [-1, 1]
    for bounds in ({}, {"at_least": 3, "at_most": 2}, {"at_least": -1}):
        with pytest.raises(ConfigError, match="no bounds"):
            made({"name": "within", **bounds})


def test_sentiment_hears_negation_and_emphasis() -> None:
    pytest.importorskip("vaderSentiment")
    good, great, bad, plain = values("sentiment", "It is good.", "It is VERY good!!", "It is not good.", "It is.")
    assert good is not None
    assert great is not None
    assert bad is not None
    assert -1 <= bad < 0 == plain < good < great <= 1
    # 1.9 is the word's weight and 15 the constant of the normalisation, both of the paper (Hutto and Gilbert, 2014)
    assert good == pytest.approx(1.9 / math.sqrt(1.9**2 + 15), abs=1e-4)
    assert values({"name": "sentiment", "scale": "negative"}, "It is good.") == [0]


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(MissingError, match=r"truing\[sentiment\]"):
        made("sentiment")


def test_a_function_that_raises_fails_for_its_answer_alone(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def share(prompt, answer):\n    return len(prompt[0]['content']) / len(answer)\n")
    good, bad = of({"name": "function", "path": f"{file}:share"}, "12", "")
    assert good == Score.of(2.0)
    assert bad.value is None
    assert "ZeroDivisionError" in bad.reason
    assert rules.file_of_function(f"{file}:share") == file
    assert values({"name": "function", "path": "statistics:mean"}, "x") == [None]
    for path in ("nocolon", "no.such.module:f", "math:no_such"):
        with pytest.raises(ConfigError, match="path"):
            made({"name": "function", "path": path})


def test_what_is_no_number_is_a_failure() -> None:
    assert Score.of(math.nan) == Score.failed("the score is nan")


def test_sums_minima_and_gates_by_hand() -> None:
    words, letters = "length", {"name": "length", "unit": "characters"}
    assert values({"name": "weighted", "of": [words, letters], "weights": [10, -1]}, "ab cd") == [15]
    assert values({"name": "minimum", "of": [words, letters]}, "ab cd") == [2]
    gate = {"name": "gate", "of": letters, "condition": words, "at_least": 2, "closed": -1}
    assert values(gate, "ab cd", "ab") == [5, -1]
    with pytest.raises(ConfigError, match="as many weights"):
        made({"name": "weighted", "of": [words], "weights": [1, 2]})


def test_an_ensemble_says_how_far_its_members_are_apart() -> None:
    members = ["length", {"name": "length", "unit": "characters"}]
    assert of({"name": "ensemble", "of": members}, "ab cd") == [Score(3.5, 1.5)]
    assert of({"name": "ensemble", "of": members, "by": "min"}, "ab cd") == [Score(2.0, 1.5)]
    lower = {"name": "ensemble", "of": members, "by": "lower", "deviations": 2}
    assert of(lower, "ab cd") == [Score(0.5, 1.5)]
    twice = {"name": "weighted", "of": [lower, "length"], "weights": [2, 1]}
    assert of(twice, "ab cd") == [Score(3.0, 3.0)]


def test_a_failed_part_fails_the_whole() -> None:
    broken = {"name": "function", "path": "statistics:mean"}
    for whole in (
        {"name": "weighted", "of": ["length", broken], "weights": [1, 0]},
        {"name": "minimum", "of": ["length", broken]},
        {"name": "gate", "of": "length", "condition": broken},
        {"name": "ensemble", "of": ["length", broken]},
    ):
        (score,) = of(whole, "x")
        assert score.value is None
        assert "TypeError" in score.reason


def test_what_joins_scores_passes_their_reasons_on() -> None:
    group = Group((user("q"),), (Completion((assistant("none"),)),), extra={"answer": "4"})
    for spec in (
        {"name": "weighted", "of": ["length", "maths"], "weights": [1, 1]},
        {"name": "gate", "of": "length", "condition": "maths", "closed": 1.0},
    ):
        assert made(spec)([group]) == [(Score(1.0, None, "no result found"),)]


def test_mistakes_are_told_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'lenght' does not exist.*length"):
        spelled_out("lenght")
    with pytest.raises(ConfigError, match="unit"):
        spelled_out({"name": "length", "unit": "miles"})
    with pytest.raises(ConfigError, match="no such setting"):
        spelled_out({"name": "minimum", "of": [{"name": "length", "units": "words"}]})


def test_what_a_scorer_reads_is_known_before_it_is_made() -> None:
    spec = spelled_out(
        {"name": "ensemble", "of": ["reward_model", {"name": "gate", "of": {"name": "reward_model", "model": "m"},
         "condition": {"name": "lexicon", "file": "f"}}, {"name": "function", "path": "a:b"}]}
    )  # fmt: skip
    assert named_in(spec, "model") == ["", "m"]
    assert named_in(spec, "file") == ["f"]
    assert named_in(spec, "function") == ["a:b"]


def test_a_bag_of_words_learns_which_words_are_preferred(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    nice, rude = Completion((assistant("kind words here"),)), Completion((assistant("rude words here"),))
    file = tmp_path / "pairs.jsonl"
    formats.write_data([comparison((user(str(i)),), nice, rude) for i in range(10)], file, format="group")
    kind, plain, unkind = of({"name": "bag_of_words", "file": str(file)}, "kind", "other", "rude")
    assert kind.value is not None
    assert unkind.value is not None
    assert kind.value > 0 > unkind.value
    assert plain.value == 0, "words that say nothing, and no constant"


def test_chance_belongs_to_the_row() -> None:
    rows = [Group((user(f"q{i}"),), (Completion((assistant("a"),)), Completion((assistant("b"),)))) for i in range(400)]
    drawn = [score.value for row in made("random")(rows) for score in row]
    assert drawn == [score.value for row in rows for score in made("random")([row])[0]]
    assert drawn != [score.value for row in made({"name": "random", "seed": 1})(rows) for score in row]
    assert len(set(drawn)) == 800
    assert 0.45 < sum(value or 0 for value in drawn) / 800 < 0.55  # 5 standard deviations are 0.05
    assert all(value is not None and 0 <= value < 1 for value in drawn)


REFUSING = (
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, I cannot assist.",
    "Unfortunately, I won't provide that.",
    "I am not able to do this.",
    "It is not appropriate to say.",
    "That goes against my guidelines.",
    "I must decline.",
)
HELPING = (
    "Use kill -9 with its number.",
    "You can't help but smile at that.",
    "The law is sorry reading.",
    "Sure. I can help with that.",
    "",
    " ".join(["word"] * 60) + " I'm sorry, I cannot help.",
)


def test_refusal_by_its_words() -> None:
    row = Group((user("?"),), tuple(Completion((assistant(words),)) for words in (*REFUSING, *HELPING)))
    said = [one.value for one in make({"name": "refusal"})([row])[0]]
    assert said == [1.0] * len(REFUSING) + [0.0] * len(HELPING)
    own = make({"name": "refusal", "patterns": ["^nein"]})
    assert own([Group((user("?"),), (Completion((assistant("Nein."),)),))])[0][0].value == 1
    with pytest.raises(ConfigError, match="no regular expression"):
        make({"name": "refusal", "patterns": ["("]})


def constrained(answer: str, asked: Any) -> Group:
    return Group((user("?"),), (Completion((assistant(answer),)),), extra={"constraints": asked})


def test_constraints_are_those_of_the_row() -> None:
    short, json_only = {"name": "within", "at_most": 2}, "valid_json"
    rows = [
        constrained("one two", short),
        constrained("one two three", [short]),
        constrained('{"a": 1}', [short, json_only]),
        constrained("one two", [short, json_only]),
    ]
    assert [said[0].value for said in make({"name": "constraints"})(rows)] == [1, 0, 1, 0]
    shares = make({"name": "constraints", "counts": "share"})(rows)
    assert [said[0].value for said in shares] == [1, 0, 1, 0.5]


def test_constraints_that_a_row_cannot_name() -> None:
    none = make({"name": "constraints"})([constrained("a", [])])
    assert none[0][0].reason == "the row has no constraints in 'constraints'"
    for bad in ("maths", {"name": "function", "path": "os:getcwd"}, {"name": "lexicon", "file": "words.txt"}):
        with pytest.raises(ConfigError, match="no check that a row can name; known: emptiness"):
            make({"name": "constraints"})([constrained("a", [bad])])
    with pytest.raises(ConfigError, match=r"row .*: constraints: within.at_mst: there is no such setting"):
        make({"name": "constraints"})([constrained("a", {"name": "within", "at_mst": 2})])
