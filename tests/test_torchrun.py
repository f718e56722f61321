"""What a user types: `torchrun -m truing run`, which ends well, or badly and altogether."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_model

from truing.store import Run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tiny_model.save(tmp_path / "model")
    tiny_model.write_pairs(tmp_path / "pairs.jsonl", 24)
    file = tmp_path / "recipe.toml"
    file.write_text(
        f'name = "two"\nmodel = "{tmp_path}/model"\nprecision = "fp32"\ndata.path = "{tmp_path}/pairs.jsonl"\n'
        '[[stage]]\nuse = "preference"\nbatch_size = 3\nepochs = 10\nsave_every = 20\n'
        '[[stage]]\nuse = "sample"\nmax_new_tokens = 4\nanswers = 1\n'
    )
    return file


def started(recipe: Path, out: Path) -> subprocess.Popen[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "truing"]
    return subprocess.Popen(
        [sys.executable, *command, "run", str(recipe), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TRUING_CACHE": str(recipe.parent / "cache")},
    )


def steps(out: Path) -> int:
    """How many were told so far."""
    file = out / "events.jsonl"
    return file.read_text().count('"kind": "step"') if file.exists() else 0


def wait_for(agent: subprocess.Popen[str], out: Path, count: int) -> None:
    """Until so many steps were told."""
    while steps(out) < count:
        assert agent.poll() is None, agent.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_torchrun_trains_and_a_killed_rank_takes_all_down(recipe: Path, tmp_path: Path) -> None:
    """The second rank is killed in the middle; the same command then goes on, and says once what there is to say.

    It is stopped as well, by a signal to `torchrun` alone, and then goes on after the very step at which it stopped.
    """
    out = tmp_path / "run"
    first = started(recipe, out)
    wait_for(first, out, 5)
    ranks = {int(rank.environ()["RANK"]): rank for rank in psutil.Process(first.pid).children()}
    ranks[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    gone, alive = psutil.wait_procs(list(ranks.values()), timeout=20)
    seconds = time.monotonic() - began
    assert (len(gone), alive) == (2, [])
    assert seconds < 2.0
    assert first.wait(20) != 0
    assert "is gone" in first.communicate()[1]

    second = started(recipe, out)
    wait_for(second, out, steps(out) + 2)  # those of the first one go as it begins
    second.terminate()
    said, errors = second.communicate(timeout=25)
    assert second.returncode != 0
    assert "forcefully" not in errors, "they were killed"
    told = [event["step"] for event in Run.read(out).events(kind="step")]
    assert told == list(range(1, len(told) + 1))
    (checkpoint,) = Run.read(out).checkpoints()
    assert (checkpoint.step, checkpoint.meta["finished"]) == (told[-1], False)

    third = started(recipe, out)
    said, errors = third.communicate(timeout=100)
    assert third.returncode == 0, errors
    assert said.count("run: ") == 1, "one of them speaks"
    run = Run.read(out)
    told = [event["step"] for event in run.events(kind="step")]
    assert told == list(range(1, 81)), "none is missing, and none stands twice"
    assert {artifact.stage for artifact in run.artifacts()} == {"preference", "sample"}
    assert run.info["machine"]["ranks"] == 2
    assert json.loads((out / "run.json").read_text())["machine"]["threads"] == 1


@pytest.mark.slow
def test_no_rank_outlives_torchrun(recipe: Path, tmp_path: Path) -> None:
    agent = started(recipe, tmp_path / "run")
    wait_for(agent, tmp_path / "run", 5)
    ranks = psutil.Process(agent.pid).children()
    agent.kill()
    gone, alive = psutil.wait_procs(ranks, timeout=10)
    assert (len(gone), alive) == (2, [])
    agent.communicate()
    assert not [c for c in Run.read(tmp_path / "run").checkpoints() if c.meta["finished"]], "they did not just end"
