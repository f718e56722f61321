"""Every objective that TRL 1.16 has too gives its loss and its gradients, on the same rows, model and step."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

pytest.importorskip("trl")
pytest.importorskip("datasets")

from parity import compare, page, rows
from parity.cases import CASES, NO_COUNTERPART, Call, Case
from truing.objectives import OBJECTIVES
from truing.records import Group

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"

GONE = {"chunked_nll", "kto_pair"}
"""Losses that TRL names only to refuse them, or to say what they are called now."""

# TRL's own settings and calls under names that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.ours.name}-{case.theirs.name}")
def test_agrees_with_trl(case: Case, folder: Path) -> None:
    loss, gradient = compare.difference(case, folder)
    closer = 0.1 if case.theirs.name == "Reward" else 1.0
    assert loss < closer * 1e-5
    assert gradient < closer * 1e-4


def test_every_objective_is_compared_or_has_no_counterpart() -> None:
    compared = {case.ours.name for case in CASES}
    assert compared | NO_COUNTERPART.keys() == OBJECTIVES.keys()
    assert not compared & NO_COUNTERPART.keys()


def test_every_loss_of_trl_is_compared() -> None:
    for name, parts in compare.trainers().items():
        source = "".join(inspect.getsource(part) for part in parts)
        offered = set(re.findall(r'loss_type == "([\w-]+)"', source)) - GONE
        assert offered == set(used(name, "loss_type")), name
        assert name in ("ORPO", "Reward") or offered, f"TRL writes the losses of {name} in another way now"
        divergences = set(re.findall(r'f_divergence_type == "(\w+)"', source))
        assert divergences == set(used(name, "f_divergence_type")), name


def used(trainer: str, setting: str) -> Iterable[str]:
    """The values of a setting of TRL in all cases."""
    for case in CASES:
        value = case.theirs.settings.get(setting) if case.theirs.name == trainer else None
        yield from [value] if isinstance(value, str) else value or []


def test_the_page_lists_every_case() -> None:
    """All of docs/parity.md but the numbers; `make parity` writes it."""

    def without_numbers(words: str) -> str:
        return re.sub(r"\| \de[+-]\d\d ", "| . ", words)

    expected = page.text([(0.0, 0.0)] * len(CASES))
    assert without_numbers(PAGE.read_text(encoding="utf-8")) == without_numbers(expected)


class TestRows:
    """The rows show what they are for: on others, a wrong objective might agree as well."""

    def test_steps_have_several_forests_and_rows_that_share_one(self, folder: Path) -> None:
        for made in (rows.comparisons, rows.equal_lengths, rows.thumbs):
            case = next(case for case in CASES if case.rows is made)
            sizes = [len(forest.rows) for forest in compare.ours(case, folder).forests]
            assert len(sizes) > 1
            assert max(sizes) > 1

    def test_answers_of_equal_length(self, folder: Path) -> None:
        step = compare.ours(find("ipo_sum"), folder)
        assert {len(answer.tokens) for row in step.rows for answer in row.answers} == {rows.EQUAL}

    def test_prompts_of_one_token(self, folder: Path) -> None:
        assert {len(row.prompt) for row in compare.ours(find("orpo"), folder).rows} == {1}

    @pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
    def test_sorting_matters(self, name: str, folder: Path) -> None:
        case = find(name)
        paired = replace(case, ours=Call("dpo", case.ours.settings))
        losses = [compare.ours(one, folder).means()["loss"] for one in (case, paired)]
        assert abs(losses[0] - losses[1]) > 1e-3

    def test_the_kl_of_kto_is_above_0(self, folder: Path) -> None:
        for case in CASES:
            if case.ours.name == "kto":
                assert compare.ours(case, folder).means()["kl"] > 0.1


class TestWhereTrlTakesTheScore:
    """Where it is not at the token that ended the answer: one token before, or one after."""

    plain = next(case for case in CASES if case.theirs.name == "Reward")

    def test_before_the_end_where_the_end_is_padding(self, folder: Path) -> None:
        self.is_elsewhere(tiny.tokenizer, rows.unfinished, folder)

    def test_after_the_end_where_the_template_goes_on(self, folder: Path) -> None:
        self.is_elsewhere(lambda: tiny.tokenizer(tiny.NEWLINE_TEMPLATE, pad=tiny.BOS), rows.overlong, folder)

    def is_elsewhere(self, tokenizer: Callable[[], Any], there: Callable[[], list[Group]], folder: Path) -> None:
        """With this tokenizer TRL's loss is not that of the answers, but that of the rows `there`."""
        usual = replace(self.plain, tokenizer=tokenizer)
        theirs, _ = compare.theirs(usual, folder)
        assert compare.ours(replace(usual, rows=there), folder).means()["loss"] == pytest.approx(theirs, rel=1e-5)
        assert compare.ours(usual, folder).means()["loss"] != pytest.approx(theirs, rel=1e-2)


def find(name: str) -> Case:
    return next(case for case in CASES if case.ours.name == name)
