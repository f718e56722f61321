"""What is measured of rounds, judges and rankings: the page says what the numbers say, and all parts run small."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from evidence import loops, loops_page
from evidence.found import Found
from evidence.loops_page import LIMIT, collapse, holds, is_idle, is_near_limit, lead, met
from truing.recipe import read_recipe
from truing.statistics import Interval

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence" / "loops.md"
EVEN = dict.fromkeys(range(4), 0.0)


def about(middle: float) -> dict[int, float]:
    """Four seeds close around it."""
    return {seed: middle + 0.01 * (seed - 1.5) for seed in range(4)}


def test_the_page_is_made_of_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "loops.json").write_text(PAGE.with_suffix(".json").read_text())
    loops_page.write(tmp_path)
    assert (tmp_path / "loops.md").read_text() == PAGE.read_text()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "evidence").glob("loops-*.toml")), ids=lambda path: path.stem
)
def test_its_recipes_are_recipes(path: Path) -> None:
    assert read_recipe(path).stage


@pytest.mark.parametrize(
    ("kept", "out", "words"),
    [
        (0.7, 0.5, "collapses, no better than chance"),
        (0.7, 0.4, "collapses, below chance"),
        (0.7, 0.6, "is worse and does not collapse"),
        (0.7, 0.75, "does not collapse here, nor is it clearly worse"),
        (0.5, 0.5, "cannot be told from chance, and yet is not clearly worse"),
    ],
)
def test_a_collapse_is_told_where_there_is_one(kept: float, out: float, words: str) -> None:
    assert words in collapse(about(kept), about(out))


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ((0.1, 0.2, 0.3, 0.4), "has not met its data after 4 rounds: -0.60"),
        ((0.1, 0.2, 0.3, 0.4), "still improves"),
        ((0.1, 0.4, 0.4, 0.4), "not clearly improve"),
        ((0.5, 1.0, 1.0, 1.0), "In round 2 it is no longer clearly below its data. It stops improving there"),
        ((0.5, 1.0, 1.2, 1.4), "goes on improving after that"),
        ((0.5, 1.0, 0.8, 0.6), "falls back after that"),
        ((0.1, 0.4, 0.6, 1.0), "what it does after that is not shown"),
    ],
)
def test_self_play_stops_where_the_numbers_say_so(rewards: tuple[float, ...], words: str) -> None:
    assert words in met([about(one) for one in rewards], data=1.0)


def test_length_is_held_where_the_numbers_say_so() -> None:
    up, none, down = (lead(about(middle), EVEN) for middle in (3.0, 0.0, -3.0))
    assert holds(up, down) == "slows it and does not stop it"
    assert holds(none, down) == "stops it"
    assert holds(down, down) == "stops it and goes below"
    assert holds(up, none) == holds(none, up) == "does not clearly hold length"


def test_what_hardly_learns_and_what_has_no_room_are_told() -> None:
    assert is_idle([0.05, 0.07], [1.5, 1.7])
    assert not is_idle([0.2, 0.4], [1.5, 1.7])
    assert is_near_limit([LIMIT - 6, LIMIT - 4])
    assert not is_near_limit([LIMIT / 2, LIMIT])
    said = PAGE.read_text()
    assert said.count("It hardly learns anything: ") == 1
    assert "- biased judge, balanced pairs: stops it" in said
    assert "Near their limit of 48 tokens are the answers of biased judge (" in said


def test_a_lead_is_paired_by_seed() -> None:
    found = lead({0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0}, {0: 0.0, 1: 1.0, 2: 2.0})
    assert isinstance(found, Interval)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.slow
def test_a_part_runs_small(tmp_path: Path) -> None:
    """The loop of DPO and that of fine-tuning by a judge who errs, whole, on made-up reviews."""
    folder = tmp_path / "uci_sentiment"
    folder.mkdir()
    with gzip.open(folder / "sentences.jsonl.gz", "wt", encoding="utf-8") as out:
        for number in range(60):
            word, kind = ("all", "good") if number % 2 else ("these", "bad")
            said = f"Thing {number // 2} of {word} was really {kind} for me"
            out.write(json.dumps({"source": "a", "text": said, "label": number % 2}) + "\n")
    found = Found(tmp_path / "loops.json", "here")
    trial = loops.Trial(tmp_path, tmp_path / "runs", found, loops.replace(loops.QUICK, seeds=1, learning=(1e-3,)))
    found.settle(loops.settled(trial.size))
    loops.start(trial)
    loops.positives(trial)
    learnt: dict[str, Any] = {name: found.pieces[f"positives/{name}/0.001/0"] for name in loops.LEARNT}
    assert all(one["kl"] != 0 for one in learnt.values())  # an estimate, of either sign while so small
    assert learnt[loops.PAIRS] != learnt[loops.POSITIVES]
    loops_page.write(tmp_path)
    assert "Pairs and DPO" in (tmp_path / "loops.md").read_text()
