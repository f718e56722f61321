"""Online learning that is killed at any moment and gone on with ends where it would have ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
from killing_online import ALGORITHMS

KILLS = 6
"""Two of each kind. For more of them: python tests/stages/killing_online.py ALGORITHM KILLS FOLDER."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_killed_in_the_middle_of_things_and_gone_on_with_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    """In rollouts, updates and saves: weights, metrics, samples and rollouts, no step missing and none doubled."""
    tiny_model.save(tmp_path / "model")
    (tmp_path / "rewards.py").write_text(
        "def vowels(prompt, answer):\n    return sum(letter in 'aeiou' for letter in answer) / max(len(answer), 1)\n"
    )
    script = Path(__file__).with_name("killing_online.py")
    command = [sys.executable, "-W", "error", str(script), name, str(KILLS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= 1
