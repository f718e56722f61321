"""Answers beside one another."""

from __future__ import annotations

import math

import pytest
import torch

from truing.rivals import best_and_worst, geometric_mixture, greedy, paired, reference_alone, win_rate
from truing.tensors import Logprobs


def test_how_rivals_are_drawn():
    assert (greedy(), reference_alone(), geometric_mixture(mixture=0.4)) == (
        {"temperature": 0.0}, {"reference": 1.0}, {"reference": 0.4},
    )  # fmt: skip


class TestWinRate:
    REWARD, GROUP = torch.tensor([1.0, 0.0, 2.0]).double(), torch.tensor([0, 0, 1])
    RIVAL = torch.tensor([0.0, 2.0])

    def test_by_hand(self):
        logistic = win_rate(self.REWARD, self.GROUP, self.RIVAL)
        assert logistic.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 0.5, 0.5])
        assert win_rate(self.REWARD, self.GROUP, self.RIVAL, link="linear").tolist() == [1.0, 0.5, 0.5]

    def test_a_chance_that_was_read_side_by_side_stays_what_it_is(self):
        """The pairwise scorer gives the two answers P and 1 - P."""
        chance = torch.tensor([0.0, 0.31, 1.0])
        found = win_rate(chance, torch.arange(3), 1 - chance, link="linear")
        assert found.tolist() == pytest.approx(chance.tolist(), abs=1e-7)

    @pytest.mark.parametrize("link", ["logistic", "linear"])
    def test_one_wins_as_often_as_the_other_loses(self, link):
        group = torch.arange(3)
        there = win_rate(self.REWARD, group, self.REWARD.flip(0), link=link)
        back = win_rate(self.REWARD.flip(0), group, self.REWARD, link=link)
        assert (there + back).tolist() == pytest.approx([1.0] * 3)


def test_best_and_worst():
    reward = torch.tensor([0.5, 0.9, 0.1, 0.9, 1.0, 1.0, 7.0, 0.0, 1.0])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2, 4, 4])
    assert best_and_worst(reward, group).tolist() == [[1, 2], [8, 7]], "the first of equals; no pair of equals or one"
    assert best_and_worst(reward[:0], group[:0]).shape == (0, 2)


def test_what_is_offered_comes_in_pairs():
    owner = torch.tensor([0, 1, 1, 2])
    found = paired(
        {"policy": Logprobs(torch.tensor([-1.0, -2.0, -3.0, -4.0]), owner, 3), "known": torch.tensor([0.0, 1.0, 0.0])},
        torch.tensor([[1, 0], [1, 2]]),
    )
    assert found["policy"].chosen.sum.tolist() == [-5.0, -5.0]
    assert found["policy"].rejected.sum.tolist() == [-1.0, -4.0]
    assert found["known"].chosen.tolist() == [1.0, 1.0]
    assert found["known"].rejected.tolist() == [0.0, 0.0]
