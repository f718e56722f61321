"""Norms and gated layers that keep less: the same results as transformers' own modules, and less kept."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from test_fused import KINDS, roughened

from truing.compute.attention import ForestLayout
from truing.compute.lean import gated_linear, keep_less, rms_norm
from truing.models import add_lora
from truing.tensors import Tree

LENGTH = 17
TOKENS = torch.randint(0, tiny.VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(0))


def logits_of(model):
    return model(input_ids=TOKENS, use_cache=False, layout=ForestLayout([Tree(slice(0, LENGTH), ())])).logits


def kept_bytes(model):
    """Bytes of all distinct tensors that a forward pass keeps, and its logits."""
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = logits_of(model)
    return sum(found.values()), out


def both(kind, dtype):
    """The same model twice, the second one lean, its loss and gradients on the same tokens."""
    own = roughened(KINDS[kind], dtype).model
    lean = copy.deepcopy(own)
    keep_less(lean)
    results = []
    for model in (own, lean):
        kept, out = kept_bytes(model)
        out.float().square().mean().backward()
        results.append((kept, out.detach(), {name: w.grad for name, w in model.named_parameters()}))
    return results


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lean_model_says_the_same_and_keeps_less(kind, dtype):
    (kept, out, gradients), (less, lean_out, lean_gradients) = both(kind, dtype)
    assert torch.equal(out, lean_out)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for name, gradient in gradients.items():
        apart = (gradient - lean_gradients[name]).float().norm() / gradient.float().norm().clamp(min=1e-6)
        assert apart < tolerance, name
    assert less < kept


def test_a_copy_of_a_lean_model_uses_its_own_weights():
    model = roughened(KINDS["llama"], torch.float32).model
    keep_less(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert logits_of(other).abs().sum() > 0


def test_a_norm_against_its_formula_in_full_width():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 7, 12, generator=generator).requires_grad_()
    weight = torch.randn(12, generator=generator).requires_grad_()
    upstream = torch.randn(5, 7, 12, generator=generator)
    rms_norm(rows, weight, 1e-5).backward(upstream)
    wide_rows, wide_weight = (t.detach().double().requires_grad_() for t in (rows, weight))
    (wide_weight * wide_rows / (wide_rows.square().mean(-1, keepdim=True) + 1e-5).sqrt()).backward(upstream.double())
    torch.testing.assert_close(rows.grad.double(), wide_rows.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), wide_weight.grad, rtol=1e-4, atol=1e-6)


def test_a_gated_layer_has_the_slope_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    gate, up, weight = (torch.randn(shape, generator=generator).double() for shape in ((3, 5), (3, 5), (4, 5)))
    assert torch.autograd.gradcheck(gated_linear, [t.requires_grad_() for t in (gate, up, weight)])


def test_frozen_weights_get_no_gradient_and_adapters_stay_in_use():
    loaded = roughened(KINDS["llama"], torch.float32)
    model = add_lora(loaded.model, rank=2, alpha=4.0, targets="all-linear")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    before = logits_of(model)
    keep_less(model)
    after = logits_of(model)
    assert torch.equal(before, after)
    after.square().mean().backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert reached
    assert reached == {name for name in dict(model.named_parameters()) if "lora_" in name}
