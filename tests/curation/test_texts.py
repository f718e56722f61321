from __future__ import annotations

from truing.curation.texts import by_preference, content, messages, normal, question, shingles, words
from truing.records import Completion, Group, Message, assistant, comparison, text, user


def test_words() -> None:
    assert words("Don't STOP, größer! ﬁne ２x") == ["don", "t", "stop", "grösser", "fine", "2x"]
    assert words("我喜欢GPT4 模型。") == ["我", "喜", "欢", "gpt4", "模", "型"]
    assert words("ありがとう") == list("ありがとう")
    assert words("한국어 단어") == ["한국어", "단어"], "Korean parts its words"
    assert words("?! …") == []


def test_shingles() -> None:
    assert shingles("One two, three four", 3) == ["one two three", "two three four"]
    assert shingles("One two", 3) == ["one two"]
    assert shingles("ab", 1) == ["ab"]
    assert shingles("  ?  ! ", 3) == ["? !"], "what has no words is compared as it stands"
    assert shingles("你好世界", 3) == ["你 好 世", "好 世 界"]


def test_normal() -> None:
    assert normal(" a\n\tb\u00a0 c ") == "a b c"
    assert normal("e\u0301") == "\u00e9"
    assert normal("A.") != normal("a")


def test_answers_are_taken_best_first() -> None:
    ranked = Group((user("q"),), (Completion((assistant("b"),), rank=1), Completion((assistant("a"),), rank=0)))
    scored = Group((user("q"),), (Completion((assistant("b"),), score=1.0), Completion((assistant("a"),), score=2.0)))
    for group in (ranked, scored):
        assert [answer.text for answer in by_preference(group)] == ["a", "b"]
        assert [message.content for message in messages(group)] == ["q", "a", "b"]
    tied = comparison((), Completion((text("x"),)), Completion((text("y"),)))
    assert [message.content for message in question(tied)] == ["x", "y"], "without a prompt the text is asked for"


def test_calls_are_part_of_what_a_turn_says() -> None:
    one, other = (Message("assistant", "", {"tool_calls": [{"name": name}]}) for name in ("find", "sum"))
    assert content(one) != content(other)
