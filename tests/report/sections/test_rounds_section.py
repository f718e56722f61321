"""What the page of a run says of the rounds of a loop."""

from __future__ import annotations

import re

import fake_runs
import pytest
from reading_html import PAYLOAD, escaped

from truing.report.sections import rounds
from truing.report.view import view


@pytest.fixture(scope="module")
def page(page_of):
    return page_of(fake_runs.loop)


def test_each_round_is_a_column_and_what_is_not_known_yet_a_dash(page):
    section = page.section("rounds")
    assert "Loop self: 3 rounds of 4 of sample, score, preference." in section
    for line in (
        "Mean score of all answers score 0.125 0.250 0.375",
        "Mean score of those kept score 1 2 3",
        "Mean score of the best score 2 3 4",
        "Rows used preference 59 58 –",
        "Rows left out sample 1 2 3",
        "Length of the answers sample 10 20 30",
        "Loss at the end preference 0.600 0.500 –",
        "Held-out accuracy preference 60 % [40, 80] 70 % [40, 80] –",
        "Held-out loss preference 0.600 0.600 –",
    ):
        assert line in section


def test_rows_lead_back_to_the_round_and_model_that_wrote_them(page):
    section = page.section("rounds")
    assert "1 sample 59 b0b0: 120" in section, "a model from outside the run is named by its hash"
    assert "2 preference 58 self.1/preference (aa01): 120" in section
    assert "3 score 57 self.2/preference (aa02): 120" in section


def test_a_curve_of_each_number_that_two_rounds_have(tmp_path):
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.loop(run)
    (loop,) = rounds.loops(view(tmp_path / "run"))
    figures = {figure.heading: figure for figure in rounds.figures(loop)}
    assert figures["Mean score of the best, score"].summary == "2 → 4"
    assert figures["Held-out accuracy, preference"].summary.replace("\N{NO-BREAK SPACE}", " ") == "60 % → 70 %"
    points = re.findall(r"[ML]([0-9.]+),([0-9.]+)", str(figures["Mean score of the best, score"].chart))
    heights = [float(y) for _, y in points[-3:]]
    assert "Held-out loss, preference" not in figures, "it is the same in all rounds"
    assert heights == sorted(heights, reverse=True), "up is a smaller number"
    with fake_runs.opened(tmp_path / "first") as run:
        fake_runs.loop(run, rounds=1)
    (first,) = rounds.loops(view(tmp_path / "first"))
    assert rounds.figures(first) == []


@pytest.fixture(scope="module")
def measured(page_of):
    return page_of(fake_runs.measured_loop).section("rounds")


def test_every_round_against_every_earlier_one_is_a_matrix(tmp_path, measured):
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.measured_loop(run)
    (loop,) = rounds.loops(view(tmp_path / "run"))
    assert loop.stages == ["preference", "win_rate", "diversity", "choose"], "one name for all stages of the matrix"
    (matrix,) = loop.matrices
    assert (matrix.stage, matrix.columns) == ("win_rate", ["SmolLM2-135M-Instruct", "round 1", "round 2"])
    assert [[rate is not None for rate in row] for row in matrix.rows] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert "against SmolLM2-135M-Instruct against round 1 against round 2" in measured
    last = " ".join(f"{rate.percent} 80 comparisons" for rate in matrix.rows[2])
    assert f"Round 3 {last}".replace("\N{NO-BREAK SPACE}", " ") in measured
    assert "win_rate/" not in measured


def test_what_stages_of_the_body_measure_stands_by_round(measured):
    assert "Distinct-2 diversity 0.820 [0.800, 0.840] 0.720 [0.700, 0.740] 0.620 [0.600, 0.640]" in measured
    assert "Win rate choose 60 % [46, 72] 43 % [28, 59] 60 % [46, 72]" in measured
    assert "Win rate win_rate" not in measured, "that is the matrix"


def test_the_win_rate_of_the_first_round_stands_there_before_there_is_a_matrix(page_of):
    first = page_of(lambda run: fake_runs.measured_loop(run, rounds=1)).section("rounds")
    assert re.search(r"Win rate win_rate/start [0-9]+ % \[", first)


def test_which_model_went_on_is_told(measured):
    assert "1 choose 60 % [46, 72] the newer one: self.1/preference (ab01)" in measured
    assert "2 choose 43 % [28, 59] the one before: self.1/preference (ab01)" in measured
    assert "3 choose 60 % [46, 72] the newer one: self.3/preference (ab03)" in measured


def test_numbers_beside_others_have_no_curve_of_their_own(tmp_path):
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.loop(run)
        where = {"round": {"loop": "self", "number": 1, "of": 4}}
        rows = fake_runs.suite_rows()
        fake_runs.round_stage(run, "self.1/judge", "j1", {"model": "aa01", "base": "b0b0"}, where, [rows[2]])
        where["round"]["number"] = 2
        fake_runs.round_stage(run, "self.2/judge", "j2", {"model": "aa02", "base": "b0b0"}, where, [rows[2]])
    (loop,) = rounds.loops(view(tmp_path / "run"))
    said = {(one.heading, one.stage): one.said for one in loop.measures}
    assert said["Win rate: ties", "judge"] == ["33 % [20, 50]", "33 % [20, 50]", "–"]
    assert not loop.matrices, "no round was measured against another"
    assert not [figure for figure in rounds.figures(loop) if "ties" in figure.heading]


def test_a_run_without_a_loop_has_no_such_section(page_of):
    assert "rounds" not in [section["id"] for section in page_of(fake_runs.online).all("section")]


def test_names_are_escaped(page_of):
    assert escaped(page_of(lambda run: fake_runs.loop(run, text=PAYLOAD)), "rounds")
