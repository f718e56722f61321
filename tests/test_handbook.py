"""The reference pages: the same as in the repository, and complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from truing.algorithms import ALGORITHMS
from truing.handbook import pages, rows, shown
from truing.scoring.scorers import SCORERS
from truing.stages import STAGES
from truing.stages.online_settings import Online
from truing.stages.training import Training

DOCS = Path(__file__).parent.parent / "docs" / "reference"


def test_the_pages_in_the_repository_are_those_of_the_code():
    made = pages()
    assert {page.name for page in DOCS.iterdir()} == set(made)
    for name, text in made.items():
        assert (DOCS / name).read_text() == text, f"{name} is out of date: run make docs"


@pytest.mark.parametrize(("page", "names"), [("stages", STAGES), ("scorers", SCORERS), ("algorithms", ALGORITHMS)])
def test_all_have_a_part(page, names):
    assert set(names) <= set(re.findall("^## (.*)", pages()[f"{page}.md"], re.M))


def test_every_setting_is_told_in_words():
    lines = [line for page in pages().values() for line in page.splitlines() if line.startswith("| `")]
    assert len(lines) > 400
    assert not [line for line in lines if line.endswith("|  |")]


def test_settings_as_a_recipe_has_them():
    fields = Training.model_fields
    assert [shown(fields[name]) for name in ("lora", "warmup", "schedule")] == ["none", "`0.1`", '`"linear"`']
    told = list(rows(Online))
    assert "| `curriculum.memory` | `0.5` | [0, 1] |" in "\n".join(told)
    (schedule,) = [row for row in told if row.startswith("| `schedule`")]
    assert '| `"constant"`, `"linear"`, `"cosine"` |' in schedule
