"""Which way forest attention goes, and on CUDA that both ways are the CPU's numbers and gradients."""

from __future__ import annotations

import pytest
import tiny
import torch

from truing.compute.attention import has_varlen_kernel
from truing.compute.engine.local import LocalEngine
from truing.models import Loaded
from truing.packing import forest

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS = tiny.random_rows(0, [(5, (4, 7)), (3, (1, 6)), (9, (2, 2)), (1, (5, 3))])
# Norms and rotary angles are taken in fp32 in an fp64 model too, and two devices round them differently.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize(
    ("device", "dtype", "window", "expected"),
    [
        (CUDA, torch.bfloat16, None, True),
        (CUDA, torch.float16, None, True),
        (CUDA, torch.bfloat16, 8, False),
        (CUDA, torch.float32, None, False),
        (CUDA, torch.float64, None, False),
        (CPU, torch.bfloat16, None, False),
    ],
)
def test_the_kernel_is_for_halves_on_cuda_alone(
    device: torch.device, dtype: torch.dtype, window: int | None, expected: bool
) -> None:
    assert has_varlen_kernel(device, dtype, window) is expected


def logprobs_and_gradients(device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    made = tiny.loaded_model(dtype, of=tiny.config(head_dim=16))
    engine = LocalEngine(Loaded(made.model.to(device), made.renderer, "tiny"))
    token = engine.logprobs(forest(ROWS)).token
    engine.backward(-token.mean())
    return token.detach().cpu().double(), {name: g.cpu().double() for name, g in engine.gradients().items()}


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_on_cuda_as_on_the_cpu(dtype: torch.dtype) -> None:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    expected, expected_gradients = logprobs_and_gradients(CPU, exact)
    token, gradients = logprobs_and_gradients(CUDA, dtype)
    torch.testing.assert_close(token, expected, rtol=0, atol=TOLERANCE[dtype])
    largest = max(float(g.abs().max()) for g in expected_gradients.values())
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        apart = float((gradient - expected_gradients[name]).abs().max())
        assert apart <= TOLERANCE[dtype] * largest, name
