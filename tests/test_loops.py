"""Loops: what a recipe may say, what each round begins with, and that a killed loop goes on to the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from fake_endpoint import Said, serving
from scoring.scripted import answer_in

from truing import cli, estimates, formats, measuring, models
from truing import watch as watching
from truing.errors import ConfigError, DataError, Interrupted
from truing.pipeline import Planned, Recipe, check, make_recipe, plan, read_recipe, run_recipe
from truing.recipe import LoopSpec
from truing.records import Group, written_by
from truing.report import words
from truing.report.sections import rounds
from truing.report.view import view
from truing.stages.context import Stop
from truing.stages.judgements import DISAGREES
from truing.store import Run

RECIPES = Path(__file__).parent.parent / "recipes"
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
SAMPLE = {"use": "sample", "answers": 3, "max_new_tokens": 5, "temperature": 1.5}
ONE = {**SAMPLE, "answers": 1}
SCORE = {"use": "score", "scorer": {"name": "length", "unit": "characters"}, "keep": "best_and_worst"}
DPO = {"use": "preference", "batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", 12)


def loop(*stages: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"use": "loop", "name": "self", "rounds": 3, "stage": list(stages), **settings}


def table(model: Path, file: Path, *stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    about = {"name": "t", "model": str(model), "device": "cpu", "precision": "fp32", "data": {"path": str(file)}}
    return {**about, "stage": list(stages), **changes}


def by_name(planned: Sequence[Planned]) -> dict[str, Planned]:
    return {one.name: one for one in planned}


def keys_of(planned: Planned) -> dict[str, str]:
    return {name: value.key for name, value in planned.inputs.items() if name in ("model", "base", "reward", "data")}


def prompts(groups: Sequence[Group]) -> set[str]:
    return {group.prompt[0].content for group in groups}


# What a recipe may say.


WRITTEN = """
model = "MODEL"
[data]
path = "DATA"

[[stage]]
use = "sft"

[[stage]]
use = "loop"
name = "self"
rounds = 2

  [[stage.stage]]
  use = "sample"
  answers = 4

  [[stage.stage]]
  use = "score"
  keep = "best_and_worst"
  scorer = "length"

  [[stage.stage]]
  use = "preference"
  objective = { name = "ipo", tau = 0.2 }

[[stage]]
use = "evaluate"
held_out = "DATA"
"""


def test_a_loop_stands_where_it_is_written_and_means_the_same_when_it_is_spelled_out(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(WRITTEN.replace("MODEL", str(model)).replace("DATA", str(pairs)))
    recipe = read_recipe(tmp_path / "r.toml", ["self.preference.objective.tau=0.3", "self.rounds=4", "sft.epochs=2"])
    (tmp_path / "again.toml").write_text(recipe.resolved())
    again = read_recipe(tmp_path / "again.toml")
    assert again == recipe
    assert again.resolved() == recipe.resolved()
    spelled = tomllib.loads(recipe.resolved())["stage"]
    assert [entry["use"] for entry in spelled] == ["sft", "loop", "evaluate"]
    assert (spelled[1]["rounds"], spelled[1]["carry"], spelled[1]["rows"]) == (4, ["model"], "all")
    assert spelled[1]["stage"][2]["objective"] == {"name": "ipo", "tau": 0.3}
    assert [one.key for one in plan(again)] == [one.key for one in plan(recipe)]


@pytest.mark.parametrize(
    ("entry", "overrides", "words"),
    [
        (loop(SAMPLE, DPO), ["self.smaple.answers=8"], r"'self\.smaple' is neither .* did you mean 'sample'"),
        (loop(SAMPLE, DPO), ["self.round=8"], r"'self\.round' is neither .* did you mean 'rounds'"),
        (loop(SAMPLE, DPO), ["sample.answers=8"], r"'sample' is neither .* did you mean 'self\.sample'"),
        (loop(SAMPLE, DPO), ["self.sample.answer=8"], r"self\.sample\.answer: .*did you mean 'answers'"),
        (loop(SAMPLE, DPO), ["self.rounds=0"], r"self\.rounds: .*found 0"),
        (loop(SAMPLE, DPO, carry=["modle"]), [], r"self\.carry\.0: .*'model'.*found 'modle'"),
        (loop(SAMPLE, DPO, carry=[]), [], r"self\.carry"),
        (loop(SAMPLE, DPO, carry=["reward"]), [], r"self: carry: no stage of the loop makes 'reward'"),
        (loop(SAMPLE), [], r"self: carry: no stage of the loop makes 'model'"),
        (loop(SAMPLE, DPO, carry=["data"], rows="split"), [], r"self: rows gives each round rows of its own"),
        (loop(SAMPLE, DPO, until="x"), [], r"self\.until: there is no such setting"),
        ({"use": "loop", "stage": [SAMPLE, DPO]}, [], r"loop\.rounds: this setting is required"),
        (loop(), [], r"loop 'self' has no \[\[stage\.stage\]\]"),
        (loop(SAMPLE, SAMPLE, DPO), [], "two stages are named 'sample'"),
        (loop(SAMPLE, loop(DPO)), [], "loop 'self' holds another loop"),
        (loop({"use": "smaple"}), [], "did you mean 'sample'"),
        ({"use": "loops"}, [], "did you mean 'loop'"),
        (loop({**DPO, "data": "score"}, SCORE), [], r"self: preference\.data: 'score' is not made before it"),
        (loop({**DPO, "model": "preference"}), [], r"'preference' is not made before it .*\"previous\""),
        (loop({**DPO, "model": "earlier"}), [], r'preference\.model: "earlier" is the model of every earlier round'),
        (loop({**DPO, "base": "earlier"}), [], r'preference\.base: "earlier" .* the base of a stage that measures'),
        (loop(SAMPLE, DPO, name="start"), [], "a stage cannot be named 'start'"),
        (loop({**SAMPLE, "name": "a/b"}, DPO), [], "a stage cannot be named 'a/b'"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_with_the_nearest_name(
    model: Path, pairs: Path, entry: dict[str, Any], overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_recipe(table(model, pairs, entry), overrides)


def test_a_loop_as_an_array_of_its_own_is_refused_with_the_way_to_write_it(model: Path, pairs: Path) -> None:
    with pytest.raises(ConfigError, match=r'use = "loop".*\[\[stage\.stage\]\]'):
        make_recipe({**table(model, pairs, {"use": "sft"}), "loop": [{"name": "self"}]})


# What each round begins with.


def test_a_round_begins_with_what_is_carried_and_else_with_what_stood_before_the_loop(model: Path, pairs: Path) -> None:
    stages = ({"use": "sft"}, loop(SAMPLE, SCORE, DPO), {"use": "sft", "name": "after"})
    planned = by_name(plan(make_recipe(table(model, pairs, *stages))))
    assert list(planned) == [
        "sft", *(f"self.{n}/{stage}" for n in (1, 2, 3) for stage in ("sample", "score", "preference")), "after"
    ]  # fmt: skip
    assert len({one.key for one in planned.values()}) == len(planned)
    rows = planned["sft"].inputs["data"].key
    before = "sft"
    for number in (1, 2, 3):
        sample, score, preference = (planned[f"self.{number}/{stage}"] for stage in ("sample", "score", "preference"))
        assert keys_of(sample) == {"model": planned[before].key, "data": rows}
        assert keys_of(score) == {"data": sample.key}
        assert keys_of(preference)["model"] == planned[before].key
        assert keys_of(preference)["data"] == score.key
        assert keys_of(preference)["base"] == planned["sft"].inputs["model"].key
        before = preference.name
    assert keys_of(planned["after"]) == {"model": planned[before].key, "data": planned["self.3/score"].key}


def test_a_reward_model_and_rows_can_be_carried(model: Path, pairs: Path) -> None:
    reward = {"use": "reward_model", "data": "recipe"}
    body = loop(SAMPLE, {"use": "score", "name": "rank"}, reward, carry=["reward", "data"])
    planned = by_name(plan(make_recipe(table(model, pairs, {"use": "reward_model", "name": "first"}, body))))
    assert keys_of(planned["self.1/sample"])["data"] == planned["first"].inputs["data"].key
    assert keys_of(planned["self.2/sample"])["data"] == planned["self.1/rank"].key
    judged_by = [planned[f"self.{n}/rank"].inputs["judges"].models[""].key for n in (1, 2, 3)]
    assert judged_by == [planned[name].key for name in ("first", "self.1/reward_model", "self.2/reward_model")]
    assert len({keys_of(planned[f"self.{n}/sample"])["model"] for n in (1, 2, 3)}) == 1, "it is not carried"


def test_names_lead_to_the_recipe_the_start_the_last_round_and_this_one(model: Path, pairs: Path) -> None:
    """As APO retrains its reward model from one base, and a round is measured against the last."""
    body = loop(
        {**SAMPLE, "data": "recipe"},
        {"use": "sft", "name": "tuned", "model": "recipe", "data": "sample"},
        {"use": "sft", "name": "again", "model": "start", "data": "start"},
        {**DPO, "model": "previous", "data": "recipe", "base": "tuned"},
        {"use": "evaluate", "base": "previous", "model": "preference"},
        {"use": "evaluate", "name": "first", "base": "sft"},
    )
    data = {"path": str(pairs), "held_out": 0.3}
    stages = ({"use": "sft"}, body, {"use": "evaluate", "base": "self.1/preference"})
    planned = by_name(plan(make_recipe(table(model, pairs, *stages, data=data))))
    own, start = planned["sft"].inputs["model"].key, planned["sft"].key
    previous = start
    for number in (1, 2, 3):
        here = {name.partition("/")[2]: one for name, one in planned.items() if name.startswith(f"self.{number}/")}
        assert keys_of(here["tuned"]) == {"model": own, "data": here["sample"].key}
        assert keys_of(here["again"])["model"] == start
        assert keys_of(here["preference"])["model"] == previous
        assert keys_of(here["preference"])["base"] == here["tuned"].key
        assert keys_of(here["evaluate"]) == {"model": here["preference"].key, "base": previous}
        assert keys_of(here["first"])["base"] == start
        previous = here["preference"].key
    assert keys_of(planned["evaluate"]) == {"model": previous, "base": planned["self.1/preference"].key}


def test_each_round_is_measured_against_every_earlier_one(model: Path, pairs: Path) -> None:
    body = loop({"use": "sft"}, {"use": "win_rate", "base": "earlier", "data": "recipe", "scorer": "length"})
    later = {"use": "win_rate", "model": "self.3", "base": "self.1", "data": "recipe", "scorer": "length"}
    planned = by_name(plan(make_recipe(table(model, pairs, {"use": "sft", "name": "seed"}, body, later))))
    made = {"start": planned["seed"].key} | {f"self.{n}": planned[f"self.{n}/sft"].key for n in (1, 2, 3)}
    wins = {name: one for name, one in planned.items() if "/win_rate/" in name}
    assert list(wins) == [
        "self.1/win_rate/start",
        "self.2/win_rate/start", "self.2/win_rate/self.1",
        "self.3/win_rate/start", "self.3/win_rate/self.1", "self.3/win_rate/self.2",
    ]  # fmt: skip
    for name, one in wins.items():
        round, _, base = name.split("/")
        assert (keys_of(one)["model"], keys_of(one)["base"]) == (made[round], made[base])
    assert len({one.key for one in wins.values()}) == 6
    found = keys_of(planned["win_rate"])
    assert (found["model"], found["base"]) == (made["self.3"], made["self.1"]), "a round is named by what it made"


@pytest.mark.parametrize(
    "body",
    [
        ({"use": "win_rate", "base": "earlier", "data": "recipe", "scorer": "length"}, {"use": "sft"}),
        (
            {"use": "sft"},
            {"use": "win_rate", "model": "previous", "base": "earlier", "data": "recipe", "scorer": "length"},
        ),
    ],
    ids=["before the training", "of the last round"],
)
def test_a_model_against_itself_is_refused_before_anything_runs(
    model: Path, pairs: Path, body: tuple[dict[str, Any], ...]
) -> None:
    with pytest.raises(ConfigError, match=r"^self\.1/win_rate/start: model and base are the same"):
        plan(make_recipe(table(model, pairs, loop(*body))))


def test_a_stage_called_as_a_round_is_refused(model: Path, pairs: Path) -> None:
    stages = ({"use": "sft", "name": "self.2"}, loop(SAMPLE, SCORE, DPO))
    with pytest.raises(ConfigError, match=r"self\.2: a round of the loop self is called so"):
        make_recipe(table(model, pairs, *stages))


def test_no_model_judges_its_own_answers_unless_it_is_named(model: Path, pairs: Path) -> None:
    """The judge that a scorer does not name is the recipe's model, not the policy that is measured."""
    rows = {"data": "recipe", "scorer": "pairwise"}
    body = loop(SAMPLE, {**SCORE, "scorer": "judge"}, DPO, {"use": "choose", "base": "previous", **rows})
    wins = {"use": "win_rate", "base": "self.1", **rows}
    seed = {"use": "sft", "name": "seed", "data": "recipe"}

    def judges(*stages: dict[str, Any]) -> dict[str, str]:
        planned = plan(make_recipe(table(model, pairs, *stages)))
        return {
            p.name: one.key for p in planned if "judges" in p.inputs for one in p.inputs["judges"].language.values()
        }

    found = judges(seed, body, wins)
    own = models.content_hash(str(model))
    assert {found[name] for name in ("self.1/choose", "self.2/choose", "self.3/choose", "win_rate")} == {own}
    assert own not in {found[f"self.{n}/score"] for n in (1, 2, 3)}, "what a round learns from its own model judges"
    with pytest.raises(ConfigError, match=r"self\.1/choose\.scorer: it names no model .* the recipe's is the base"):
        judges(body)
    with pytest.raises(
        ConfigError, match=r"win_rate\.scorer: .* the recipe's is the model .*: set model in the scorer"
    ):
        judges(seed, {**wins, "model": "recipe", "base": "seed"})
    named = {**wins, "base": "recipe", "scorer": {"name": "weighted", "of": ["judge"], "weights": [1.0]}}
    with pytest.raises(ConfigError, match=r"the recipe's is the base"):
        judges(seed, named)
    named["scorer"] = {"name": "judge", "model": "recipe"}
    assert judges(seed, named) == {"win_rate": own}, "who names it means it"


def test_a_name_of_the_body_is_the_round_s_own_stage_also_where_one_outside_has_it(model: Path, pairs: Path) -> None:
    stages = (SAMPLE, loop(SAMPLE, {"use": "sft", "data": "sample"}))
    planned = by_name(plan(make_recipe(table(model, pairs, *stages))))
    assert keys_of(planned["self.2/sft"])["data"] == planned["self.2/sample"].key


def test_what_no_round_has_is_told(model: Path, pairs: Path) -> None:
    body = loop({**DPO, "data": "previous"}, carry=["model"])
    with pytest.raises(ConfigError, match=r"self\.1/preference\.data: 'previous' has no data here"):
        plan(make_recipe(table(model, pairs, body, data=None)))
    with pytest.raises(ConfigError, match=r"self\.1/score' scores with the recipe's reward model"):
        plan(make_recipe(table(model, pairs, loop({"use": "score"}, DPO))))


def test_prompts_of_all_earlier_rounds_are_known_to_the_stage_that_makes_them(model: Path, pairs: Path) -> None:
    instruct = {"use": "self_instruct", "model": "recipe", "data": "recipe"}
    planned = by_name(
        plan(make_recipe(table(model, pairs, loop(instruct, {**instruct, "name": "other"}, SAMPLE, DPO))))
    )
    for name in ("self_instruct", "other"):
        made = [planned[f"self.{number}/{name}"] for number in (1, 2, 3)]
        assert "earlier" not in made[0].inputs
        for number in (1, 2):
            assert [rows.key for rows in made[number].inputs["earlier"].rounds] == [one.key for one in made[:number]]
    assert "earlier" not in planned["self.3/sample"].inputs


def test_held_out_rows_can_be_answered(model: Path, pairs: Path) -> None:
    stages = ({**SAMPLE, "data": "held_out"}, {"use": "sft"})
    data = {"path": str(pairs), "held_out": 0.3}
    planned = plan(make_recipe(table(model, pairs, *stages, data=data)))
    inside = planned[0].inputs["data"].read()
    assert inside
    every = {group.prompt[0].content for group in tiny_model.pairs(12)}
    without = make_recipe(table(model, pairs, {"use": "sft"}, data=data))
    assert prompts(inside) == every - prompts(plan(without)[0].inputs["data"].read())


# Rows and random numbers of each round.


def test_rounds_split_the_rows_into_prompts_of_their_own(model: Path, tmp_path: Path) -> None:
    file = tiny_model.write_pairs(tmp_path / "many.jsonl", 240)

    def rows(**changes: Any) -> dict[str, set[str]]:
        body = loop(SAMPLE, {"use": "sft"}, rows="split")
        recipe = make_recipe(table(model, file, {"use": "sft", "name": "first"}, body, **changes))
        planned = {one.name: one.inputs["data"] for one in plan(recipe)}
        return {name: prompts(data.read()) for name, data in planned.items() if data.ready}

    found = rows()
    parts = [found[f"self.{number}/sample"] for number in (1, 2, 3)]
    assert sum(map(len, parts)) == 240
    assert set().union(*parts) == found["first"]
    assert all(50 < len(part) < 110 for part in parts)

    shared = {"path": str(file), "held_out": 0.2, "splits": {"first": 1, "self": 2}}
    found = rows(data=shared)
    parts = [found[f"self.{number}/sample"] for number in (1, 2, 3)]
    assert not found["first"] & set().union(*parts)
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert all(20 < len(part) < 80 for part in parts)


def test_a_stage_of_the_body_can_have_rows_of_its_own(model: Path, tmp_path: Path) -> None:
    """As APO's reward model and policy learn from different prompts, in each round from new ones."""
    file = tiny_model.write_pairs(tmp_path / "many.jsonl", 240)
    body = loop({"use": "reward_model", "data": "start"}, SAMPLE, {"use": "sft"}, rows="all")
    data = {"path": str(file), "splits": {"self.reward_model": 1, "self.sample": 1}}

    def rows(way: str) -> list[set[str]]:
        planned = plan(make_recipe(table(model, file, {**body, "rows": way, "stage": body["stage"]}, data=data)))
        return [prompts(one.inputs["data"].read()) for one in planned if one.inputs["data"].ready]

    reward, drawn, *others = rows("all")
    assert not reward & drawn
    assert reward | drawn == prompts(tiny_model.pairs(240))
    assert others == [reward, drawn] * 2
    with pytest.raises(ConfigError, match=r"data\.splits\.self\.reward: no stage has this name; did you mean"):
        make_recipe(table(model, file, body, data={"path": str(file), "splits": {"self.reward": 1, "self": 1}}))


def test_rows_that_cannot_be_split_are_told(model: Path, pairs: Path) -> None:
    body = loop(SAMPLE, {"use": "sft"}, rows="split")
    with pytest.raises(ConfigError, match=r'self: rows = "split" needs rows to split'):
        plan(make_recipe(table(model, pairs, body, data=None)))
    with pytest.raises(ConfigError, match=r"those before the loop are made by sample"):
        plan(make_recipe(table(model, pairs, SAMPLE, body)))
    few = make_recipe(table(model, pairs, {**body, "rounds": 200}))
    with pytest.raises(DataError, match=r"self\.\d+: no prompt of .* falls into this part of .*: set fewer rounds"):
        run_recipe(few, out=pairs.parent / "never", reporter=tiny_model.quiet())


def test_more_rounds_leave_earlier_ones_as_they_are(model: Path, pairs: Path) -> None:
    def keys(*overrides: str) -> list[str]:
        return [one.key for one in plan(make_recipe(table(model, pairs, loop(SAMPLE, SCORE, DPO)), overrides))]

    assert keys("self.rounds=5")[:9] == keys()
    changed = keys("self.preference.epochs=2")
    assert [one == other for one, other in zip(changed, keys(), strict=True)] == [True, True] + [False] * 7


def test_rounds_draw_by_seeds_of_their_own_and_are_measured_with_one(model: Path, pairs: Path) -> None:
    stages = (loop(SAMPLE, {"use": "sft"}, {"use": "evaluate"}), loop(SAMPLE, {"use": "sft"}, name="other", rounds=1))
    recipe = make_recipe(table(model, pairs, *stages, data={"path": str(pairs), "held_out": 0.3}))
    planned = by_name(plan(recipe))
    drawn = [one.seed for name, one in planned.items() if name.endswith("/sample")]
    assert len(set(drawn)) == 4
    assert recipe.seed not in drawn
    assert {one.seed for name, one in planned.items() if name.endswith("/evaluate")} == {recipe.seed}


def test_two_rounds_of_the_same_model_and_prompts_write_different_answers(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    body = loop(SAMPLE, rounds=2, carry=["data"])
    run = go(make_recipe(table(model, pairs, body)), tmp_path / "run")
    first, second = (answers_of(run, f"self.{number}/sample") for number in (1, 2))
    assert [group.prompt for group in first] == [group.prompt for group in second]
    same = [one.completions[0].text == other.completions[0].text for one, other in zip(first, second, strict=True)]
    assert sum(same) < 3


# Running.


def go(recipe: Recipe, out: Path) -> Run:
    run_recipe(recipe, out=out, reporter=tiny_model.quiet())
    return Run.read(out)


def answers_of(run: Run, stage: str) -> list[Group]:
    (made,) = (one for one in run.artifacts() if one.stage == stage and "groups" in one.meta)
    return formats.read_groups(made.path / str(made.meta["groups"]), format="group")


def self_play(model: Path, pairs: Path) -> Recipe:
    """Two rounds between two stages, with a reward model that stands before them."""
    stages = (
        {"use": "reward_model", "batch_size": 4},
        loop(SAMPLE, {**SCORE, "scorer": "reward_model"}, DPO, rounds=2),
    )
    data = {"path": str(pairs), "held_out": 0.3}
    return make_recipe(table(model, pairs, *stages, {"use": "merge", "dtype": "fp32"}, data=data))


@pytest.fixture(scope="module")
def whole(model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return go(self_play(model, pairs), tmp_path_factory.mktemp("whole") / "run")


def same_bits(run: Run, whole: Run) -> None:
    assert tiny_model.step_events(run) == tiny_model.step_events(whole)
    assert [one.key for one in run.artifacts()] == [one.key for one in whole.artifacts()]
    for one, other in zip(run.artifacts(), whole.artifacts(), strict=True):
        for file in other.path.glob("groups.jsonl"):
            assert (one.path / file.name).read_bytes() == file.read_bytes()
    assert [one.step for one in run.checkpoints()] == [one.step for one in whole.checkpoints()]
    for checkpoint in whole.checkpoints():
        twin = run.path / checkpoint.path.name
        assert tiny_model.weights_hash(twin) == tiny_model.weights_hash(checkpoint.path)


def test_every_round_keeps_what_it_made_and_says_who_wrote_it(whole: Run, model: Path) -> None:
    made = {one.stage: one for one in whole.artifacts() if not one.meta.get("part")}
    assert list(made) == [
        "reward_model", *(f"self.{n}/{stage}" for n in (1, 2) for stage in ("sample", "score", "preference")), "merge"
    ]  # fmt: skip
    folders = {str(one.meta["model"]) for name, one in made.items() if name.endswith("/preference")}
    assert len(folders) == 2
    assert all((whole.path / folder / "model.safetensors").exists() for folder in folders)
    writers = [models.content_hash(str(model)), made["self.1/preference"].key]
    for number, writer in enumerate(writers, 1):
        groups = answers_of(whole, f"self.{number}/score")
        assert written_by(groups) == {writer: 2 * len(groups)}
        (event,) = whole.events(f"self.{number}/preference", "data")
        assert event["written_by"] == {writer: 2 * len(groups)}
    (start,) = whole.events("self.2/score", "start")
    assert start["round"] == {"loop": "self", "number": 2, "of": 2}
    assert answers_of(whole, "self.1/sample") != answers_of(whole, "self.2/sample")


def killed(tmp_path: Path, places: Sequence[tuple[str, str]]) -> None:
    """Runs r.toml into the folder `killed`, and kills it at each place, each time a process of its own."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny_model, torch
from pathlib import Path
from truing.pipeline import read_recipe, run_recipe
from truing.store import Run
torch.set_num_threads(1)
event = Run.event
for place in {list(places)!r}:
    child = os.fork()
    if child == 0:
        def watched(self, stage, kind, **values):
            if (stage, kind) == place:
                os.kill(os.getpid(), signal.SIGKILL)
            event(self, stage, kind, **values)
        Run.event = watched
        run_recipe(read_recipe(Path({str(tmp_path / "r.toml")!r})), out=Path({str(tmp_path / "killed")!r}),
                   reporter=tiny_model.quiet())
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["-9"] * len(places), done.stdout + done.stderr[-2000:]


def test_stopped_in_a_round_it_goes_on_to_the_same_bits(
    model: Path, pairs: Path, tmp_path: Path, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, real = Run.event, Stop.__init__
    stops: list[Stop] = []

    def init(self: Stop, requested: bool = False) -> None:
        real(self, requested)
        stops.append(self)

    def watched(self: Run, stage: str, kind: str, **values: Any) -> None:
        event(self, stage, kind, **values)
        stops[-1].requested |= (stage, kind) == ("self.2/preference", "step")

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "__init__", init)
        patch.setattr(Run, "event", watched)
        with pytest.raises(Interrupted, match=r"stopped in stage 'self\.2/preference': run the same command again"):
            go(self_play(model, pairs), tmp_path / "run")
    same_bits(go(self_play(model, pairs), tmp_path / "run"), whole)


def test_another_round_in_the_same_folder_redoes_none(model: Path, pairs: Path, tmp_path: Path) -> None:
    body = loop(ONE, {"use": "sft", "batch_size": 4})
    go(make_recipe(table(model, pairs, body), ["self.rounds=1"]), tmp_path / "run")
    run = go(make_recipe(table(model, pairs, body), ["self.rounds=2"]), tmp_path / "run")
    assert [len(list(run.events(f"self.{n}/sft", "start"))) for n in (1, 2)] == [1, 1]
    assert not list(run.path.glob("*superseded*/")), "no checkpoint was put aside"


def test_answers_to_new_prompts_become_what_the_scorer_asks_for(model: Path, tmp_path: Path) -> None:
    """Shorter: each round's answers are to prompts that no earlier round has trained on."""
    file = tiny_model.write_pairs(tmp_path / "many.jsonl", 90)
    length = {"name": "weighted", "of": [{"name": "length", "unit": "characters"}], "weights": [-1.0]}
    drawn = {"use": "sample", "answers": 6, "max_new_tokens": 16, "temperature": 1.0}
    learns = {"use": "preference", "batch_size": 8, "learning_rate": 3e-3, "epochs": 4}
    body = loop(drawn, {**SCORE, "scorer": length}, learns, rows="split")
    run = go(make_recipe(table(model, file, body)), tmp_path / "run")
    scores = [next(run.events(f"self.{number}/score", "data"))["mean_score"] for number in (1, 2, 3)]
    assert scores[2] > scores[0] + 1.5, scores


# Seen from outside.


def test_progress_says_which_round_it_is(model: Path, pairs: Path, tmp_path: Path) -> None:
    reporter = tiny_model.quiet()
    run_recipe(make_recipe(table(model, pairs, loop(ONE, {"use": "sft"}, rounds=2))), out=tmp_path, reporter=reporter)
    said = reporter.console.file.getvalue()  # type: ignore[attr-defined]
    assert said.index("self: round 1 of 2") < said.index("self.1/sample: sampling") < said.index("self: round 2 of 2")
    assert said.index("self: round 2 of 2") < said.index("self.2/sft: ")


def test_watch_says_which_round_it_is(whole: Run) -> None:
    scene = watching.read(whole.path)
    assert scene.ended
    assert scene.planned == [stage.name for stage in scene.stages]
    head = watching._head(scene, scene.stages[-2], 0.0).plain
    assert "stage self.2/preference (7 of 8), round 2 of 2" in head
    facts = watching.facts(watching.Scene("t", scene.planned, scene.stages[:7]), 0.0)
    assert facts["round"] == {"loop": "self", "number": 2, "of": 2}


def test_the_report_shows_rounds_as_rounds(whole: Run) -> None:
    page = (whole.path / "report.html").read_text()
    section = page[page.index('<section id="rounds">') : page.index('<section id="held-out">')]
    assert "Loop self: 2 rounds of sample, score, preference." in section
    (events,) = zip(*(list(whole.events(f"self.{n}/score", "data")) for n in (1, 2)), strict=True)
    for event in events:
        assert f">{words.number(event['mean_score'])}<" in section
    assert "Held-out accuracy" in section
    (writer,) = written_by(answers_of(whole, "self.2/sample"))
    assert f"self.1/preference ({writer[:12]}): " in section
    assert f"{whole.info['model']}: " in section, "the first round's writer is the model that the run began with"


def test_a_plan_shows_rounds_and_what_they_take(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = self_play(model, pairs)
    planned = plan(recipe)
    facts = check(recipe, planned)
    first, second = (facts["training"][f"self.{n}/preference"] for n in (1, 2))
    assert (first["steps"], first["largest_forest"]) == (second["steps"], second["largest_forest"])
    assert facts["rounds"]["self.2/score"] == {"loop": "self", "number": 2, "of": 2}
    (tmp_path / "r.toml").write_text(recipe.resolved())
    monkeypatch.setattr(sys, "argv", ["truing", "plan", str(tmp_path / "r.toml")])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said, wrong = capsys.readouterr()
    assert left.value.code == 0, wrong
    assert all(one.name in said for one in planned)
    assert "self.1/preference, estimated" in said
    assert "self.2/preference, estimated" not in said
    (time,) = [line for line in said.splitlines() if line.startswith("time: ")]
    assert "self.1 0.1, self.2 0.1" in time


def test_a_plan_makes_up_the_rows_that_a_scorer_will_leave(model: Path, pairs: Path) -> None:
    renderer = models.read_renderer(str(model))

    def made(*body: dict[str, Any]) -> list[Group]:
        planned = plan(make_recipe(table(model, pairs, loop(*body))))
        return list(measuring._groups(planned[-1].inputs["data"], planned, renderer))

    assert all(len(group.comparison()) == 2 for group in made({**SAMPLE, "data_answers": "prefer", "answers": 1}, DPO))
    compared = made(SAMPLE, SCORE, DPO)
    assert [[answer.score for answer in group.completions] for group in compared] == [[1.0, 0.0]] * 12
    best = made(SAMPLE, {**SCORE, "keep": "best"}, {"use": "sft"})
    assert [len(group.completions) for group in best] == [1] * 12
    for settings in ("all", "best_and_worst"):
        planned = plan(make_recipe(table(model, pairs, loop(SAMPLE, {**SCORE, "keep": settings}, DPO))))
        groups = measuring._groups(planned[-1].inputs["data"], planned, renderer)
        assert len(measuring.training_rows(planned[-1].settings, groups, renderer, 0)) == 12  # type: ignore[arg-type]


def test_sizes_count_the_data_s_own_answer_where_it_stays(model: Path, pairs: Path) -> None:
    body = loop({**SAMPLE, "data_answers": "prefer"}, DPO)
    planned = plan(make_recipe(table(model, pairs, body)))
    renderer = models.read_renderer(str(model))
    sizes = estimates.sizes_of(planned, renderer, 0)
    yes = len(renderer.render(tiny_model.pairs(1)[0]).answers[0].tokens)
    assert {row.answers for row in sizes["self.1/preference"]} == {(5, 5, 5, yes)}


# The recipes of the house.


def tiny_run(name: str, model: Path, data: Path, out: Path, *overrides: str) -> Run:
    """A recipe of the house on the tiny model and a few rows."""
    about = [f"model={model}", f"data.path={data}", "device=cpu", "precision=fp32"]
    return go(read_recipe(RECIPES / f"{name}.toml", [*about, *overrides]), out)


def test_recipes_are_short_and_say_what_matters() -> None:
    """Those of loops in 40 lines, all others in a few more at most; each with a comment on what it does."""
    loops = []
    for file in sorted(RECIPES.glob("*.toml")):
        lines = file.read_text().splitlines()
        loops += [file.stem] if any(isinstance(spec, LoopSpec) for spec in read_recipe(file).stage) else []
        assert len(lines) <= (40 if file.stem in loops else 44), file.stem
        assert lines[0].startswith("# "), file.stem
    assert loops == ["apo", "iterative-dpo", "raft", "rest", "self-rewarding", "spin"]


def test_iterative_dpo(model: Path, tmp_path: Path) -> None:
    """Each round compares, by the reward model, answers to new prompts that the last round's model wrote."""
    data = tiny_model.write_pairs(tmp_path / "pairs.jsonl", 60)
    short = [f"loop.{stage}.max_new_tokens=6" for stage in ("sample", "win_rate", "diversity")]
    short += ["loop.preference.learning_rate=1e-3", "loop.win_rate.temperature=1.0", "loop.win_rate.limit=6"]
    short += ["loop.diversity.limit=4"]
    run = tiny_run("iterative-dpo", model, data, tmp_path / "run", *short)
    made = {one.stage: one.key for one in run.artifacts() if not one.meta.get("part")}
    writers = [models.content_hash(str(model)), made["loop.1/preference"], made["loop.2/preference"]]
    seen: set[str] = set()
    for number, writer in enumerate(writers, 1):
        groups = answers_of(run, f"loop.{number}/score")
        assert groups
        assert all(one.score > other.score for one, other in (group.completions for group in groups))  # type: ignore[operator]
        assert set(written_by(groups)) == {writer}
        assert not prompts(groups) & seen
        seen |= prompts(groups)
        (start,) = run.events(f"loop.{number}/preference", "start")
        assert start["inputs"]["model"] == writer, "the round's reference is the model that wrote"
        assert start["settings"]["reference"] == "start"
    assert [event["step"] for event in run.events("loop.3/preference", "held_out")]
    (shown,) = rounds.loops(view(run.path))
    (matrix,) = shown.matrices
    assert matrix.columns == [str(run.info["model"]), "round 1", "round 2"]
    for number, row in enumerate(matrix.rows, 1):
        assert [rate is not None for rate in row] == [True] * number + [False] * (3 - number)
        for base, rate in zip(("start", "loop.1", "loop.2"), row[:number], strict=False):
            name = f"loop.{number}/win_rate/{base}"
            artifact = next(one for one in run.artifacts() if one.stage == name and "measured" in one.meta)
            (stored,) = json.loads((artifact.path / "measured.json").read_text())["rows"]
            assert rate is not None
            assert (rate.value, rate.n) == (stored["model"]["value"], stored["model"]["n"])
    assert {"Distinct-2", "Self-BLEU", "Words"} <= {one.heading for one in shown.measures if None not in one.values}
    page = (run.path / "report.html").read_text()
    assert "How often each round’s model wins against earlier ones, by win_rate" in page


def test_spin(model: Path, tmp_path: Path) -> None:
    """The data's answer is chosen over what the last round's model wrote, in training and held out."""
    data = tiny_model.write_demonstrations(tmp_path / "demonstrations.jsonl", 40)
    short = [f"spin.{stage}.max_new_tokens=6" for stage in ("sample", "unseen")]
    run = tiny_run("spin", model, data, tmp_path / "run", *short, "spin.rounds=2", "spin.preference.learning_rate=1e-3")
    key = next(one.key for one in run.artifacts() if one.stage == "spin.1/preference")
    given = {group.prompt[0].content: group.completions[0].text for group in tiny_model.demonstrations(40)}
    for number, writer in ((1, models.content_hash(str(model))), (2, key)):
        trained, unseen = (answers_of(run, f"spin.{number}/{stage}") for stage in ("sample", "unseen"))
        assert not prompts(trained) & prompts(unseen)
        for group in (*trained, *unseen):
            chosen, rejected = group.comparison()
            assert (chosen.text, chosen.sampled) == (given[group.prompt[0].content], None)
            assert rejected.sampled is not None
            assert rejected.sampled.policy == writer
        (event,) = run.events(f"spin.{number}/preference", "data")
        assert event["written_by"] == {"": len(trained), writer: len(trained)}
        before, after = run.events(f"spin.{number}/preference", "held_out")
        assert before["accuracy"]["n"] == after["accuracy"]["n"] == len(unseen)


def test_raft(model: Path, tmp_path: Path) -> None:
    """Each round fine-tunes on the best answer of eight to each of its prompts."""
    data = tiny_model.write_pairs(tmp_path / "pairs.jsonl", 60)
    run = tiny_run("raft", model, data, tmp_path / "run", "raft.sample.max_new_tokens=6", "raft.rounds=2")
    for number in (1, 2):
        drawn, best = (answers_of(run, f"raft.{number}/{stage}") for stage in ("sample", "score"))
        assert [len(group.completions) for group in drawn] == [8] * len(drawn)
        (event,) = run.events(f"raft.{number}/score", "data")
        assert event["scores"]["every answer"][50] >= event["mean_score"]
        assert prompts(best) == prompts(drawn)
        (trained,) = run.events(f"raft.{number}/sft", "data")
        assert trained["used"] == len(best)
    writers = list(written_by(answers_of(run, "raft.2/sample")))
    assert writers == [one.key for one in run.artifacts() if one.stage == "raft.1/sft"]


def test_self_rewarding_whole_and_killed_in_its_second_round(model: Path, tmp_path: Path) -> None:
    """Seed data from rankings, prompts that the model writes, pairs by averaged points, DPO from and against itself.

    The judge stands behind an endpoint, since a model of random weights has nothing to say. It finds more letters
    better, which two rankings of three agree with.
    """
    data = tiny_model.write_rows(
        tmp_path / "rankings.jsonl",
        (
            {
                "prompt": [{"role": "user", "content": f"{tiny_model.WORDS[n % 12]} {n}?"}],
                "completions": [
                    {"messages": [{"role": "assistant", "content": text}], "rank": rank}
                    for rank, text in enumerate(("five", "to", "I") if n % 3 else ("to", "five", "I"))
                ],
            }
            for n in range(24)
        ),
    )

    def say(body: dict[str, Any]) -> Said:
        answer = answer_in(body["messages"][0]["content"])
        letters = sum(letter.isalpha() for letter in answer)
        control = len(answer) > 30 or "Score" in answer
        return Said(f"It has letters.\nScore: {0 if control else min(letters, 5)}")

    with serving(say) as url:
        judge = f'{{url="{url}", model="m", at_once=1}}'
        short = [
            f"judgements.endpoint={judge}", "judgements.samples=1", "seed.learning_rate=1e-3",
            *(f"{name}.scorer.model={judge}" for name in ("loop.evaluate_reward", "loop.score", "last")),
            "loop.self_instruct.prompts=6", "loop.self_instruct.max_new_tokens=8", "loop.self_instruct.min_words=1",
            "loop.self_instruct.similarity=1.0", "loop.self_instruct.temperature=1.5", "loop.self_instruct.attempts=99",
            "loop.self_instruct.seeds=3", "loop.self_instruct.keywords=[]",
            "loop.sample.max_new_tokens=6", "loop.sample.temperature=1.5", "loop.preference.learning_rate=1e-3",
        ]  # fmt: skip
        run = tiny_run("self-rewarding", model, data, tmp_path / "run", *short)
        (tmp_path / "r.toml").write_text((run.path / "recipe.resolved.toml").read_text())
        killed(tmp_path, [("loop.2/score", "end"), ("loop.2/preference", "step")])
        same_bits(go(read_recipe(tmp_path / "r.toml"), tmp_path / "killed"), run)

    (seeds,) = run.events("judgements", "data")
    given, agreed = seeds["rows"], seeds["used"]
    assert 0 < agreed < given
    assert seeds["refused"] == {DISAGREES: given - agreed}
    lessons = answers_of(run, "judgements")
    assert len(lessons) == 3 * agreed, "a third each of 4, 2 and 1 points: none is over-common"
    (taught,) = run.events("seed", "data")
    assert taught["used"] == given + len(lessons)

    made = {one.stage: one.key for one in run.artifacts() if not one.meta.get("part")}
    seen: set[str] = set()
    for number, writer in ((1, made["seed"]), (2, made["loop.1/preference"])):
        groups = answers_of(run, f"loop.{number}/score")
        assert set(written_by(groups)) == {writer}
        assert all(one.score > other.score for one, other in (group.completions for group in groups))  # type: ignore[operator]
        (written,) = run.events(f"loop.{number}/self_instruct", "data")
        assert written["used"] == len(answers_of(run, f"loop.{number}/self_instruct")) == 6
        assert written["rows"] == 6 + sum(written["refused"].values())
        drawn = prompts(answers_of(run, f"loop.{number}/sample"))
        assert not drawn & seen
        seen |= drawn
        (start,) = run.events(f"loop.{number}/preference", "start")
        assert (start["inputs"]["model"], start["settings"]["reference"]) == (writer, "start")

    page = (run.path / "report.html").read_text()
    section = page[page.index('<section id="rounds">') : page.index('<section id="held-out">')]
    for heading in ("Accuracy of the scorer", "Rankings that it has exactly", "Spearman with people"):
        assert heading in section
