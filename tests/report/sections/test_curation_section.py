"""What the page of a run says of a curation."""

from __future__ import annotations

import fake_runs
import pytest
from reading_html import PAYLOAD, escaped


@pytest.fixture(scope="module")
def curated(page_of):
    return page_of(lambda run: fake_runs.curation(run, text=PAYLOAD))


def test_words_of_the_data_are_escaped(curated):
    assert escaped(curated, "curation")


def test_counts(curated):
    for words in ("5 of 8 rows are kept, 3 refused", "duplicate: 3 of 8", "the first 2 rows", "and 1 more in"):
        assert words in curated.source
    assert 'class="part" width="37.50%"' in curated.source
