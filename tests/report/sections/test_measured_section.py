"""What the page of a run says of a suite."""

from __future__ import annotations

import fake_runs
import pytest
from reading_html import PAYLOAD, escaped

from truing.report.sections.measured import REACH, read
from truing.statistics import Interval
from truing.statistics.suites import Measured


@pytest.fixture(scope="module")
def page(page_of):
    return page_of(lambda run: fake_runs.suite(run, text=PAYLOAD))


def test_one_table_has_all_numbers(page):
    section = page.section("measured")
    assert section.count("Measurement Model Base Difference") == 1  # the measurement by itself is not shown again
    assert "arithmetic accuracy 10 % [1, 32] 80 % [56, 94] −70 points" in section
    assert "refusals refused safe, less is better 0 % [0, 17] 75 % [51, 91] −75 points" in section
    assert "a coin" in section
    assert "ties: 33 % [20, 50]" in section
    assert "a loss of 0.0100 is accepted" in section
    assert "arithmetic left out: no result (2)." in section


def test_the_verdict_says_what_was_lost(page):
    assert "Lost against the base: arithmetic" in page.section("verdict")
    assert page.source.count('class="reach bad"') == page.source.count('class="reach good"') == 1


def test_words_of_models_are_escaped(page):
    assert escaped(page, "measured")


def bar(row):
    return read("guard", {"rows": [row.plain], "model": "after", "base": "before"}).bar(0)


def test_bars_are_in_half_widths_and_stay_inside():
    coin = bar(fake_runs.suite_rows()[2])
    assert "<title>judge: win rate" in coin
    assert 'cx="50.00%"' in coin  # as many wins as losses
    far = bar(Measured("a", "b", "number", "higher", *[Interval(0, 0, 0, 9)] * 2, Interval(-50, -51, -49, 9), 1e-9))
    assert f'cx="{50 - 50 * REACH / (REACH + 1):.2f}%"' in far
    assert 'x="0.00%" width="20.00%"' in far
