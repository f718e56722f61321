"""Variants: what asks for them, which replies are none, and that each keeps where it comes from."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from truing import formats
from truing.errors import DataError
from truing.records import Group, from_json, to_json, user
from truing.selection.evolution import (
    COPY,
    EARLIER,
    EMPTY,
    TALK,
    WAYS,
    Variant,
    chains,
    degenerate,
    from_group,
    grown,
    growth_request,
    seed_of,
    to_group,
    way_of,
)
from truing.selection.turns import Turn

DATA = Path(os.environ.get("TRUING_DATA") or Path(__file__).parents[3] / "shared" / "data")
TEA = Turn("What is tea?", "A leaf.")


def test_a_chain_keeps_where_each_variant_comes_from() -> None:
    seed = seed_of("complexity", TEA)
    first = grown(seed, 1, "depth", "Why do people drink tea?")
    third = grown(first, 3, "steps", "Plan a tea house.")
    assert seed == Variant("complexity", seed.seed, 0, "", None, Turn("What is tea?", ""))
    assert (third.seed, third.round, third.way, third.parent) == (seed.seed, 3, "steps", 1)
    assert third.turn == Turn("Plan a tea house.", "")
    better = grown(seed_of("quality", TEA), 1, "detail", "The dried leaf of Camellia sinensis.")
    assert better.turn == Turn("What is tea?", "The dried leaf of Camellia sinensis.")
    assert better.seed != seed.seed


def test_a_variant_as_a_row_is_the_variant_again_on_disk_too() -> None:
    quality = grown(seed_of("quality", TEA), 2, "ideas", "Warm water that a leaf has talked to.")
    for variant in (seed_of("complexity", TEA), seed_of("quality", TEA), quality):
        row = to_group(variant)
        assert from_group(row) == from_group(from_json(to_json(row))) == variant
    assert to_group(seed_of("complexity", TEA)).completions == ()
    assert to_group(quality).extra["evolution"]["way"] == "ideas"


@pytest.mark.parametrize(
    "extra",
    [{}, {"evolution": 3}, {"evolution": {"kind": "size", "seed": "a", "round": 0}}, {"evolution": {"seed": 1}}],
)
def test_other_rows_are_no_variants(extra: dict[str, object]) -> None:
    with pytest.raises(DataError, match="no variant of a seed: put a stage 'evolve' before"):
        from_group(Group((user("a"),), extra=extra))


@pytest.mark.parametrize("kind", ["complexity", "quality"])
def test_every_way_is_gone_once_before_any_is_gone_twice(kind: str) -> None:
    count = len(WAYS[kind])
    orders = set()
    for number in range(20):
        seed = seed_of(kind, Turn(f"request {number}", "answer"))
        ways = [way_of(seed, turn, 7) for turn in range(1, 2 * count + 1)]
        assert set(ways[:count]) == set(WAYS[kind])
        assert ways[:count] == ways[count:]
        orders.add(tuple(ways[:count]))
        assert ways == [way_of(seed, turn, 7) for turn in range(1, 2 * count + 1)]
    assert len(orders) > 10, "the order belongs to the chain"
    assert any(way_of(seed, turn, 7) != way_of(seed, turn, 8) for turn in range(1, count + 1))


def test_a_request_for_growth_holds_the_texts_word_for_word_and_one_way() -> None:
    turn = Turn("Say {way} {variant}", "No {turn}")
    for kind, ways in WAYS.items():
        for name, words in ways.items():
            asked = growth_request(seed_of(kind, turn), name)
            assert "<<<\nSay {way} {variant}\n>>>" in asked
            assert ("<<<\nNo {turn}\n>>>" in asked) == (kind == "quality")
            assert words in asked
            assert not any(other in asked for other in ways.values() if other != words)


def test_replies_that_are_no_variants() -> None:
    seed = seed_of("complexity", TEA)
    chain = [seed, grown(seed, 1, "depth", "Why tea?")]
    for text, reason in (
        (" \n", EMPTY),
        ("why TEA", COPY),
        ("what is tea", EARLIER),
        ("Here is the rewritten request: Why does tea calm?", TALK),
        ("The original question was too easy. Why does tea calm?", TALK),
        ("**Improved request:** Why does tea calm?", TALK),
        ("Rewritten question:\nWhy does tea calm?", TALK),
        ("Sure! Here’s a question that asks for more: Why does tea calm?", TALK),
        ("Why does tea calm? I have rephrased the question so that it asks for a cause.", TALK),
        ("The user could ask why tea calms.", TALK),
        ("Why does tea calm? The user asked what it is.", TALK),
        ("<<<\nWhy does tea calm?\n>>>", TALK),
        ("<<< Why does tea calm?", TALK),
        ("Why does tea calm?\n>>> ", TALK),
        ("Why does tea calm?", ""),
    ):
        assert degenerate(text, chain) == reason, text


@pytest.mark.parametrize(
    "text",
    [
        "Write a login form in HTML that tells the user why a password was refused.",
        "Draft a landing page and revise it for phones.",
        "Explain the original question of Fermat, and why the given answer took so long.",
        "Rewrite this paragraph of the contract so that a child understands it.",
        "Write an improved version of this function: it must not recurse.",
        "Sure: tea is a leaf. Here is an example of a better answer to thirst.",
        "What does it print?\n>>> len('tea')\n3",
        "What does `cat <<< tea` do, and how does >>> differ from >>?",
        "Resolve this:\n<<<<<<< HEAD\ntea\n=======\nrain\n>>>>>>> main",
        "Make an app in which the user can ask a question and the assistant may answer later.",
    ],
)
def test_ordinary_texts_are_no_talk(text: str) -> None:
    assert degenerate(text, [seed_of("complexity", TEA)]) == ""
    assert degenerate(text, [seed_of("quality", TEA)]) == ""


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not at {DATA}: set TRUING_DATA to its folder")
def test_requests_and_answers_of_real_data_are_no_talk() -> None:
    """They were written by nobody who was asked to rewrite."""
    seed = seed_of("complexity", Turn("", ""))
    for name, count in (("codegen", 4535), ("roleplay", 1923)):
        groups = formats.read_groups(DATA / "gpteacher" / f"{name}.jsonl.gz")
        texts = [text for group in groups for text in (group.prompt[-1].content, group.completions[0].text)]
        assert len(texts) == 2 * count
        assert [text for text in texts if degenerate(text, [seed]) == TALK] == []


def test_what_the_person_speaks_of_is_no_talk_about_the_rewriting() -> None:
    seed = seed_of("complexity", Turn("Rewrite this sentence.", ""))
    assert degenerate("Revise this sentence for a child of six.", [seed]) == ""
    asked = seed_of("quality", Turn("What did Fermat write? The original question of Fermat is lost.", "A proof."))
    answer = "The original question was whether a cube is the sum of two."
    assert degenerate(answer, [asked]) == TALK
    asked = seed_of("quality", Turn("The original question of Fermat: what is it?", "A riddle."))
    assert degenerate(answer, [asked]) == ""


def test_rows_find_their_chains_in_any_order() -> None:
    seeds = [seed_of(kind, Turn(f"{name}?", "a")) for name in "xy" for kind in ("complexity", "quality")]
    whole = [[seed, grown(seed, 1, "depth", "b"), grown(seed, 4, "depth", "c")] for seed in seeds]
    rows = [variant for chain in whole for variant in chain]
    assert chains(rows) == whole
    turned = chains(rows[::-1])
    assert sorted(turned, key=whole.index) == whole
    assert all(one.round < other.round for chain in turned for one, other in pairwise(chain))


def test_a_text_stands_in_a_chain_once() -> None:
    """Rows come twice where the variants of two runs over the same seeds are put together."""
    seed = seed_of("complexity", TEA)
    first, other = grown(seed, 1, "depth", "Why tea?"), grown(seed, 1, "steps", "Plan a tea house.")
    later = grown(other, 2, "depth", "Why tea?")
    assert chains([seed, first, seed, other, later, first]) == [[seed, first, other]]
    assert len(chains([seed, seed_of("quality", TEA)])) == 2
