"""The pages of the objectives: complete, and the same as in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from truing.describing import cost, data_of, describe, grouped, markdown, passes, table, write_pages
from truing.objectives import OBJECTIVES, bind

DOCS = Path(__file__).parent.parent / "docs" / "objectives"


def test_the_pages_in_the_repository_are_those_of_the_code(tmp_path):
    write_pages(tmp_path)
    assert {p.name for p in DOCS.iterdir()} == {p.name for p in tmp_path.iterdir()}
    for page in tmp_path.iterdir():
        assert (DOCS / page.name).read_text() == page.read_text(), f"{page.name} is out of date: run make docs"


def test_the_table_by_data_names_every_objective_once():
    named = re.findall(r"\[(\w+)\]\((\w+)\.md\)", grouped())
    assert sorted(named) == sorted((name, name) for name in OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_page_says_all_there_is_to_say(name):
    about = describe(name)
    for words in (about.title, about.equation, about.use, about.claim, about.data, about.passes):
        assert words, name
    assert all(setting["words"] for setting in about.settings)
    assert about.logged
    assert Path(__file__).parent.parent.joinpath(about.source).is_file()
    assert all(f"`{key}`" in markdown(name) for key in [*about.asks, *about.logged])
    assert f"[{name}]" in table()


def test_what_a_step_costs():
    """Passes counted by hand, one with gradient as three without: DPO's reference is one more."""
    by_hand = {"dpo": 1.0, "simpo": 0.75, "kto": 1.5, "aot": 1.25, "tdpo1": 1.0, "nll": 0.75}
    assert {name: cost(bind({"name": name})) for name in by_hand} == by_hand
    assert "cached" in passes(bind({"name": "dpo"}))
    assert "at each step" in passes(bind({"name": "tdpo1"}))


def test_what_they_learn_from():
    assert data_of(bind({"name": "kto"})) == "single answers with a thumb; comparisons give two"
    assert data_of(bind({"name": "reward_weighted"})) == "single answers with a score"
    assert data_of(bind({"name": "sppo"})).endswith("with a score each")
