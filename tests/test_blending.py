"""Blends: shares, repeats, order and parts, by properties that hold for any sizes, weights and order of files."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.blending import (
    Share,
    bounds,
    drawn,
    interleaved,
    is_held_out,
    opening_hash,
    part,
    prompt_hash,
    quotas,
    repeats,
    within,
)
from truing.records import Completion, Group, Message, assistant, user
from truing.records import text as plain

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)
NAMED = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0.1, 10), min_size=2, max_size=5)


def rows(count: int, name: str = "a") -> list[Group]:
    return [
        Group((user(f"{name} {i}"),), (Completion((assistant("yes"),)),), file=f"{name}.jsonl", line=i + 1)
        for i in range(count)
    ]


@given(st.integers(0, 10_000), WEIGHTS)
def test_each_source_gives_its_share_within_one_row(total: int, weights: list[float]) -> None:
    found = quotas(total, weights)
    assert sum(found) == total
    whole = sum(map(Fraction, weights))
    assert all(abs(count - total * Fraction(w) / whole) < 1 for count, w in zip(found, weights, strict=True))


def test_quotas_by_hand() -> None:
    assert quotas(10, [0.7, 0.3]) == [7, 3]
    assert quotas(10, [1, 1, 1]) == [4, 3, 3]
    assert quotas(7, [2, 4, 4]) == [1, 3, 3]  # 1.4, 2.8, 2.8


@given(st.integers(1, 30), st.integers(0, 100), st.integers(0, 3), st.randoms(use_true_random=False))
def test_rows_repeat_in_whole_passes_and_their_order_in_the_file_is_nothing(
    size: int, count: int, seed: int, random: object
) -> None:
    groups = rows(size)
    taken = drawn(groups, count, seed)
    passes, rest = divmod(count, size)
    seen = Counter(group.line for group in taken)
    assert len(taken) == count
    assert set(seen.values()) <= {passes, passes + 1}
    assert sum(times == passes + 1 for times in seen.values()) == rest or passes == 0
    for number in range(passes):
        assert len({group.line for group in taken[number * size : (number + 1) * size]}) == size
    shuffled = list(groups)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert drawn(shuffled, count, seed) == taken
    assert drawn(groups, count + 1, seed)[:count] == taken, "a larger share keeps what a smaller one took"


def test_the_seed_and_the_pass_change_the_order() -> None:
    groups = rows(50)
    first, again = drawn(groups, 100, 0)[:50], drawn(groups, 100, 0)[50:]
    assert first != again
    assert drawn(groups, 50, 1) != first
    assert first != groups


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_every_stretch_from_the_start_holds_the_shares(sizes: list[int]) -> None:
    sources = [rows(size, name) for size, name in zip(sizes, "abcde", strict=False)]
    blend = interleaved(sources)
    assert len(blend) == sum(sizes)
    for name, source in zip("abcde", sources, strict=False):
        assert [group for group in blend if group.file == f"{name}.jsonl"] == source
    for end in range(1, len(blend) + 1):
        counts = Counter(group.file for group in blend[:end])
        for name, size in zip("abcde", sizes, strict=False):
            assert abs(counts[f"{name}.jsonl"] - end * size / len(blend)) <= len(sizes) / 2 + 0.5


def test_interleaving_by_hand() -> None:
    a, b = rows(4, "a"), rows(2, "b")  # at 1/8, 3/8, 5/8, 7/8 and at 1/4, 3/4
    assert interleaved([a, b]) == [a[0], b[0], a[1], a[2], b[1], a[3]]
    assert interleaved([rows(1, "a"), rows(1, "b"), []]) == [*rows(1, "a"), *rows(1, "b")]


@given(NAMED)
def test_parts_are_disjoint_and_whole_and_the_order_of_their_names_is_nothing(weights: dict[str, float]) -> None:
    groups = rows(200)
    found = {name: part(groups, low, high) for name, (low, high) in bounds(weights).items()}
    together = [group.line for some in found.values() for group in some]
    assert sorted(together) == [group.line for group in groups]
    assert bounds(dict(reversed(weights.items()))) == bounds(weights)
    assert bounds(weights)[min(weights)][0] == 0.0
    assert bounds(weights)[max(weights)][1] == 1.0


def test_parts_have_their_weights_and_have_nothing_to_do_with_holding_out() -> None:
    groups = rows(5000)
    limits = bounds({"sft": 2, "reward_model": 4, "preference": 4})
    assert limits["preference"] == (0.0, 0.4)
    assert bounds({"sft": 1, "reward_model": 2, "preference": 2}) == limits
    for some in (groups, [g for g in groups if is_held_out(g, 0.3)], [g for g in groups if not is_held_out(g, 0.3)]):
        sizes = {name: len(part(some, *limit)) / len(some) for name, limit in limits.items()}
        assert sizes == pytest.approx({"sft": 0.2, "reward_model": 0.4, "preference": 0.4}, abs=0.04)


def test_parts_of_stages_and_of_rounds_have_nothing_to_do_with_each_other() -> None:
    groups = rows(5000)
    half = part(groups, 0.0, 0.5)
    thirds = [part(half, third / 3, (third + 1) / 3, "rounds") for third in range(3)]
    assert sum(map(len, thirds)) == len(half)
    assert [len(third) / len(half) for third in thirds] == pytest.approx([1 / 3] * 3, abs=0.04)
    assert len({group.line for third in thirds for group in third}) == len(half)


def test_one_prompt_is_one_part_whatever_its_answers_and_its_source() -> None:
    prompts = [(user(f"{i}"),) for i in range(30)]
    groups = [
        Group(prompt, (Completion((assistant(answer),)),), file=f"{answer}.jsonl")
        for prompt in prompts
        for answer in ("yes", "no")
    ]
    for low, high in bounds({"a": 1, "b": 1}).values():
        counts = Counter(group.prompt[0].content for group in part(groups, low, high))
        assert counts
        assert set(counts.values()) == {2}


def test_dialogues_that_begin_alike_stay_together() -> None:
    """As in trees of dialogues, in which an answer to one prompt is part of the next."""
    opening = (Message("system", "Be brief."), user("Why?"))
    trees = [
        [Group((*opening[:1], user(f"Why {i}?"), *more)) for more in ((), (assistant("So."), user(f"And {i}?")))]
        for i in range(60)
    ]
    groups = [group for tree in trees for group in tree]
    kept = [group for group in groups if is_held_out(group, 0.5)]
    assert 20 < len(kept) < 100
    assert all(len({is_held_out(group, 0.5) for group in tree}) == 1 for tree in trees)
    for low, high in bounds({"a": 1, "b": 1}).values():
        assert all(len(part(tree, low, high)) in (0, 2) for tree in trees)
    assert opening_hash(Group(opening)) != opening_hash(Group(opening[1:]))
    assert opening_hash(Group(opening)) == prompt_hash(Group(opening))
    alone = Group((), (Completion((assistant("a text"),)),))
    assert opening_hash(alone) == prompt_hash(alone)


def test_plain_text_and_a_turn_are_one_prompt_and_roles_still_count() -> None:
    assert prompt_hash(Group((plain("Why?"),))) == prompt_hash(Group((user("Why?"),)))
    assert prompt_hash(Group((Message("system", "Why?"),))) != prompt_hash(Group((user("Why?"),)))
    assert prompt_hash(Group((user("a"), user("b")))) != prompt_hash(Group((user("ab"),)))


def test_a_share_says_how_often_and_what_to_do() -> None:
    share = Share("small", "small.jsonl", 0.25, has=100, gives=250, different=100)
    assert str(share) == "small: 25 %, 100 of 100 rows of small.jsonl, each 2.5 times"
    (words,) = repeats([share, Share("large", "large.jsonl", 0.75, has=900, gives=750, different=750)])
    assert "its 100 rows give 250 rows of an epoch, so each is seen 2.5 times" in words
    assert words.endswith("or set data.rows = 400 or less")
    assert quotas(400, [0.25, 0.75])[0] == 100
    assert repeats([Share("all", "all.jsonl", None, 5, 5, 5)]) == []
    part_of_it = [*rows(3, "small"), *rows(2, "small")]
    assert within([share], part_of_it) == [Share("small", "small.jsonl", 0.25, has=100, gives=5, different=3)]
