"""Each objective at values worked by hand, and the identities its paper states."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.objectives.likelihood import nll
from truing.objectives.pairwise import dpo
from truing.objectives.shared import better, logistic
from truing.tensors import Logprobs, Pair


def answers(*sums):
    """Answers of two tokens each, whose log-probs sum to `sums`."""
    token = torch.tensor([share for total in sums for share in (0.25 * total, 0.75 * total)], dtype=torch.float64)
    completion = torch.repeat_interleave(torch.arange(len(sums)), 2)
    return Logprobs(token.requires_grad_(), completion, len(sums))


def test_nll_is_minus_the_logprob():
    assert nll(answers(-4.0)).value.tolist() == [1.0, 3.0]


class TestDpo:
    POLICY = ((-10.0, -7.0), (-12.0, -5.0))
    REFERENCE = ((-11.0, -6.0), (-11.0, -8.0))
    # chosen log-ratios 1 and -1, rejected -1 and 3: margins 2 and -4 before beta

    def loss(self, **settings):
        policy = Pair(*(answers(*some) for some in self.POLICY))
        reference = Pair(*(answers(*some) for some in self.REFERENCE))
        return policy, dpo(policy, reference, **settings)

    def test_at_the_reference_is_ln_2(self):
        same = Pair(answers(-3.0, -50.0), answers(-9.0, -0.5))
        loss = dpo(same, same)
        assert loss.value.tolist() == [math.log(2)] * 2
        assert loss.stats["reward/accuracy"].tolist() == [0.5, 0.5]
        assert loss.stats["reward/margin"].tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("beta", [0.1, 0.5])
    def test_by_hand(self, beta):
        _, loss = self.loss(beta=beta)
        expected = [math.log(1 + math.exp(-beta * 2)), math.log(1 + math.exp(beta * 4))]
        assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)
        assert loss.stats["reward/margin"].tolist() == pytest.approx([2 * beta, -4 * beta])
        assert loss.stats["reward/chosen"].tolist() == pytest.approx([beta, -beta])
        assert loss.stats["reward/rejected"].tolist() == pytest.approx([-beta, 3 * beta])
        assert loss.stats["reward/accuracy"].tolist() == [1.0, 0.0]
        assert loss.stats["logprob/chosen"].tolist() == [-10.0, -7.0]
        assert loss.stats["logprob/rejected"].tolist() == [-12.0, -5.0]

    def test_label_smoothing_by_hand(self):
        _, loss = self.loss(beta=1.0, label_smoothing=0.25)
        down, up = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
        assert loss.value[0].item() == pytest.approx(0.75 * down + 0.25 * up, rel=1e-12)

    def test_labels_fully_flipped_swap_the_answers(self):
        policy, loss = self.loss(label_smoothing=1.0)
        reference = Pair(*(answers(*some) for some in self.REFERENCE))
        swapped = dpo(Pair(policy.rejected, policy.chosen), Pair(reference.rejected, reference.chosen))
        torch.testing.assert_close(loss.value, swapped.value)

    def test_gradient_by_hand(self):
        """Eq. 8: -beta * sigmoid(-margin) on each token of chosen, the opposite on rejected."""
        policy, loss = self.loss(beta=0.5)
        loss.value.sum().backward()
        slope = [0.5 / (1 + math.exp(0.5 * margin)) for margin in (2, -4)]
        assert policy.chosen.token.grad.tolist() == pytest.approx([-slope[0]] * 2 + [-slope[1]] * 2, rel=1e-12)
        assert policy.rejected.token.grad.tolist() == pytest.approx([slope[0]] * 2 + [slope[1]] * 2, rel=1e-12)

    def test_gradient_signs(self):
        policy, loss = self.loss()
        loss.value.sum().backward()
        assert (policy.chosen.token.grad < 0).all(), "descent must raise the chosen answer"
        assert (policy.rejected.token.grad > 0).all(), "descent must lower the rejected answer"

    @given(st.floats(-50, 50), st.floats(-200, -1), st.floats(-200, -1))
    def test_only_log_ratios_count(self, shift, chosen, rejected):
        """Adding the same to policy and reference of an answer changes nothing."""
        policy, reference = Pair(answers(-4.0), answers(-5.0)), Pair(answers(chosen), answers(rejected))
        moved = Pair(answers(-4.0 + shift), answers(-5.0 - shift))
        moved_reference = Pair(answers(chosen + shift), answers(rejected - shift))
        torch.testing.assert_close(dpo(policy, reference).value, dpo(moved, moved_reference).value, atol=1e-9, rtol=0)


def test_logistic_far_out():
    assert logistic(torch.tensor([1e4, -1e4])).tolist() == [0.0, 1e4]


def test_better_counts_ties_half():
    assert better(torch.tensor([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]
