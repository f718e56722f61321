"""`truing import`: a folder with pickled weights as one with safetensors, the only weights that Truing reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from truing.errors import ConfigError, DataError
from truing.models import unpickling
from truing.store import disk
from truing.store.files import make_folders, staged_folder

PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "adapter_model.bin")
"""Weights by the names that transformers and PEFT gave them; pickles of optimizers and the like stay behind."""
INDEX, NEW_INDEX = "pytorch_model.bin.index.json", "model.safetensors.index.json"
COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "additional_chat_templates/*.jinja")
"""What else of a folder decides what its model computes. No code is among it."""
SPARE = 2**30
"""Bytes of memory beyond twice the largest file."""
SECONDS = 3600


def convert(source: Path, target: Path) -> list[str]:
    """Writes a model folder with safetensors. Returns the names of the files of weights.

    Pickles are read in another process, under limits of memory, time and what it may write, by torch's reader of
    weights alone. The folder appears when it is whole, or not at all.
    """
    pickles = sorted({file for pattern in PICKLES for file in source.glob(pattern)})
    if not pickles:
        raise ConfigError(f"{source}: no {', '.join(PICKLES)} in it: name the folder of a model with pickled weights")
    if target.exists():
        raise ConfigError(f"{target}: it exists already: name a new folder")
    names = {file.name: _renamed(file.name) for file in pickles}
    with staged_folder(target, kind="imported", meta={"source": str(source)}) as folder:
        _unpickle([(file, folder / names[file.name]) for file in pickles])
        for file in sorted({file for pattern in COPIED for file in source.glob(pattern)}):
            place = folder / file.relative_to(source)
            make_folders(place.parent)
            disk.write(place, file.read_bytes())
        _write_index(folder, names)
    return list(names.values())


def _unpickle(files: list[tuple[Path, Path]]) -> None:
    sizes = [file.stat().st_size for file, _ in files]
    job = {
        "files": [(str(file.absolute()), str(place.absolute())) for file, place in files],
        "seconds": SECONDS,
        "memory": 2 * max(sizes) + SPARE,
        "bytes": 2 * max(sizes) + SPARE,
    }
    command = [sys.executable, "-I", "-c", Path(unpickling.__file__).read_text(encoding="utf-8")]
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        input=json.dumps(job),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SECONDS,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its reader ended by signal {-done.returncode}, at a limit"]
        raise DataError(f"{said[-1]}: nothing was written; ask for the model as safetensors")


def _renamed(name: str) -> str:
    """`pytorch_model-00001-of-00002.bin` as `model-00001-of-00002.safetensors`, and so on."""
    return f"{name.removesuffix('.bin').replace('pytorch_model', 'model')}.safetensors"


def _write_index(folder: Path, names: dict[str, str]) -> None:
    """Which file holds which tensor, by the new names."""
    old = folder / INDEX
    if old.exists():
        index = json.loads(old.read_text())
        index["weight_map"] = {name: names[file] for name, file in index["weight_map"].items()}
        disk.write(folder / NEW_INDEX, json.dumps(index, indent=2).encode())
        disk.remove(old)
