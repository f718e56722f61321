"""What steps are asked with: answers to prompts that they do not belong to, and the KL that is measured on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_model
import torch

from truing.compute.engine.local import LocalEngine
from truing.compute.ranks import ALONE, Ranks
from truing.objectives import Bound, bind
from truing.packing import pack
from truing.records import Completion, Group, assistant, user
from truing.signatures import validated
from truing.stages.material import Material, mismatched_kl
from truing.stages.preference import Preference, preference
from truing.stages.reference import Nothing
from truing.store import Run

ROWS = tiny.random_rows(0, [(5, (4, 2, 3)), (3, (1, 6, 2)), (4, (2, 2, 5)), (2, (3, 1, 1)), (6, (2, 4, 1))])


class TestMismatchedKl:
    """KTO's z0: the mean of D over prompts with the answers of other rows, at least 0."""

    @pytest.mark.parametrize("turned", [False, True])
    @pytest.mark.parametrize("budget", [1, 10_000])
    def test_against_one_pass_per_answer(self, turned: bool, budget: int) -> None:
        engine, other = LocalEngine(tiny.loaded_model(torch.float64)), tiny.OtherReference()
        if turned:
            engine, other.engine = other.engine, engine
        mismatched = [replace(row, answers=ROWS[place - 1].answers) for place, row in enumerate(ROWS)]
        material = Material(ROWS, [], Nothing(), mismatched, other, budget)
        got = mismatched_kl(engine, bind({"name": "kto"}), material, [4, 0, 2], ALONE)
        ratios: list[float] = []
        for place in (4, 0, 2):
            for answer in ROWS[place - 1].answers:
                path = torch.tensor([[*ROWS[place].prompt, *answer.tokens]])
                with torch.no_grad():
                    ours, theirs = (
                        sum(
                            float(logits.log_softmax(1)[len(ROWS[place].prompt) + at - 1, token])
                            for at, token in enumerate(answer.tokens)
                        )
                        for seed in ((9, 0) if turned else (0, 9))
                        for logits in [tiny.plain_model(torch.float64, seed=seed)(input_ids=path).logits[0].double()]
                    )
                ratios.append(ours - theirs)
        mean = sum(ratios) / len(ratios)
        assert got is not None
        assert got.item() == pytest.approx(max(0.0, mean), abs=1e-9)
        assert not got.requires_grad
        assert abs(mean) > 0.1, "one of the two ways round is held at 0"

    def test_only_where_asked_for(self) -> None:
        engine = LocalEngine(tiny.loaded_model(torch.float64))
        nothing = Material([], [], Nothing(), [], Nothing(), 1)
        assert mismatched_kl(engine, bind({"name": "dpo"}), nothing, [], ALONE) is None


def test_answers_are_mismatched_with_those_of_the_row_before(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the reference of these rows is theirs: at the start it says what the policy says."""
    seen: list[Material] = []
    measured: list[float] = []

    def watched(engine: LocalEngine, objective: Bound, material: Material, rows: Any, ranks: Ranks) -> Any:
        seen.append(material)
        for made in pack(material.mismatched, 4096):
            with torch.no_grad():
                gap = engine.logprobs(made).token - material.mismatched_reference.logprobs(made).token
            measured.append(float(gap.abs().max()))
        return mismatched_kl(engine, objective, material, rows, ranks)

    monkeypatch.setattr("truing.stages.preference.mismatched_kl", watched)
    data = [
        Group((user(f"q {i}"),), (Completion((assistant(f"yes {i}"),), rank=0), Completion((assistant("no"),), rank=1)))
        for i in range(5)
    ]
    settings = validated(
        Preference, {"objective": "kto", "max_steps": 2, "batch_size": 4, "learning_rate": 3e-3, "warmup": 0.0}, "test"
    )
    preference(tiny_model.context(runs(), "s"), settings, tiny_model.model_of(folder), tiny_model.given(data))
    rows, crossed = seen[0].rows, seen[0].mismatched
    assert [row.prompt for row in crossed] == [row.prompt for row in rows]
    assert [row.answers for row in crossed] == [rows[place - 1].answers for place in range(len(rows))]
    assert [row.index for row in crossed] == list(range(5))
    assert measured[0] < 1e-5 < measured[1]
