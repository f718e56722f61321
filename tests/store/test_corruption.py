"""A sample of the damages of `make soak`, and that they stop a run that is to be strict."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak import corruption
from truing.errors import StorageError
from truing.store import Run, strict


def test_each_damage_is_seen(quick_path: Path) -> None:
    counted = corruption.damages(quick_path, 97)
    assert counted["bits of a checkpoint"] > 10_000
    assert all(counted.values())


def test_strict_stops_and_touches_nothing(quick_path: Path) -> None:
    path = corruption.stored(quick_path)
    weights = path / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (path / "artifacts" / "made" / "rows.jsonl").write_bytes(b"")
    with Run.open(path, recipe="", resolved="", info={}) as run:
        words = r"model\.safetensors: .* instead of .*: --strict stops here; without it, the checkpoint before it is"
        with pytest.raises(StorageError, match=words), strict():
            run.latest_checkpoint(corruption.KEY)
        with (
            pytest.raises(StorageError, match=r"without it, it is set aside as made\.damaged-1 and made again"),
            strict(),
        ):
            run.artifact("made")
    assert (path / "artifacts" / "made").is_dir()
