"""The log-prob head against a full log-softmax, its gradient against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from truing.compute import head
from truing.compute.head import CHUNK, Head, token_logprobs, token_statistics


def inputs(rows, dtype=torch.float64, width=6, vocabulary=11, seed=0):
    generator = torch.Generator().manual_seed(rows + 1000 * seed)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    target = torch.randint(vocabulary, (rows,), generator=generator)
    return hidden, weight, target


def plainly(hidden, weight, target, temperature):
    return ((hidden @ weight.T) / temperature).log_softmax(1).gather(1, target[:, None])[:, 0]


@pytest.fixture(params=["kept", "made again"])
def logits(request, monkeypatch):
    """Whether the logits fit into what is kept for the backward pass."""
    if request.param == "made again":
        monkeypatch.setattr(head, "KEPT", 1)


@pytest.mark.usefixtures("logits")
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
    monkeypatch.setattr(head, "KEPT", 1)  # kept logits serve one backward pass, and this takes several
    hidden, weight, target = inputs(5, width=3, vocabulary=4)
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, target, temperature), (hidden, weight))


def test_kept_logits_serve_one_backward_pass():
    hidden, weight, target = inputs(5)
    got = token_logprobs(hidden, weight, target).sum()
    got.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        got.backward()


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


BESIDES = {"concentration": True, "entropy": True}


def plain_statistics(policy, target, temperature, reference):
    """Whole softmaxes: log-prob, KL(reference || policy), the reference's log-prob, log sum p^2, entropy."""
    ours = ((policy.hidden @ policy.weight.T) / temperature).log_softmax(1)
    theirs = ((reference.hidden @ reference.weight.T) / temperature).log_softmax(1)
    at = target[:, None]
    return (
        ours.gather(1, at)[:, 0],
        (theirs.exp() * (theirs - ours)).sum(1),
        theirs.gather(1, at)[:, 0],
        ours.exp().square().sum(1).log(),
        -(ours.exp() * ours).sum(1),
    )


def two_heads(rows, dtype=torch.float64, **shape):
    """Policy, a reference of another width, targets."""
    hidden, weight, target = inputs(rows, dtype, **shape)
    other, other_weight, _ = inputs(rows, dtype, seed=1, **(shape | {"width": 4}))
    return Head(hidden, weight), Head(other.detach(), other_weight.detach()), target


class TestStatistics:
    @pytest.mark.usefixtures("logits")
    @pytest.mark.parametrize("rows", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
    @pytest.mark.parametrize("temperature", [1.0, 0.6])
    def test_equal_those_of_whole_softmaxes_and_their_gradients(self, rows, temperature):
        policy, reference, target = two_heads(rows)
        got = token_statistics(policy, target, temperature, reference=reference, **BESIDES)
        expected = plain_statistics(policy, target, temperature, reference)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert (got.divergence > 0.01).all()
        generator = torch.Generator().manual_seed(3)
        up, pull, spread = torch.randn(3, rows, generator=generator, dtype=torch.float64)
        for of_each in ((up, pull, spread), (up, 0 * pull, 0 * spread), (0 * up, pull, 0 * spread), (0, 0, spread)):
            got = token_statistics(policy, target, temperature, reference=reference, entropy=True)
            expected = plain_statistics(policy, target, temperature, reference)
            ours, theirs = (
                torch.autograd.grad(
                    sum((on * found[place]).sum() for on, place in zip(of_each, (0, 1, 4), strict=True)),
                    (policy.hidden, policy.weight),
                )
                for found in (got, expected)
            )
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("temperature", [1.0, 0.5])
    def test_gradient_by_finite_differences(self, temperature, monkeypatch):
        monkeypatch.setattr(head, "CHUNK", 2)
        monkeypatch.setattr(head, "KEPT", 1)
        policy, reference, target = two_heads(5, width=3, vocabulary=4)

        def found(hidden, weight):
            got = token_statistics(Head(hidden, weight), target, temperature, reference=reference, entropy=True)
            return got.logprob, got.divergence, got.entropy

        assert torch.autograd.gradcheck(found, (policy.hidden, policy.weight))

    @pytest.mark.parametrize("temperature", [1.0, 0.5])
    def test_gradient_of_the_entropy_without_a_reference(self, temperature):
        hidden, weight, target = inputs(CHUNK + 5)
        ours = torch.autograd.grad(
            token_statistics(Head(hidden, weight), target, temperature, entropy=True).entropy.sum(), (hidden, weight)
        )
        logprobs = (hidden @ weight.T / temperature).log_softmax(1)
        theirs = torch.autograd.grad(-(logprobs.exp() * logprobs).sum(), (hidden, weight))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        assert ours[0].abs().max() > 0.01

    def test_entropy_of_the_undecided_is_the_logarithm_of_the_choices_and_cannot_rise(self):
        hidden, weight, target = inputs(4)
        got = token_statistics(Head(0 * hidden, weight), target, entropy=True).entropy
        torch.testing.assert_close(got, torch.full((4,), math.log(11), dtype=torch.float64))
        assert torch.autograd.grad(got.sum(), weight)[0].abs().max() < 1e-15

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_of_one_head_with_itself_are_exactly_0(self, dtype):
        policy, _, target = two_heads(CHUNK + 5, dtype)
        itself = Head(policy.hidden.detach(), policy.weight.detach())
        got = token_statistics(policy, target, reference=itself)
        assert (got.divergence == 0).all()
        assert torch.equal(got.logprob, got.reference)
        slopes = torch.autograd.grad(got.divergence.sum(), (policy.hidden, policy.weight))
        assert all((slope == 0).all() for slope in slopes)

    def test_change_no_logprob(self):
        policy, reference, target = two_heads(CHUNK + 5, torch.float32)
        alone = token_logprobs(policy.hidden, policy.weight, target)
        assert torch.equal(token_statistics(policy, target, reference=reference, **BESIDES).logprob, alone)

    def test_only_what_is_asked_for(self):
        policy, reference, target = two_heads(3)
        assert token_statistics(policy, target)[1:] == (None, None, None, None)
        got = token_statistics(policy, target, concentration=True)
        assert (got.divergence, got.reference, got.entropy) == (None, None, None)
        assert token_statistics(policy, target, reference=reference).concentration is None

    def test_which_have_a_gradient(self):
        policy, reference, target = two_heads(3)
        got = token_statistics(policy, target, reference=reference, **BESIDES)
        assert [values.requires_grad for values in got] == [True, True, False, False, True]

    def test_no_rows(self):
        policy, reference, target = two_heads(0)
        got = token_statistics(policy, target, reference=reference, **BESIDES)
        (got.logprob.sum() + got.divergence.sum() + got.entropy.sum()).backward()
        assert [values.shape for values in got] == [(0,)] * 5
        assert policy.weight.grad.abs().sum() == 0

    def test_large_logits_do_not_overflow(self):
        policy, reference, target = two_heads(4, torch.float32)
        policy = Head(policy.hidden.detach() * 1e3, policy.weight)
        got = token_statistics(policy, target, reference=reference, **BESIDES)
        (got.logprob.sum() + got.divergence.sum() + got.entropy.sum()).backward()
        assert all(torch.isfinite(values).all() for values in got)
        assert torch.isfinite(policy.weight.grad).all()
        expected = plain_statistics(policy, target, 1.0, reference)
        torch.testing.assert_close(got.divergence, expected[1], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(got.concentration, expected[3], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.entropy, expected[4], rtol=1e-4, atol=1e-5)
