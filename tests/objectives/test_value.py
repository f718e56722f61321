"""The critic's loss and what it explains."""

from __future__ import annotations

import pytest
import torch

from truing.objectives.value import explained_variance, value_clip
from truing.tensors import PerToken


def of(*tokens):
    return PerToken(torch.tensor(tokens, dtype=torch.float64), torch.zeros(len(tokens), dtype=torch.long), 1)


@pytest.mark.parametrize(
    ("value", "old", "returns", "loss", "slope"),
    [
        (1.1, 1.0, 2.0, 0.9**2 / 2, -0.9),  # inside the range
        (1.5, 1.0, 2.0, 0.8**2 / 2, 0.0),  # went too far towards the return: it may wait for the next rollout
        (0.5, 1.0, 2.0, 1.5**2 / 2, -1.5),  # went the wrong way: back it must come
        (3.0, 1.0, 2.0, 1.0**2 / 2, 1.0),  # overshot by more than the held value lacks
    ],
)
def test_by_hand(value, old, returns, loss, slope):
    guess = of(value)
    guess.token.requires_grad_()
    got = value_clip(guess, of(old), of(returns), value_range=0.2)
    got.value.sum().backward()
    assert got.value.item() == pytest.approx(loss)
    assert guess.token.grad.item() == pytest.approx(slope)
    assert got.stats["value/clipped"].item() == float(slope == 0)
    assert got.stats["value/error"].item() == pytest.approx((value - returns) ** 2)


def test_unbounded_it_is_half_the_squared_error():
    got = value_clip(of(1.5, 9.0), of(1.0, 0.0), of(2.0, 2.0), value_range=None)
    assert got.value.tolist() == [0.125, 24.5]
    assert got.stats["value/clipped"].tolist() == [0.0, 0.0]


def test_explained_variance():
    returns = of(1.0, 2.0, 3.0, 6.0).token
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full_like(returns, 3.0), returns) == 0.0
    assert explained_variance(returns + 5, returns) == pytest.approx(1.0), "a shift of all is no error of foresight"
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones_like(returns)) == 0.0
    assert explained_variance(torch.zeros(0), torch.zeros(0)) == 0.0
