"""What the page of a run says of a suite."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from reading_html import PAYLOAD, Page, escaped

from truing.report.sections.measured import REACH, read
from truing.statistics import Interval
from truing.statistics.suites import Measured, guarded, means, shares, verdict, wins
from truing.store import Run

ITEMS = list(range(20))
ROWS = [
    shares("arithmetic", "accuracy", "higher", [1.0] * 2 + [0.0] * 18, [1.0] * 16 + [0.0] * 4, ITEMS),
    shares("refusals", "refused safe", "lower", [0.0] * 20, [1.0] * 15 + [0.0] * 5, ITEMS),
    wins("judge", [1.0, 0.5, 0.0] * 6, list(range(18)), {"ties": Interval(1 / 3, 0.2, 0.5, 18)}),
    replace(means("text", "nats per byte", "lower", [1.0, 1.2, 1.1], [1.0, 1.1, 1.2], [0, 1, 2]), margin=0.01),
]


def one(rows: list[Measured], **more: Any) -> dict[str, Any]:
    answers = {"text": PAYLOAD, "score": 1.0}
    example = {"prompt": [{"role": "user", "content": PAYLOAD}], "model": answers, "base": answers}
    content = {"rows": [row.plain for row in rows], "model": "after", "base": "before", "left_out": {"no result": 2}}
    return content | {"examples": [example]} | more


def write(run: Run, stage: str, key: str, content: dict[str, Any]) -> None:
    run.event(stage, "start", settings={}, inputs={}, key=key)
    with run.new_artifact(key, stage=stage, meta={"measured": "measured.json"}) as folder:
        (folder / "measured.json").write_text(json.dumps(content))
    run.event(stage, "end", seconds=1.0, peak_memory_bytes=None)


def guard_content() -> dict[str, Any]:
    adjusted, lost, gained = guarded(ROWS)
    found = {"adjusted": adjusted, "lost": lost, "gained": gained, "verdict": verdict(ROWS)}
    return one(ROWS, examples=[], left_out={}, **found)


@pytest.fixture(scope="module")
def page(page_of: Any) -> Page:
    return page_of(  # type: ignore[no-any-return]
        lambda run: write(run, "arithmetic", "aa" * 8, one(ROWS[:1])),
        lambda run: write(run, "guard", "bb" * 8, guard_content()),
    )


def test_one_table_has_all_numbers(page: Page) -> None:
    section = page.section("measured")
    assert section.count("Measurement Model Base Difference") == 1  # the measurement by itself is not shown again
    assert "arithmetic accuracy 10 % [1, 32] 80 % [56, 94] −70 points" in section
    assert "refusals refused safe, less is better 0 % [0, 17] 75 % [51, 91] −75 points" in section
    assert "a coin" in section
    assert "ties: 33 % [20, 50]" in section
    assert "a loss of 0.0100 is accepted" in section
    assert "arithmetic left out: no result (2)." in section


def test_the_verdict_says_what_was_lost(page: Page) -> None:
    assert "Lost against the base: arithmetic" in page.section("verdict")
    assert page.source.count('class="reach bad"') == page.source.count('class="reach good"') == 1


def test_words_of_models_are_escaped(page: Page) -> None:
    assert escaped(page, "measured")


def test_bars_are_in_half_widths_and_stay_inside() -> None:
    suite = read("guard", guard_content())
    wide = suite.bar(2)
    assert "<title>judge: win rate" in wide
    assert 'cx="50.00%"' in wide  # as many wins as losses
    far = Measured("a", "b", "number", "higher", *[Interval(0, 0, 0, 9)] * 2, Interval(-50, -51, -49, 9), 1e-9)
    bar = read("guard", one([far])).bar(0)
    assert f'cx="{50 - 50 * REACH / (REACH + 1):.2f}%"' in bar
    assert 'x="0.00%" width="20.00%"' in bar
