from __future__ import annotations

import pytest

from truing.curation import quality
from truing.records import Completion, Group, Message, assistant, comparison, text, user


def answered(*answers: str, prompt: str = "q") -> Group:
    return Group((user(prompt),), tuple(Completion((assistant(answer),)) for answer in answers))


def test_equal_answers() -> None:
    def compared(first: str, second: str) -> Group:
        return comparison((user("q"),), Completion((assistant(first),)), Completion((assistant(second),)))

    assert quality.equal_answers(compared("a b", " a  b\n"))
    assert not quality.equal_answers(compared("a", "A"))
    assert not quality.equal_answers(answered("a", "a")), "nobody said that one is better"
    scored = Group(
        (user("q"),), tuple(Completion((assistant(a),), score=s) for a, s in (("a", 1.0), ("b", 2.0), ("a", 3.0)))
    )
    assert quality.equal_answers(scored)


def test_empty() -> None:
    assert quality.empty(answered("a", " \n"))
    assert quality.empty(answered("a", prompt="  "))
    assert quality.empty(Group(()))
    assert not quality.empty(Group((user("q"),)))
    assert not quality.empty(Group((), (Completion((text("just text"),)),)))
    call = Message("assistant", "", {"tool_calls": [{"name": "f"}]})
    assert not quality.empty(Group((user("q"),), (Completion((call,)),)))


def test_broken_unicode() -> None:
    assert quality.broken_unicode(answered("it\ufffds"))
    assert quality.broken_unicode(answered("a", prompt="\ufffd"))
    assert not quality.broken_unicode(answered("it’s 好 🙂"))


@pytest.mark.parametrize(
    ("answer", "is_open"),
    [
        ("```python\nx = 1\n```", False),
        ("```python\nx = 1\n", True),
        ("Here:\n   ```\nx\n   ```\nand\n```\ny", True),
        ("say ```x``` inline", False),
        ("```x``` at the start of a line", False),
        ("~~~\n```\n~~~", False),
        ("````\n```\n````", False),
        ("```\n````", False),
        ("````\n```", True),
        ("```\n```python", True),
    ],
)
def test_open_fence(answer: str, is_open: bool) -> None:
    assert quality.open_fence(answered("fine", answer)) == is_open


@pytest.mark.parametrize(
    ("answer", "times", "loops"),
    [
        ("no\n" * 8, 8, True),
        ("no\n" * 7, 8, False),
        ("start\n" + "a b\n\n  c\n" * 4 + "end", 4, True),
        ("a b\nc\n" * 3 + "a b\nd", 4, False),
        ("a\nb\nc\nd\n" * 3, 3, True),
        ("a\nb\nc\nd\ne\n" * 3, 3, False),
        ("|---|\n" * 20, 8, False),
        ("1\n2\n" * 2 + "1\n", 3, False),
    ],
)
def test_loops(answer: str, times: int, loops: bool) -> None:
    assert quality.looping(answered("fine", answer), times) == loops


def test_lengths() -> None:
    row = answered("four", "sixsix", prompt="five5")
    assert not quality.prompt_beyond(row, 5, 5)
    assert quality.prompt_beyond(row, 6, None)
    assert quality.prompt_beyond(row, 0, 4)
    assert not quality.answer_beyond(row, 4, 6)
    assert quality.answer_beyond(row, 5, None)
    assert quality.answer_beyond(row, 0, 5)
    assert not quality.prompt_beyond(Group((), (Completion((text("x"),)),)), 5, None)
