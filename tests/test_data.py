"""The data of a recipe: blends of files, held-out rows of all of them, and parts for stages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny_model

from truing import pipeline
from truing.blending import prompt_hash
from truing.data import Sources, parts
from truing.errors import ConfigError, DataError
from truing.pipeline import make_recipe, plan, read_recipe, run_recipe
from truing.recipe import DataSettings
from truing.records import Group
from truing.stages.context import Groups
from truing.store import Run

STAGES = [{"use": "sft"}, {"use": "reward_model"}, {"use": "preference"}]
SPLITS = {"sft": 2, "reward_model": 4, "preference": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A large file and a small one, without a prompt in common."""
    large = tiny_model.write_pairs(tmp_path / "large.jsonl", 60)
    return {"large": large, "small": tiny_model.write_pairs(tmp_path / "small.jsonl", 10, start=500)}


def inputs(files: dict[str, Path], weights: dict[str, float] | None = None, seed: int = 0, **data: Any) -> Any:
    """The files as a blend, in the order of the weights."""
    names = weights or dict.fromkeys(files)
    blend = {name: {"path": str(files[name]), "weight": weight} for name, weight in names.items()}
    return Sources().inputs(DataSettings.model_validate({"blend": blend, **data}), seed)


def content(groups: Groups) -> list[tuple[str, str]]:
    return [(group.id, group.place) for group in groups.read()]


def by_file(groups: list[Group]) -> Counter[str]:
    return Counter(Path(str(group.file)).stem for group in groups)


def test_rows_come_by_weight_repeat_where_they_must_and_keep_their_places(files: dict[str, Path]) -> None:
    data = inputs(files, {"large": 1, "small": 1})["data"]
    groups = data.read()
    assert by_file(groups) == {"large": 35, "small": 35}
    seen = Counter(group.place for group in groups)
    assert Counter(seen[f"{files['small']}:{line}"] for line in range(1, 11)) == {3: 5, 4: 5}
    assert all(seen[place] == 1 for place in seen if "large" in place)
    assert data.description == "blend of large 50 %, small 50 %"
    large, small = data.shares()
    assert (large.name, large.has, large.gives, large.different) == ("large", 60, 35, 35)
    assert (small.name, small.has, small.gives, small.different, small.times) == ("small", 10, 35, 10, 3.5)
    lines = files["small"].read_text().splitlines()
    for group in groups:
        if group.file == str(files["small"]):
            assert json.loads(lines[(group.line or 0) - 1])["prompt"][0]["content"] == group.prompt[0].content


def test_without_weights_all_rows_are_taken_once(files: dict[str, Path]) -> None:
    data = inputs(files)["data"]
    assert by_file(data.read()) == {"large": 60, "small": 10}
    assert set(Counter(group.place for group in data.read()).values()) == {1}
    assert [share.weight for share in data.shares()] == [None, None]
    assert data.description == "all rows of large, small"


def test_an_epoch_may_be_given_its_rows_and_sources_their_limits(files: dict[str, Path]) -> None:
    assert by_file(inputs(files, {"large": 3, "small": 1}, rows=40)["data"].read()) == {"large": 30, "small": 10}
    assert by_file(inputs(files, limit=4)["data"].read()) == {"large": 4, "small": 4}
    blend = {name: {"path": str(file), "limit": 9} for name, file in files.items()}
    blend["small"]["limit"] = 3
    data = Sources().inputs(DataSettings.model_validate({"blend": blend, "limit": 5}))["data"]
    assert by_file(data.read()) == {"large": 9, "small": 3}


def test_the_order_of_the_sources_and_their_names_decide_nothing(files: dict[str, Path]) -> None:
    kept = {"held_out": 0.2}
    one, other = inputs(files, {"large": 3, "small": 1}, **kept), inputs(files, {"small": 0.5, "large": 1.5}, **kept)
    for name in ("data", "held_out"):
        assert content(one[name]) == content(other[name])
        assert one[name].key == other[name].key
    renamed = {"x": files["large"], "y": files["small"]}
    assert content(inputs(renamed, {"x": 3, "y": 1}, **kept)["data"]) == content(one["data"])


def test_seed_weights_and_content_are_in_the_key_and_held_out_rows_stay(files: dict[str, Path]) -> None:
    first = inputs(files, {"large": 3, "small": 1}, held_out=0.2)
    others = [
        inputs(files, {"large": 3, "small": 1}, held_out=0.2, seed=1),
        inputs(files, {"large": 2, "small": 1}, held_out=0.2),
        inputs(files, {"large": 3, "small": 1}, held_out=0.2, rows=20),
    ]
    for other in others:
        assert other["data"].key != first["data"].key
        assert content(other["data"]) != content(first["data"])
        assert other["held_out"].key == first["held_out"].key
        assert content(other["held_out"]) == content(first["held_out"])
    tiny_model.write_pairs(files["small"], 11, start=500)
    grown = inputs(files, {"large": 3, "small": 1}, held_out=0.2)
    assert grown["data"].key != first["data"].key
    assert grown["held_out"].key != first["held_out"].key


def test_held_out_rows_are_of_every_source_once_and_share_no_prompt_with_training(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """Also where two sources have prompts in common, one of them as plain text."""
    rows = [
        {"prompt": group.prompt[0].content, "completion": group.completions[1].text} for group in tiny_model.pairs(40)
    ]
    shared = {**files, "plain": tiny_model.write_rows(tmp_path / "plain.jsonl", rows)}
    found = inputs(shared, {"large": 1, "small": 5, "plain": 2}, held_out=0.4)
    train, kept = found["data"].read(), found["held_out"].read()
    assert set(by_file(kept)) == {"large", "small", "plain"}
    assert not {prompt_hash(group) for group in train} & {prompt_hash(group) for group in kept}
    assert set(Counter(group.place for group in kept).values()) == {1}
    every = {group.place for group in kept} | {group.place for group in inputs(shared, held_out=0.4)["data"].read()}
    assert len(every) == 110


def test_a_leak_from_any_source_into_a_held_out_file_is_found(files: dict[str, Path], tmp_path: Path) -> None:
    """Even of a row that this blend leaves out: another seed would take it."""
    held = tiny_model.write_pairs(tmp_path / "held.jsonl", 2, start=509)
    for rows in (70, 4):
        found = inputs(files, {"large": 1, "small": 1}, held_out=str(held), rows=rows)
        with pytest.raises(DataError, match=r"held\.jsonl:1: .*also in the training data, at .*small\.jsonl:10: "):
            found["held_out"].read()
    tiny_model.write_pairs(held, 2, start=59)
    with pytest.raises(DataError, match=r"held\.jsonl:1: .*at .*large\.jsonl:60: "):
        inputs(files, held_out=str(held))["held_out"].read()
    tiny_model.write_pairs(held, 2, start=900)
    assert len(inputs(files, held_out=str(held))["held_out"].read()) == 2


def test_parts_share_no_prompt_and_hold_all_rows_of_the_blend(files: dict[str, Path]) -> None:
    data = inputs(files, {"large": 1, "small": 1})["data"]
    found = parts(SPLITS, data)
    together = [place for one in found.values() for place in content(one)]
    assert sorted(together) == sorted(content(data))
    prompts = [{prompt_hash(group) for group in one.read()} for one in found.values()]
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    shares = [one.shares() for one in found.values()]
    assert [sum(some[place].gives for some in shares) for place in (0, 1)] == [35, 35]
    assert [sum(some[place].different for some in shares) for place in (0, 1)] == [35, 10]
    assert found["sft"].description == "20 % of the prompts of blend of large 50 %, small 50 %"


def recipe(model: Path, files: dict[str, Path], *stages: dict[str, Any], **data: Any) -> pipeline.Recipe:
    short = {"batch_size": 4, "max_length": 64, "learning_rate": 1e-3}
    trains = ("sft", "reward_model", "preference", "audit")
    table = {
        "name": "t",
        "model": str(model),
        "device": "cpu",
        "precision": "fp32",
        "data": data,
        "stage": [{**short, **entry} if entry["use"] in trains else entry for entry in stages],
    }
    return make_recipe(table)


def test_only_the_stages_whose_part_changed_run_again(model: Path, files: dict[str, Path]) -> None:
    def keys(stages: list[dict[str, Any]] = STAGES, **splits: float) -> dict[str, str]:
        apart = [{**entry, "model": str(model)} for entry in stages]  # so that no stage rests on another one's model
        made = recipe(model, files, *apart, path=str(files["large"]), splits=splits)
        return {one.name: one.inputs["data"].key for one in plan(made)}

    first = keys(sft=2, reward_model=4, preference=4)
    assert len(set(first.values())) == 3
    assert keys(preference=2, sft=1, reward_model=2) == first, "the same parts"
    changed = keys(sft=1, reward_model=5, preference=4)
    assert [changed[name] == first[name] for name in ("preference", "reward_model", "sft")] == [True, False, False]
    whole = plan(recipe(model, files, {"use": "preference"}, path=str(files["large"])))[0].inputs["data"].key
    assert keys(reward_model=1, preference=1)["sft"] == whole, "a stage that is not named takes all rows"


def test_a_run_trains_each_stage_on_its_own_part_and_tells_of_repeats(
    model: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    blend = {name: {"path": str(file), "weight": 1} for name, file in files.items()}
    made = recipe(model, files, *STAGES, blend=blend, splits=SPLITS, rows=40)
    facts = pipeline.check(made, plan(made))
    assert [fed["stages"] for fed in facts["fed"]] == [["sft"], ["reward_model"], ["preference"]]
    assert sum(fed["rows"] for fed in facts["fed"]) == 40
    assert sum("data.blend.small: its" in note for note in facts["notes"]) >= 2
    run_recipe(made, out=tmp_path / "run", reporter=tiny_model.quiet())
    run = Run.read(tmp_path / "run")
    events = list(run.events(kind="data"))
    assert sum(event["used"] for event in events) == 40
    assert [share["name"] for share in events[0]["shares"]] == ["large", "small"]
    assert sum(share["gives"] for event in events for share in event["shares"]) == 40
    warned = [event["message"] for event in run.events(kind="warning")]
    assert any("data.blend.small: its" in message and "set data.rows = 20 or less" in message for message in warned)
    page = (run.path / "report.html").read_text()
    assert "Rows by source" in page
    assert "20 % of the prompts of blend of large 50 %, small 50 %" in page
    read_back = read_recipe(run.path / "recipe.resolved.toml")
    assert [one.key for one in plan(read_back)] == [one.key for one in plan(made)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"path": "LARGE", "blend": {"a": {"path": "SMALL"}}},
            r"^data: path is '.*', and blend names other files: take one of",
        ),
        ({}, r"^data: no rows are named: set path to a file, or blend to several$"),
        ({"blend": {"a": {"path": "LARGE", "weight": 0}}}, r"data\.blend\.a\.weight: .*greater than 0; found 0"),
        ({"blend": {"a": {"path": "LARGE", "weight": -1}}}, r"data\.blend\.a\.weight: .*found -1"),
        ({"blend": {"a": {"path": "LARGE", "wieght": 1}}}, r"data\.blend\.a\.wieght: .*did you mean 'weight'"),
        ({"blend": {"a": {"weight": 1}}}, r"data\.blend\.a\.path: this setting is required"),
        (
            {"blend": {"a": {"path": "LARGE"}, "b": {"path": "LARGE"}}},
            r"^data: blend has '.*large.*' twice: name it once",
        ),
        (
            {"blend": {"a": {"path": "LARGE", "weight": 1}, "b": {"path": "SMALL"}}},
            r"^data: blend\.b has no weight, and others have: give all of them one, or none$",
        ),
        ({"path": "LARGE", "rows": 5}, r"^data: rows changes nothing"),
        ({"blend": {"a": {"path": "LARGE"}}, "rows": 5}, r"^data: rows changes nothing"),
        ({"path": "LARGE", "splits": {"sft": 1}}, r"^data: splits has one part alone"),
        ({"path": "LARGE", "splits": {"sft": 1, "preference": 0}}, r"data\.splits\.preference: .*greater than 0"),
        (
            {"path": "LARGE", "splits": {"sft": 1, "preferense": 1}},
            r"^data\.splits\.preferense: no stage has this name; did you mean 'preference'\?",
        ),
    ],
)
def test_data_that_cannot_be_right_are_refused(
    model: Path, files: dict[str, Path], data: dict[str, Any], words: str
) -> None:
    text = json.dumps(data).replace("LARGE", str(files["large"])).replace("SMALL", str(files["small"]))
    with pytest.raises(ConfigError, match=words):
        recipe(model, files, {"use": "sft"}, {"use": "preference"}, **json.loads(text))


def test_parts_and_sources_without_rows_are_refused(model: Path, files: dict[str, Path], tmp_path: Path) -> None:
    made = recipe(model, files, *STAGES, path=str(files["small"]), splits={**SPLITS, "sft": 0.001})
    with pytest.raises(DataError, match=r"^data\.splits\.sft: no prompt of .* falls into this part of 0%: raise its"):
        run_recipe(made, out=tmp_path / "run", reporter=tiny_model.quiet())
    assert not (tmp_path / "run").exists()
    lone = {**files, "lone": tiny_model.write_pairs(tmp_path / "lone.jsonl", 1, start=900)}
    with pytest.raises(DataError, match=r"^data\.blend\.lone: no row of .*lone\.jsonl is left to train on"):
        inputs(lone, held_out=0.999)["data"].read()
    with pytest.raises(DataError, match=r"^data\.blend\.lone: its share of the 20 rows of an epoch is less than one"):
        inputs(lone, {"large": 1, "small": 1, "lone": 0.001}, rows=20)["data"].read()


def test_a_part_for_a_stage_that_takes_other_rows_is_refused(model: Path, files: dict[str, Path]) -> None:
    scored = [{"use": "sample", "model": str(model)}, {"use": "score", "scorer": "length"}, {"use": "sft"}]
    made = recipe(model, files, *scored, path=str(files["large"]), splits={"sample": 1, "sft": 1})
    with pytest.raises(ConfigError, match=r"^data\.splits\.sft: this stage does not take its rows from \[data\]"):
        plan(made)


def test_files_of_a_blend_are_found_beside_the_recipe_and_settings_reach_them(
    model: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(
        f'model = "{model}"\n[data.blend]\nlarge = {{ path = "large.jsonl", weight = 3 }}\n'
        'small = { path = "small.jsonl", weight = 1 }\n[[stage]]\nuse = "sft"\n'
    )
    found = read_recipe(tmp_path / "r.toml", ["data.blend.small.weight=2", "data.splits.sft=1", "data.splits={}"])
    assert found.data is not None
    assert {name: (source.path, source.weight) for name, source in found.data.blend.items()} == {
        "large": (str(files["large"]), 3),
        "small": (str(files["small"]), 2),
    }
    one = read_recipe(tmp_path / "r.toml", [f"data.path={files['small']}", "data.blend={}"])
    assert "blend =" not in one.resolved()
    assert "[data.blend" not in one.resolved()
    assert "splits" not in one.resolved()
