"""Weights to disk, with errors that say how many bytes were wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from truing.models.quiet import quiet_libraries
from truing.store import disk


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """One safetensors file, in a folder that is being staged."""
    with disk.foreign_errors(path, _bytes(tensors.values())):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


@contextmanager
def saving(weights: Iterable[Tensor], folder: Path) -> Iterator[None]:
    """For `save_pretrained`: it is quiet, and what the system refuses is told as `disk` tells it."""
    with quiet_libraries(), disk.foreign_errors(folder, _bytes(weights)):
        yield


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
