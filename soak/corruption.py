"""Damage to what a run has stored: every bit, every length, files that are gone or another's. Each must be seen.

Of a checkpoint the one before it is taken, an artifact and the reference cache are made again, each with a warning;
a journal is not read on.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from soak.storage import MEMORY
from truing.errors import StorageError
from truing.models.saving import save_tensors, saving
from truing.store import Run, StoreWarning
from truing.store.cache import cached

Found = TypeVar("Found")
KEY = "key"
CACHED = b"log-probabilities of the reference"


def run() -> dict[str, int | float]:
    """All damages, by kind."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        return {**damages(Path(folder), 1), "damages that nobody saw": 0}


def damages(folder: Path, every: int) -> dict[str, int]:
    """Tries them all, but of bits and lengths of weights only one in `every`, and counts them."""
    path = stored(folder)
    counted: Counter[str] = Counter()
    for name, place, seen in (
        ("a checkpoint", path / "checkpoint-2", lambda: falls_back(path)),
        ("an artifact", path / "artifacts" / "made", lambda: is_left_out(path)),
    ):
        for file in sorted(file for file in place.rglob("*") if file.is_file()):
            step = every if file.suffix == ".safetensors" else 1
            counted[f"bits of {name}"] += flips(file, step, seen)
            counted[f"lengths of {name}'s files"] += truncations(file, step, seen)
            counted[f"missing files of {name}"] += absence(file, seen)
    counted["swapped manifests"] += swap(path / "checkpoint-1", path / "checkpoint-2", path)
    counted["bits of the events"] += flips(path / "events.jsonl", 1, lambda: stops(path))
    for name in ("logprobs", "manifest.json"):
        file = _cache(folder) / name
        counted["bits of a cached reference"] += flips(file, 1, lambda: is_made_again(folder))
    return dict(counted)


def stored(folder: Path) -> Path:
    """A run with two checkpoints of a model of some kilobytes, an artifact and events."""
    with Run.open(folder / "run", recipe="", resolved="", info={}) as run:
        _fill(run)
    return folder / "run"


def _fill(run: Run) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
    for step in (1, 2):
        run.event("sft", "step", step=step, metrics={"loss": 1 / step})
        with run.new_checkpoint(step, stage_key=KEY, meta={"step": step}) as folder:
            with saving(model.parameters(), folder):
                model.save_pretrained(folder)
            save_tensors({"moment": torch.randn(64)}, folder / "state.safetensors")
    with run.new_artifact("made", stage="sft", meta={"rows": 2}) as folder:
        (folder / "rows.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "b"}\n')


def flips(file: Path, every: int, seen: Callable[[], bool]) -> int:
    """Turns single bits over, one after the other."""
    content = file.read_bytes()
    for bit in range(0, 8 * len(content), every):
        wrong = bytearray(content)
        wrong[bit // 8] ^= 1 << bit % 8
        file.write_bytes(wrong)
        if not seen():
            raise AssertionError(f"{file}: nobody saw bit {bit}")
    file.write_bytes(content)
    return len(range(0, 8 * len(content), every))


def truncations(file: Path, every: int, seen: Callable[[], bool]) -> int:
    """Cuts off the end, and more and more of it."""
    content = file.read_bytes()
    for size in range(0, len(content), every):
        file.write_bytes(content[:size])
        if not seen():
            raise AssertionError(f"{file}: nobody saw that {size} bytes are left")
    file.write_bytes(content)
    return len(range(0, len(content), every))


def absence(file: Path, seen: Callable[[], bool]) -> int:
    """Takes the file away."""
    content = file.read_bytes()
    file.unlink()
    if not seen():
        raise AssertionError(f"{file}: nobody missed it")
    file.write_bytes(content)
    return 1


def swap(one: Path, other: Path, path: Path) -> int:
    """Gives two checkpoints each other's manifest; then neither is taken."""
    files = [folder / "manifest.json" for folder in (one, other)]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)
    found, warned = _warned(lambda: Run.read(path).latest_checkpoint(KEY))
    if found is not None or warned != 2:
        raise AssertionError("nobody saw that manifests were swapped")
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return len(files)


def falls_back(path: Path) -> bool:
    """Whether the checkpoint before the last one is taken, and said to be."""
    found, warned = _warned(lambda: Run.read(path).latest_checkpoint(KEY))
    return found is not None and found.step == 1 and warned == 1


def is_left_out(path: Path) -> bool:
    """Whether the artifact counts for nothing, and that is said."""
    return _warned(lambda: Run.read(path).artifact("made")) == (None, 1)


def stops(path: Path) -> bool:
    """Whether the events are not read on."""
    try:
        list(Run.read(path).events())
    except StorageError:
        return True
    return False


def is_made_again(folder: Path) -> bool:
    """Whether the cache is as it was again, and that is said."""
    place, warned = _warned(lambda: _cache(folder))
    return warned == 1 and (place / "logprobs").read_bytes() == CACHED


def _cache(folder: Path) -> Path:
    def make(made: Path) -> None:
        (made / "logprobs").write_bytes(CACHED)

    return cached(folder / "cache", kind="reference", meta={}, make=make)


def _warned(look: Callable[[], Found]) -> tuple[Found, int]:
    """What was found, and how many warnings there were of damage."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = look()
    return found, sum(isinstance(warning.message, StoreWarning) for warning in caught)
