"""Charts draw what they are given, where it belongs."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from truing.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    SLICES,
    TOP,
    Axis,
    Line,
    Points,
    histogram,
    line_chart,
    outcome_bar,
    part_bar,
    smooth,
    thin,
    ticks,
)
from truing.statistics import Interval


def path(svg, kind):
    """The points of the first path of this class."""
    drawn = re.search(rf'class="{kind} [^"]*" d="([^"]*)"', svg)[1]
    return [tuple(map(float, point)) for point in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", drawn)]


def test_axis_by_hand():
    assert Axis(0, 10, 100, 200)(2.5) == 125
    assert Axis(0, 10, 200, 100)(2.5) == 175


def test_a_straight_line_is_straight():
    points = path(line_chart("t", [Line("l", "policy", [0, 1, 2], [5, 6, 7], "values")]), "main")
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (x1 - x0, y0 - y1) == pytest.approx((x2 - x1, y1 - y2), abs=0.11)
    assert x0 < x2
    assert y2 < y0
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in points)


@pytest.mark.parametrize(
    "values", [[3.0], [0.0, 0.0], [math.nan, math.nan], [math.inf, 1.0], [1e-300, 2e-300], [-5, 1e9]]
)
def test_hard_values_are_drawn_inside(values):
    svg = line_chart("t", [Line("l", "policy", list(range(len(values))), values)])
    for at, up in path(svg, "raw") + path(svg, "main"):
        assert LEFT <= at <= RIGHT
        assert TOP <= up <= BOTTOM
    assert "nan" not in svg.replace("nan", "", 0).split("</title>")[1]


def test_a_value_between_gaps_stays_visible():
    svg = line_chart("t", [Line("l", "policy", [1, 2, 3], [math.nan, 1.0, math.nan])])
    assert re.search(r'class="main policy" d="M[\d.]+,[\d.]+h0"', svg)
    assert svg.count('class="broken"') == 2


def test_a_gap_is_not_bridged():
    svg = line_chart("t", [Line("l", "policy", [1, 2, 3, 4, 5], [1.0, 2.0, math.nan, 3.0, 4.0])])
    assert re.search(r'class="raw policy" d="([^"]*)"', svg)[1].count("M") == 2


def test_points_carry_their_interval():
    svg = line_chart(
        "t", [], [Points("held out", "base", [0, 10], [Interval(0.5, 0.4, 0.6, 9), Interval(0.8, 0.7, 0.9, 9)])]
    )
    assert "held out at step 10: 80 % [70, 90]" in svg
    assert len(re.findall("whisker base", svg)) == 2


def test_titles_and_labels_are_escaped():
    assert "<b>" not in line_chart("<b>", [Line("<b>", "policy", [1], [1.0])])


def test_smooth_equals_a_plain_loop():
    values = np.random.default_rng(0).normal(size=100)
    values[[7, 50, 51]] = math.nan
    half = 5
    for at, found in enumerate(smooth(values)):
        window = [v for v in values[max(0, at - half) : at + half + 1] if math.isfinite(v)]
        expected = sum(window) / len(window) if math.isfinite(values[at]) else math.nan
        assert found == pytest.approx(expected, nan_ok=True)


def test_short_curves_are_not_smoothed():
    values = np.array([1.0, 9.0, 2.0])
    assert smooth(values).tolist() == values.tolist()


def test_thin_keeps_every_spike():
    values = np.random.default_rng(1).normal(size=10_000)
    values[[123, 9_876]] = (50.0, -50.0)
    kept = thin(values)
    assert {123, 9_876} <= set(kept.tolist())
    assert len(kept) <= 2 * SLICES
    assert kept.tolist() == sorted(kept.tolist())


def test_thin_keeps_short_curves_and_gaps():
    assert thin(np.zeros(2 * SLICES)).tolist() == list(range(2 * SLICES))
    values = np.zeros(3000)
    values[1000:2000] = math.nan
    assert np.isnan(values[thin(values)]).any()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 240, [0, 50, 100, 150, 200]), (-1.2, 1.1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_by_hand(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_histogram_counts():
    """Two rows of four tokens and one of twenty: the first hill is twice as high as the last."""
    svg = histogram("t", {"chosen": [4, 4, 20]})
    outline = re.search(r'class="hill chosen" d="M\d+,\d+(.*?)Z"', svg)[1]
    heights = [BOTTOM - float(up) for up in re.findall(r"V(-?[\d.]+)H", outline)]
    tall = [height for height in heights if height > 0]
    assert len(tall) == 2
    assert tall[0] == pytest.approx(2 * tall[1], abs=0.11)


def test_outcome_bar_adds_up():
    svg = outcome_bar(44, 2, 14)
    widths = [float(width) for width in re.findall(r'width="([\d.]+)%" height="14"/>', svg)]
    assert widths == pytest.approx([100 * 44 / 60, 100 * 2 / 60, 100 * 14 / 60], abs=0.01)
    assert "44 wins, 2 ties, 14 losses" in svg


def test_part_bar_is_as_wide_as_its_share():
    bar = part_bar("loops & more", 3, 8)
    assert "loops &amp; more: 3 of 8" in bar
    assert 'class="part" width="37.50%"' in bar
    assert 'width="0.00%"' in part_bar("none", 0, 8)
