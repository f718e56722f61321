"""Settings at the ends of their ranges: limits that docstrings name are reached in fp32, other values are refused."""

from __future__ import annotations

import pytest
import torch

from truing.errors import ConfigError
from truing.objectives import bind
from truing.objectives.pairwise import alphapo, dpo, f_dpo, simpo
from truing.tensors import Logprobs, Pair


def answer(*tokens: float) -> Logprobs:
    return Logprobs(torch.tensor(tokens), torch.zeros(len(tokens), dtype=torch.long), 1)


POLICY = Pair(answer(-1.0, -2.3), answer(-2.0, -4.1, -0.5))
REFERENCE = Pair(answer(-1.5, -2.0), answer(-2.5, -3.0, -0.1))


@pytest.mark.parametrize("alpha", [1e-5, 1e-6, 1e-8])
def test_alphapo_is_simpo_as_alpha_goes_to_0(alpha: float) -> None:
    assert alphapo(POLICY, alpha=alpha).value.item() == pytest.approx(simpo(POLICY).value.item(), abs=1e-5)


@pytest.mark.parametrize("distance", [1e-5, 1e-6, 1e-8, 0.0])
def test_f_dpo_is_dpo_as_alpha_goes_to_1(distance: float) -> None:
    value = f_dpo(POLICY, REFERENCE, beta=1.0, divergence=1 - distance).value
    assert value.item() == pytest.approx(dpo(POLICY, REFERENCE, beta=1.0).value.item(), abs=1e-5)


def test_forward_kl_keeps_small_log_ratios() -> None:
    """Its slope at u = 1 is 1, so near the reference it is dpo, far below the digits of 1 - 1/u."""
    near = Pair(answer(-1e-9), answer(0.0))
    reference = Pair(answer(0.0), answer(0.0))
    margin = f_dpo(near, reference, beta=1.0, divergence="forward_kl").stats["reward/margin"]
    assert margin.item() == pytest.approx(-1e-9, rel=1e-5)


def test_exo_refuses_certain_labels() -> None:
    with pytest.raises(ConfigError, match="label_smoothing"):
        bind({"name": "exo", "label_smoothing": 0.0})
