"""Rows to forests: nothing is lost, nothing is cut, and every scored token knows its place."""

from __future__ import annotations

import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.packing import deal, forest, pack
from truing.rendering import Answer, Row
from truing.tensors import Tree

shapes = st.lists(
    st.tuples(st.integers(0, 6), st.lists(st.integers(0, 5), min_size=1, max_size=4)), min_size=1, max_size=8
)


def test_by_hand():
    rows = [
        Row((10, 11), (Answer((20, 21), (True, True)), Answer((30,), (True,))), 4),
        Row((12,), (Answer((40, 41, 42), (False, True, False)),), 7),
    ]
    made = forest(rows)
    assert made.tokens.tolist() == [10, 11, 20, 21, 30, 12, 40, 41, 42]
    assert made.positions.tolist() == [0, 1, 2, 3, 2, 0, 1, 2, 3]
    assert made.trees == (Tree(slice(0, 2), (slice(2, 4), slice(4, 5))), Tree(slice(5, 6), (slice(6, 9),)))
    assert made.hidden_row.tolist() == [1, 2, 1, 6]
    assert made.target.tolist() == [20, 21, 30, 41]
    assert made.completion.tolist() == [0, 0, 1, 2]
    assert made.group.tolist() == [0, 0, 1]
    assert made.rows == (4, 7)
    assert len(made) == 9


def test_without_a_prompt_the_first_token_has_no_predictor():
    made = forest([tiny.row([], [5, 6, 7]), tiny.row([1], [2])])
    assert made.target.tolist() == [6, 7, 2]
    assert made.hidden_row.tolist() == [0, 1, 3]


@given(shapes, st.integers(1, 40))
def test_every_row_once_within_the_budget(shapes, budget):
    rows = tiny.random_rows(0, shapes)
    packed = pack(rows, budget)
    assert sorted(index for some in packed for index in some.rows) == list(range(len(rows)))
    for some in packed:
        assert len(some) == sum(len(rows[index]) for index in some.rows)
        assert len(some) <= budget or len(some.rows) == 1
        assert list(some.rows) == sorted(some.rows)
        assert torch.all(some.completion.diff() >= 0)
    # any two forests that fit together would have been one
    sizes = sorted(len(some) for some in packed)
    assert len(sizes) < 2 or sizes[0] + sizes[1] > budget


def test_shares_by_hand():
    rows = tiny.random_rows(0, [(3, (2,)), (1, (1,)), (4, (5,)), (2, (2,)), (2, (1, 1))])
    assert [len(row) for row in rows] == [5, 2, 9, 4, 4]
    assert [[row.index for row in share] for share in deal(rows, 2)] == [[2, 4], [0, 3, 1]]
    assert [[row.index for row in share] for share in deal(rows, 7)] == [[2], [0], [3], [4], [1], [], []]


@given(shapes, st.integers(1, 5))
def test_every_row_is_in_one_share_and_shares_are_alike(shapes, count):
    rows = tiny.random_rows(0, shapes)
    shares = deal(rows, count)
    assert sorted(row.index for share in shares for row in share) == list(range(len(rows)))
    assert deal(rows[::-1], count) == shares
    assert len(shares) == count
    assert shares[0], "the first one has a row if any has"
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= max(map(len, rows))


def test_one_share_packs_as_all_rows_do():
    rows = tiny.random_rows(3, [(3, (2,)), (1, (1,)), (4, (5,)), (2, (2,)), (2, (1, 1))])
    assert [made.rows for made in pack(deal(rows, 1)[0], 10)] == [made.rows for made in pack(rows, 10)]


@given(shapes)
def test_predictors_stand_before_their_targets(shapes):
    rows = tiny.random_rows(1, shapes)
    made = forest(rows)
    for predictor, target, answer in zip(
        made.hidden_row.tolist(), made.target.tolist(), made.completion.tolist(), strict=True
    ):
        tree = made.trees[int(made.group[answer])]
        first = int((made.group[:answer] == made.group[answer]).sum())
        own = tree.answers[first]
        path = [*range(tree.prompt.start, tree.prompt.stop), *range(own.start, own.stop)]
        following = path[path.index(predictor) + 1]
        assert int(made.tokens[following]) == target
        assert int(made.positions[following]) == int(made.positions[predictor]) + 1


def test_order_of_the_rows_does_not_matter():
    rows = tiny.random_rows(2, [(3, [2, 2]), (3, [2, 2]), (9, [1]), (1, [1])])
    one, other = pack(rows, 12), pack(rows[::-1], 12)
    assert [some.rows for some in one] == [some.rows for some in other]
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(one, other, strict=True))
