"""What the page of a run says of a reward model."""

from __future__ import annotations

import itertools
import re

import fake_runs
import pytest
from reading_html import built, share

from truing.report.words import number
from truing.scoring.agreement import Scored, findings, verdict
from truing.statistics import Interval


@pytest.fixture(scope="module")
def measured():
    """What a stage evaluate_reward wrote."""
    return fake_runs.reward_evaluation(categories=("chat", "<b>safety</b>"))


@pytest.fixture(scope="module")
def of_reward(tmp_path_factory, measured):
    folder = tmp_path_factory.mktemp("reward") / "run"
    with fake_runs.opened(folder) as run:
        fake_runs.evaluate_reward(run, measured)
    return built(folder)


def test_structure(of_reward):
    assert of_reward.problems == []
    charts = [number for number, (tag, _) in enumerate(of_reward.tags) if tag == "svg"]
    assert all(of_reward.tags[number + 1][0] == "title" for number in charts)
    levels = [int(tag[1]) for tag, _ in of_reward.tags if re.fullmatch("h[1-6]", tag)]
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    ids = {attributes["id"] for _, attributes in of_reward.tags if "id" in attributes}
    assert {link["href"][1:] for link in of_reward.all("a")} <= ids
    assert "<b>safety</b>" not in of_reward.source


def test_the_verdict_is_the_accuracy(of_reward, measured):
    rate = measured["accuracy"]
    verdict = of_reward.section("verdict")
    assert f"{100 * rate['value']:.0f} % of held-out comparisons ordered as people did" in verdict
    assert measured["verdict"][1:].replace("  ", " ") in verdict
    dot = next(circle for circle in of_reward.all("circle"))
    assert share(dot["cx"]) == pytest.approx(100 * rate["value"], abs=0.01)
    assert "Add an evaluate stage" not in of_reward.text


def test_figures(of_reward, measured):
    reward = of_reward.section("reward")
    for name in ("over_longer", "correlation"):
        assert str(Interval(*(measured["length"][name][key] for key in ("value", "low", "high", "n")))) in reward
    assert Interval(*(measured["length"]["balanced"][key] for key in ("value", "low", "high", "n"))).percent in reward
    calibration = measured["calibration"]
    assert f"off by {100 * calibration['error']:.1f} points, by chance" in reward
    for name in ("temperature", "log_loss", "log_loss_mended", "brier"):
        assert str(Interval(*(calibration[name][key] for key in ("value", "low", "high", "n")))) in reward
    assert "400 comparisons of 400 prompts; left out: 3 rows with one answer." in reward
    assert "By source forum" in reward
    assert "By category chat" in reward
    mean = measured["categories"]["mean"]
    assert Interval(mean["value"], mean["low"], mean["high"], 0).percent in reward


def test_every_bin_is_a_point_with_its_interval(of_reward, measured):
    titles = re.findall(r"<title>(observed|accuracy) (?:where|at) [^<]*</title>", of_reward.source)
    assert titles.count("observed") == len(measured["calibration"]["curve"]) == 10
    assert titles.count("accuracy") == len(measured["by_strength"]) + len(measured["by_length"])
    first = measured["calibration"]["curve"][0]
    rate = Interval(*(first["observed"][key] for key in ("value", "low", "high", "n")))
    assert f"where it says {number(100 * first['predicted'])} %: {rate.percent}" in of_reward.source


def test_what_cannot_be_measured_is_a_dash(tmp_path):
    rows = [Scored(f"{n}", (1.0, 0.0), (4, 4), ((0, 1),)) for n in range(8)]
    found = findings(rows, bins=10, seed=0) | {"reward": "r", "unused": {}, "categories": None}
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.evaluate_reward(run, found | {"verdict": verdict(found)})
    page = built(tmp_path / "run")
    assert page.problems == []
    assert "Temperature –" in page.section("reward")
    assert "Where length does not tell –" in page.section("reward")
    assert "By source" not in page.section("reward")
    assert "by strength" not in page.section("reward")


def test_a_run_without_it_says_what_to_add(tmp_path):
    with fake_runs.opened(tmp_path / "run") as run:
        run.event("rm", "start", settings={}, inputs={}, key="k")
        with run.new_artifact("k", stage="rm", meta={"reward": "checkpoint-3", "base": "b"}):
            pass
        run.event("rm", "end", seconds=1.0, peak_memory_bytes=1)
    assert "Add an evaluate_reward stage" in built(tmp_path / "run").section("verdict")
