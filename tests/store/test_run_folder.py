"""Run folders: what is committed is whole, what is damaged is told, and only one process writes."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from truing.errors import ConfigError, StorageError
from truing.store import Run, StoreWarning, disk, files, hash_of
from truing.store.cache import cache_folder, cached

SIZES = {"model.safetensors": 300, "config.json": 40, "trainer/state.safetensors": 500}


def opened(folder: Path, resolved: str = "seed = 0\n") -> Run:
    return Run.open(folder, recipe="seed=0", resolved=resolved, info={"name": "x", "loss": math.nan})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with opened(tmp_path / "run") as run:
        yield run


def fill(folder: Path, mark: int) -> None:
    (folder / "trainer").mkdir()
    for name, size in SIZES.items():
        (folder / name).write_bytes(bytes([mark % 251]) * size)


def checkpoint(run: Run, step: int, stage_key: str = "k") -> Path:
    with run.new_checkpoint(step, stage_key=stage_key, meta={"step": step}) as folder:
        fill(folder, step)
    return run.path / f"checkpoint-{step}"


def litter(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.name.startswith((".tmp-", ".old-"))]


def test_hash_of_does_not_depend_on_the_order_of_keys_but_on_every_value() -> None:
    assert hash_of("sft", {"a": 1, "b": [2.5, None]}) == hash_of("sft", {"b": [2.5, None], "a": 1})
    assert len({hash_of("sft", {"a": 1}), hash_of("sft", {"a": 2}), hash_of({"a": 1}), hash_of("sft", "a", 1)}) == 4


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "f", "old")
    files.write_atomic(tmp_path / "f", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"new")]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_refused_atomic_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    files.write_atomic(tmp_path / "f", "old")
    with monkeypatch.context() as patch:
        patch.setattr(disk.os, call, _refuses(code))
        with pytest.raises(StorageError, match=r"\bf: ") as caught:
            files.write_atomic(tmp_path / "f", "new")
    assert caught.value.exit_code == 74
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(disk.os, "write", lambda handle, data: write(handle, data[:3]))
    files.write_atomic(tmp_path / "f", "a longer text")
    assert (tmp_path / "f").read_text() == "a longer text"


def test_a_folder_appears_with_its_manifest_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "target"
    with pytest.raises(KeyError), files.staged_folder(target, kind="t", meta={}) as folder:
        (folder / "f").write_text("x")
        raise KeyError
    assert not target.exists()
    assert not litter(tmp_path)
    with files.staged_folder(target, kind="t", meta={"loss": math.inf}) as folder:
        assert not target.exists()
        (folder / "f").write_text("x")
    manifest = files.read_manifest(target)
    assert (manifest["kind"], manifest["meta"], manifest["files"]["f"]["bytes"]) == ("t", {"loss": "Infinity"}, 1)
    assert files.verify_folder(target) == []


def test_a_folder_is_never_overwritten_unless_asked(tmp_path: Path) -> None:
    target = tmp_path / "t"
    for words in ("one", "two"):
        with files.staged_folder(target, kind="t", meta={}, replace=True) as folder:
            (folder / "f").write_text(words)
    with (
        pytest.raises(StorageError, match="never overwritten"),
        files.staged_folder(target, kind="t", meta={}) as folder,
    ):
        (folder / "f").write_text("three")
    assert (target / "f").read_text() == "two"
    assert not litter(tmp_path)


def test_every_bit_flip_and_truncation_of_a_checkpoint_is_told(run: Run) -> None:
    """Every byte of a small file and a sample of the others; a flipped manifest counts as damage, too."""
    path = checkpoint(run, 1)
    rng = random.Random(0)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        content = file.read_bytes()
        places = range(len(content)) if len(content) < 50 else rng.sample(range(len(content)), 40)
        for place in places:
            if file.name == "manifest.json":
                continue
            file.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
            assert len(files.verify_folder(path)) == 1, (file, place)
        for length in [0, 1, len(content) // 2, len(content) - 1]:
            file.write_bytes(content[:length])
            assert files.verify_folder(path), (file, length)
        file.write_bytes(content + b"x")
        assert files.verify_folder(path) or file.name == "manifest.json"
        file.unlink()
        assert files.verify_folder(path), file
        file.write_bytes(content)
    assert files.verify_folder(path) == []


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(run: Run) -> None:
    first, second, third = (checkpoint(run, step) for step in (2, 10, 9))
    checkpoint(run, 99, stage_key="other")
    newest = run.latest_checkpoint("k")
    assert newest is not None
    assert (newest.step, newest.path, newest.meta["step"]) == (10, second, 10)
    (second / "model.safetensors").write_bytes(b"\0" * SIZES["model.safetensors"])
    (third / "manifest.json").write_text("{")
    with pytest.warns(StoreWarning) as told:
        newest = run.latest_checkpoint("k")
    assert newest is not None
    assert newest.path == first
    assert any("checkpoint-10" in str(w.message) for w in told)
    assert any("checkpoint-9" in str(w.message) for w in told)
    (first / "config.json").unlink()
    with pytest.warns(StoreWarning):
        assert run.latest_checkpoint("k") is None


def test_prune_keeps_the_last_ones_and_those_of_other_stages(run: Run) -> None:
    for step in (1, 2, 10, 11):
        checkpoint(run, step)
    checkpoint(run, 5, stage_key="other")
    run.prune("k", 2)
    assert [c.step for c in run.checkpoints()] == [5, 10, 11]
    run.prune("k", 0)
    assert [c.step for c in run.checkpoints()] == [5, 11]


def test_a_damaged_artifact_is_set_aside_and_made_again(run: Run) -> None:
    for words in ("first", "second", "third"):
        with run.new_artifact("key", stage="sft", meta={"rows": 3}) as folder:
            (folder / "f").write_text(words)
        found = run.artifact("key")
        assert found is not None
        assert (found.stage, found.meta, (found.path / "f").read_text()) == ("sft", {"rows": 3}, words)
        (found.path / "f").write_text("x" * len(words))
        os.utime(found.path)  # seen once as whole in this process: a changed folder is verified anew
        with pytest.warns(StoreWarning, match="set aside"):
            assert run.artifact("key") is None
    assert sorted(p.name for p in (run.path / "artifacts").iterdir()) == [f"key.damaged-{n}" for n in (1, 2, 3)]
    assert run.artifacts() == []
    assert run.artifact("never made") is None


def test_artifacts_come_oldest_first_and_a_damaged_manifest_is_left_out(run: Run) -> None:
    for key in ("zz", "aa", "mm"):
        with run.new_artifact(key, stage=key, meta={}):
            pass
        time.sleep(0.002)
    assert [a.key for a in run.artifacts()] == ["zz", "aa", "mm"]
    (run.path / "artifacts" / "aa" / "manifest.json").write_text("")
    with pytest.warns(StoreWarning, match="aa"):
        assert [a.key for a in run.artifacts()] == ["zz", "mm"]


def test_a_model_whose_checkpoint_is_damaged_is_made_again(run: Run) -> None:
    path = checkpoint(run, 3)
    with run.new_artifact("key", stage="sft", meta={"model": "checkpoint-3"}):
        pass
    assert run.artifact("key") is not None
    (path / "model.safetensors").write_bytes(b"\0" * SIZES["model.safetensors"])
    os.utime(path)
    with pytest.warns(StoreWarning, match=r"checkpoint-3/model\.safetensors"):
        assert run.artifact("key") is None


def test_events_come_back_as_they_were_and_nan_is_shown(run: Run) -> None:
    run.event("sft", "step", step=1, metrics={"loss": math.nan, "rate": 1e-5, "low": -math.inf})
    run.event("sft", "note", words="naïve \ud800 ✓\n", path=Path("a/b"), flags=(True, None))
    run.event("dpo", "step", step=2)
    first, second, third = run.events()
    assert first["metrics"] == {"loss": "NaN", "rate": 1e-5, "low": "-Infinity"}
    assert (second["words"], second["path"], second["flags"]) == ("naïve \ud800 ✓\n", "a/b", [True, None])
    assert [e["kind"] for e in run.events("sft")] == ["step", "note"]
    assert list(run.events(kind="step")) == [first, third]
    assert list(run.events("dpo", "note")) == []
    assert first["time"] <= second["time"] <= third["time"]
    assert run.info["loss"] == "NaN"
    with pytest.raises(TypeError, match="cannot be stored"):
        run.event("sft", "step", value=object())


def test_a_torn_last_line_is_left_out_and_mended(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with opened(folder) as run:
        run.event("a", "x", n=1)
        run.sample({"n": 1})
    for name in ("events.jsonl", "samples.jsonl"):
        with open(folder / name, "ab") as file:
            file.write(b'{"stage": "a", "ki')
    assert [e["n"] for e in Run.read(folder).events()] == [1]
    assert (folder / "events.jsonl").read_bytes().endswith(b'"ki'), "reading changes nothing"
    with opened(folder) as run:
        run.event("a", "x", n=2)
        run.sample({"n": 2})
        assert [e["n"] for e in run.events()] == [1, 2]
        assert [s["n"] for s in run.samples()] == [1, 2]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(run: Run) -> None:
    run.event("a", "x")
    with open(run.path / "events.jsonl", "ab") as file:
        file.write(b"{broken\n")
    run.event("a", "x")
    with pytest.raises(StorageError, match=r"events\.jsonl:2"):
        list(run.events())


def test_rewind_drops_one_stages_later_steps_and_nothing_else(run: Run) -> None:
    run.event("sft", "start")
    for step in (1, 2, 3):
        run.event("sft", "step", step=step)
        run.event("dpo", "step", step=step)
    run.event("sft", "held_out", step=3)
    run.rewind("sft", 2)
    left = [(e["stage"], e["kind"], e.get("step")) for e in run.events()]
    assert [e for e in left if e[0] == "sft"] == [("sft", "start", None), ("sft", "step", 1), ("sft", "step", 2)]
    assert [e[2] for e in left if e[0] == "dpo"] == [1, 2, 3]


def test_a_folder_of_other_settings_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path, "seed = 0\n") as run:
        run.event("a", "x")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and not p.name.startswith(".")}
    with pytest.raises(ConfigError, match="other settings"):
        opened(tmp_path, "seed = 1\n")
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and not p.name.startswith(".")}
    assert after == before
    with opened(tmp_path, "seed = 0\n"):  # and the lock is free again
        pass
    with pytest.raises(ConfigError, match="not a run folder"):
        Run.read(tmp_path / "artifacts")


def test_a_second_process_is_refused_with_the_pid_and_takes_over_after_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from truing.store import Run\n"
        f"run = Run.open(Path({str(tmp_path)!r}), recipe='', resolved='seed = 0\\n', info={{}})\n"
        "print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "open\n"
            with pytest.raises(ConfigError, match=rf"process {other.pid} is working"):
                opened(tmp_path)
        finally:
            other.kill()
        other.wait()
    with opened(tmp_path) as run:
        assert (tmp_path / ".holder").read_text() == str(os.getpid())
        with pytest.raises(ConfigError, match=rf"process {os.getpid()} is working"):
            opened(tmp_path)
        run.event("a", "x")


def test_recover_puts_back_a_folder_that_was_being_replaced(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        path = checkpoint(run, 4)
    path.rename(tmp_path / ".old-1-checkpoint-4")
    (tmp_path / ".tmp-999999999-checkpoint-4").mkdir()
    (tmp_path / ".tmp-999999999-events.jsonl").write_text("half")
    with opened(tmp_path) as run:
        newest = run.latest_checkpoint("k")
        assert newest is not None
        assert newest.step == 4
    assert not litter(tmp_path)


def test_recover_leaves_what_a_living_process_is_making(tmp_path: Path) -> None:
    with opened(tmp_path) as run, run.new_artifact("key", stage="s", meta={}) as folder:
        files.recover(tmp_path / "artifacts")
        assert folder.is_dir()
        theirs = tmp_path / f".tmp-{os.getppid()}-theirs"
        theirs.mkdir()
        files.recover(tmp_path)
        assert theirs.is_dir()


def _refuses(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir"])
def test_on_a_full_disk_the_old_state_is_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whichever call of a commit is refused: the error says what to do, and the old checkpoint and events load."""
    with opened(tmp_path) as run:
        checkpoint(run, 1)
        run.event("a", "x", n=1)
        real = getattr(os, call)
        for allowed in range(12):
            calls = count()

            def limited(*given: object, calls: Iterator[int] = calls, at: int = allowed, **named: object) -> object:
                if next(calls) == at:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*given, **named)

            with monkeypatch.context() as patch:
                patch.setattr(disk.os, call, limited)
                try:
                    with run.new_checkpoint(1, stage_key="k", meta={"step": 1, "new": allowed}) as folder:
                        _fill_flat(folder)
                    committed = True
                except StorageError as error:
                    assert error.exit_code == 74
                    assert "free some space, and the same command goes on" in str(error)
                    committed = False
            newest = run.latest_checkpoint("k")
            assert newest is not None, (call, allowed)
            assert files.verify_folder(newest.path) == []
            assert not litter(tmp_path)
            if committed:
                assert newest.meta["new"] == allowed
                break
        else:
            pytest.fail(f"{call} was called more than 12 times: refuse later ones, too")
        assert allowed > 0, f"os.{call} is part of a commit"


def _fill_flat(folder: Path) -> None:
    for name, size in SIZES.items():
        (folder / Path(name).name).write_bytes(b"n" * size)


def test_a_line_that_the_disk_takes_half_of_is_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.event("a", "x", n=1)
    write = os.write
    calls = iter([True])

    def half(handle: int, data: bytes) -> int:
        if next(calls, False):
            return write(handle, data[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "write", half)
        with pytest.raises(StorageError, match=r"bytes needed\): free some space"):
            run.event("a", "x", n=2)
    run.event("a", "x", n=3)
    assert [e["n"] for e in run.events()] == [1, 3]


def test_a_folder_one_may_not_write_to_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.os, "mkdir", _refuses(errno.EACCES))
    with pytest.raises(StorageError, match="new: Permission denied: make the folder writable, or choose another"):
        opened(tmp_path / "new")


def test_the_cache_makes_once_and_mends_what_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    target = cache_folder("kind") / "key"
    assert target.parent == tmp_path / "cache" / "kind"
    made: list[int] = []

    def make(folder: Path) -> None:
        made.append(1)
        (folder / "f").write_text("content")

    for _ in range(2):
        assert (cached(target, kind="k", meta={}, make=make) / "f").read_text() == "content"
    assert len(made) == 1
    (target / "f").write_text("CONTENT")
    assert (cached(target, kind="k", meta={}, make=make) / "f").read_text() == "content"
    assert len(made) == 2


def test_the_cache_yields_to_a_process_that_was_faster(tmp_path: Path) -> None:
    target = tmp_path / "key"

    def slow(folder: Path) -> None:
        (folder / "f").write_text("late")
        with files.staged_folder(target, kind="k", meta={}) as other:  # as another process would, meanwhile
            (other / "f").write_text("early")

    monkey = files._temporary
    names = iter(["a", "b"])
    files._temporary = lambda t: t.with_name(f".tmp-{next(names)}-{t.name}")  # type: ignore[assignment]
    try:
        assert (cached(target, kind="k", meta={}, make=slow) / "f").read_text() == "early"
    finally:
        files._temporary = monkey


def test_what_a_killed_process_of_the_same_number_left_in_the_cache_is_swept(tmp_path: Path) -> None:
    """In a container the same few process numbers come again and again."""
    target = tmp_path / "key"
    (tmp_path / f".tmp-{os.getpid()}-key").mkdir()
    (tmp_path / f".tmp-{os.getpid()}-key" / "half").write_text("x")
    made = cached(target, kind="k", meta={}, make=lambda folder: (folder / "f").write_text("x") and None)
    assert sorted(p.name for p in made.iterdir()) == ["f", "manifest.json"]
    assert not litter(tmp_path)


KILLED = """
import os, sys
from pathlib import Path
from truing.store import Run
path = Path(sys.argv[1])
# Open once, and then be forked again and again: importing costs far more than a kill.
import random, signal, time, warnings
warnings.simplefilter("error")

def work(seed):
    run = Run.open(path, recipe="", resolved="", info={})
    done = max([c.step for c in run.checkpoints()], default=0)
    run.rewind("s", done)
    while True:
        done += 1
        run.event("s", "step", step=done)
        for _ in range(2):
            with run.new_checkpoint(done, stage_key="k", meta={"step": done}) as folder:
                (folder / "trainer").mkdir()
                for name in ("model", "trainer/state"):
                    (folder / name).write_bytes(str(done).encode() * 2000)
        key = f"a{done}"
        if run.artifact(key) is None:
            with run.new_artifact(key, stage="s", meta={"steps": done}) as folder:
                (folder / "f").write_text(str(done) * 100)
        run.rewind("s", done)
        run.prune("k", 3)
        os.write(told, b".")

from truing.store.files import verify_folder
rng = random.Random(1)
progress = 0
for trial in range(int(sys.argv[2])):
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(trial)
        except BaseException as error:
            print(f"trial {trial}: {error!r}", flush=True)
        os._exit(9)
    if trial % 3 == 0:
        os.read(heard, 1)  # some get through a whole round first, however slow the disk is
    time.sleep(rng.uniform(0.001, 0.03))
    os.close(heard)
    os.close(told)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        sys.exit(f"trial {trial}: the child ended by itself")
    if not (path / "recipe.resolved.toml").exists():
        continue
    # a reader sees whole things only
    run = Run.open(path, recipe="", resolved="", info={})
    steps = [e["step"] for e in run.events(kind="step")]
    if steps != list(range(1, len(steps) + 1)):
        sys.exit(f"trial {trial}: events {steps}")
    found = run.checkpoints()
    if found:
        newest = run.latest_checkpoint("k")
        if newest.step < progress or newest.step < found[-1].step:
            sys.exit(f"trial {trial}: step {newest.step} after {progress}")
        progress = newest.step
        if (newest.path / "model").read_bytes() != str(newest.step).encode() * 2000:
            sys.exit(f"trial {trial}: wrong content")
    for artifact in run.artifacts():
        if verify_folder(artifact.path):
            sys.exit(f"trial {trial}: artifact {artifact.key} {verify_folder(artifact.path)}")
    if len(steps) - progress not in (0, 1):
        sys.exit(f"trial {trial}: {len(steps)} events and checkpoint {progress}")
    left = [p.name for p in [*path.iterdir(), *(path / "artifacts").iterdir()] if p.name.startswith((".tmp-", ".old-"))]
    if left:
        sys.exit(f"trial {trial}: left {left}")
    run.close()
print("progress", progress)
"""


def test_killed_at_any_moment_there_is_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "run"), "60"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) >= 20, "the children must get somewhere, or nothing was tested"


def test_values_that_are_equal_are_written_alike(tmp_path: Path) -> None:
    """Python's own JSON reads every line: no bare NaN, no lone surrogate that breaks UTF-8."""
    with opened(tmp_path) as run:
        run.sample({"x": math.nan, "y": "\udfff"})
    text = (tmp_path / "samples.jsonl").read_bytes().decode("utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}")) == {"x": "NaN", "y": "\udfff"}
