"""Runs that are killed anywhere end as they would have ended, and the harness that says so notices what it should."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from kills.mutations import MUTATIONS
from kills.runs import ALGORITHMS

from soak.storage import MEMORY

KILLS = 100
"""Of each algorithm, and a sixth as many of those that are asked to stop. `make soak` has 1,000."""
HALVES = (
    ["sft", "dpo", "dpo_lora", "kto", "reward_model"],
    ["ppo", "grpo", "loop", "dpo-stopped", "ppo-stopped", "mutations"],
)
"""What each of two processes does, which takes as long."""
ALSO = {"dpo": {"evaluation", "rollout"}, "ppo": {"rollout"}, "grpo": {"rollout"}, "loop": {"second round", "rollout"}}


def test_every_algorithm_is_killed() -> None:
    assert set(ALGORITHMS) <= {name for half in HALVES for name in half}


@pytest.mark.slow
@pytest.mark.parametrize("names", HALVES, ids=lambda names: names[0])
def test_killed_anywhere_it_ends_with_the_same_bits(names: list[str]) -> None:
    """Weights, optimizer, random numbers, metrics, rows, rollouts and artifacts, none missing and none twice.

    And no session begins before a checkpoint that was published.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        command = [sys.executable, "-W", "error", str(Path(__file__).parent), folder, str(KILLS), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: one for line in done.stdout.splitlines() for name, one in json.loads(line).items()}
    assert list(found) == names
    if "mutations" in found:
        demand_noticed(found.pop("mutations"))
    for name, counts in found.items():
        assert counts["kills"] == (KILLS // 6 if "-" in name else KILLS)
        assert {"start", "step", "save", "seal", "prune", "report"} | ALSO.get(name, set()) <= counts.keys()
        assert not [place for place, count in counts.items() if not count], f"{name}: nothing was killed there"


def demand_noticed(said: dict[str, str]) -> None:
    """Every bug that was put into the product turned a run red, and for the right reason."""
    assert said.keys() == MUTATIONS.keys()
    assert not [name for name, words in said.items() if not words]
    reasons = {name: words.split(": ")[1] for name, words in said.items()}
    assert reasons.pop("pruned_first") == "stage 'sft' began at step 1 and had a later checkpoint"
    assert reasons.pop("saved_in_place") == "a session ended with 1"
    assert set(reasons.values()) == {"events"}
