"""The running mean of what an engine trains: a plain recursion, wide, saved, and paid for only where it is kept."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from truing.compute.engine.local import LocalEngine
from truing.models import Loaded, add_lora, load
from truing.packing import forest

SHAPES = [(5, (4, 7)), (3, (1, 6)), (9, (2, 2))]
DECAY = 0.75


def engine_of(dtype: torch.dtype = torch.float32, *, adapted: bool = False) -> LocalEngine:
    loaded = tiny.loaded_model()
    if adapted:
        torch.manual_seed(0)
        loaded = Loaded(add_lora(loaded.model, rank=2, alpha=4.0, targets="all-linear"), loaded.renderer, "tiny")
    return LocalEngine(loaded, dtype=dtype)


def masters(engine: LocalEngine) -> dict[str, Tensor]:
    return {name: master.detach().clone() for name, master in engine._masters.items()}


def train(engine: LocalEngine, steps: int = 3, rate: float = 0.01) -> list[dict[str, Tensor]]:
    """The masters after each step."""
    made, found = forest(tiny.random_rows(0, SHAPES)), []
    for _ in range(steps):
        engine.backward(-engine.logprobs(made).token.mean())
        engine.step(rate, 1.0)
        found.append(masters(engine))
    return found


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_recursion_over_the_masters(dtype: torch.dtype, adapted: bool) -> None:
    """In bf16 too it is as wide as they are: the steps are far below what bf16 shows."""
    engine = engine_of(dtype, adapted=adapted)
    engine.keep_average(DECAY)
    start = masters(engine)
    course = train(engine, rate=1e-5)
    engine.take_average()
    found = masters(engine)
    for name, mean in start.items():
        expected = mean.double()
        for policy in course:
            expected = DECAY * expected + (1 - DECAY) * policy[name].double()
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), expected, rtol=0, atol=1e-7)
    assert any(not torch.equal(found[name], course[-1][name]) for name in found)


def test_training_is_the_same_with_it_and_without() -> None:
    plain, averaged = engine_of(), engine_of()
    averaged.keep_average(DECAY)
    for one, other in zip(train(plain), train(averaged), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_as_a_model_is_what_the_policy_becomes(dtype: torch.dtype, tmp_path: Path) -> None:
    engine = engine_of(dtype)
    engine.keep_average(DECAY)
    train(engine)
    made = forest(tiny.random_rows(1, SHAPES))
    engine.save_model(tmp_path)
    trained = engine.logprobs(made).token.detach()
    engine.take_average()
    read = LocalEngine(load(str(tmp_path), dtype=torch.float32, device=torch.device("cpu")), dtype=dtype)
    assert torch.equal(engine.logprobs(made).token, read.logprobs(made).token)
    assert not torch.allclose(engine.logprobs(made).token, trained, atol=1e-3)


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    unbroken, broken, again = engine_of(), engine_of(), engine_of()
    for engine in (unbroken, broken, again):
        engine.keep_average(DECAY)
    train(unbroken, 5)
    train(broken, 2)
    broken.save_state(tmp_path)
    again.load_state(tmp_path)
    train(again, 3)
    for engine in (unbroken, again):
        engine.take_average()
    one, other = masters(unbroken), masters(again)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_memory_is_paid_only_where_it_is_kept(tmp_path: Path) -> None:
    """Four bytes for each weight that is trained, in memory and in a checkpoint; none where it is off or taken."""
    held = {}
    for kept in (False, True):
        engine = engine_of(torch.bfloat16)
        if kept:
            engine.keep_average(DECAY)
        train(engine)
        held[kept] = tensor_bytes()
        (tmp_path / str(kept)).mkdir()
        engine.save_state(tmp_path / str(kept))
        weights = sum(master.numel() for master in engine._masters.values())
        engine.take_average()
        assert tensor_bytes() == held[False]
        del engine
    assert held[True] - held[False] == 4 * weights
    sizes = {kept: stored(tmp_path / str(kept)) for kept in held}
    assert sizes[True] - sizes[False] == 4 * weights


def tensor_bytes() -> int:
    """Of all tensors that anything still holds, each storage once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) in (Tensor, torch.nn.Parameter)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def stored(folder: Path) -> int:
    return sum(tensor.nbytes for tensor in load_file(folder / "state.safetensors").values())
