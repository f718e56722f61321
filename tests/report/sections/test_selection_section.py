"""What the page of a run says of a selection."""

from __future__ import annotations

import re

import fake_runs
import pytest
from reading_html import PAYLOAD, escaped


@pytest.fixture(scope="module")
def selected(page_of):
    return page_of(lambda run: fake_runs.selection(run, by=PAYLOAD))


def test_counts_and_rows(selected):
    section = selected.section("selection")
    assert "100 of 500 rows kept" in section
    assert "too like a better row 31 beyond the budget 369" in section
    assert "demonstrations.jsonl:8: cosine 0.973" in section
    assert section.index("demonstrations.jsonl:1 ") < section.index("demonstrations.jsonl:500 ")


def test_the_curves_end_where_the_scores_do(selected):
    """The best row is kept, so both curves end at one height; the kept ones begin higher."""
    paths = [path["d"] for path in selected.all("path") if (path["class"] or "").startswith("main")]
    points = [re.findall(r"(-?[0-9.]+),(-?[0-9.]+)", path) for path in paths[:2]]
    (every_first, every_last), (kept_first, kept_last) = ((float(p[0][1]), float(p[-1][1])) for p in points)
    assert kept_first < every_first, "up is a smaller number"
    assert kept_last <= every_last


def test_names_are_escaped(selected):
    assert escaped(selected, "selection")
