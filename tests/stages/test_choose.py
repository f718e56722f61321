"""Which of two models goes on: the newer one where it wins more often than not, in a stage and in a loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny_model

from truing.errors import ConfigError
from truing.pipeline import make_recipe, run_recipe
from truing.scoring.score import Score
from truing.signatures import validated
from truing.stages import choose as choosing
from truing.stages.choose import Choose, choose
from truing.stages.context import Judges
from truing.stages.measure import Asked, Beside, Scored
from truing.store import Run


@pytest.mark.parametrize(
    ("outcomes", "newer"),
    [([1.0, 1.0, 0.0], True), ([0.0, 1.0, 0.0], False), ([1.0, 0.0], False), ([0.5, 0.5, 0.5, 1.0], True)],
)
def test_the_newer_one_goes_on_if_it_wins_more_often_than_not(
    outcomes: Sequence[float], newer: bool, tmp_path: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(outcomes)
    said = [(Score(0.0), Score(0.0))] * count
    scored = Scored([0.0] * count, [0.0] * count, list(range(count)), Counter(), [])
    beside = Beside(Asked([], [], []), list(outcomes), [(1, 1)] * count, said, list(range(count)), scored)
    monkeypatch.setattr(choosing, "side_by_side", lambda *_: beside)
    run = runs()
    new, old = (tiny_model.model_of(tiny_model.save(tmp_path / name, seed=seed)) for name, seed in (("n", 1), ("o", 2)))
    settings = validated(Choose, {"scorer": "length", "examples": 0}, "")
    choose(tiny_model.context(run), settings, new, old, tiny_model.given([]), Judges("none", {}))
    artifact = run.artifact("key")
    assert artifact is not None
    assert artifact.meta["model"] == (new if newer else old).source
    (said,) = run.events(kind="chosen")
    assert (said["newer"], said["wins"]["n"]) == (newer, count)


def test_a_model_is_not_chosen_from_itself(tmp_path: Path, runs: Callable[[], Run]) -> None:
    one = tiny_model.model_of(tiny_model.save(tmp_path / "m"))
    with pytest.raises(ConfigError, match='name another base, as by base = "previous"'):
        choose(tiny_model.context(runs()), Choose(), one, one, tiny_model.given([]), Judges("none", {}))


def test_a_round_that_made_it_worse_is_not_where_the_next_one_begins(tmp_path: Path) -> None:
    """DPO that moves much against DPO that moves nothing, by the length of held-out answers."""
    body = [
        {"use": "sample", "answers": 3, "max_new_tokens": 5, "temperature": 1.5},
        {"use": "score", "scorer": {"name": "length", "unit": "characters"}, "keep": "best_and_worst"},
        {"use": "preference", "batch_size": 4, "learning_rate": 3e-2},
        {"use": "choose", "base": "previous", "data": "held_out", "max_new_tokens": 5, "temperature": 1.5,
         "scorer": {"name": "length", "unit": "characters"}},
    ]  # fmt: skip
    table = {
        "name": "t", "model": str(tiny_model.save(tmp_path / "m")), "device": "cpu", "precision": "fp32",
        "data": {"path": str(tiny_model.write_pairs(tmp_path / "pairs.jsonl", 12)), "held_out": 0.3},
        "stage": [{"use": "loop", "name": "self", "rounds": 3, "carry": ["model"], "stage": body}],
    }  # fmt: skip
    run = Run.read(run_recipe(make_recipe(table), out=tmp_path / "run", reporter=tiny_model.quiet()))
    made = {artifact.stage: artifact for artifact in run.artifacts()}
    before = table["model"]
    for number in (1, 2, 3):
        chosen = made[f"self.{number}/choose"]
        (said,) = run.events(f"self.{number}/choose", "chosen")
        newest = made[f"self.{number}/preference"].meta["model"]
        assert made[f"self.{number}/preference"].meta["base"] == str(run.path.absolute() / str(before))
        assert chosen.meta["model"] == (newest if said["newer"] else before)
        assert said["newer"] == (said["wins"]["value"] > 0.5)
        before = chosen.meta["model"]
