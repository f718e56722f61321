"""An audit finds labels that were turned round, on a tiny model, and no model scores what it was trained on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model

from truing import formats
from truing.errors import ConfigError, DataError
from truing.models import locate
from truing.pipeline import make_recipe, run_recipe
from truing.records import Completion, Group, assistant, comparison, to_json, user
from truing.signatures import validated
from truing.stages import audit as stage
from truing.stages.arranging import judge
from truing.stages.audit import Audit, Vote, audit, comparisons, fates_of
from truing.store import Run

QUICK = {"members": 2, "batch_size": 8, "epochs": 2, "learning_rate": 5e-3, "warmup": 0.0}


def labelled(count: int, turned: float) -> tuple[list[Group], list[bool]]:
    """Comparisons of two kinds of prompt that ask for opposite words; a share of the labels is turned round."""
    draw = random.Random(0)
    groups, wrong = [], []
    for i in range(count):
        for kind, good, bad in (("up", "yes", "nope"), ("down", "nope", "yes")):
            flipped = draw.random() < turned
            first, second = (bad, good) if flipped else (good, bad)
            groups.append(
                comparison((user(f"{kind} {i}"),), Completion((assistant(first),)), Completion((assistant(second),)))
            )
            wrong.append(flipped)
    return groups, wrong


def audited(run: Run, folder: Path, data: list[Group], **settings: Any) -> tuple[list[Group], dict[str, Any]]:
    audit(
        tiny_model.context(run, "audit"),
        validated(Audit, QUICK | settings, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(data),
    )
    (made,) = [artifact for artifact in run.artifacts() if "audit" in artifact.meta]
    found = json.loads((made.path / str(made.meta["audit"])).read_text())
    return formats.read_groups(made.path / str(made.meta["groups"]), format="group"), found


def test_finds_labels_that_were_turned_round(folder: Path, runs: Callable[[], Run]) -> None:
    data, wrong = labelled(30, 0.2)
    run = runs()
    groups, found = audited(run, folder, data)
    suspected = [(group.strength or 0) < 0 for group in groups]
    right = sum(one == other for one, other in zip(suspected, wrong, strict=True))
    assert right >= 0.9 * len(data)
    assert found["agree_with_label"]["value"] == pytest.approx(1 - sum(suspected) / len(data))
    assert found["sorted"] == sorted(found["sorted"])
    shown = found["wrong"][0]
    assert shown["chosen"] in ("yes", "nope")
    assert shown["mean"] == min(group.strength or 0 for group in groups) < 0
    assert not run.checkpoints(), "what the members were trained with is of no use any more"


def test_flips_and_drops(folder: Path, runs: Callable[[], Run]) -> None:
    data, _ = labelled(20, 0.15)
    kept, _ = audited(runs(), folder, data, epochs=4)
    flipped, found = audited(runs(), folder, data, epochs=4, wrong="flip", ambiguous_share=0.1)
    dropped, _ = audited(runs(), folder, data, epochs=4, wrong="drop", wrong_share=0.3)
    weak = [group for group in kept if (group.strength or 0) < 0]
    assert 0 < len(weak) < 13, "few enough for the vote to be trusted"
    assert found["fates"] == {"keep": 36 - len(weak), "flip": len(weak), "drop": 4}
    assert all((group.strength or 0) >= 0 for group in flipped)
    before = {group.prompt[0].content: group for group in kept}
    for group in flipped:
        old = before[group.prompt[0].content]
        turned = bool(group.extra["audit"]["flipped"])
        assert [a.text for a in group.completions] == [a.text for a in old.completions][:: -1 if turned else 1]
        assert group.strength == (-1 if turned else 1) * (old.strength or 0)
    assert len(dropped) == 28
    assert min(g.strength or 0 for g in dropped) == sorted(g.strength or 0 for g in kept)[12]


def test_no_model_scores_a_prompt_it_was_trained_on(folder: Path, runs: Callable[[], Run]) -> None:
    data, _ = labelled(8, 0.0)
    data += data[:4]  # a prompt twice
    settings = validated(Audit, QUICK | {"members": 3}, "test")
    parts = list(stage._parts(tiny_model.context(runs(), "audit"), settings, data))
    assert len(parts) == 6
    for part in parts:
        trained, scored = ({data[place].prompt[0].content for place in some} for some in (part.trained, part.scored))
        assert not trained & scored
        assert len(part.trained) + len(part.scored) == len(data)
    assert sorted(place for part in parts for place in part.scored) == sorted([*range(len(data))] * 3)
    assert len({part.context.seed for part in parts}) == len({part.context.key for part in parts}) == 6
    assert parts[0].scored != parts[2].scored, "members are cut in different ways"
    whole = list(stage._parts(tiny_model.context(runs(), "a"), validated(Audit, {"folds": 1}, "test"), data))
    assert all(part.trained == part.scored == list(range(len(data))) for part in whole)


def test_goes_on_with_the_members_that_are_missing(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = labelled(6, 0.2)
    expected, findings = audited(runs(), folder, data)
    run, trained = runs(), []
    original = stage.fit

    def counting(*given: Any) -> Any:
        trained.append(given[0].key)
        if len(trained) == 3:
            raise RuntimeError("the lights go out")
        return original(*given)

    monkeypatch.setattr(stage, "fit", counting)
    with pytest.raises(RuntimeError):
        audited(run, folder, data)
    groups, found = audited(run, folder, data)
    assert ([to_json(group) for group in groups], found) == ([to_json(group) for group in expected], findings)
    assert len(trained) == 5
    assert len(set(trained)) == 4


def test_a_vote_by_hand() -> None:
    vote = Vote.of([1.0, -2.0, 0.0, 3.0])
    assert (vote.mean, vote.for_label) == (0.5, 0.625)
    assert vote.deviation == pytest.approx((13 / 4) ** 0.5)


def test_fates() -> None:
    votes = [Vote(mean, 1.0, 0.5) for mean in (0.1, -3.0, 2.0, -0.2, 0.05, 4.0, 1.0, -0.01, 0.5, 3.0)]
    settings = validated(Audit, {"wrong": "flip", "ambiguous_share": 0.2}, "test")
    fates = fates_of(votes, settings)
    assert [place for place, fate in enumerate(fates) if fate == "flip"] == [1, 3, 7]
    assert [place for place, fate in enumerate(fates) if fate == "drop"] == [0, 4]
    assert fates_of(votes, validated(Audit, {}, "test")) == ["keep"] * 10
    tenth = fates_of(votes, validated(Audit, {"wrong": "drop", "wrong_share": 0.1}, "test"))
    assert tenth.index("drop") == 1
    assert tenth.count("drop") == 1


def test_a_ranking_gives_its_comparisons() -> None:
    answers = tuple(Completion((assistant(word),), score=score) for word, score in (("a", 1.0), ("b", 3.0), ("c", 2.0)))
    row = judge(Group((user("q"),), answers, weight=3.0), "pair")
    split = comparisons(row)
    assert [[a.text for a in one.group.completions] for one in split] == [["b", "c"], ["b", "a"], ["c", "a"]]
    assert [one.group.weight for one in split] == [1.0] * 3


@pytest.mark.parametrize("treatment", [{}, {"wrong": "flip"}, {"ambiguous_share": 0.5}])
def test_models_that_may_be_guessing_change_no_label(
    folder: Path, runs: Callable[[], Run], treatment: dict[str, Any]
) -> None:
    data, _ = labelled(12, 0.0)
    run = runs()
    groups, found = audited(run, folder, data, learning_rate=1e-9, epochs=1, **treatment)
    assert found["fates"] == {"keep": 24, "flip": 0, "drop": 0}
    assert len(groups) == 24
    (warning,) = run.events(kind="warning")
    assert "which a coin may do too" in warning["message"]
    assert ("none was turned round" in warning["message"]) == bool(treatment)


def test_refusals(folder: Path, runs: Callable[[], Run]) -> None:
    with pytest.raises(ConfigError, match="wrong_share changes nothing"):
        validated(Audit, {"wrong_share": 0.1}, "test")
    one = comparison((user("q"),), Completion((assistant("a"),)), Completion((assistant("b"),)))
    with pytest.raises(DataError, match="too few for 2 folds"):
        audited(runs(), folder, [one, one])


def test_a_recipe_from_audit_to_reward_model(folder: Path, tmp_path: Path) -> None:
    """Strengths go on to an objective with a margin, and the report shows what stood out."""
    data, _ = labelled(12, 0.2)
    formats.write_data(data, tmp_path / "rows.jsonl", format="group")
    recipe = make_recipe(
        {
            "model": str(folder),
            "data": {"path": str(tmp_path / "rows.jsonl"), "held_out": 0.25},
            "stage": [
                {"use": "audit", **QUICK, "ambiguous_share": 0.1},
                {"use": "reward_model", "objective": "soft_margin", "batch_size": 8, "learning_rate": 5e-3},
            ],
        }
    )
    run = run_recipe(recipe, out=tmp_path / "run")
    page = (run / "report.html").read_text()
    for words in ("Audit of the comparisons", "Preference strength, weakest first", "Probably labelled wrongly"):
        assert words in page
    assert locate(str(run), "reward").startswith(str(run / "checkpoint-"))
    with pytest.raises(ConfigError, match="this run made a reward model, and a language model is needed here"):
        locate(str(run))
    assert run_recipe(recipe, out=tmp_path / "run") == run, "nothing is left to do"
