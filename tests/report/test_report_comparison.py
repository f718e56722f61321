"""Several runs on one page."""

from __future__ import annotations

import re

import fake_runs
import pytest
from reading_html import Page

from truing import report
from truing.errors import ConfigError
from truing.report.comparison import differing_settings, labels, shared_prompts
from truing.report.view import view


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = fake_runs.write(folder / "first", name="first", steps=60)
    return [first, fake_runs.write(folder / "second", name="second", seed=1, steps=60)]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    return Page(report.compare(runs, tmp_path_factory.mktemp("page") / "compare.html"))


def test_balanced_and_alone(page):
    assert page.problems == []
    assert not re.findall(r"https?://|@import|url\(", page.source)


def test_intervals_stand_on_one_axis(page, runs):
    rates = [fake_runs.evaluation(seed=seed)["win_rate"]["value"] for seed in (0, 1)]
    dots = [float(circle["cx"].rstrip("%")) for circle in page.all("circle")]
    assert dots == pytest.approx([100 * rate for rate in rates], abs=0.01)
    assert rates[0] != rates[1]
    assert all(f"{100 * rate:.0f} % [" in page.section("verdict") for rate in rates)


def test_counts_are_spelled_right(tmp_path):
    for name in ("a", "b"):
        with fake_runs.opened(tmp_path / name, name=name) as run:
            fake_runs.evaluate(run, fake_runs.evaluation() | {"wins": 59, "ties": 0, "losses": 1})
    verdict = Page(report.compare([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html")).section("verdict")
    assert verdict.count("59 wins, 0 ties, 1 loss ") == 2


def test_only_what_differs_is_listed(page, runs):
    assert differing_settings([view(run) for run in runs]) == {
        "seed": ["0", "1"],
        "preference.objective.beta": ["0.1", "0.15"],
    }
    assert "preference.objective.beta 0.1 0.15" in page.section("differences")
    assert "learning_rate" not in page.section("differences")


def test_curves_are_laid_over_each_other(page):
    loss = next(svg for svg in page.source.split("<svg") if "<title>Loss" in svg)
    assert '<path class="main run0"' in loss
    assert '<path class="main run1"' in loss


def test_the_same_prompts(page, runs):
    prompts = shared_prompts([view(run) for run in runs])
    assert len(prompts) == 60
    answers = page.section("answers")
    first = answers[answers.index("Prompt 1 ") : answers.index("Prompt 2 ")]
    assert re.search(
        "Base .* first (beats|loses to|ties with) the base .* second (beats|loses to|ties with) the base", first
    )


def test_prompts_of_one_run_alone_are_left_out(tmp_path):
    short, long = tmp_path / "short", tmp_path / "long"
    fake_runs.write(short, prompts=3, steps=2)
    fake_runs.write(long, prompts=9, steps=2)
    assert len(shared_prompts([view(long), view(short)])) == 3


def test_different_bases_are_both_shown(tmp_path):
    found = fake_runs.evaluation(prompts=1)
    for name in ("a", "b"):
        found["examples"][0]["base"]["text"] = f"base answer of {name}"
        with fake_runs.opened(tmp_path / name, name=name) as run:
            fake_runs.evaluate(run, found)
    answers = Page(report.compare([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html")).section("answers")
    assert "Base of a base answer of a" in answers
    assert "Base of b base answer of b" in answers


def test_a_run_without_anything(tmp_path, runs):
    with fake_runs.opened(tmp_path / "empty", name="empty"):
        pass
    page = Page(report.compare([runs[0], tmp_path / "empty"], tmp_path / "c.html"))
    assert page.problems == []
    assert "no evaluation in this run" in page.section("verdict")
    assert "no training stage in common" in page.section("curves")
    assert "no evaluated prompt in common" in page.section("answers")


def test_equal_runs_differ_in_nothing(tmp_path):
    first, second = (fake_runs.write(tmp_path / name, steps=2) for name in "ab")
    assert labels([view(first), view(second)]) == ["briefer answers (a)", "briefer answers (b)"]
    page = Page(report.compare([first, second], tmp_path / "c.html"))
    assert "The runs have the same model, seed, settings, inputs and versions" in page.section("differences")


def test_broken_numbers_are_said(tmp_path, runs):
    with fake_runs.opened(tmp_path / "bad", name="bad") as run:
        run.event("sft", "step", step=1, steps=1, metrics={"loss": "NaN"})
    page = Page(report.compare([runs[0], tmp_path / "bad"], tmp_path / "c.html"))
    assert "bad: numbers broke in stage sft. loss was NaN or infinite" in page.text


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_or_too_many(runs, tmp_path, count):
    with pytest.raises(ConfigError, match=f"2 to 6 runs, and {count} were given"):
        report.compare([runs[0]] * count, tmp_path / "c.html")
