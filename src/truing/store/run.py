"""A run is a folder: recipe, events, samples, artifacts, checkpoints, report.

recipe.toml            as it was given
recipe.resolved.toml   with every default spelled out
run.json               versions, machine, seed
events.jsonl           what happened, one line each
samples.jsonl          answers worth looking at
artifacts/<key>/       what stages made, named by the hash of stage, settings and inputs
checkpoint-<N>/        weights after N optimizer steps of the run; while a stage runs, its training state too
report.html
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from truing.errors import ConfigError, StorageError
from truing.store import disk
from truing.store.files import (
    StoreWarning,
    make_folders,
    read_bytes,
    read_manifest,
    recover,
    remove_tree,
    staged_folder,
    verify_folder,
    write_atomic,
)
from truing.store.values import canonical, line, plain

EVENTS, SAMPLES, RECIPE, RESOLVED, INFO = (
    "events.jsonl",
    "samples.jsonl",
    "recipe.toml",
    "recipe.resolved.toml",
    "run.json",
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a stage made. `created` is Unix time."""

    key: str
    path: Path
    stage: str
    meta: Mapping[str, Any]
    created: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights after `step` optimizer steps of the run."""

    step: int
    path: Path
    meta: Mapping[str, Any]


def hash_of(*parts: object) -> str:
    """Sixteen hex digits of the SHA-256 of the parts in canonical JSON."""
    return hashlib.sha256(canonical(parts)).hexdigest()[:16]


class Run:
    """A run folder, opened for writing by one process (`open`) or for reading by any (`read`)."""

    def __init__(self, path: Path, lock: FileLock | None = None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, recipe: str, resolved: str, info: Mapping[str, Any]) -> Run:
        """Makes the folder, or goes on in it if it belongs to the same resolved recipe."""
        make_folders(path / "artifacts")
        run = cls(path, _locked(path))
        try:
            known = path / RESOLVED
            if known.exists() and read_bytes(known).decode() != resolved:
                raise ConfigError(f"{path}: this folder belongs to a run with other settings: choose another out")
            recover(path)
            recover(path / "artifacts")
            write_atomic(path / RECIPE, recipe)
            write_atomic(path / RESOLVED, resolved)
            write_atomic(path / INFO, json.dumps(plain(info), indent=1, ensure_ascii=False))
            _mend_last_line(path / EVENTS)
            _mend_last_line(path / SAMPLES)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, path: Path) -> Run:
        """An existing run folder, to look at."""
        if not (path / RESOLVED).is_file():
            raise ConfigError(f"{path}: not a run folder: it holds no {RESOLVED}")
        return cls(path)

    def close(self) -> None:
        """Lets other processes have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def info(self) -> dict[str, Any]:
        """What run.json says."""
        return dict(json.loads(read_bytes(self.path / INFO)))

    def event(self, stage: str, kind: str, **values: Any) -> None:
        """Appends one line to events.jsonl."""
        disk.append(self.path / EVENTS, line({"time": time.time(), "stage": stage, "kind": kind, **values}))

    def events(self, stage: str | None = None, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """The events, in order; a last line torn by a crash is left out."""
        for event in _rows(self.path / EVENTS):
            if stage in (None, event["stage"]) and kind in (None, event["kind"]):
                yield event

    def rewind(self, stage: str, step: int) -> None:
        """Drops a stage's events beyond a step, so that after going on no step stands twice."""
        kept = [e for e in _rows(self.path / EVENTS) if e["stage"] != stage or e.get("step", 0) <= step]
        write_atomic(self.path / EVENTS, b"".join(line(event) for event in kept))

    def sample(self, row: Mapping[str, Any]) -> None:
        """Appends one line to samples.jsonl."""
        disk.append(self.path / SAMPLES, line(row))

    def samples(self) -> Iterator[dict[str, Any]]:
        """The samples, in order."""
        yield from _rows(self.path / SAMPLES)

    def artifact(self, key: str) -> Artifact | None:
        """The artifact of this key. A damaged one is set aside with a warning, so that it is made again.

        An artifact that only names a checkpoint as its model is as sound as that checkpoint.
        """
        path = self.path / "artifacts" / key
        if not path.exists():
            return None
        problems = _verified(path, _changed(path))
        if not problems:
            artifact = _artifact(path)
            model = self.path / str(artifact.meta.get("model") or path.relative_to(self.path))
            problems = _verified(model, _changed(model))
            if not problems:
                return artifact
        aside = _free_name(path.with_name(f"{key}.damaged"))
        warnings.warn(f"{problems[0]}; it is set aside as {aside.name} and made again", StoreWarning, stacklevel=2)
        disk.rename(path, aside)
        return None

    def new_artifact(self, key: str, *, stage: str, meta: Mapping[str, Any]) -> AbstractContextManager[Path]:
        """A folder to fill, which becomes artifacts/<key> when the block ends well."""
        return staged_folder(self.path / "artifacts" / key, kind="artifact", meta={**meta, "stage": stage})

    def artifacts(self) -> list[Artifact]:
        """All artifacts, oldest first."""
        found = []
        for path in (self.path / "artifacts").glob("*"):
            if path.is_dir() and "." not in path.name:
                try:
                    found.append(_artifact(path))
                except StorageError as error:
                    warnings.warn(f"{error}; this artifact is left out", StoreWarning, stacklevel=2)
        return sorted(found, key=lambda artifact: artifact.created)

    def checkpoints(self, stage_key: str | None = None) -> list[Checkpoint]:
        """A stage's committed checkpoints, or all, by step."""
        found = []
        for path in self.path.glob("checkpoint-*"):
            number = path.name.removeprefix("checkpoint-")
            if number.isdigit() and (path / "manifest.json").exists():
                try:
                    meta = read_manifest(path)["meta"]
                except StorageError as error:
                    warnings.warn(f"{error}; this checkpoint is left out", StoreWarning, stacklevel=2)
                    continue
                if stage_key in (None, meta["stage_key"]):
                    found.append(Checkpoint(int(number), path, meta))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def new_checkpoint(self, step: int, *, stage_key: str, meta: Mapping[str, Any]) -> AbstractContextManager[Path]:
        """A folder to fill, which becomes checkpoint-<step> when the block ends well."""
        target = self.path / f"checkpoint-{step}"
        return staged_folder(target, kind="checkpoint", meta={**meta, "stage_key": stage_key}, replace=True)

    def latest_checkpoint(self, stage_key: str, *, finished: bool = True) -> Checkpoint | None:
        """The newest checkpoint that verifies by SHA-256; a damaged one is named in a warning and passed over.

        finished: False passes over those of which nothing is left to do, and which hold no training state.
        """
        for checkpoint in reversed(self.checkpoints(stage_key)):
            if not finished and checkpoint.meta.get("finished"):
                continue
            problems = verify_folder(checkpoint.path)
            if not problems:
                return checkpoint
            warnings.warn(f"{problems[0]}; the checkpoint before it is taken", StoreWarning, stacklevel=2)
        return None

    def prune(self, stage_key: str, keep: int) -> None:
        """Removes all but the last `keep` checkpoints of a stage, never one of another stage."""
        for checkpoint in self.checkpoints(stage_key)[: -max(keep, 1)]:
            remove_tree(checkpoint.path)


def _locked(path: Path) -> FileLock:
    """The folder's lock. The system frees it when its holder dies, however it dies."""
    lock = FileLock(path / ".lock")
    holder = path / ".holder"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        pid = holder.read_text() if holder.exists() else "unknown"
        raise ConfigError(
            f"{path}: process {pid} is working in this run folder: wait for it, or choose another out"
        ) from None
    write_atomic(holder, str(os.getpid()))
    return lock


def _mend_last_line(path: Path) -> None:
    """Cuts off a line that a crash left unfinished, so that the next one is not glued to it."""
    if path.exists():
        content = read_bytes(path)
        if content and not content.endswith(b"\n"):
            write_atomic(path, content[: content.rfind(b"\n") + 1])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            try:
                row = json.loads(text)
            except ValueError:
                if not text.endswith(b"\n"):
                    return
                raise StorageError(f"{path}:{number}: damaged line: remove it, or restore the file") from None
            yield row


def _artifact(path: Path) -> Artifact:
    manifest = read_manifest(path)
    meta = dict(manifest["meta"])
    return Artifact(path.name, path, meta.pop("stage"), meta, manifest["created"])


@lru_cache(maxsize=1024)
def _verified(path: Path, _when: int) -> tuple[str, ...]:
    """Hashing a large artifact takes a while, so each is verified once in a process unless its folder changes."""
    return tuple(verify_folder(path))


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _free_name(path: Path) -> Path:
    number = 1
    while path.with_name(f"{path.name}-{number}").exists():
        number += 1
    return path.with_name(f"{path.name}-{number}")
