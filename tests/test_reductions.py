"""Weights and divisors: worked by hand, and the same however a step is cut."""

from __future__ import annotations

from typing import get_args

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.packing import forest, pack
from truing.reductions import OnlineReduction, divisor, scored_tokens, step_weights, token_weights
from truing.tensors import Logprobs, PerToken

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


class TestOnlineSteps:
    """Three answers of 1, 3 and 2 tokens and one of none; the first two answer one prompt, of weight 2."""

    COMPLETION = torch.tensor([0, 1, 1, 1, 2, 2])
    GROUP = torch.tensor([0, 0, 1, 1])
    WEIGHT = torch.tensor([2.0, 2.0, 1.0, 1.0])

    def weights(self, reduction):
        return step_weights(self.COMPLETION, self.GROUP, self.WEIGHT, reduction, limit=10)

    @pytest.mark.parametrize(
        ("reduction", "tokens", "of"),
        [
            ("token_mean", [2, 2, 2, 2, 1, 1], 2 * 4 + 2),
            ("group_mean", [0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 2 + 1),
            ("sequence_mean", [2, 2 / 3, 2 / 3, 2 / 3, 0.5, 0.5], 2 + 2 + 1 + 1),
            ("sequence_sum", [2, 2, 2, 2, 1, 1], 2 + 2 + 1 + 1),
            ("constant", [2, 2, 2, 2, 1, 1], 10 * (2 + 2 + 1 + 1)),
        ],
    )
    def test_by_hand(self, reduction, tokens, of):
        weights, divisor = self.weights(reduction)
        assert weights.token.tolist() == pytest.approx(tokens)
        assert divisor == of

    @pytest.mark.parametrize("reduction", ["token_mean", "group_mean"])
    def test_means_of_a_constant_are_the_constant(self, reduction):
        weights, divisor = self.weights(reduction)
        assert float(weights.token.sum()) == pytest.approx(divisor)

    def test_prompts_count_alike_whatever_answers_of_theirs_are_dropped(self):
        """Of the first prompt the long answer is dropped, of a third all: against a plain loop over the others."""
        completion = torch.tensor([0, 1, 1, 1, 2, 2, 4, 4])
        group, weight = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([2.0, 0.0, 1.0, 1.0, 0.0])
        loss = torch.tensor([3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0], dtype=torch.float64)
        weights, divisor = step_weights(completion, group, weight, "group_mean", limit=10)
        total, of = 0.0, 0.0
        for prompt in range(3):
            own = [answer for answer in range(5) if group[answer] == prompt and weight[answer] > 0]
            losses = [float(loss[token]) for token in range(8) if int(completion[token]) in own]
            if own:
                total += float(weight[own[0]]) * sum(losses) / len(losses)
                of += float(weight[own[0]])
        assert float((weights.token * loss).sum()) == pytest.approx(total)
        assert divisor == pytest.approx(of)

    @pytest.mark.parametrize("reduction", get_args(OnlineReduction))
    def test_a_sum_over_parts_is_that_of_the_step(self, reduction):
        weights, divisor = self.weights(reduction)
        value = PerToken(torch.arange(6.0), self.COMPLETION, 4)
        whole = float((weights.token * value.token).sum()) / divisor
        for cut in ([[0, 1, 2, 3]], [[3, 1], [2, 0]], [[2], [0], [1], [3]]):
            parts = [torch.tensor(part) for part in cut]
            summed = sum(float((weights.select(p).token * value.select(p).token).sum()) for p in parts)
            assert summed / divisor == pytest.approx(whole)
