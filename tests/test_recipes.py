"""Every recipe of a method runs whole, on a tiny model and a few rows, and does what its method says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_model

from truing import formats
from truing.models import content_hash
from truing.pipeline import read_recipe, run_recipe
from truing.records import Group
from truing.scoring.replies import Reply
from truing.stages import revise
from truing.store import Run

RECIPES = Path(__file__).parent.parent / "recipes"
BELIEVED = ("mass=0", "controls.most=1")
"""Of scorers that ask a model for a letter or a digit: an untrained one is heard all the same."""
SHORT = {"max_new_tokens": 6, "batch_size": 4, "max_steps": 2, "epochs": 1}
"""Settings of stages that make them small, wherever a stage has them."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", 24)


def small(name: str, model: Path, file: Path) -> list[str]:
    """Overrides that make a recipe small: its stages are those that stand in its file, with the settings they have."""
    recipe = read_recipe(RECIPES / f"{name}.toml")
    found = [f"model={model}", f"data.path={file}", "device=cpu", "precision=fp32"]
    for spec in recipe.stage:
        body = (
            [(f"{spec.name}.{one.name}", one) for one in spec.stage] if hasattr(spec, "stage") else [(spec.name, spec)]
        )
        found += [
            f"{where}.{key}={value}" for where, one in body for key, value in SHORT.items() if key in one.settings
        ]
    return found


def run_of(name: str, model: Path, file: Path, out: Path, *overrides: str) -> Run:
    recipe = read_recipe(RECIPES / f"{name}.toml", [*small(name, model, file), *overrides])
    run_recipe(recipe, out=out, reporter=tiny_model.quiet())
    return Run.read(out)


def rows_of(run: Run, stage: str) -> list[Group]:
    (made,) = (one for one in run.artifacts() if one.stage == stage and "groups" in one.meta)
    return formats.read_groups(made.path / str(made.meta["groups"]), format="group")


def prompts(rows: list[Group]) -> set[str]:
    return {row.prompt[0].content for row in rows}


def words_of(rows: list[Group]) -> list[list[str]]:
    return [[row.prompt[0].content, *(answer.text for answer in row.completions)] for row in rows]


def key_of(run: Run, stage: str) -> str:
    """The key of what a stage made."""
    return str(next(run.events(stage, "start"))["key"])


def inputs_of(run: Run, stage: str) -> dict[str, str]:
    """What a stage was given: the keys of its inputs."""
    found: dict[str, str] = next(run.events(stage, "start"))["inputs"]
    return found


def data_of(run: Run, stage: str) -> dict[str, Any]:
    (event,) = run.events(stage, "data")
    return event


@pytest.mark.parametrize("kl", ["1.0", "0.0"])
def test_apo_trains_each_reward_model_from_the_base_on_people_s_comparisons_and_the_policy_s(
    model: Path, pairs: Path, tmp_path: Path, kl: str
) -> None:
    run = run_of("apo", model, pairs, tmp_path, "apo.rounds=2", f"apo.reward_model.objective.kl_weight={kl}")
    for number in (1, 2):
        joined = rows_of(run, f"apo.{number}/join")
        people = [row for row in joined if all(answer.sampled is None for answer in row.completions)]
        against = [row for row in joined if row not in people]
        assert people
        assert against
        assert not prompts(people) & prompts(against)
        for row in against:
            assert [answer.rank for answer in row.completions] == [0] + [1] * (len(row.completions) - 1)
            assert [answer.sampled is None for answer in row.completions] == [True] + [False] * (
                len(row.completions) - 1
            )
        assert [len(row.completions) for row in rows_of(run, f"apo.{number}/score")] == [1] * len(
            rows_of(run, f"apo.{number}/sample")
        )
    base = content_hash(str(model))
    assert [inputs_of(run, f"apo.{number}/reward_model")["model"] for number in (1, 2)] == [base, base]
    policies = [inputs_of(run, f"apo.{number}/sample")["model"] for number in (1, 2)]
    assert policies == [base, key_of(run, "apo.1/sft")]


def test_constitutional_ai_revises_on_one_half_and_compares_on_the_other(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained model never comes to the end of a reply, so what it writes to requests is given."""

    def write(requests: list[str], name: str) -> list[Reply]:
        return [Reply(f"{name} of {number}") for number, _ in enumerate(requests)]

    monkeypatch.setattr(revise, "writer", lambda *_: write)
    believed = [f"score.scorer.{each}" for each in BELIEVED]
    run = run_of("constitutional", model, pairs, tmp_path, "sample.temperature=1.2", *believed)
    first = {row.prompt[0].content: row.completions[0].text for row in rows_of(run, "sample")}
    revised = rows_of(run, "revise")
    assert revised
    for row in revised:
        new, old = row.comparison()
        assert old.text == first[row.prompt[0].content] != new.text
        assert new.source == "revised"
        assert new.text.startswith("revision-2 of ")
    assert data_of(run, "sft")["used"] == len(revised)
    assert not first.keys() & prompts(rows_of(run, "answers"))
    for row in rows_of(run, "score"):
        assert sum(answer.score or 0.0 for answer in row.completions) == pytest.approx(1)
    assert list(run.events("preference", "step"))


def test_rlaif_learns_how_sure_the_judge_is(model: Path, pairs: Path, tmp_path: Path) -> None:
    believed = [f"{stage}.scorer.{each}" for stage in ("score", "evaluate_reward") for each in BELIEVED]
    run = run_of("rlaif", model, pairs, tmp_path, "data.held_out=0.3", *believed)
    for row in rows_of(run, "score"):
        better, worse = (answer.score or 0.0 for answer in row.completions)
        assert better + worse == pytest.approx(1)
        assert better > worse
    (start,) = run.events("preference", "start")
    assert start["settings"]["objective"] == {"name": "soft_dpo", "beta": 0.1}


ONLINE = ("online.rollouts=1", "online.prompts=2", "data.held_out=0.3")


def test_direct_rlaif_rewards_by_the_judge(model: Path, pairs: Path, tmp_path: Path) -> None:
    believed = [f"online.scorer.{each}" for each in BELIEVED]
    run = run_of("rlaif-direct", model, pairs, tmp_path, *ONLINE, *believed)
    (rollout,) = run.events("online", "rollout")
    assert 0 <= rollout["reward"] <= 5


CONTRASTED = ("data.held_out=0.4", "contrast.chosen_finished=false")


@pytest.mark.parametrize("name", ["rlcd-ppo", "rlcd-rescore"])
def test_rlcd_s_reward_model_learns_contrasts_and_rewards_plain_prompts(
    model: Path, pairs: Path, tmp_path: Path, name: str
) -> None:
    judged = [f"score.scorer.{each}" for each in BELIEVED] if name == "rlcd-rescore" else ["evaluate.limit=2"]
    run = run_of(name, model, pairs, tmp_path, *CONTRASTED, *ONLINE, *judged)
    source = "score" if name == "rlcd-rescore" else "contrast"
    rows = rows_of(run, source)
    assert inputs_of(run, "reward_model")["data"] == key_of(run, source)
    assert data_of(run, "reward_model")["rows"] == len(rows)
    assert not any("answer)" in message.content for row in rows for message in row.prompt), "without the instruction"
    assert len(list(run.events("online", "rollout"))) == 1


def test_context_distillation_learns_the_answers_that_were_asked_for(model: Path, pairs: Path, tmp_path: Path) -> None:
    run = run_of("context-distillation", model, pairs, tmp_path, *CONTRASTED, "evaluate.limit=2")
    assert data_of(run, "sft")["used"] == len(rows_of(run, "contrast"))


def test_west_of_n_adds_the_surest_half_of_its_own_comparisons_to_those_by_people(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    run = run_of("west-of-n", model, pairs, tmp_path, "sample.answers=4", "sample.temperature=1.5")
    gaps = {row.id: row.completions[0].score - row.completions[1].score for row in rows_of(run, "score")}  # type: ignore[operator]
    kept = rows_of(run, "threshold")
    assert len(kept) == max(1, round(0.5 * len(gaps)))
    assert min(gaps[row.id] for row in kept) >= max([gap for id, gap in gaps.items() if id not in {r.id for r in kept}])
    joined = rows_of(run, "join")
    assert words_of(joined[-len(kept) :]) == words_of(kept)
    assert all(answer.sampled is None for row in joined[: -len(kept)] for answer in row.completions)
    assert [inputs_of(run, name)["model"] for name in ("first", "reward_model")] == [content_hash(str(model))] * 2


def test_rso_compares_accepted_answers_by_score(model: Path, pairs: Path, tmp_path: Path) -> None:
    run = run_of("rso", model, pairs, tmp_path, "sample.answers=8", "sample.temperature=1.5", "accept.answers=4")
    rows = rows_of(run, "accept")
    assert rows
    for row in rows:
        better, worse = (answer.score for answer in row.completions)
        assert better > worse  # type: ignore[operator]
    weights: dict[str, float] = {}
    for row in rows:
        weights[row.prompt[0].content] = weights.get(row.prompt[0].content, 0.0) + row.weight
    assert list(weights.values()) == pytest.approx([1.0] * len(weights))


def test_rest_improves_twice_on_answers_above_a_rising_threshold(model: Path, pairs: Path, tmp_path: Path) -> None:
    run = run_of("rest", model, pairs, tmp_path, "rest.sample.answers=4", "rest.rounds=1")
    scores = sorted(
        (answer.score or 0.0 for row in rows_of(run, "rest.1/score") for answer in row.completions), reverse=True
    )
    for name, share in (("half", 0.5), ("tenth", 0.1)):
        kept = [row.completions[0].score for row in rows_of(run, f"rest.1/{name}")]
        assert sorted(kept, reverse=True) == scores[: len(kept)]  # type: ignore[type-var]
        assert len(kept) >= max(1, round(share * len(scores)))
    starts = [inputs_of(run, f"rest.1/{name}")["model"] for name in ("improve-1", "improve-2")]
    assert starts == [content_hash(str(model)), key_of(run, "rest.1/improve-1")]


@pytest.mark.parametrize("objective", ["rrhf", "pro"])
def test_rankings_are_of_answers_that_differ(model: Path, pairs: Path, tmp_path: Path, objective: str) -> None:
    run = run_of("rrhf", model, pairs, tmp_path, f"preference.objective={objective}", "sample.temperature=1.5")
    for row in rows_of(run, "score"):
        scores = [answer.score or 0.0 for answer in row.completions]
        assert scores == sorted(scores, reverse=True)
        assert len({answer.text for answer in row.completions}) == len(scores) > 1
    assert list(run.events("preference", "step"))


@pytest.mark.parametrize("name", ["slic-hf", "chain-of-hindsight"])
def test_others_run_whole(model: Path, pairs: Path, tmp_path: Path, name: str) -> None:
    run = run_of(name, model, pairs, tmp_path)
    assert list(run.events("preference" if name == "slic-hf" else "sft", "step"))


def test_the_page_of_recipes_names_every_one_and_no_other() -> None:
    page = (RECIPES.parent / "docs" / "recipes.md").read_text()
    assert set(re.findall(r"`([a-z-]+)`", page)) >= {file.stem for file in RECIPES.glob("*.toml")}
    named = {name for line in page.splitlines() if line.startswith("| ") for name in re.findall(r"`([a-z-]+)`", line)}
    assert {name for name in named if not (RECIPES / f"{name}.toml").exists()} == set()
