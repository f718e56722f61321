"""What the page of a run says of an audit."""

from __future__ import annotations

import re

import fake_runs
import pytest
from reading_html import PAYLOAD, escaped


@pytest.fixture(scope="module")
def audited(page_of):
    return page_of(lambda run: fake_runs.audit(run, place=PAYLOAD))


def test_counts_and_examples(audited):
    section = audited.section("audit")
    assert "4 reward models agree with" in section
    assert "540 kept as they are, 40 turned round, 20 left out." in section
    for heading in ("Probably labelled wrongly, the clearest first (1)", "Ambiguous: the models are divided (1)"):
        assert heading in section
    assert ", turned round Why" not in section
    assert "turned round user Why is the sky blue?" in section


def test_shares_of_labels_are_those_of_the_file(audited):
    """Of 600 sorted differences the share below 0 is the share of models that do not agree."""
    section = audited.section("audit")
    below = int(re.search(r"(\d+) % below 0", section)[1])
    agree = int(re.search(r"agree with (\d+) %", section)[1])
    assert below + agree == pytest.approx(100, abs=1)


def test_places_are_escaped(audited):
    assert escaped(audited, "audit")
