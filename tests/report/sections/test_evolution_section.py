"""What the page of a run says of variants and of their grades."""

from __future__ import annotations

import fake_runs
import pytest
from reading_html import PAYLOAD, escaped


@pytest.fixture(scope="module")
def page(page_of):
    return page_of(
        lambda run: fake_runs.evolution(run, text=PAYLOAD),
        lambda run: fake_runs.ranking(run, text=PAYLOAD),
    )


def test_variants_are_counted_by_kind_and_round(page):
    section = page.section("evolution")
    assert "Complexity: 3 variants of 2 seeds in 2 rounds; 1 reply of 4 dropped." in section
    assert "Quality: 1 variant of 1 seed in 2 rounds; 1 reply of 2 dropped." in section
    assert "Round Made 1 2 2 1" in section
    assert "Dropped empty 1" in section


def test_chains_show_what_grew_and_how(page):
    section = page.section("evolution")
    assert "Seed Why is the sky blue? Round 1, depth </pre></script><script>alert(1)</script>" in section
    assert "request Why is the sky blue? Seed Air. Round 1, depth" in section
    assert "To better (quality) Air. Reply Here it is:" in section
    assert "Dropped, empty" not in section, "there is no reply to show"


def test_grades_are_counted_and_shown_by_round(page):
    section = page.section("ranking")
    assert "The judge graded all variants of 1 of 3 seeds." in section
    assert "Seeds dropped cut off 2" in section
    assert "1 0 2 1 3 1 4 0 5 0 6 0" in section
    assert "seed 2 1 1 3 1" in section
    assert "Seed grade 2" in section
    assert "Round 1, depth grade 3" in section
    assert "cut off An empty reply." in section


def test_texts_of_models_are_escaped(page):
    assert escaped(page, "evolution", "ranking")
