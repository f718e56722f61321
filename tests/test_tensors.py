"""What PerToken says of its answers, against plain sums in Python."""

import math

import pytest
import torch

from truing.tensors import Logprobs


def test_the_sum_of_a_long_answer_keeps_what_an_early_step_moves():
    """Thousands of nats in float32 tokens: their sum is exact to far less than a thousandth of a nat."""
    lengths = (4096, 1, 1500)
    token = -12.0 * torch.rand(sum(lengths), generator=torch.Generator().manual_seed(0))
    completion = torch.arange(3).repeat_interleave(torch.tensor(lengths))
    found = Logprobs(token, completion, 3)
    expected = [math.fsum(answer.tolist()) for answer in token.split(lengths)]
    assert found.sum.tolist() == pytest.approx(expected, abs=1e-8, rel=0)
    means = [total / length for total, length in zip(expected, lengths, strict=True)]
    assert found.mean.tolist() == pytest.approx(means, abs=1e-8, rel=0)


def test_gradients_of_a_sum_are_of_the_tokens_own_width():
    token = torch.zeros(3, requires_grad=True)
    Logprobs(token, torch.tensor([0, 0, 1]), 2).sum.pow(2).sum().backward()
    assert token.grad is not None
    assert token.grad.dtype == torch.float32


def test_an_answer_without_tokens_has_sum_and_length_zero():
    nothing = Logprobs(torch.tensor([-1.0]), torch.tensor([1]), 3)
    assert nothing.sum.tolist() == [0.0, -1.0, 0.0]
    assert nothing.length.tolist() == [0.0, 1.0, 0.0]
    assert nothing.mean.tolist() == [0.0, -1.0, 0.0]
