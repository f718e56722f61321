"""Weights and divisors: worked by hand, and the same however a step is cut."""

from __future__ import annotations

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.packing import forest, pack
from truing.reductions import divisor, scored_tokens, token_weights
from truing.tensors import Logprobs

ROWS = [tiny.row([1], [2, 3], [4, 5, 6, 7], index=0, weight=2.0), tiny.row([1], [2], index=1, weight=0.5)]
REDUCTIONS = ["token_mean", "sequence_mean", "sequence_sum"]


@pytest.mark.parametrize(
    ("reduction", "weights", "of"),
    [
        ("token_mean", [2, 2, 2, 2, 2, 2, 0.5], 2 * 6 + 0.5),
        ("sequence_mean", [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5], 2 * 2 + 0.5),
        ("sequence_sum", [2, 2, 2, 2, 2, 2, 0.5], 2 * 2 + 0.5),
    ],
)
def test_by_hand(reduction, weights, of):
    assert token_weights(forest(ROWS), ROWS, reduction).tolist() == weights
    assert divisor(ROWS, reduction) == of


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
@given(
    shapes=st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(2, 5), min_size=1, max_size=3)), min_size=1),
    budget=st.integers(1, 30),
)
def test_means_of_a_constant_are_the_constant(reduction, shapes, budget):
    rows = tiny.random_rows(0, shapes)
    total = sum(float(token_weights(some, rows, reduction).sum()) for some in pack(rows, budget))
    assert total == pytest.approx(divisor(rows, reduction), rel=1e-5)


def test_scored_tokens_are_those_of_the_forest():
    for row in (tiny.row([1], [2, 3], [4]), tiny.row([], [2, 3], [4]), tiny.row([1], [])):
        assert scored_tokens(row) == len(forest([row]).target)


class TestLogprobs:
    MADE = Logprobs(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0, 0, 2]), 3)

    def test_by_hand(self):
        assert self.MADE.sum.tolist() == [-3.0, 0.0, -4.0]
        assert self.MADE.length.tolist() == [2.0, 0.0, 1.0]
        assert self.MADE.mean.tolist() == [-1.5, 0.0, -4.0]

    def test_select_renumbers(self):
        kept = self.MADE.select(torch.tensor([1, 2]))
        assert (kept.token.tolist(), kept.completion.tolist(), kept.count) == ([-4.0], [1], 2)

    def test_detach(self):
        token = torch.tensor([-1.0], requires_grad=True)
        assert not Logprobs(token, torch.tensor([0]), 1).detach().token.requires_grad
