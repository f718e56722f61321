"""What the page of a run says of learning from the policy's own answers."""

from __future__ import annotations

import math

import fake_runs
import pytest
from reading_html import PAYLOAD, built

from truing.report.sections import online


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    with fake_runs.opened(path) as run:
        fake_runs.online(run, text=PAYLOAD)
    return built(path)


def test_the_gain_of_held_out_reward_is_the_verdict(page):
    section = page.section("verdict")
    assert "+0.310 reward of held-out prompts, +0.220 to +0.400" in section
    assert "Mean reward of 64 held-out prompts rose from 0.200 to 0.510" in section
    assert "not that people like the answers better" in section


@pytest.mark.parametrize(("low", "high", "words"), [(-0.4, -0.1, "fell from"), (-0.1, 0.2, "cannot be told from")])
def test_a_gain_that_is_none_is_not_called_one(tmp_path, low, high, words):
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.online(run, gain=((low + high) / 2, low, high))
    assert words in built(tmp_path / "run").section("verdict")


def test_curves_stand_over_rollouts_and_once(page):
    section, curves = page.section("online"), page.section("curves")
    for heading in ("Reward", "KL from the reference", "Length", "Generator gap", "Tokens out of bounds"):
        assert f"{heading} " in section
    assert "Generator gap" not in curves
    assert "Tokens out of bounds" not in curves
    assert "Loss" in curves
    assert "Explained variance" not in section  # without a critic there is none


def test_failures_are_counted_by_reason(page):
    assert "Prompts left out, as the scorer failed the row has no reference 4" in page.section("online")


def test_best_and_worst_answers_are_shown_with_their_prompts(page):
    section = page.section("online")
    assert "Of 6 rollouts" in section
    assert "What do 1 pens cost at three each?" in section
    assert "What do 40 pens cost at three each?" in section
    assert "cut off at the limit" in section


def test_tokens_are_marked_on_one_scale_and_stand_in_a_table(page):
    section = page.section("online")
    assert "Advantage : how much better than expected" in section
    assert "scale to ±0.900" in section
    marked = [attributes for tag, attributes in page.tags if tag == "span" and attributes.get("title") == "0.900"]
    assert {one["class"] for one in marked} == {"m4"}
    worst = [attributes for tag, attributes in page.tags if tag == "span" and attributes.get("title") == "−0.600"]
    assert {one["class"] for one in worst} == {"m0"}
    assert "<|im_end|> 0.900 1 0.450" in section
    assert "far below 0 below 0 near 0 above 0 far above 0" in section


def test_each_mark_is_told_without_colour(page):
    lines = [line for line in page.source.splitlines() if line.startswith(".marks .m")]
    decorations = [line.partition("text-decoration: ")[2].partition(";")[0] for line in lines]
    assert len(lines) == len(set(decorations)) == 4  # what is near 0 has none
    assert "" not in decorations


def test_numbers_out_of_their_range_are_named(tmp_path, page):
    assert "Outside." not in page.section("online")
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.online(run, kl=90.0)
    assert "KL from the reference 79.9 at most 20 Outside. The policy has become" in built(tmp_path / "run").section(
        "online"
    )


def test_a_run_under_way_has_its_section(tmp_path):
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.online(run, gain=None)
    page = built(tmp_path / "run")
    assert "30 rollouts" in page.section("online")
    assert "has not come to its end" in page.section("verdict")
    assert page.problems == []


def test_texts_of_models_are_escaped(page):
    assert page.problems == []
    assert "<script>alert(1)</script>" in page.section("online")
    assert not {tag for tag, _ in page.tags} & {"script", "img"}


@pytest.mark.parametrize(
    ("value", "reach", "place"),
    [(0, 1, 2), (0.19, 1, 2), (0.2, 1, 3), (-0.59, 1, 1), (0.6, 1, 4), (-1, 1, 0), (5, 0, 2), (math.nan, 1, 2)],
)
def test_a_mark_is_a_fifth_of_the_scale(value, reach, place):
    assert online.mark(value, reach) == place
