from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from store.faults import FaultyDisk, refuse_afterwards, refuse_full
from store.test_disk import without_privileges
from store.test_files import fail_half_way, flip, names
from truing.errors import ConfigError, StorageError
from truing.store import FollowedRun, Run, StoreWarning, files
from truing.store import run as run_module

RESOLVED = "[stage]\nbeta = 0.1\n"


def opened(path: Path, resolved: str = RESOLVED) -> Run:
    return Run.open(path, recipe="# mine\n", resolved=resolved, info={"seed": 1, "versions": {"truing": "0.1"}})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with opened(tmp_path / "run") as run:
        yield run


def save(run: Run, step: int, *, stage_key: str = "key", content: bytes = b"weights") -> Path:
    with run.new_checkpoint(step, stage_key=stage_key, meta={"step": step}) as folder:
        (folder / "weights").write_bytes(content)
    return run.path / f"checkpoint-{step}"


def make(run: Run, key: str, content: bytes = b"content") -> Path:
    with run.new_artifact(key, stage="sft", meta={"rows": 3}) as folder:
        (folder / "data").write_bytes(content)
    return run.path / "artifacts" / key


def steps(run: Run, stage_key: str = "key") -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints(stage_key)]


# The folder


def test_a_new_run_holds_its_recipe_and_what_it_ran_on(run: Run) -> None:
    assert (run.path / "recipe.toml").read_text() == "# mine\n"
    assert (run.path / "recipe.resolved.toml").read_text() == RESOLVED
    assert run.info == {"format": 1, "seed": 1, "versions": {"truing": "0.1"}}
    assert list(run.events()) == []
    assert list(run.samples()) == []


def test_a_run_is_gone_on_with(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        run.event("sft", "step", step=1)
    with opened(tmp_path / "run") as run:
        run.event("sft", "step", step=2)
        assert [event["step"] for event in run.events()] == [1, 2]


def finished(run: Run, step: int, stage_key: str, adapter_of: Path | None = None) -> None:
    with run.new_checkpoint(step, stage_key=stage_key, meta={"finished": True}) as folder:
        (folder / "weights").write_text(stage_key)
        if adapter_of:
            (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter_of)}))


def of_two_recipes(path: Path) -> Run:
    """Stage `sft`, which stays, and stage `dpo`, whose settings have changed."""
    run = opened(path)
    for stage, key, step in (("sft", "kept", 1), ("dpo", "old", 3)):
        run.event(stage, "start", key=key)
        run.event(stage, "held_out", step=0)
        run.sample({"stage": stage})
        save(run, step, stage_key=key)
        finished(run, step + 1, key)
        for name in (key, f"{key}-part-0"):
            with run.new_artifact(name, stage=stage, meta={"part": "x"} if "part" in name else {}):
                pass
    (path / "report.html").write_text("old page")
    return run


def check_superseded(run: Run) -> None:
    assert [event["stage"] for event in run.events()] == ["sft", "sft"]
    assert list(run.samples()) == [{"stage": "sft"}]
    assert [a.key for a in run.artifacts()] == ["kept", "kept-part-0"]
    assert [c.step for c in run.checkpoints()] == [1, 2]
    assert (run.path / "checkpoint-4.superseded-1" / "weights").read_text() == "old"
    assert (run.path / "report.superseded-1.html").read_text() == "old page"
    assert not (run.path / "report.html").exists()
    assert names(run.path / "artifacts") == ["kept", "kept-part-0", "old.superseded-1"]
    assert not [name for name in names(run.path) if name.startswith("checkpoint-3")], "half done, of no use"


def test_what_other_settings_made_is_put_away_and_the_rest_stays(tmp_path: Path) -> None:
    with of_two_recipes(tmp_path / "run") as run:
        assert run.supersede({"kept", "old"}) == []
        aside = run.supersede({"kept", "new"})
        assert sorted(path.name for path in aside) == [
            "checkpoint-4.superseded-1", "old.superseded-1", "report.superseded-1.html",
        ]  # fmt: skip
        check_superseded(run)
        assert run.supersede({"kept", "new"}) == []
        finished(run, 4, "new")
        assert [path.name for path in run.supersede({"kept"})] == ["checkpoint-4.superseded-2"]


def test_an_adapter_on_a_model_of_the_run_is_not_kept_for_it_would_come_to_stand_on_another(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        finished(run, 1, "old", adapter_of=tmp_path / "run" / "checkpoint-0")
        finished(run, 2, "old", adapter_of=tmp_path / "elsewhere")
        finished(run, 3, "old", adapter_of=tmp_path / "elsewhere")
        flip(run.path / "checkpoint-3" / "adapter_config.json", 7)  # no UTF-8 any more
        aside = [path.name for path in run.supersede(set())]
        assert aside == ["checkpoint-2.superseded-1", "checkpoint-3.superseded-1"]
        assert not [name for name in names(run.path) if name.startswith("checkpoint-1")]


@pytest.mark.parametrize("fault", [refuse_full, refuse_afterwards])
def test_putting_away_may_fail_anywhere_and_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None]
) -> None:
    number, over = 0, False
    while not over:
        number += 1
        path = tmp_path / str(number)
        with of_two_recipes(path) as run, monkeypatch.context() as patch:
            faulty = FaultyDisk(number, fault).install(patch)
            with suppress(StorageError):
                run.supersede({"kept", "new"})
        with opened(path) as run:
            run.supersede({"kept", "new"})
            check_superseded(run)
        over = faulty.count < number
    assert number > 20


def test_read_takes_a_run_folder_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        Run.read(tmp_path)
    with opened(tmp_path / "run") as run:
        run.event("sft", "step", step=1)
        assert len(list(Run.read(tmp_path / "run").events())) == 1


def test_read_changes_nothing(run: Run) -> None:
    make(run, "made")
    reader = Run.read(run.path)
    attempts = [
        lambda: reader.event("sft", "step"),
        lambda: reader.sample({}),
        lambda: reader.rewind("sft", 0),
        lambda: reader.prune("key", 1),
        lambda: reader.supersede({"key"}),
        lambda: reader.new_artifact("other", stage="sft", meta={}).__enter__(),
        lambda: reader.new_checkpoint(1, stage_key="key", meta={}).__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match="not open for writing"):
            attempt()
    flip(run.path / "artifacts" / "made" / "data", 0)
    with pytest.warns(StoreWarning, match="it is left out"):
        assert reader.artifact("made") is None
    assert names(run.path / "artifacts") == ["made"]


def test_a_run_that_another_process_writes_is_left_to_it(run: Run) -> None:
    """Whoever follows it sees what it makes, and may say and make the same, of which nothing is kept."""
    make(run, "made")
    save(run, 1)
    run.event("sft", "step", step=1)
    run.sample({"stage": "sft", "step": 1})
    before = contents(run.path)
    follower = FollowedRun.read(run.path)
    follower.event("sft", "step", step=2)
    follower.sample({"stage": "sft", "step": 2})
    follower.show("sft", [{"step": 2}])
    follower.rewind("sft", 0)
    follower.prune("key", 0)
    follower.discard_checkpoints("key")
    follower.tidy("key")
    follower.discard_artifact("made")
    with (
        follower.new_artifact("other", stage="sft", meta={}) as one,
        follower.new_checkpoint(2, stage_key="key", meta={}) as other,
    ):
        for folder in (one, other):
            (folder / "weights").write_bytes(b"own")
    assert not one.exists()
    assert not other.exists()
    assert contents(run.path) == before
    save(run, 2)
    assert steps(follower) == [1, 2]
    assert [event["step"] for event in follower.events()] == [1]
    assert follower.artifact("made") == run.artifact("made")


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files in it."""
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_later_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truing.store.run.FORMAT", 2)
    opened(tmp_path / "run").close()
    monkeypatch.undo()
    for attempt in (Run.read, opened):
        with pytest.raises(ConfigError, match="has format 2, not 1"):
            attempt(tmp_path / "run")


def test_a_run_whose_beginning_was_cut_short_takes_any_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_module.write_atomic

    def cut_short(path: Path, data: bytes | str) -> None:
        if path.name == "recipe.resolved.toml":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(run_module, "write_atomic", cut_short)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="not a run folder"):
        Run.read(tmp_path / "run")
    opened(tmp_path / "run", "other = 1\n").close()


def test_a_damaged_description_is_told(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    (tmp_path / "run" / "run.json").write_bytes(b'{"format": 1')
    with pytest.raises(StorageError, match=r"run\.json: damaged"):
        Run.read(tmp_path / "run")


def test_a_folder_that_cannot_be_written_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        opened(path / "run").close()
        for closed in (path, path / "run"):
            os.chmod(closed, 0o555)
            with without_privileges(), pytest.raises(StorageError, match="make the folder writable") as caught:
                opened(path / "run" if closed != path else path / "other")
            assert caught.value.exit_code == 74
            os.chmod(closed, 0o755)
        with Run.read(path / "run") as run:
            assert run.info["seed"] == 1


# One process at a time

HOLD = """if True:
    import sys, time
    from pathlib import Path
    from truing.store import Run
    run = Run.open(Path(sys.argv[1]), recipe="", resolved=sys.argv[2], info={})
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), RESOLVED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(
                ConfigError, match=rf"in use by process {holder.pid} on .*: wait for it, or choose another"
            ):
                opened(tmp_path / "run")
            with pytest.raises(ConfigError, match=str(holder.pid)):  # the one refused has not put its name there
                opened(tmp_path / "run")
        finally:
            holder.send_signal(signal.SIGKILL)
    opened(tmp_path / "run").close()


def test_nor_may_one_process_open_it_twice(run: Run) -> None:
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        opened(run.path)


def test_any_thread_may_close_a_run(tmp_path: Path) -> None:
    run = opened(tmp_path / "run")
    lock = run._lock
    thread = threading.Thread(target=run.close)
    thread.start()
    thread.join()
    assert lock is not None
    assert not lock.is_locked
    opened(tmp_path / "run").close()


# Events and samples


def test_events_are_chosen_by_stage_and_kind(run: Run) -> None:
    run.event("sft", "step", step=1, loss=float("nan"))
    run.event("dpo", "step", step=2)
    run.event("dpo", "data", rows=3)
    (event,) = run.events("sft")
    assert event.pop("time") > 1.7e9
    assert event == {"stage": "sft", "kind": "step", "step": 1, "loss": "NaN"}
    assert [event["step"] for event in run.events(kind="step")] == [1, 2]
    assert [event["rows"] for event in run.events("dpo", "data")] == [3]


def test_a_torn_event_is_left_out_and_not_glued_to_the_next(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        run.event("sft", "step", step=1)
        with open(run.path / "events.jsonl", "ab") as file:
            file.write(b'{"time": 1.0, "stage": "sf')
        assert [event["step"] for event in Run.read(run.path).events()] == [1]
    with opened(tmp_path / "run") as run:
        run.event("sft", "step", step=2)
        assert [event["step"] for event in run.events()] == [1, 2]


def test_samples_that_are_shown_again_stand_once_and_those_of_others_stay(run: Run) -> None:
    run.sample({"stage": "other"})
    for _ in range(2):
        run.show("evaluate", [{"number": 1}, {"number": 2}])
    assert list(run.samples()) == [{"stage": "other"}, *({"stage": "evaluate", "number": n} for n in (1, 2))]


def test_rewind_drops_what_is_beyond_the_step_and_only_of_that_stage(run: Run) -> None:
    for step in (1, 2, 3):
        run.event("sft", "step", step=step)
        run.event("sft", "held_out", step=step)
        run.event("dpo", "step", step=step)
        run.sample({"stage": "sft", "step": step})
        run.sample({"stage": "dpo", "step": step})
    run.event("sft", "data", rows=5)
    run.sample({"stage": "sft", "text": "of no step"})
    run.rewind("sft", 1)
    assert [event["step"] for event in run.events("sft", "step")] == [1]
    assert [event["step"] for event in run.events("sft", "held_out")] == [1]
    assert [event["step"] for event in run.events("dpo")] == [1, 2, 3]
    assert [event["rows"] for event in run.events("sft", "data")] == [5]
    assert [sample.get("step") for sample in run.samples()] == [1, 1, 2, 3, None]
    run.event("sft", "step", step=2)
    assert [event["step"] for event in run.events("sft", "step")] == [1, 2]


# Artifacts


def test_an_artifact_is_there_once_it_is_made(run: Run) -> None:
    assert run.artifact("made") is None
    path = make(run, "made")
    artifact = run.artifact("made")
    assert artifact is not None
    assert (artifact.key, artifact.path, artifact.stage, artifact.meta) == ("made", path, "sft", {"rows": 3})
    assert artifact.created > 1.7e9
    with pytest.raises(StorageError, match="never overwritten"):
        make(run, "made")


def test_artifacts_stand_in_order_of_creation(run: Run) -> None:
    for key in ("b", "c", "a"):
        make(run, key)
    assert [artifact.key for artifact in run.artifacts()] == ["b", "c", "a"]


def test_a_damaged_artifact_is_set_aside_loudly_and_made_again(tmp_path: Path) -> None:
    for number in (1, 2):
        with opened(tmp_path / "run") as run:
            flip(make(run, "made") / "data", 5)
        with opened(tmp_path / "run") as run:
            with pytest.warns(StoreWarning, match=rf"not what was written; it is set aside as made\.damaged-{number}"):
                assert run.artifact("made") is None
            assert run.artifact("made") is None
            assert run.artifacts() == []
    assert names(tmp_path / "run" / "artifacts") == ["made.damaged-1", "made.damaged-2"]


def test_sizes_are_checked_every_time(run: Run) -> None:
    path = make(run, "made")
    (path / "data").write_bytes(b"short")
    with pytest.warns(StoreWarning, match="5 bytes instead of 7"):
        assert run.artifact("made") is None


def test_an_artifact_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "run") as run:
        make(run, "made")
    hashed: list[str] = []
    real = files.sha256_file
    monkeypatch.setattr(files, "sha256_file", lambda path: hashed.append(path.name) or real(path))
    with opened(tmp_path / "run") as run:
        assert run.artifact("made")
        assert run.artifact("made")
        assert hashed == ["data"]
        make(run, "more")
        assert run.artifact("more")
        assert hashed == ["data", "data"]


def test_an_artifact_under_anothers_name_is_not_taken(run: Run) -> None:
    make(run, "made").rename(run.path / "artifacts" / "other")
    with pytest.warns(StoreWarning, match="its manifest is another folder's"):
        assert run.artifact("other") is None
    assert run.artifacts() == []


def test_an_artifact_is_as_sound_as_the_checkpoint_it_names(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        path = save(run, 3)
        with run.new_artifact("made", stage="sft", meta={"model": "checkpoint-3"}):
            pass
        with run.new_artifact("alone", stage="score", meta={"reward": "/a/model/of/somebody/else"}):
            pass
        assert run.artifact("made")
    flip(path / "weights", 0)
    with opened(tmp_path / "run") as run:
        with pytest.warns(StoreWarning, match="checkpoint-3/weights.*set aside as made"):
            assert run.artifact("made") is None
        assert run.artifact("alone"), "it does not answer for a model elsewhere"


def test_half_an_artifact_is_left_out_of_the_list_and_said(run: Run) -> None:
    make(run, "a")
    (make(run, "b") / "manifest.json").write_text("")
    with pytest.warns(StoreWarning, match=r"b/manifest\.json: damaged.*; it is left out"):
        assert [artifact.key for artifact in run.artifacts()] == ["a"]


def test_what_changes_while_a_run_is_open_is_seen(run: Run) -> None:
    data = make(run, "made") / "data"
    assert run.artifact("made")
    flip(data, 0)
    os.utime(data, (1, 1))  # a clock may be too coarse to tell this change from the commit
    with pytest.warns(StoreWarning, match="its content is not what was written"):
        assert run.artifact("made") is None


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "../a", ".tmp-1-a", "a.damaged-1", "a\n"])
def test_a_key_is_a_plain_name(run: Run, key: str) -> None:
    with pytest.raises(ConfigError, match="cannot name an artifact"):
        run.artifact(key)
    with pytest.raises(ConfigError, match="cannot name an artifact"):
        make(run, key)


# Checkpoints


def test_checkpoints_stand_by_step_and_belong_to_their_stage(run: Run) -> None:
    for step in (10, 9, 100):
        save(run, step)
    save(run, 50, stage_key="other")
    assert steps(run) == [9, 10, 100]
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [9, 10, 50, 100]
    latest = run.latest_checkpoint("key")
    assert latest is not None
    assert (latest.step, latest.path, latest.meta) == (100, run.path / "checkpoint-100", {"step": 100})
    assert run.latest_checkpoint("none") is None


def test_finished_checkpoints_can_be_passed_over(run: Run) -> None:
    save(run, 1)
    with run.new_checkpoint(2, stage_key="key", meta={"finished": True}):
        pass
    latest, unfinished = run.latest_checkpoint("key"), run.latest_checkpoint("key", finished=False)
    assert latest is not None
    assert unfinished is not None
    assert (latest.step, unfinished.step) == (2, 1)


def test_what_is_half_made_or_no_checkpoint_does_not_show(run: Run) -> None:
    save(run, 1)
    (run.path / "checkpoint-best").mkdir()
    (run.path / f".tmp-{os.getpid()}-checkpoint-3").mkdir()
    with run.new_checkpoint(2, stage_key="key", meta={}) as folder:
        (folder / "weights").write_bytes(b"half")
        assert steps(run) == [1]
        latest = run.latest_checkpoint("key")
        assert latest is not None
        assert latest.step == 1
    (run.path / "checkpoint-2" / "weights").unlink()
    with pytest.warns(StoreWarning, match="checkpoint-2/weights: missing; it is left out"):
        assert steps(run) == [1]


def test_every_damage_of_the_last_checkpoint_is_found_and_the_one_before_taken(run: Run) -> None:
    save(run, 1, content=b"old")
    path = save(run, 2)
    for file in (path / "weights", path / "manifest.json"):
        content = file.read_bytes()
        damaged = [content[:size] for size in range(0, len(content), 7)]
        damaged += [content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] for at in range(len(content))]
        for wrong in damaged:
            file.write_bytes(wrong)
            with pytest.warns(StoreWarning, match="checkpoint-2/.*; the checkpoint before it is taken"):
                latest = run.latest_checkpoint("key")
            assert latest is not None
            assert latest.step == 1
        file.write_bytes(content)
    latest = run.latest_checkpoint("key")
    assert latest is not None
    assert latest.step == 2


def test_a_missing_file_and_a_renamed_folder_are_damage_too(run: Run) -> None:
    save(run, 1)
    (save(run, 2) / "weights").unlink()
    save(run, 3).rename(run.path / "checkpoint-4")
    with pytest.warns(StoreWarning) as warned:
        latest = run.latest_checkpoint("key")
    assert latest is not None
    assert latest.step == 1
    assert [str(w.message).split(": ", 1)[1] for w in warned] == [
        "its manifest is another folder's; the checkpoint before it is taken",
        "missing; the checkpoint before it is taken",
    ]


def test_a_checkpoint_takes_the_place_of_its_like_and_of_a_damaged_one(run: Run) -> None:
    save(run, 1, content=b"first")
    path = save(run, 1, content=b"second")
    assert (path / "weights").read_bytes() == b"second"
    (path / "manifest.json").unlink()
    with pytest.warns(StoreWarning, match=r"manifest\.json: No such file"):
        save(run, 1, content=b"third")
    assert (path / "weights").read_bytes() == b"third"
    assert steps(run) == [1]


def test_but_not_of_another_stages(run: Run) -> None:
    path = save(run, 1, stage_key="other", content=b"first")
    with pytest.raises(StorageError, match="a stage of other settings or data made it: choose another --out"):
        save(run, 1)
    assert (path / "weights").read_bytes() == b"first"


def test_a_failed_checkpoint_leaves_the_last_one(run: Run) -> None:
    path = save(run, 1, content=b"first")
    with pytest.raises(ValueError), run.new_checkpoint(1, stage_key="key", meta={}) as folder:
        fail_half_way(folder)
    assert (path / "weights").read_bytes() == b"first"
    assert run.latest_checkpoint("key") is not None


def test_prune_keeps_the_last_ones_and_the_pinned_and_those_of_others(run: Run) -> None:
    for step in range(1, 7):
        save(run, step)
    save(run, 7, stage_key="other")
    run.prune("key", 2, pinned={1, 3})
    assert steps(run) == [1, 3, 5, 6]
    assert steps(run, "other") == [7]
    assert run.latest_checkpoint("other") is not None
    run.prune("key", 9)
    assert steps(run) == [1, 3, 5, 6]


def test_tidying_removes_what_no_artifact_of_a_finished_stage_stands_for(run: Run) -> None:
    save(run, 1)
    save(run, 2)
    save(run, 3, stage_key="key-1")
    save(run, 4, stage_key="keys")
    with run.new_artifact("key", stage="sft", meta={"model": "checkpoint-2"}):
        pass
    run.tidy("key")
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2, 4]


def test_prune_never_takes_the_newest_that_verifies(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        for step in (1, 2, 3, 4):
            save(run, step)
        flip(run.path / "checkpoint-3" / "weights", 0)
        flip(run.path / "checkpoint-4" / "weights", 0)
    with opened(tmp_path / "run") as run:
        run.prune("key", 1)
        assert steps(run) == [2, 4]
        save(run, 5)
        run.prune("key", 0)
        assert steps(run) == [5]


def test_the_samples_of_a_stage_are_shown_anew_and_those_of_others_stay(run: Run) -> None:
    run.sample({"stage": "other", "n": 0})
    for numbers in ((1, 2), (3,)):
        run.show("sft", [{"n": n} for n in numbers])
    assert list(run.samples()) == [{"stage": "other", "n": 0}, {"stage": "sft", "n": 3}]


def test_what_a_stage_needs_no_more_is_removed_and_nothing_else(run: Run) -> None:
    for step, key in ((1, "key-member"), (2, "key"), (3, "key"), (4, "other")):
        save(run, step, stage_key=key)
    with run.new_artifact("key", stage="sft", meta={"model": "checkpoint-3"}):
        pass
    make(run, "key-part")
    run.discard_artifact("key-part")
    assert [artifact.key for artifact in run.artifacts()] == ["key"]
    run.tidy("key")
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3, 4]
    run.discard_checkpoints("other")
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3]
