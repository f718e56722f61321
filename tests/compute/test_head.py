"""The log-prob head against a full log-softmax, its gradient against finite differences."""

from __future__ import annotations

import pytest
import torch

from truing.compute import head
from truing.compute.head import CHUNK, token_logprobs


def inputs(rows, dtype=torch.float64, width=6, vocabulary=11):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    target = torch.randint(vocabulary, (rows,), generator=generator)
    return hidden, weight, target


def plainly(hidden, weight, target, temperature):
    return ((hidden @ weight.T) / temperature).log_softmax(1).gather(1, target[:, None])[:, 0]


@pytest.mark.parametrize("rows", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_log_softmax_and_its_gradient(rows, temperature):
    hidden, weight, target = inputs(rows)
    scale = torch.randn(rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = token_logprobs(hidden, weight, target, temperature)
    expected = plainly(hidden, weight, target, temperature)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    ours = torch.autograd.grad((got * scale).sum(), (hidden, weight))
    theirs = torch.autograd.grad((expected * scale).sum(), (hidden, weight))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_gradient_by_finite_differences(temperature, monkeypatch):
    monkeypatch.setattr(head, "CHUNK", 2)
    hidden, weight, target = inputs(5, width=3, vocabulary=4)
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, target, temperature), (hidden, weight))


def test_no_rows():
    hidden, weight, target = inputs(0)
    got = token_logprobs(hidden, weight, target)
    got.sum().backward()
    assert got.shape == (0,)
    assert weight.grad.abs().sum() == 0


def test_frozen_head():
    hidden, weight, target = inputs(4)
    token_logprobs(hidden, weight.detach(), target).sum().backward()
    assert hidden.grad.abs().sum() > 0


def test_large_logits_do_not_overflow():
    hidden, weight, target = inputs(4, torch.float32)
    got = token_logprobs(hidden.detach() * 1e4, weight, target)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, plainly(hidden.detach() * 1e4, weight, target, 1.0))


def test_bf16_gives_fp32_and_gradients_in_bf16():
    hidden, weight, target = inputs(CHUNK + 5, torch.bfloat16)
    got = token_logprobs(hidden, weight, target)
    got.sum().backward()
    assert (got.dtype, hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(got, plainly(hidden, weight, target, 1.0).float(), rtol=0.02, atol=0.1)
    wide, wide_weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    plainly(wide, wide_weight, target, 1.0).sum().backward()
    torch.testing.assert_close(weight.grad.double(), wide_weight.grad, rtol=0.02, atol=0.3)
