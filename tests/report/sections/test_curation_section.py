"""What the page of a run says of a curation."""

from __future__ import annotations

import fake_runs
import pytest
from reading_html import PAYLOAD, built


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    with fake_runs.opened(path) as run:
        fake_runs.curation(run, text=PAYLOAD)
    return built(path)


def test_words_of_the_data_are_escaped(curated):
    assert curated.problems == []
    assert "<script>alert(1)</script>" in curated.section("curation")
    assert not {tag for tag, _ in curated.tags} & {"script", "img"}


def test_counts(curated):
    for words in ("5 of 8 rows are kept, 3 refused", "duplicate: 3 of 8", "the first 2 rows", "and 1 more in"):
        assert words in curated.source
    assert 'class="part" width="37.50%"' in curated.source
