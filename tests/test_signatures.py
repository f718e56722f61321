"""A signature as a schema: what a function asks for, its settings, and messages that name the nearest key."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from truing.errors import ConfigError
from truing.objectives import OBJECTIVES, bind, likelihood, objective, pairwise
from truing.signatures import (
    Fraction,
    Positive,
    Settings,
    asks_for,
    public_functions,
    setting_words,
    settings_of,
    validated,
)
from truing.tensors import Loss


def example(policy: int, reference: int, *, beta: Positive = 0.1, share: Fraction = 0.0, name: str) -> Loss:
    """An example.

    beta: how strong it is, in words
        that go on. share: stays with beta's line.
    share: of one.

    More text.
    """
    return Loss(value=beta)


class Inner(Settings):
    rate: Annotated[float, Field(gt=0)] = 1.0


class Outer(Settings):
    inner: Inner | None = None
    steps: int = 3


def test_what_it_asks_for():
    assert asks_for(example) == {"policy": "int", "reference": "int"}


def test_settings():
    fields = settings_of(example).model_fields
    assert list(fields) == ["beta", "share", "name"]
    assert fields["name"].is_required()
    assert fields["beta"].default == 0.1
    assert fields["share"].description == "of one."


def test_words():
    words = setting_words(example)
    assert words["beta"] == "how strong it is, in words that go on. share: stays with beta's line."


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"name": "a", "bets": 1}, r"objective\.bets: there is no such setting; did you mean 'beta'\?"),
        ({}, r"objective\.name: this setting is required"),
        ({"name": "a", "beta": 0}, r"objective\.beta: .*greater than 0; found 0"),
        ({"name": "a", "beta": float("nan")}, r"objective\.beta: .*finite"),
        ({"name": "a", "share": 1.5}, r"objective\.share: .*less than or equal to 1"),
        ({"name": "a", "beta": "large"}, r"objective\.beta: .*found 'large'"),
    ],
)
def test_complaints(given, complaint):
    with pytest.raises(ConfigError, match=complaint):
        validated(settings_of(example), given, "objective")


def test_every_complaint_is_told_at_once():
    with pytest.raises(ConfigError, match=r"(?s)beta.*\n.*name|name.*\n.*beta"):
        validated(settings_of(example), {"beta": -1}, "")


def test_nested():
    with pytest.raises(ConfigError, match=r"stage\.inner\.rat: there is no such setting; did you mean 'rate'"):
        validated(Outer, {"inner": {"rat": 1}}, "stage")
    with pytest.raises(ConfigError, match=r"^stpes: .*did you mean 'steps'"):
        validated(Outer, {"stpes": 1}, "")
    assert validated(Outer, {"inner": {"rate": 2}}, "").inner.rate == 2


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        validated(Outer, {}, "").steps = 4


class TestObjectives:
    def test_a_module_is_its_registry(self):
        assert set(public_functions(likelihood, "Loss")) == {"nll", "dft", "csft", "chain_of_hindsight"}
        assert "dpo" in public_functions(pairwise, "Loss")
        assert not {"logistic", "better", "logsigmoid"} & set(OBJECTIVES)

    @pytest.mark.parametrize(
        ("name", "kind", "reference", "coupled"),
        [
            ("dpo", "pair", True, False),
            ("simpo", "pair", False, False),
            ("kto", "answer", True, False),
            ("pro", "ranking", False, False),
            ("aot", "pair", True, True),
            ("nll", "token", False, False),
            ("csft", "token", False, False),
        ],
    )
    def test_what_they_need_is_in_their_signatures(self, name, kind, reference, coupled):
        bound = bind({"name": name})
        assert (bound.kind, bound.needs("reference"), bound.is_coupled) == (kind, reference, coupled)

    def test_unknown_name(self):
        assert objective("dpo") is OBJECTIVES["dpo"]
        with pytest.raises(ConfigError, match="did you mean 'simpo'"):
            objective("simp")

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_every_setting_has_words(self, name):
        words = setting_words(OBJECTIVES[name])
        assert set(settings_of(OBJECTIVES[name]).model_fields) <= set(words)
