"""Duplicates against plain loops over all pairs."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from truing.curation import duplicates
from truing.curation.duplicates import MISSED, PERMUTATIONS, bands, exact, leaked, near
from truing.records import Completion, Group, Message, assistant, comparison, user

WORDS = [
    "sun",
    "rain",
    "tea",
    "cats",
    "jazz",
    "snow",
    "bread",
    "ships",
    "moss",
    "clay",
    "owls",
    "figs",
    "oats",
    "rope",
    "salt",
    "wind",
]
Row = tuple[str, str, str]


def group(prompt: str, chosen: str, rejected: str) -> Group:
    return comparison((user(prompt),), Completion((assistant(chosen),)), Completion((assistant(rejected),)))


def demonstration(prompt: str, answer: str, label: bool | None = None) -> Group:
    return Group((user(prompt),), (Completion((assistant(answer),), label=label),))


@st.composite
def families(draw: st.DrawFn) -> list[Row]:
    """Rows of a few families: each is a text of its family with some words replaced, in one of its three turns."""
    rows: list[Row] = []
    for _ in range(draw(st.integers(1, 3))):
        base = [draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=30)) for _ in range(3)]
        for _ in range(draw(st.integers(1, 4))):
            turns = [list(turn) for turn in base]
            for _ in range(draw(st.integers(0, 2))):
                turn = draw(st.sampled_from(turns))
                turn[draw(st.integers(0, len(turn) - 1))] = draw(st.sampled_from(WORDS))
            rows.append((" ".join(turns[0]), " ".join(turns[1]), " ".join(turns[2])))
    return draw(st.permutations(rows))


def three_words(text: str) -> set[tuple[str, ...]]:
    said = re.findall(r"\w+", text.lower())
    return {tuple(said)} if len(said) < 3 else {tuple(said[i : i + 3]) for i in range(len(said) - 2)}


def alike(one: Row, other: Row, threshold: float) -> bool:
    for first, second in zip(one, other, strict=True):
        left, right = three_words(first), three_words(second)
        if len(left & right) < threshold * len(left | right):
            return False
    return True


def by_brute_force(rows: list[Row], threshold: float) -> dict[int, int]:
    kept: list[int] = []
    found: dict[int, int] = {}
    for place, row in enumerate(rows):
        like = [other for other in kept if alike(row, rows[other], threshold)]
        if like:
            found[place] = like[0]
        else:
            kept.append(place)
    return found


@given(rows=families(), threshold=st.sampled_from([0.5, 0.75, 0.8, 0.95, 1.0]))
@example(rows=[("a b c d", "x", "y")] * 3, threshold=0.8)
@settings(max_examples=150)
def test_near_duplicates_are_those_of_brute_force(rows: list[Row], threshold: float) -> None:
    groups = [group(*row) for row in rows]
    found = near(groups, threshold, 3)
    assert found == by_brute_force(rows, threshold)
    kept = [one for place, one in enumerate(groups) if place not in found]
    assert near(kept, threshold, 3) == {}, "what is left repeats nothing"


def test_near_duplicates_among_many() -> None:
    """Some hundred rows, one in three a slightly changed copy: brute force finds the same."""
    draw = random.Random(0)
    rows: list[Row] = []
    for _ in range(300):
        if rows and draw.random() < 0.33:
            turns = [turn.split() for turn in draw.choice(rows)]
            turns[draw.randrange(3)][draw.randrange(20)] = draw.choice(WORDS)
            rows.append((" ".join(turns[0]), " ".join(turns[1]), " ".join(turns[2])))
        else:
            words = [" ".join(draw.choices(WORDS, k=60)) for _ in range(3)]
            rows.append((words[0], words[1], words[2]))
    found = near([group(*row) for row in rows], 0.8, 3)
    assert found == by_brute_force(rows, 0.8)
    assert len(found) > 60


def test_a_long_prompt_in_common_makes_no_duplicate() -> None:
    long = " ".join(WORDS * 20)
    rows = [
        Group((Message("system", long), user(f"{word} please")), (Completion((assistant(f"here is {word}"),)),))
        for word in WORDS
    ]
    assert near(rows, 0.8, 3) == {}
    assert near([demonstration(long, "yes"), demonstration(long, "no")], 0.8, 3) == {}
    assert leaked(rows[:1], rows[1:], 0.8, 3) == {}


def test_opposite_labels_are_no_duplicate() -> None:
    opposed = [group("q q q", "a b c d", "e f g h"), group("q q q", "e f g h", "a b c d")]
    thumbs = [demonstration("q", "a", True), demonstration("q", "a", False)]
    for rows in (opposed, thumbs):
        assert exact(rows) == {}
        assert near(rows, 0.8, 3) == {}
        assert exact(rows * 2) == near(rows * 2, 0.8, 3) == {2: 0, 3: 1}


def test_a_comparison_is_the_same_whichever_answer_stands_first() -> None:
    first = Group((user("q"),), (Completion((assistant("a"),), rank=0), Completion((assistant("b"),), rank=1)))
    second = Group((user("q"),), (Completion((assistant("b"),), rank=1), Completion((assistant("a"),), rank=0)))
    assert exact([first, second]) == {1: 0}


def test_exact_is_blind_to_spacing_alone() -> None:
    rows = [
        demonstration("a  b", "c"),
        demonstration("a b", "c\n"),
        demonstration("A b", "c"),
        demonstration("a", "b c"),
    ]
    assert exact(rows) == {1: 0}
    assert exact([Group((user("a"),)), demonstration("a", "")]) == {}, "no answer is not an empty one"


def test_near_is_blind_to_case_and_punctuation() -> None:
    assert near([demonstration("Name a prime!", "Seven."), demonstration("name a prime", "seven")], 1.0, 3) == {1: 0}
    assert near([demonstration("我喜欢吃苹果", "好"), demonstration("我喜欢吃苹果。", "好！")], 1.0, 3) == {1: 0}
    assert near([demonstration("?", "a"), demonstration("!", "a")], 0.8, 3) == {}


def test_the_first_of_a_chain_is_named() -> None:
    """b resembles a, c resembles b only: c is kept, as nothing that is kept is like it."""
    a = " ".join(WORDS[:12])
    b = a.replace("figs", "wind")
    c = b.replace("owls", "salt").replace("sun", "rope")
    rows = [(text, "x", "y") for text in (a, b, c, b)]
    threshold = 0.7
    assert alike(rows[0], rows[1], threshold)
    assert not alike(rows[0], rows[2], threshold)
    assert near([group(*row) for row in rows], threshold, 3) == {1: 0, 3: 0}


def test_of_several_the_earliest_is_named() -> None:
    """Rows 9 and 16 are unlike each other and both like the last: a set of these two numbers begins with 16."""
    rows = [(" ".join(f"{word}{n}" for word in WORDS[:9]), "x", "y") for n in range(17)]
    words = [row.split() for row, _, _ in (rows[9], rows[16])]
    last = (" ".join([*words[0], *words[1]]), "x", "y")
    assert list({9, 16})[0] == 16  # noqa: RUF015
    assert near([group(*row) for row in [*rows, last]], 0.4, 3) == {17: 9} == by_brute_force([*rows, last], 0.4)


@given(rows=families(), cut=st.integers(0, 12), threshold=st.sampled_from([0.0, 0.6, 0.8]))
@settings(max_examples=100)
def test_leaks_are_those_of_brute_force(rows: list[Row], cut: int, threshold: float) -> None:
    groups = [group(*row) for row in rows]
    found = leaked(groups[:cut], groups[cut:], threshold, 3)
    expected = set()
    for place, row in enumerate(rows[:cut]):
        for other in rows[cut:]:
            same = row[0] == other[0]
            if same or (threshold and alike((row[0], "", ""), (other[0], "", ""), threshold)):
                expected.add(place)
    assert set(found) == expected
    for place, other in found.items():
        assert alike((rows[place][0], "", ""), (rows[cut + other][0], "", ""), threshold or 1.0)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8, 0.9, 1.0])
def test_bands_miss_few(threshold: float) -> None:
    count, rows = bands(threshold)
    assert count * rows <= PERMUTATIONS
    assert (1 - threshold**rows) ** count <= MISSED
    longer = PERMUTATIONS // (rows + 1)
    assert longer < 2 or (1 - threshold ** (rows + 1)) ** longer > MISSED


def test_candidates_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different texts are hardly ever compared: otherwise it would be the square of the rows after all."""
    draw, asked = random.Random(1), []
    rows = [group(*(" ".join(draw.choices(WORDS, k=60)) for _ in range(3))) for _ in range(200)]
    original = duplicates.resemble

    def counting(*given: object) -> bool:
        asked.append(given)
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(duplicates, "resemble", counting)
    assert near(rows, 0.8, 3) == {}
    assert len(asked) < 20


MADE = """
import random
from truing.curation.duplicates import leaked, near
from truing.records import Completion, Group, assistant, user

draw = random.Random(0)
rows = []
for _ in range(150):
    words = draw.choice(rows)[1:] if rows and draw.random() < 0.5 else [str(draw.randrange(99)) for _ in range(30)]
    rows.append(["x", *words][: draw.randint(27, 31)])
groups = [Group((user(" ".join(row)),), (Completion((assistant("yes"),)),)) for row in rows]
found = near(groups, 0.7, 3), leaked(groups[:100], groups[100:], 0.7, 3)
"""


def test_the_same_whatever_the_seed_of_hashes() -> None:
    """Sets are in another order in each process, and nothing may show it."""
    here: dict[str, object] = {}
    exec(MADE, here)
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    program = [sys.executable, "-c", f"{MADE}\nprint(found)"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(here["found"])
    assert len(done.stdout) > 500
