"""A run is a folder: recipe, events, samples, artifacts, checkpoints, report.

    recipe.toml            as it was given
    recipe.resolved.toml   with every default spelled out
    run.json               versions, machine, seed
    events.jsonl           what happened, one line each
    samples.jsonl          answers worth looking at
    artifacts/<key>/       what stages made, named by the hash of stage, settings and inputs
    checkpoint-<N>/        weights after N optimizer steps of the run; while a stage runs, its training state too
    report.html
    *.superseded-<n>       what other settings or data had made; nothing reads it, and it may be removed

Whatever else knows of a run, such as an index, can be made again from its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from truing.errors import ConfigError, StorageError
from truing.store import disk
from truing.store.files import (
    FORMAT,
    StoreWarning,
    discard,
    make_folders,
    read_bytes,
    read_manifest,
    recover,
    replace,
    staged_folder,
    verify_folder,
    verify_sizes,
    write_atomic,
)
from truing.store.journal import Journal
from truing.store.values import canonical, plain

Stored = TypeVar("Stored")

RECIPE, RESOLVED, INFO, REPORT = "recipe.toml", "recipe.resolved.toml", "run.json", "report.html"


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
    """Weights after `step` optimizer steps of the run, made by the stage of that key."""

    step: int
    path: Path
    meta: Mapping[str, Any]
    stage_key: str


def hash_of(*parts: object) -> str:
    """Sixteen hex digits of the SHA-256 of the parts in canonical JSON."""
    return hashlib.sha256(canonical(parts)).hexdigest()[:16]


class Run:
    """A run folder, opened for writing by one process (`open`) or for reading by any (`read`)."""

    def __init__(self, path: Path, lock: FileLock | None = None) -> None:
        self.path = path
        self._lock = lock
        self._events = Journal(path / "events.jsonl")
        self._samples = Journal(path / "samples.jsonl")
        self._verified: set[tuple[Any, ...]] = set()

    @classmethod
    def open(cls, path: Path, *, recipe: str, resolved: str, info: Mapping[str, Any]) -> Run:
        """Makes the folder, or goes on in it; what another recipe or other data left there, `supersede` puts away."""
        make_folders(path / "artifacts")
        run = cls(path, _locked(path))
        try:
            _demand_format(path)
            run._begin(recipe, resolved, info)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, path: Path) -> Run:
        """An existing run folder, to look at."""
        if not (path / RESOLVED).is_file():
            raise ConfigError(f"{path}: not a run folder: it holds no {RESOLVED}")
        _demand_format(path)
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
        return _info(self.path)

    def event(self, stage: str, kind: str, **values: Any) -> None:
        """Appends one line to events.jsonl."""
        self._demand_open()
        self._events.append({"time": time.time(), "stage": stage, "kind": kind, **values})

    def events(self, stage: str | None = None, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """The events, in order; a last line torn by a crash is left out."""
        for event in self._events.rows():
            if stage in (None, event["stage"]) and kind in (None, event["kind"]):
                yield event

    def sample(self, row: Mapping[str, Any]) -> None:
        """Appends one line to samples.jsonl."""
        self._demand_open()
        self._samples.append(row)

    def samples(self) -> Iterator[dict[str, Any]]:
        """The samples, in order; a last line torn by a crash is left out."""
        return self._samples.rows()

    def show(self, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Puts these samples in the place of the stage's, so that one that begins once more shows none twice."""
        self._demand_open()
        self._samples.drop(lambda row: row.get("stage") == stage)
        for row in rows:
            self.sample({"stage": stage, **row})

    def rewind(self, stage: str, step: int) -> None:
        """Drops a stage's events and samples beyond a step, so that after going on no step stands twice."""
        self._demand_open()
        for journal in (self._events, self._samples):
            journal.drop(lambda row: row.get("stage") == stage and row.get("step", step) > step)

    def supersede(self, keys: Set[str]) -> list[Path]:
        """Puts out of sight what stages of other keys left, so that nothing here is taken for what it is not.

        Finished work keeps lying beside under a name of its own, which is returned; what was under way is removed, and
        so are the stages' events and samples.
        """
        self._demand_open()
        last_keys = {event["stage"]: event.get("key") for event in self.events(kind="start")}
        stages = {stage for stage, key in last_keys.items() if key not in keys}
        artifacts = [artifact for artifact in self.artifacts() if not _is_of(artifact.key, keys)]
        checkpoints = [checkpoint for checkpoint in self.checkpoints() if not _is_of(checkpoint.stage_key, keys)]
        if not (stages or artifacts or checkpoints):
            return []
        finished = [artifact.path for artifact in artifacts if not artifact.meta.get("part")]
        finished += [c.path for c in checkpoints if c.meta.get("finished") and not _stands_on(c.path, self.path)]
        if (self.path / REPORT).exists():
            finished.append(self.path / REPORT)
        for path in (*(artifact.path for artifact in artifacts), *(checkpoint.path for checkpoint in checkpoints)):
            if path not in finished:
                discard(path)
        aside = [_put_aside(path, _name_aside(path, "superseded")) for path in finished]
        # Events go last: they tell whose the samples are.
        for journal in (self._samples, self._events):
            journal.drop(lambda row: row.get("stage") in stages)
        return aside

    def artifact(self, key: str) -> Artifact | None:
        """The artifact of this key. A damaged one is set aside with a warning, so that it is made again.

        One that names a checkpoint as its model or reward model is as sound as that checkpoint. A model elsewhere, by
        an absolute path, is not the run's to answer for.
        """
        path = self.path / "artifacts" / _folder_name(key)
        if not path.exists():
            return None
        try:
            self.verify(path)
            artifact = _artifact(path)
            for kind in {"model", "reward"} & set(artifact.meta):
                if not Path(artifact.meta[kind]).is_absolute():
                    self.verify(self.path / artifact.meta[kind])
            return artifact
        except StorageError as error:
            self._set_aside(path, error)
            return None

    def artifacts(self) -> list[Artifact]:
        """All artifacts, oldest first, by their manifests; what else they hold is checked by `artifact`."""
        paths = [path for path in (self.path / "artifacts").glob("*") if _is_key(path.name)]
        found = _readable(paths, _artifact)
        return sorted(found, key=lambda artifact: (artifact.created, artifact.key))

    @contextmanager
    def new_artifact(self, key: str, *, stage: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """A folder to fill, which becomes artifacts/<key> when the block ends well."""
        self._demand_open()
        path = self.path / "artifacts" / _folder_name(key)
        about = {"key": key, "stage": stage, "meta": meta}
        with staged_folder(path, kind="artifact", meta=about) as folder:
            yield folder
            self._sync()
        self._trust(path)

    def checkpoints(self, stage_key: str | None = None) -> list[Checkpoint]:
        """A stage's checkpoints, or all, by step. What is half there is left out with a warning; nothing is hashed."""
        found = _readable(self._checkpoint_folders(), _whole_checkpoint)
        return [checkpoint for checkpoint in found if stage_key in (None, checkpoint.stage_key)]

    @contextmanager
    def new_checkpoint(self, step: int, *, stage_key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """A folder to fill, which becomes checkpoint-<step> when the block ends well.

        It takes the place of an earlier one of the same stage, which is removed only once the new one is durable.
        """
        self._demand_open()
        path = self.path / f"checkpoint-{step}"
        self._demand_own(path, stage_key)
        about = {"step": step, "stage_key": stage_key, "meta": meta}
        with staged_folder(path, kind="checkpoint", meta=about, commit=replace) as folder:
            yield folder
            self._sync()
        self._trust(path)

    def latest_checkpoint(self, stage_key: str, *, finished: bool = True) -> Checkpoint | None:
        """The newest checkpoint that verifies by SHA-256; a damaged one is named in a warning and passed over.

        finished: False passes over those of which nothing is left to do, and which hold no training state.
        """
        for path in reversed(self._checkpoint_folders()):
            try:
                checkpoint = _checkpoint(path)
                if checkpoint.stage_key != stage_key or (checkpoint.meta.get("finished") and not finished):
                    continue
                _demand_sound(verify_folder(path))
            except StorageError as error:
                warnings.warn(StoreWarning(error, "the checkpoint before it is taken"), stacklevel=2)
                continue
            self._trust(path)
            return checkpoint
        return None

    def prune(self, stage_key: str, keep: int, pinned: Set[int] = frozenset()) -> None:
        """Removes a stage's checkpoints save the last `keep`, those at pinned steps, and the newest that verifies."""
        self._demand_open()
        newest_first = self.checkpoints(stage_key)[::-1]
        sound = next((checkpoint for checkpoint in newest_first if self._is_sound(checkpoint.path)), None)
        for checkpoint in newest_first[keep:]:
            if checkpoint != sound and checkpoint.step not in pinned:
                discard(checkpoint.path)

    def discard_checkpoints(self, stage_key: str) -> None:
        """Removes all checkpoints of a part of a stage, whose artifact is all that is needed from now on."""
        self._demand_open()
        for checkpoint in self.checkpoints(stage_key):
            discard(checkpoint.path)

    def tidy(self, stage_key: str) -> None:
        """Removes checkpoints of a stage that is done, and of its parts, for which no artifact stands."""
        self._demand_open()
        named = {artifact.meta.get(kind) for artifact in self.artifacts() for kind in ("model", "reward")}
        for checkpoint in self.checkpoints():
            if _is_of(checkpoint.stage_key, {stage_key}) and checkpoint.path.name not in named:
                discard(checkpoint.path)

    def discard_artifact(self, key: str) -> None:
        """Removes what a stage kept on the way and needs no more."""
        self._demand_open()
        discard(self.path / "artifacts" / _folder_name(key))

    def verify(self, folder: Path) -> None:
        """Raises StorageError if a committed folder of this run is damaged. Unchanged files are hashed only once."""
        _demand_sound(verify_sizes(folder))
        state = _state(folder)
        if state not in self._verified:
            _demand_sound(verify_folder(folder))
            self._verified.add(state)

    def _begin(self, recipe: str, resolved: str, info: Mapping[str, Any]) -> None:
        recover(self.path)
        recover(self.path / "artifacts")
        self._events.mend()
        self._samples.mend()
        about = {"format": FORMAT, **plain(info)}
        write_atomic(self.path / INFO, json.dumps(about, indent=1, ensure_ascii=False))
        write_atomic(self.path / RECIPE, recipe)
        # Last: a folder is a run once this file is there.
        write_atomic(self.path / RESOLVED, resolved)

    def _sync(self) -> None:
        # Or else, after a loss of power, a run would go on from a step whose events are gone.
        self._events.sync()
        self._samples.sync()

    def _trust(self, folder: Path) -> None:
        self._verified.add(_state(folder))

    def _is_sound(self, folder: Path) -> bool:
        try:
            self.verify(folder)
        except StorageError:
            return False
        return True

    def _set_aside(self, path: Path, error: StorageError) -> None:
        if self._lock is None:
            warnings.warn(StoreWarning(error, "it is left out"), stacklevel=3)
            return
        aside = _name_aside(path, "damaged")
        warnings.warn(StoreWarning(error, f"it is set aside as {aside.name} and made again"), stacklevel=3)
        _put_aside(path, aside)

    def _checkpoint_folders(self) -> list[Path]:
        paths = [path for path in self.path.glob("checkpoint-*") if re.fullmatch("checkpoint-[0-9]+", path.name)]
        return sorted(paths, key=_step_of)

    def _demand_open(self) -> None:
        if self._lock is None:
            raise ConfigError(f"{self.path}: this run is not open for writing: use Run.open")

    def _demand_own(self, path: Path, stage_key: str) -> None:
        # Artifacts name the checkpoint they stand for: in its place, another stage's would be the wrong model.
        for checkpoint in _readable([path] if path.exists() else [], _whole_checkpoint):
            if checkpoint.stage_key != stage_key:
                raise StorageError(f"{path}: a stage of other settings or data made it: choose another --out")


class FollowedRun(Run):
    """A run that another process writes, in which this one takes part: what it says and makes is kept nowhere."""

    def event(self, stage: str, kind: str, **values: Any) -> None:
        """The other process says it."""

    def sample(self, row: Mapping[str, Any]) -> None:
        """The other process says it."""

    def show(self, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """The other process says it."""

    def rewind(self, stage: str, step: int) -> None:
        """The other process does it."""

    @contextmanager
    def new_artifact(self, key: str, *, stage: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """A folder that is removed when the block ends."""
        with tempfile.TemporaryDirectory(prefix="truing-") as folder:
            yield Path(folder)

    @contextmanager
    def new_checkpoint(self, step: int, *, stage_key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """A folder that is removed when the block ends."""
        with tempfile.TemporaryDirectory(prefix="truing-") as folder:
            yield Path(folder)

    def prune(self, stage_key: str, keep: int, pinned: Set[int] = frozenset()) -> None:
        """The other process does it."""

    def discard_checkpoints(self, stage_key: str) -> None:
        """The other process does it."""

    def tidy(self, stage_key: str) -> None:
        """The other process does it."""

    def discard_artifact(self, key: str) -> None:
        """The other process does it."""


def _locked(path: Path) -> FileLock:
    """The folder's lock. The system frees it when its holder dies, however it dies."""
    lock = FileLock(path / ".lock", thread_local=False)
    holder = path / ".holder"
    with disk.storage_errors(path):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            who = holder.read_text(errors="replace") if holder.exists() else "unknown"
            raise ConfigError(f"{path}: in use by process {who}: wait for it, or choose another --out") from None
        try:
            write_atomic(holder, f"{os.getpid()} on {platform.node()}")
        except BaseException:
            lock.release()
            raise
    return lock


def _info(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_bytes(path / INFO)))
    except (ValueError, TypeError):
        raise StorageError(f"{path / INFO}: damaged: it is no JSON object") from None


def _demand_format(path: Path) -> None:
    found = _info(path).get("format") if (path / INFO).exists() else FORMAT
    if found != FORMAT:
        raise ConfigError(f"{path}: has format {found}, not {FORMAT}: use the Truing that wrote it")


def _demand_sound(problems: list[str]) -> None:
    if problems:
        raise StorageError("; ".join(problems))


def _state(folder: Path) -> tuple[Any, ...]:
    manifest = read_manifest(folder)
    return (folder, manifest["sha256"], *((folder / name).stat().st_mtime_ns for name in manifest["files"]))


def _name_aside(path: Path, why: str) -> Path:
    """A free name for a file or folder, which nothing looks for."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.{why}-{number}{path.suffix}")).exists():
        number += 1
    return aside


def _put_aside(path: Path, aside: Path) -> Path:
    disk.rename(path, aside)
    disk.sync(path.parent)
    return aside


def _stands_on(folder: Path, run: Path) -> bool:
    """Whether this is an adapter on a model of the same run: once that has another model's name, it would be wrong."""
    config = folder / "adapter_config.json"
    if not config.is_file():
        return False
    try:
        base = json.loads(read_bytes(config)).get("base_model_name_or_path", "")
    except (ValueError, AttributeError):  # damaged, and nothing that could come to stand on another model
        return False
    return Path(base).resolve().is_relative_to(run.resolve())


def _is_of(key: str, keys: Set[str]) -> bool:
    """Whether an artifact is what one of these stages makes, or a part of that."""
    return key in keys or any(key.startswith(f"{owner}-") for owner in keys)


def _is_key(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) is not None


def _folder_name(key: str) -> str:
    if not _is_key(key):
        raise ConfigError(f"'{key}' cannot name an artifact: use letters, digits, '-' and '_'")
    return key


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _readable(paths: Iterable[Path], read: Callable[[Path], Stored]) -> list[Stored]:
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except StorageError as error:
            warnings.warn(StoreWarning(error, "it is left out"), stacklevel=3)
    return found


def _artifact(path: Path) -> Artifact:
    manifest = read_manifest(path)
    about = manifest["meta"]
    if manifest["kind"] != "artifact" or about["key"] != path.name:
        raise StorageError(f"{path}: its manifest is another folder's")
    return Artifact(path.name, path, about["stage"], about["meta"], manifest["created"])


def _checkpoint(path: Path) -> Checkpoint:
    manifest = read_manifest(path)
    about = manifest["meta"]
    if manifest["kind"] != "checkpoint" or about["step"] != _step_of(path):
        raise StorageError(f"{path}: its manifest is another folder's")
    return Checkpoint(about["step"], path, about["meta"], about["stage_key"])


def _whole_checkpoint(path: Path) -> Checkpoint:
    _demand_sound(verify_sizes(path))
    return _checkpoint(path)
