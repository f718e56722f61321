"""The truth of the synthetic comparisons, and the page that is made of what was found."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from evidence import page, synthetic
from evidence.reward import MetaTrial, Size, Tenth, turned
from evidence.running import RECIPES
from truing.recipe import read_recipe
from truing.statistics import proportion


def test_the_chosen_answer_is_the_better_one_but_for_turned_labels() -> None:
    groups = synthetic.comparisons(400, seed="a", turned=0.25)
    known = synthetic.values()
    for group in groups:
        chosen, rejected = (synthetic.worth(said, known) for said in group.completions)
        assert (chosen < rejected) == group.extra["turned"]
        assert abs(chosen - rejected) == pytest.approx(group.extra["gap"])
    assert 0.2 < sum(group.extra["turned"] for group in groups) / 400 < 0.3
    assert groups == synthetic.comparisons(400, seed="a", turned=0.25)
    assert {str(group.prompt) for group in groups}.isdisjoint(
        str(group.prompt) for group in synthetic.comparisons(400, seed="b", turned=0.0)
    )


def test_turning_a_label_turns_its_strength() -> None:
    (group,) = synthetic.comparisons(1, seed="a", turned=0.0)
    strong = turned(turned(group.__class__(group.prompt, group.completions, strength=1.5)))
    assert strong.strength == 1.5
    assert [answer.text for answer in strong.completions] == [answer.text for answer in group.completions]


@pytest.mark.parametrize("name", ["reward-audit", "reward-train", "reward-meta"])
def test_every_recipe_is_sound(name: str) -> None:
    file = RECIPES / f"{name}.toml"
    assert tomllib.loads(file.read_text())["model"] == "small"
    assert read_recipe(file).stage


def test_the_page_says_what_was_found_whichever_way_it_falls(tmp_path: Path) -> None:
    def found(good: bool) -> str:
        shares = range(10, 101, 10) if good else range(100, 9, -10)
        tenths = [Tenth(s / 50 - 1, proportion(s, 100), proportion(s, 100)) for s in shares]
        runs = {"plain": [[0.7, 0.6], [0.72, 0.61]], "margin": [[0.7, 0.7], [0.72, 0.73]]}
        ahead = [MetaTrial(1e-12, [0.7, 0.7], [1.0, 1.1]), MetaTrial(0.1, [0.6, 0.7], [2.0, 1.9])]
        turned_round = [proportion(90 if good else 10, 100)] * 2
        page.write(tmp_path, Size(seeds=2, epochs=2), tenths, turned_round, runs, ahead)
        return (tmp_path / "reward.md").read_text()

    good, bad = found(True), found(False)
    assert "rises with the strength at every step" in good
    assert "but for 9 of nine steps" in bad
    assert "as labelled is below chance, turned round above it" in good
    assert "not clearly below chance, turned round not clearly above it" in bad
    assert re.search(r"\| margin \| 2 \| 7\d(\.\d)? % .*\| 7\d", good)
    assert re.search(r"\| margin \| 1[01]\.\d \[", good)
    assert "| none | 1.1 [" in good
    assert (tmp_path / "reward-tenths.svg").stat().st_size > 1000
