"""Numbers, times and texts as people read them."""

from __future__ import annotations

import math

import pytest

from truing.report import words
from truing.statistics import Interval


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (7, "7"), (1204, "1,204"), (-3, "−3"), (0.6931, "0.693"),
        (0.5, "0.500"), (12.345, "12.3"), (1234.5, "1,234"),
        (5e-7, "5e−7"), (2.083e-7, "2.08e−7"), (-0.25, "−0.250"), (3.2e9, "3.2e9"),
        (math.nan, "NaN"), (math.inf, "∞"), (-math.inf, "−∞"), (None, "–"),
    ],
)  # fmt: skip
def test_number(value, shown):
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.25, "0.2 s"), (48.2, "48 s"), (59.7, "1 min 0 s"), (843.2, "14 min 3 s"), (7505, "2 h 5 min")],
)
def test_duration(seconds, shown):
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [(None, "–"), (512, "512 B"), (2048, "2 KiB"), (3_650_000_000, "3.4 GiB"), (5 * 2**40, "5120.0 GiB")],
)
def test_memory(size, shown):
    assert words.memory(size) == shown


def test_moment():
    assert words.moment("2026-02-03T10:41:07+01:00") == "3 February 2026, 09:41 UTC"
    assert words.moment("some day") == "some day"


def test_interval():
    assert words.interval(Interval(-0.5, -1.25, 0.25, 9)) == "−0.5 [−1.2, 0.2]"
    assert words.interval(Interval(3.0, -math.inf, math.inf, 1)) == "3 (no interval)"
    assert words.interval(None) == "–"


def test_sentence():
    assert words.sentence("wins 74 % of them") == "Wins 74\N{NO-BREAK SPACE}% of them."
    assert words.sentence("") == "."


def test_shorten():
    assert words.shorten("abc", 3) == "abc"
    assert words.shorten("abcdef", 3) == "abc … (3 more characters)"


def test_visible_keeps_lines_tabs_and_all_scripts():
    text = "line\n\ttab, صباح, 日本, 👍"
    assert words.visible(text) == text
    assert words.visible("\x00\x7f\u202e\u2066\ud83d") == "␀␡\ufffd\ufffd\ufffd"
