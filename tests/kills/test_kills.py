"""Runs that are killed anywhere end as they would have ended, and the harness that says so notices what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kills.mutations import MUTATIONS
from kills.runs import ALGORITHMS

KILLS = 60
"""Of each algorithm. `make soak` has many more."""
HALVES = (
    ["sft", "dpo", "dpo_lora", "kto"],
    ["reward_model", "ppo", "grpo", "loop"],
)  # fmt: skip


def forked(tmp_path: Path, *names: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "error", str(Path(__file__).parent), str(tmp_path), str(KILLS), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: found for line in done.stdout.splitlines() for name, found in json.loads(line).items()}


def test_every_algorithm_is_in_one_half() -> None:
    assert sorted(name for half in HALVES for name in half) == sorted(ALGORITHMS)


@pytest.mark.slow
@pytest.mark.parametrize("names", HALVES, ids=lambda names: names[0])
def test_killed_anywhere_it_ends_with_the_same_bits(names: list[str], tmp_path: Path) -> None:
    """Weights, optimizer, random numbers, metrics, rows, rollouts and artifacts, none missing and none twice.

    And no session begins before a checkpoint that was published.
    """
    found = forked(tmp_path, *names)
    assert list(found) == names
    for name, counts in found.items():
        assert counts["kills"] == KILLS
        assert {"start", "step", "save", "seal", "prune", "report"} <= counts.keys()
        assert not [place for place, count in counts.items() if not count], f"{name}: nothing was killed there"
    assert "evaluation" in found[names[1]]
    if "loop" in found:
        assert {"rollout", "evaluation", "second round"} <= found["loop"].keys()
        assert "rollout" in found["ppo"].keys() & found["grpo"].keys()


@pytest.mark.slow
def test_every_mutation_is_noticed(tmp_path: Path) -> None:
    found = forked(tmp_path, "mutations")["mutations"]
    assert found.keys() == MUTATIONS.keys()
    assert not [name for name, said in found.items() if not said]
    parts = {name: said.split(": ")[1] for name, said in found.items()}
    assert parts.pop("pruned_first") == "stage 'sft' began at step 1 and had a later checkpoint"
    assert parts.pop("saved_in_place") == "a session ended with 1"
    assert set(parts.values()) == {"events"}
