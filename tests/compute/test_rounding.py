"""Rounding whose mean is exact: nothing that bf16 holds changes, and small moves of many weights add up."""

from __future__ import annotations

import pytest
import torch

from truing.compute.rounding import CHUNK, round_into


def rounded(master: torch.Tensor) -> torch.Tensor:
    narrow = torch.empty(master.shape, dtype=torch.bfloat16)
    round_into(narrow, master)
    return narrow


def test_what_bf16_holds_stays_as_it_is() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[every.isfinite()]
    assert torch.equal(rounded(every.float()), every)
    odd = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])
    assert torch.equal(rounded(odd), odd.to(torch.bfloat16))
    assert rounded(torch.tensor([torch.nan])).isnan().all()


def test_goes_to_one_of_the_two_neighbours_and_to_each_as_often_as_it_is_near() -> None:
    low, high = 1.0, 1.0 + 2**-7
    for share in (0.1, 0.5, 0.93):
        for sign in (1, -1):
            found = rounded(torch.full((2 * CHUNK,), sign * (low + share * 2**-7))).float()
            assert set(found.unique().tolist()) == {sign * low, sign * high}
            assert (found == sign * high).float().mean().item() == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize("step", [1e-6, 3e-5, -2e-4])
def test_a_step_that_is_lost_by_rounding_to_the_nearest_moves_the_mean(step: float) -> None:
    weights = (0.1 * torch.randn(CHUNK + 77, generator=torch.Generator().manual_seed(1))).to(torch.bfloat16)
    master = weights.float()
    for taken in range(1, 4):
        master += step
        assert (rounded(master).float() - weights.float()).mean().item() == pytest.approx(taken * step, rel=0.05)


def test_equal_masters_give_equal_weights() -> None:
    master = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rounded(master), rounded(master.clone()))


def test_anything_else_goes_to_the_nearest() -> None:
    master = torch.randn(6, 4)
    for target in (torch.empty(6, 4, dtype=torch.float16), torch.empty(4, 6, dtype=torch.bfloat16).T):
        round_into(target, master)
        assert torch.equal(target, master.to(target.dtype))
