"""Liger's kernels on CUDA: values and gradients of the formulas in full width."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear, silu

from truing.compute import liger
from truing.compute.lean import gated_linear, rms_norm

needs_kernels = pytest.mark.skipif(
    not torch.cuda.is_available() or not liger.serves(torch.zeros(1, dtype=torch.bfloat16, device="cuda")),
    reason="no CUDA device here, or no liger-kernel on it",
)


def wide_norm(rows, weight):
    return weight * rows / (rows.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def wide_gated(gate, up, weight):
    return linear(silu(gate) * up, weight)


CASES = {
    "norm": (lambda *given: rms_norm(*given, 1e-5), wide_norm, [(7, 33, 96), (96,)]),
    "gated": (gated_linear, wide_gated, [(7, 33, 80), (7, 33, 80), (48, 80)]),
}


@pytest.mark.cuda
@needs_kernels
@pytest.mark.parametrize("case", CASES)
def test_against_the_formula_in_full_width(case):
    narrow, wide, shapes = CASES[case]
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes]
    ours = [one.cuda().requires_grad_() for one in given]
    exact = [one.double().requires_grad_() for one in given]
    out, expected = narrow(*ours), wide(*exact)
    upstream = torch.randn(expected.shape, generator=generator).to(torch.bfloat16)
    out.backward(upstream.cuda())
    expected.backward(upstream.double())
    for found, known in [(out, expected), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]:
        assert float((found.cpu().double() - known).norm() / known.norm()) < 0.01


@pytest.mark.cuda
@needs_kernels
def test_what_is_kept_for_the_backward_pass_is_not_overwritten():
    gate, up, weight = (
        torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in ((5, 64), (5, 64), (8, 64))
    )
    before = gate.clone(), up.clone()
    gated_linear(gate.requires_grad_(), up.requires_grad_(), weight).sum().backward()
    assert torch.equal(gate, before[0])
    assert torch.equal(up, before[1])


def test_other_tensors_are_left_to_pytorch():
    assert not liger.serves(torch.zeros(1, dtype=torch.bfloat16))
    if torch.cuda.is_available():
        assert not liger.serves(torch.zeros(1, device="cuda"))
