"""What every registered objective must do, whatever it is. A new one is tested by being defined."""

from __future__ import annotations

import pytest
import torch

from truing.objectives import OBJECTIVES
from truing.signatures import asks_for, settings_of
from truing.tensors import Logprobs, Pair

LENGTHS = (3, 1, 5, 2)
OTHER_VALUES = {"beta": 0.37, "label_smoothing": 0.2}
"""A second legal value for each setting; a new setting without one here fails, so that none is forgotten."""


def logprobs(seed, dtype=torch.float32, lengths=LENGTHS):
    completion = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    token = -3 * torch.rand(len(completion), generator=torch.Generator().manual_seed(seed)).to(dtype)
    return Logprobs(token.requires_grad_(), completion, len(lengths))


def arguments(function, dtype=torch.float32):
    """One argument for each positional parameter, by its annotation."""
    made = {}
    for number, (name, annotation) in enumerate(asks_for(function).items()):
        chosen, rejected = logprobs(2 * number, dtype), logprobs(2 * number + 1, dtype)
        kind = Pair(chosen, rejected) if annotation.startswith("Pair") else chosen
        assert annotation in ("Logprobs", "Pair[Logprobs]"), f"say here how a '{annotation}' is made"
        made[name] = kind
    return made


def leaves(value):
    return [value.token] if isinstance(value, Logprobs) else [value.chosen.token, value.rejected.token]


@pytest.fixture(params=OBJECTIVES)
def function(request):
    return OBJECTIVES[request.param]


def test_shapes_and_detached_stats(function):
    loss = function(**arguments(function))
    assert loss.value.shape in {(len(LENGTHS),), (sum(LENGTHS),)}
    assert loss.value.requires_grad
    assert loss.stats
    for name, stat in loss.stats.items():
        assert stat.shape == loss.value.shape, name
        assert not stat.requires_grad, name
        assert torch.isfinite(stat).all(), name


def test_rows_are_independent(function):
    """The gradient of one row's loss is zero on every element of every other row."""
    given = arguments(function)
    count = len(function(**given).value)
    for row in range(count):
        for leaf in leaves(given["policy"]):
            leaf.grad = None
        function(**given).value[row].backward()
        for leaf in leaves(given["policy"]):
            owner = torch.arange(len(leaf))
            if count == len(LENGTHS):
                owner = torch.repeat_interleave(torch.arange(count), torch.tensor(LENGTHS))
            assert (leaf.grad[owner == row] != 0).all()
            assert (leaf.grad[owner != row] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_gradients_are_finite_and_no_other_input_gets_one(function, dtype, scale):
    given = arguments(function, dtype)
    with torch.no_grad():
        for value in given.values():
            for leaf in leaves(value):
                leaf.mul_(scale)
    loss = function(**given).value
    assert loss.dtype == dtype
    loss.sum().backward()
    for leaf in leaves(given["policy"]):
        assert torch.isfinite(leaf.grad).all()
    assert torch.isfinite(loss).all()


def test_every_setting_changes_the_value(function):
    given = arguments(function)
    usual = function(**given).value
    for name, field in settings_of(function).model_fields.items():
        assert OTHER_VALUES[name] != field.default
        assert not torch.allclose(function(**given, **{name: OTHER_VALUES[name]}).value, usual), name


def test_inputs_are_left_as_they_were(function):
    given = arguments(function)
    before = [leaf.detach().clone() for value in given.values() for leaf in leaves(value)]
    function(**given)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, (leaf for value in given.values() for leaf in leaves(value)), strict=True)
    )
