"""Two ranks are one: the same gradients, the same weights, and the same end when one of them dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks.gradients import NAMES

from truing.compute.ranks import ALONE, TIMEOUT, _timeout, buckets, own_device
from truing.errors import ConfigError

LOST, STOPPED = 69, 75


def forked(folder: Path, *asked: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "error", str(Path(__file__).parent), str(folder), *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return {
        name: found for line in done.stdout.splitlines() if line[0] == "{" for name, found in json.loads(line).items()
    }


@pytest.mark.slow
def test_gradients_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    """In fp32, relative to the norm. Trees are uneven, and in a step of one row the second rank has none."""
    found = forked(tmp_path, "gradients")["gradients"]
    assert list(found) == list(NAMES)
    assert [name for name, apart in found.items() if not apart] == [], "there is a step"
    assert {name: max(apart) for name, apart in found.items() if max(apart) > 1e-6} == {}


@pytest.mark.slow
def test_whole_recipes_end_alike_and_going_on_with_fewer_ranks_is_named_as_inexact(tmp_path: Path) -> None:
    """Six steps of Adam later, and what was told was told once."""
    found = forked(tmp_path, "recipes:sft,dpo,reward_model,grpo", "fewer:sft")
    assert len(found["recipes"]) == 4
    for name, one in found["recipes"].items():
        assert one["steps"] >= 6, name
        assert one["apart"] < 1e-3, name
        assert one["same_events"], name
    fewer = found["fewer"]["sft"]
    assert fewer["apart"] < 1e-3
    (warning,) = [words for words in fewer["warnings"] if "goes on under" in words]
    assert "ranks 1, not 2" in warning
    assert "not the same to the bit" in warning


@pytest.mark.slow
def test_a_rank_that_dies_or_hangs_takes_all_down_and_nothing_with_it(tmp_path: Path) -> None:
    """Within two seconds, or two after the time-out; every folder verifies, and two ranks go on to the same bits.

    One that is asked to stop lets both stop after that step, and both save it.
    """
    found = forked(tmp_path, "blows:sft")["blows"]["sft"]
    assert len(found["killed"]) == len(found["hung"]) == 2
    assert max(found["killed"]) < 2.0
    assert max(found["hung"]) < 2.0
    assert found["codes"] == [LOST] * 4
    assert (found["stopped"], found["kept"]) == ([STOPPED, STOPPED], [3])
    assert found["leftovers"] == []
    assert found["same_bits"] == [True] * 5


def test_buckets_keep_the_order_and_part_what_is_unlike() -> None:
    sizes = [torch.zeros(3), torch.zeros(2), torch.zeros(4), torch.zeros(1, dtype=torch.float64), torch.zeros(9)]
    found = list(buckets(sizes, limit=5))
    assert [[len(one) for one in bucket] for bucket in found] == [[3, 2], [4], [1], [9]]
    assert [one for bucket in found for one in bucket] == sizes


def test_one_process_says_everything_to_itself() -> None:
    tensor = torch.tensor([1.0, 2.0])
    ALONE.add_up([tensor])
    ALONE.copy_first([tensor])
    assert tensor.tolist() == [1.0, 2.0]
    assert ALONE.gather(3) == [3]
    assert ALONE.tell(lambda: 4) == 4
    ALONE.wait()


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device(torch.device("cuda")) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert own_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan"])
def test_a_time_out_is_a_number_of_seconds(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _timeout() == 600.0
    monkeypatch.setenv(TIMEOUT, "7.5")
    assert _timeout() == 7.5
    monkeypatch.setenv(TIMEOUT, seconds)
    with pytest.raises(ConfigError, match="write the seconds after which a silent rank is given up"):
        _timeout()
