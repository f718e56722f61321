"""docs/statistics.md names every function, and its examples print what it says they do."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

from truing import statistics
from truing.statistics import suites

PAGE = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
FUNCTIONS = [name for name in statistics.__all__ if inspect.isfunction(vars(statistics)[name])]


def test_the_examples_print_what_they_say(capsys):
    """All in one go, as a reader would type them."""
    examples = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    example = doctest.DocTestParser().get_doctest(examples, {}, "docs/statistics.md", None, None)
    assert len(example.examples) > 50
    failed, _ = doctest.DocTestRunner(verbose=False).run(example)
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_named(name):
    assert f"`{name}`" in PAGE


def test_every_public_function_is_exported():
    """What a module shows to readers is what `truing.statistics` has, helpers apart; suites stand by themselves."""
    helpers = {
        "climb",
        "finite",
        "numbered",
        "per_prompt",
        "quantile",
        "ranks",
        "same_length",
        "standard_error",
        "student",
        "wilson",
    }
    public = {
        name
        for module in vars(statistics).values()
        if inspect.ismodule(module) and module is not suites
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public - helpers == set(FUNCTIONS)
