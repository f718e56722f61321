from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from store.test_disk import largest_file

from truing.errors import StorageError
from truing.models.saving import save_tensors, saving


def test_tensors_come_back_also_those_that_are_views(tmp_path: Path) -> None:
    square = torch.arange(6.0).reshape(2, 3)
    save_tensors({"turned": square.T}, tmp_path / "a.safetensors")
    assert torch.equal(load_file(tmp_path / "a.safetensors")["turned"], square.T)


def test_tensors_that_do_not_fit_are_told_with_their_bytes(tmp_path: Path) -> None:
    refused = pytest.raises(StorageError, match=r"a\.safetensors: File too large \(40,000 bytes needed\)")
    with largest_file(1000), refused as caught:
        save_tensors({"weights": torch.zeros(10_000)}, tmp_path / "a.safetensors")
    assert caught.value.exit_code == 74


def test_so_is_a_model_that_does_not_fit(tmp_path: Path) -> None:
    model = tiny.plain_model()
    size = sum(weight.nbytes for weight in model.state_dict().values())
    with (
        largest_file(10_000),
        pytest.raises(StorageError, match=rf"made: File too large \({size:,} bytes needed\)"),
        saving(model.state_dict().values(), tmp_path / "made"),
    ):
        model.save_pretrained(tmp_path / "made")
