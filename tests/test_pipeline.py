"""Recipes: what is refused and how, what is reused, and that stopping changes nothing."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch

from truing import estimates, formats, models, pipeline
from truing.costs import Lengths, Shape
from truing.errors import ConfigError, DataError, GuardError, Interrupted, MissingError, describe_error
from truing.pipeline import make_recipe, plan, read_recipe, run_recipe
from truing.recipe import INPUT_NAMES
from truing.records import Group
from truing.scoring.principle import Principle
from truing.stages import MAKES, STAGES, inputs_of, product_of, sample, settings_type
from truing.stages.context import Context, Groups, Model, Stop
from truing.store import Run, StoreWarning

PRINCIPLE = {"text": "brief", "positive": ["Be brief."], "negative": ["Be long."]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return tiny_model.write_pairs(tmp_path / "pairs.jsonl", 10)


def table(model: Path, file: Path, *stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "model": str(model),
        "device": "cpu",
        "precision": "fp32",
        "data": {"path": str(file)},
        "stage": list(stages),
        **changes,
    }


def short(use: str = "preference", **settings: Any) -> dict[str, Any]:
    return {"use": use, "batch_size": 2, "learning_rate": 1e-3, **settings}


def go(recipe: pipeline.Recipe, out: Path) -> Run:
    run_recipe(recipe, out=out, reporter=tiny_model.quiet())
    return Run.read(out)


CHAIN = (short("sft", epochs=1), short("preference", epochs=2))


def test_a_run_leaves_all_that_its_docstring_promises_and_is_reused_whole(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(table(model, pairs, *CHAIN))
    run = go(recipe, tmp_path / "run")
    assert {p.name for p in run.path.iterdir() if not p.name.startswith(".")} == {
        "recipe.toml", "recipe.resolved.toml", "run.json", "events.jsonl", "artifacts", "checkpoint-5", "checkpoint-15",
        "report.html",
    }  # fmt: skip
    assert [e["step"] for e in tiny_model.step_events(run)] == list(range(1, 16))
    assert run.info["versions"]["torch"] == torch.__version__
    before = (run.path / "events.jsonl").read_bytes()

    monkeypatch.setattr(pipeline, "stage", lambda use: pytest.fail(f"{use} would run again"))
    go(recipe, tmp_path / "run")
    assert (run.path / "events.jsonl").read_bytes() == before


def test_a_changed_later_stage_keeps_the_keys_of_earlier_ones(model: Path, pairs: Path) -> None:
    """And whatever a stage depends on is in its key."""
    base = table(model, pairs, *CHAIN)

    def keys(*overrides: str, **changes: Any) -> list[str]:
        return [planned.key for planned in plan(make_recipe({**base, **changes}, overrides))]

    first = keys()
    assert keys() == first
    second = keys("preference.objective.beta=0.5")
    assert (second[0], second[1] != first[1]) == (first[0], True)
    for changed in (keys("sft.epochs=2"), keys(seed=1), keys(precision="bf16"), keys("data.limit=9")):
        assert set(changed).isdisjoint(first)
    assert keys(name="other") == first
    assert keys("preference.objective=dpo") == first, "a default spelled out is the same setting"


def test_changed_data_leave_nothing_stale_in_the_run_folder(model: Path, pairs: Path, tmp_path: Path) -> None:
    data = {"path": str(pairs), "held_out": str(tiny_model.write_pairs(tmp_path / "held.jsonl", 3, start=90))}
    recipe = make_recipe(table(model, pairs, short("preference"), {"use": "evaluate", "max_new_tokens": 3}, data=data))
    go(recipe, tmp_path / "run")
    tiny_model.write_pairs(pairs, 5, start=1)
    run, fresh = go(recipe, tmp_path / "run"), go(recipe, tmp_path / "fresh")
    assert tiny_model.step_events(run) == tiny_model.step_events(fresh)
    assert [c.step for c in run.checkpoints()] == [c.step for c in fresh.checkpoints()] == [3]
    watched = [[_untimed(event) for event in each.events(kind="held_out")] for each in (run, fresh)]
    assert watched[0] == watched[1]
    assert list(run.samples()) == list(fresh.samples())
    assert [a.key for a in run.artifacts()] == [a.key for a in fresh.artifacts()]
    assert models.locate(str(run.path)) == str(run.path / "checkpoint-3")
    assert (run.path / "checkpoint-5.superseded-1" / "model.safetensors").exists()


def _untimed(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "time"}


def test_a_changed_late_stage_in_the_same_folder_keeps_what_earlier_ones_made(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    recipe = table(model, pairs, *CHAIN)
    go(make_recipe(recipe), tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint-5").stat().st_ino
    run = go(make_recipe(recipe, ["preference.objective.beta=0.5", "preference.epochs=1"]), tmp_path / "run")
    assert [c.step for c in run.checkpoints()] == [5, 10]
    assert (run.path / "checkpoint-5").stat().st_ino == before
    assert [e["step"] for e in tiny_model.step_events(run)] == list(range(1, 11))
    assert len(list(run.events("sft", "start"))) == 1
    assert "beta = 0.5" in (run.path / "recipe.resolved.toml").read_text()
    page = (run.path / "report.html").read_text()
    assert "15 of 15" not in page
    assert "10 of 10" in page


def test_steps_before_a_stage_are_part_of_its_key_for_they_number_its_checkpoints(model: Path, pairs: Path) -> None:
    stages = (short("sft", name="a"), short("sft", name="b", model=str(model)), {"use": "sample", "model": str(model)})
    recipe = table(model, pairs, *stages)
    first, second = (plan(make_recipe(recipe, overrides)) for overrides in ([], ["a.epochs=2"]))
    assert [one.key == other.key for one, other in zip(first, second, strict=True)] == [False, False, True]


def test_a_chat_template_counts_by_what_it_says(model: Path, pairs: Path, tmp_path: Path) -> None:
    template = tmp_path / "a.jinja"
    recipe = table(model, pairs, short("sft"), chat_template=str(template))
    with pytest.raises(ConfigError, match=r"chat_template: .*a\.jinja: no such file"):
        plan(make_recipe(recipe))
    template.write_text("{{ messages }}")
    moved = template.with_name("b.jinja")
    moved.write_text("{{ messages }}")
    before = plan(make_recipe(recipe))[0].key
    assert plan(make_recipe({**recipe, "chat_template": str(moved)}))[0].key == before
    template.write_text("{{ messages }}!")
    assert plan(make_recipe(recipe))[0].key != before


def test_a_data_file_is_hashed_and_read_once_for_a_whole_run(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def counted(name: str) -> None:
        real = getattr(formats, name)
        monkeypatch.setattr(formats, name, lambda path, **how: (seen.append(f"{name} {path}"), real(path, **how))[1])

    counted("content_hash")
    counted("read_groups")
    data = {"path": str(pairs), "held_out": 0.3}
    go(make_recipe(table(model, pairs, *CHAIN, short("sft", name="c", data=str(pairs)), data=data)), tmp_path / "run")
    assert seen.count(f"content_hash {pairs}") == 1
    assert seen.count(f"read_groups {pairs}") == 2, "once as data, once as the file that a stage names"


@pytest.mark.parametrize(
    ("entry", "overrides", "words"),
    [
        ({"use": "preferense"}, [], "did you mean 'preference'"),
        ({"use": "preference", "objective": "dppo"}, [], "did you mean 'dpo'"),
        ({"use": "preference", "learning_rat": 1}, [], "preference.learning_rat: .*did you mean 'learning_rate'"),
        (
            {"use": "preference", "objective": {"name": "dpo", "betta": 1}},
            [],
            r"^preference\.objective\.betta: there is no such setting; did you mean 'beta'\?$",
        ),
        ({"use": "preference", "lora": {"rnk": 1}}, [], "preference.lora.rnk.*did you mean 'rank'"),
        ({"use": "sft", "base": "x"}, [], "sft.base: there is no such setting"),
        ({"use": "sft", "epochs": 0}, [], "sft.epochs.*found 0"),
        ({"use": "sft", "learning_rate": float("nan")}, [], "sft.learning_rate"),
        ({"use": "sft", "schedule": "lineer"}, [], "sft.schedule.*linear"),
        ({"name": "x"}, [], 'use = "..."'),
        ({"use": "sft"}, ["sft.epoch=1"], "did you mean 'epochs'"),
        ({"use": "sft"}, ["stf.epochs=1"], "did you mean 'sft'"),
        ({"use": "sft"}, ["data.pth=x"], "data.pth: .*did you mean 'path'"),
        ({"use": "sft"}, ["epochs"], "write key=value"),
        ({"use": "sft"}, ["seed=-1"], "seed"),
        ({"use": "sft", "epochs": 2}, ["sft.epochs.x=1"], "no settings of its own"),
        ({"use": "sft"}, ["precision=fp8"], "precision"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_nearest_name(
    model: Path, pairs: Path, entry: dict[str, Any], overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_recipe(table(model, pairs, entry), overrides)
    assert caught.value.exit_code == 2


def test_recipes_that_are_no_recipes_are_refused(model: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \[\[stage\]\]"):
        make_recipe(table(model, pairs))
    with pytest.raises(ConfigError, match="two brackets"):
        make_recipe({**table(model, pairs), "stage": {"use": "sft"}})
    with pytest.raises(ConfigError, match="two stages are named 'sft'"):
        make_recipe(table(model, pairs, {"use": "sft"}, {"use": "sft"}))
    with pytest.raises(ConfigError, match=r"modle.*did you mean 'model'"):
        make_recipe(table(model, pairs, {"use": "sft"}, modle="x"))
    with pytest.raises(
        ConfigError, match=r"^principle: positive and negative need the same number of .*, at least one$"
    ):
        make_recipe(table(model, pairs, {"use": "sft"}, principle={**PRINCIPLE, "negative": []}))
    (tmp_path / "bad.toml").write_text("model = ")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        read_recipe(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match=r"no such recipe; did you mean '.*bad\.toml'"):
        read_recipe(tmp_path / "bda.toml")


def test_a_stage_without_its_inputs_says_how_to_get_them(model: Path, pairs: Path) -> None:
    def planned(*stages: dict[str, Any], **changes: Any) -> list[pipeline.Planned]:
        return plan(make_recipe(table(model, pairs, *stages, **changes)))

    with pytest.raises(ConfigError, match=r"'sft' needs 'data': set data\.path"):
        planned({"use": "sft"}, data=None)
    with pytest.raises(ConfigError, match=r"needs 'held_out': set data\.held_out"):
        planned({"use": "evaluate"})
    with pytest.raises(ConfigError, match=r"needs 'principle': add a \[principle\]"):
        planned({"use": "contrast"})
    with pytest.raises(ConfigError, match="neither an earlier stage nor a file"):
        planned({"use": "sft", "data": "nowhere"})
    with pytest.raises(MissingError, match="device 'cuda:99' is not here"):
        run_recipe(make_recipe(table(model, pairs, {"use": "sft"}, device="cuda:99")), reporter=tiny_model.quiet())


def test_inputs_are_the_latest_of_their_kind_or_those_named(model: Path, pairs: Path, tmp_path: Path) -> None:
    other = tiny_model.write_pairs(tmp_path / "other.jsonl", 3, start=50)
    recipe = make_recipe(
        table(
            model,
            pairs,
            {"use": "sft", "name": "a"},
            {"use": "sft", "name": "b", "data": str(other)},
            {"use": "sample", "name": "drawn", "model": "a"},
            {"use": "sft", "name": "c"},
            {"use": "preference", "name": "d", "model": str(model), "data": str(other)},
            {"use": "evaluate", "base": "a", "held_out": str(other)},
        )
    )
    a, b, drawn, c, d, e = plan(recipe)
    assert a.inputs["data"].key != b.inputs["data"].key == d.inputs["data"].key
    assert b.inputs["model"].key == a.key
    assert drawn.inputs["model"].key == a.key
    assert (c.inputs["model"].key, c.inputs["data"].key) == (b.key, drawn.key)
    assert d.inputs["model"].key == a.inputs["model"].key
    assert (e.inputs["model"].key, e.inputs["base"].key) == (d.key, a.key)
    assert [group.prompt for group in b.inputs["data"].read()] == [g.prompt for g in tiny_model.pairs(3, start=50)]


def test_the_held_out_share_is_disjoint_whole_and_does_not_depend_on_order(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    lines = tiny_model.write_pairs(tmp_path / "many.jsonl", 300).read_text().splitlines()
    random.Random(0).shuffle(lines)
    (tmp_path / "shuffled.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")

    def split(name: str, share: float) -> tuple[set[str], set[str]]:
        recipe = make_recipe(
            table(model, tmp_path / name, {"use": "preference"}, data={"path": str(tmp_path / name), "held_out": share})
        )
        inputs = plan(recipe)[0].inputs
        return tuple({g.prompt[0].content for g in inputs[kind].read()} for kind in ("data", "held_out"))  # type: ignore[return-value]

    train, kept = split("many.jsonl", 0.2)
    assert not train & kept
    assert len(train) + len(kept) == 300
    assert 35 < len(kept) < 85
    assert split("shuffled.jsonl", 0.2) == (train, kept)
    assert split("many.jsonl", 0.4)[1] > kept, "a larger share keeps what was held out"


def test_rows_without_a_prompt_are_held_out_one_by_one(model: Path, tmp_path: Path) -> None:
    """All of them share the empty prompt, and yet they are different rows."""
    path = tiny_model.write_rows(tmp_path / "text.jsonl", ({"text": f"line {i}"} for i in range(100)))
    for share in (0.3, 0.95):
        recipe = make_recipe(table(model, path, {"use": "preference"}, data={"path": str(path), "held_out": share}))
        kept = plan(recipe)[0].inputs["held_out"].read()
        assert abs(len(kept) - 100 * share) < 20
    other = tiny_model.write_rows(tmp_path / "other.jsonl", ({"text": f"line {i}"} for i in range(200, 210)))
    recipe = make_recipe(table(model, path, {"use": "preference"}, data={"path": str(path), "held_out": str(other)}))
    assert len(plan(recipe)[0].inputs["held_out"].read()) == 10


def test_a_prompt_in_training_and_held_out_is_an_error_before_anything_trains(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    leaky = tiny_model.write_pairs(tmp_path / "held.jsonl", 4, start=9)
    recipe = make_recipe(
        table(model, pairs, short("sft"), {"use": "evaluate"}, data={"path": str(pairs), "held_out": str(leaky)})
    )
    with pytest.raises(DataError, match=r"held\.jsonl:1: this held-out prompt is also in the training data") as caught:
        go(recipe, tmp_path / "run")
    assert caught.value.exit_code == 65
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="also in the training data"):
        pipeline.check(recipe, plan(recipe))


def test_bad_rows_are_tolerated_as_far_as_told(model: Path, pairs: Path, tmp_path: Path) -> None:
    with open(pairs, "a") as file:
        file.write('{"prompt": 3}\n')
    recipe = make_recipe(table(model, pairs, short("sft")))
    with pytest.raises(DataError, match="1 bad rows, 0 allowed"):
        go(recipe, tmp_path / "a")
    run = go(make_recipe(table(model, pairs, short("sft")), ["data.max_bad=1"]), tmp_path / "b")
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"], event["refused"]) == (11, 10, {"could not be read": 1})
    assert "pairs.jsonl:11" in next(run.events(kind="warning"))["message"]


@pytest.mark.parametrize("bad", ["own", "data", "held_out"])
def test_bad_rows_of_any_stage_stop_the_run_before_a_model_loads(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    files = {name: tiny_model.write_pairs(tmp_path / f"{name}.jsonl", 3, start=100) for name in ("own", "held_out")}
    files["data"] = pairs
    with open(files[bad], "a") as file:
        file.write('{"prompt": 3}\n')
    data = {"path": str(pairs), "held_out": str(files["held_out"])}
    stages = ({"use": "sample"}, short("sft", data=str(files["own"])), {"use": "evaluate"})
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr(Context, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(DataError, match=rf"{files[bad].name}: 1 bad rows, 0 allowed"):
        go(make_recipe(table(model, pairs, *stages, data=data)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sample_and_contrast_read_their_rows_before_they_load(tmp_path: Path) -> None:
    def unreadable() -> list[Group]:
        raise DataError("bad rows")

    groups, nowhere = Groups("k", unreadable), Model("k", str(tmp_path / "no model here"))
    with tiny_model.open_run(tmp_path / "run") as run:
        with pytest.raises(DataError, match="bad rows"):
            sample.sample(tiny_model.context(run), sample.Sample(), nowhere, groups)
        with pytest.raises(DataError, match="bad rows"):
            sample.contrast(tiny_model.context(run), sample.Contrast(), nowhere, groups, Principle(**PRINCIPLE))


def test_a_share_that_leaves_nothing_is_told_before_anything_trains(model: Path, pairs: Path, tmp_path: Path) -> None:
    stages = (short("sft"), {"use": "evaluate"})
    for share, words in ((1e-9, r"stage 'evaluate' has no row in 'held_out' .*: raise data\.held_out"),
                         (0.999999, r"stage 'sft' has no row in 'data' .*: lower data\.held_out")):  # fmt: skip
        data = {"path": str(pairs), "held_out": share}
        with pytest.raises(DataError, match=words):
            go(make_recipe(table(model, pairs, *stages, data=data)), tmp_path / "run")
    few = {"path": str(pairs), "held_out": 1e-9}
    run = go(make_recipe(table(model, pairs, short("preference"), data=few)), tmp_path / "run")
    assert len(run.artifacts()) == 1, "held-out rows that nobody needs may be none"


def test_what_an_earlier_stage_makes_may_be_held_out(model: Path, pairs: Path, tmp_path: Path) -> None:
    stages = ({"use": "sample", "name": "drawn", "max_new_tokens": 3}, {"use": "evaluate", "held_out": "drawn"})
    run = go(make_recipe(table(model, pairs, *stages), ["evaluate.max_new_tokens=3"]), tmp_path / "run")
    assert "on 10 held-out prompts" in str(run.artifacts()[-1].meta["verdict"])


def test_a_held_out_file_has_the_format_that_is_given(model: Path, pairs: Path, tmp_path: Path) -> None:
    """Rows with both `prompt` and `text`, which two formats take, need to be told."""
    rows = [{"prompt": f"p{i}", "completion": "a", "text": f"t{i}"} for i in range(4)]
    train = tiny_model.write_rows(tmp_path / "a.jsonl", rows[:2])
    other = tiny_model.write_rows(tmp_path / "b.jsonl", rows[2:])
    data = {"path": str(train), "held_out": str(other), "format": "language_modeling"}
    inputs = plan(make_recipe(table(model, pairs, {"use": "preference"}, data=data)))[0].inputs
    assert [group.prompt for group in inputs["held_out"].read()] == [(), ()]


def test_paths_in_a_recipe_are_relative_to_it_and_in_overrides_to_here(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "tiny").symlink_to(model)
    tiny_model.write_pairs(tmp_path / "there" / "d.jsonl", 3)
    tiny_model.write_pairs(tmp_path / "there" / "h.jsonl", 3, start=100)
    (tmp_path / "there" / "r.toml").write_text(
        'model = "tiny"\n[data]\npath = "d.jsonl"\nheld_out = "h.jsonl"\n'
        '[[stage]]\nuse = "sft"\ndata = "h.jsonl"\n[[stage]]\nuse = "evaluate"\nbase = "tiny"\n'
    )
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(Path("there/r.toml"))
    assert recipe.name == "r"
    assert (recipe.model, recipe.data.path) == (str(model), str(tmp_path / "there" / "d.jsonl"))  # type: ignore[union-attr]
    assert recipe.stage[0].inputs == {"data": str(tmp_path / "there" / "h.jsonl")}
    assert recipe.stage[1].inputs == {"base": str(model)}
    assert len(plan(recipe)) == 2
    assert read_recipe(Path("there/r.toml"), ["data.path=pairs.jsonl"]).data.path == "pairs.jsonl"  # type: ignore[union-attr]


OVERRIDES = [
    "seed=3",
    "data.limit=7",
    "preference.learning_rate=1e-6",
    "preference.objective.beta=0.25",
    "preference.lora.rank=2",
    "sft.max_length=99",
    "data.format=preference",
]


def test_the_resolved_recipe_is_a_recipe_and_does_not_depend_on_the_order_of_overrides(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    base = table(model, pairs, {"use": "sft"}, {"use": "preference", "model": str(model)}, principle=PRINCIPLE)
    recipe = make_recipe(base, OVERRIDES)
    for seed in range(4):
        assert make_recipe(base, random.Random(seed).sample(OVERRIDES, len(OVERRIDES))).resolved() == recipe.resolved()
    (tmp_path / "again.toml").write_text(recipe.resolved())
    again = read_recipe(tmp_path / "again.toml")
    assert again == recipe
    assert again.resolved() == recipe.resolved()
    assert "beta = 0.25" in recipe.resolved()
    assert "label_smoothing = 0.0" in make_recipe(table(model, pairs, {"use": "preference"})).resolved()


def test_every_stage_of_every_recipe_in_the_house_is_valid() -> None:
    found = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))
    assert found
    for path in found:
        assert read_recipe(path).stage


def test_every_stage_has_described_settings_and_known_inputs() -> None:
    assert {"sft", "pretrain", "preference", "sample", "contrast", "evaluate", "merge"} <= set(STAGES)
    for name, function in STAGES.items():
        assert isinstance(settings_type(function), type), f"{name} is what stages share, and none itself"
        assert set(inputs_of(function)) <= {*INPUT_NAMES, "principle", "judges", "encoder", "measured", "earlier"}, name
        assert product_of(function) in MAKES.values()
        for setting, field in settings_type(function).model_fields.items():
            assert field.description, f"{name}.{setting} says nothing of itself"


def _stop_after(step: int) -> Callable[[], None]:
    """Asks to stop, as Ctrl-C does, once the run's events hold this step. Returns what takes the wish back."""
    event = Run.event
    made: list[Stop] = []
    real = Stop.__init__

    def init(self: Stop, requested: bool = False) -> None:
        real(self, requested)
        made.append(self)

    def watched(self: Run, stage: str, kind: str, **values: Any) -> None:
        event(self, stage, kind, **values)
        if kind == "step" and values["step"] == step:
            made[-1].requested = True

    patch = pytest.MonkeyPatch()
    patch.setattr(Stop, "__init__", init)
    patch.setattr(Run, "event", watched)
    return patch.undo


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_stopped_anywhere_and_gone_on_with_equals_uninterrupted_to_the_bit(
    model: Path, pairs: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    """Checkpoints are written at other places than in the run that is not stopped, and that changes nothing."""
    stages = (short("sft", lora=lora), short("preference", lora=lora, epochs=2, save_every=3))
    stages = tuple({k: v for k, v in stage.items() if v is not None} for stage in stages)
    recipe = make_recipe(
        table(model, pairs, *stages, data={"path": str(pairs), "held_out": 0.2, "limit": 10}),
    )
    whole = go(recipe, tmp_path / "whole")
    total = len(tiny_model.step_events(whole))
    assert total >= 10
    for step in (1, 4, total - 2, total - 1):
        undo = _stop_after(step)
        try:
            with pytest.raises(Interrupted, match="run the same command again to go on") as caught:
                go(recipe, tmp_path / "parts")
        finally:
            undo()
        assert caught.value.exit_code == 75
        parts = Run.read(tmp_path / "parts")
        assert [e["step"] for e in tiny_model.step_events(parts)] == list(range(1, step + 1))
    parts = go(recipe, tmp_path / "parts")
    assert tiny_model.step_events(parts) == tiny_model.step_events(whole)
    assert [e["step"] for e in parts.events(kind="held_out")] == [e["step"] for e in whole.events(kind="held_out")]
    assert [c.step for c in parts.checkpoints()] == [c.step for c in whole.checkpoints()]
    for checkpoint in whole.checkpoints():
        twin = parts.path / checkpoint.path.name
        assert tiny_model.weights_hash(checkpoint.path) == tiny_model.weights_hash(twin)
    made, wanted = ([(a.key, {**a.meta, "base": ""}) for a in run.artifacts()] for run in (parts, whole))
    assert made == wanted


@pytest.mark.parametrize("under", ["the same", "other"])
def test_going_on_under_other_threads_or_versions_is_named_as_inexact(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under: str
) -> None:
    recipe = make_recipe(table(model, pairs, short("sft"), short("preference")))
    undo = _stop_after(2)
    try:
        with pytest.raises(Interrupted):
            go(recipe, tmp_path)
    finally:
        undo()
    if under == "other":
        known = pipeline.version
        monkeypatch.setattr(pipeline, "version", lambda name: "0.1" if name == "torch" else known(name))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    run = go(recipe, tmp_path)
    said = [(event["stage"], event["message"]) for event in run.events(kind="warning") if "not the same to the bit"
            in event["message"]]  # fmt: skip
    if under == "the same":
        assert not said
        return
    ((stage, words),) = said  # the stage that follows began under them
    assert stage == "sft"
    assert f"threads 7, not 1; torch 0.1, not {known('torch')}: the result will be as good" in words
    assert "threads 7, not 1" in (run.path / "report.html").read_text()


def test_a_stop_at_the_very_last_step_finishes(model: Path, pairs: Path, tmp_path: Path) -> None:
    recipe = make_recipe(table(model, pairs, short("sft")))
    undo = _stop_after(5)
    try:
        run = go(recipe, tmp_path / "run")
    finally:
        undo()
    assert [a.stage for a in run.artifacts()] == ["sft"]


def test_a_kill_between_an_artifact_and_its_last_event_leaves_no_unfinished_stage(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(table(model, pairs, short("sft")))
    event = Run.event

    def killed(self: Run, stage: str, kind: str, **values: Any) -> None:
        if kind == "end":
            raise KeyboardInterrupt
        event(self, stage, kind, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "event", killed)
        with pytest.raises(KeyboardInterrupt):
            go(recipe, tmp_path / "run")
    for _ in range(2):
        run = go(recipe, tmp_path / "run")
        assert "has not ended" not in (run.path / "report.html").read_text()
    assert [checkpoint.meta["finished"] for checkpoint in run.checkpoints()] == [True]
    (start,), (end,) = run.events(kind="start"), run.events(kind="end")
    assert end["seconds"] == pytest.approx(run.artifacts()[0].created - start["time"])


def test_the_seconds_of_a_stage_are_those_of_all_its_sessions(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(table(model, pairs, short("sft")))
    for step in (2, 4):
        undo = _stop_after(step)
        try:
            with pytest.raises(Interrupted):
                go(recipe, tmp_path / "run")
        finally:
            undo()
        events = list(Run.read(tmp_path / "run").events())
        events[-1]["time"] += 100  # as if the session had gone on so long
        (tmp_path / "run" / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (end,) = go(recipe, tmp_path / "run").events(kind="end")
    assert 200 < end["seconds"] < 300


def test_a_crash_between_the_last_checkpoint_and_its_artifact_loses_nothing(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(table(model, pairs, short("preference", save_every=2)))
    whole = go(recipe, tmp_path / "whole")

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "new_artifact", crash)
        with pytest.raises(RuntimeError, match="crash"):
            go(recipe, tmp_path / "run")
    run = go(recipe, tmp_path / "run")
    assert tiny_model.step_events(run) == tiny_model.step_events(whole)
    assert [c.step for c in run.checkpoints()] == [5]
    assert tiny_model.weights_hash(run.path / "checkpoint-5") == tiny_model.weights_hash(whole.path / "checkpoint-5")


def test_a_damaged_checkpoint_of_an_earlier_stage_is_made_again_to_the_same_bits(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    """And the checkpoints of later stages are left as they are."""
    recipe = make_recipe(table(model, pairs, *CHAIN))
    run = go(recipe, tmp_path / "run")
    first, last = run.path / "checkpoint-5", run.path / "checkpoint-15"
    hashes = tiny_model.weights_hash(first), tiny_model.weights_hash(last)
    content = bytearray((first / "model.safetensors").read_bytes())
    content[-5] ^= 4
    (first / "model.safetensors").write_bytes(content)
    (first / "touched").write_text("")  # this process has seen the folder whole; a new one would look again
    with pytest.warns(StoreWarning, match=r"checkpoint-5/model\.safetensors"):
        go(recipe, tmp_path / "run")
    assert (tiny_model.weights_hash(first), tiny_model.weights_hash(last)) == hashes
    assert [e["step"] for e in tiny_model.step_events(run, "sft")] == list(range(1, 6))
    assert [c.step for c in run.checkpoints()] == [5, 15]
    (told,) = run.events("sft", "warning")
    assert "set aside" in told["message"]


def test_rows_that_a_later_objective_cannot_use_are_told_before_anything_trains(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    table_ = table(model, pairs, short("sft"), short("preference", objective="sppo"))
    table_["stage"][1]["data"] = str(pairs)
    recipe = make_recipe(table_)
    with pytest.raises(DataError, match=rf"{pairs.name}:\d+: this objective needs a score of each answer"):
        go(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="needs a score"):
        estimates.check(recipe, plan(recipe))


def test_a_loss_that_is_no_number_stops_with_the_rows_and_changes_nothing(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from truing.objectives import pairwise

    calls = iter(range(1000))
    real = pairwise.logistic

    def poisoned(margin: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        value = real(margin, label_smoothing)
        return value * float("nan") if next(calls) == 3 else value

    monkeypatch.setattr(pairwise, "logistic", poisoned)
    recipe = make_recipe(table(model, pairs, short("preference", save_every=1, keep_checkpoints=9)))
    with pytest.raises(GuardError, match=r"stage 'preference', step 4: the loss is nan; nothing was changed") as caught:
        go(recipe, tmp_path / "run")
    assert caught.value.exit_code == 70
    assert len(re.findall(rf"{pairs.name}:\d+", str(caught.value))) == 2, "each row by file and line"
    run = Run.read(tmp_path / "run")
    assert [c.step for c in run.checkpoints()] == [1, 2, 3]
    assert [e["step"] for e in tiny_model.step_events(run)] == [1, 2, 3]
    assert run.artifacts() == []


def test_plan_counts_rows_tokens_and_weights_without_loading_any(
    model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    recipe = make_recipe(table(model, pairs, short("sft")))
    facts = pipeline.check(recipe, plan(recipe))
    assert facts["rows"] == 10
    renderer = models.read_renderer(str(model))
    assert facts["tokens"] == sum(len(renderer.render(group)) for group in tiny_model.pairs(10))
    tensors = json.loads(_safetensors_header(model / "model.safetensors"))
    assert facts["parameters"] == sum(_size(t["shape"]) for n, t in tensors.items() if n != "__metadata__")
    assert facts["memory_bytes"] > 16 * facts["parameters"]
    more = make_recipe(table(model, pairs, short("sft", epochs=50)))
    assert pipeline.check(more, plan(more))["seconds"] > 5 * facts["seconds"]


def test_time_is_told_by_stage_from_what_each_of_them_takes(model: Path, tmp_path: Path) -> None:
    """In tokens run, worked by hand, where answers are written; rows to be made count as long as they may become."""
    prompts = tiny_model.write_rows(tmp_path / "p.jsonl", ({"prompt": f"{i:03}?"} for i in range(20)))
    held = tiny_model.write_rows(tmp_path / "h.jsonl", ({"prompt": f"{i:03}!"} for i in range(5)))
    stages = (
        {"use": "contrast", "max_new_tokens": 10, "limit": 8},
        short("preference", epochs=2),
        short("sft", name="few", max_steps=2, data=str(tiny_model.write_demonstrations(tmp_path / "d.jsonl", 10))),
        {"use": "evaluate", "max_new_tokens": 10, "answers": 2, "limit": 4},
        {"use": "merge"},
    )
    data = {"path": str(prompts), "held_out": str(held)}
    planned = plan(make_recipe(table(model, prompts, *stages, data=data, principle=PRINCIPLE)))
    renderer = models.read_renderer(str(model))

    def tokens(path: Path) -> int:
        return sum(len(renderer.render(group)) for group in formats.read_groups(path))

    prompt, asked, shown = tokens(prompts) // 20, tokens(held) // 5, tokens(tmp_path / "d.jsonl")
    sizes = estimates.sizes_of(planned, renderer, 0)
    assert estimates._tokens_run(planned, sizes, 1) == {
        "contrast": 8 * 2 * (prompt + 10),
        "evaluate": 4 * (2 * (asked + 20) + 2 * (asked + 40) + 2 * (asked + 20)),
    }
    assert sizes["preference"] == [(prompt, (10, 10), 20)] * 8
    assert sum(row.tokens for row in sizes["few"]) == shown


def test_a_step_more_or_an_epoch_more_takes_its_share_of_time(model: Path, pairs: Path) -> None:
    def facts(**settings: Any) -> dict[str, Any]:
        recipe = make_recipe(table(model, pairs, short("preference", **settings)))
        planned = plan(recipe)
        sizes = estimates.sizes_of(planned, models.read_renderer(str(model)), 0)
        machine = estimates.Machine(Shape.of(models.read_config(str(model))), 1000, 4, torch.device("cpu"), 1e9, 1e12)
        return estimates._trained(planned[0].settings, sizes["preference"], machine, 0)

    one, two = facts(), facts(epochs=2)
    assert two["steps"] == 2 * one["steps"]
    assert two["step_seconds"] == pytest.approx(one["step_seconds"])
    once = one["seconds"] - one["steps"] * one["step_seconds"]  # the reference's pass: a third of an epoch's three
    assert one["steps"] * one["step_seconds"] == pytest.approx(3 * once, rel=0.01)
    assert facts(checkpointing=True)["step_seconds"] == pytest.approx(4 / 3 * one["step_seconds"], rel=0.01)
    assert facts(checkpointing=True)["memory_bytes"] < one["memory_bytes"]


def online_facts(
    model: Path, pairs: Path, algorithm: Any = "grpo", mixed: tuple[Lengths, ...] = (), **settings: Any
) -> dict[str, Any]:
    own = {"rollouts": 3, "prompts": 4, "batch_size": 2, "max_new_tokens": 10, "scorer": {"name": "length"}, **settings}
    planned = plan(make_recipe(table(model, pairs, {"use": "online", "algorithm": algorithm, **own})))
    sizes = estimates.sizes_of(planned, models.read_renderer(str(model)), 0)["online"]
    assert all(row.answers == () for row in sizes)
    machine = estimates.Machine(Shape.of(models.read_config(str(model))), 1000, 4, torch.device("cpu"), 1e9, 1e15)
    facts = estimates._online(planned[0].settings, sizes, mixed, 5, machine, estimates._apart(planned[0], planned))
    return facts | {"prompt": sum(row.prompt for row in sizes) / len(sizes)}


def test_online_learning_is_planned_in_tokens_by_hand(model: Path, pairs: Path) -> None:
    """12 prompts are answered in all, 5 held-out ones once before and once after."""
    found = online_facts(model, pairs)
    whole = 12 * (found["prompt"] + 8 * 10)
    assert found["steps"] == 3 * 2
    assert found["tokens"] == {"sampled": (12 * 8 + 10) * 10, "read": round(2 * whole), "trained": round(whole)}
    once = online_facts(model, pairs, batch_size=4)  # the policy reads while it learns, the reference before
    assert once["tokens"] == {**found["tokens"], "read": round(whole)}
    remax = online_facts(model, pairs, {"name": "remax", "reward_kl": 0.0})
    whole = 12 * (found["prompt"] + 10)
    assert remax["tokens"] == {"sampled": (12 * 2 + 10) * 10, "read": round(whole), "trained": round(whole)}
    ppo = online_facts(model, pairs, "ppo")
    assert ppo["steps"] == 4 * remax["steps"]
    assert ppo["tokens"] == {"sampled": (12 + 10) * 10, "read": round(3 * whole), "trained": round(4 * whole)}
    assert ppo["steps"] * ppo["step_seconds"] == pytest.approx(8 * remax["steps"] * remax["step_seconds"], rel=1e-3)


def test_online_learning_of_pairs_is_planned_in_tokens_by_hand(model: Path, pairs: Path) -> None:
    """A rival is written besides; one that is part of a pair is read and learnt from, too."""
    xpo = online_facts(model, pairs, "xpo")
    pair = 12 * (xpo["prompt"] + 2 * 10)
    assert xpo["tokens"] == {"sampled": (12 * 2 + 10) * 10, "read": round(2 * pair), "trained": round(pair)}
    best = online_facts(model, pairs, "best_of_n")
    read, learnt = 12 * (best["prompt"] + 8 * 10), 12 * (best["prompt"] + 10)
    assert best["tokens"] == {"sampled": (12 * 8 + 10) * 10, "read": round(read), "trained": round(learnt)}
    nash, alone = (online_facts(model, pairs, {"name": "nash_md", "mixture": share}) for share in (0.5, 1.0))
    assert nash["tokens"] == alone["tokens"]
    assert nash["memory"]["cache"] == 2 * alone["memory"]["cache"], "both models read what is drawn from their mixture"
    assert nash["seconds"] > alone["seconds"]


def test_rows_to_mix_into_online_learning_are_named_by_file_or_by_stage(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    def planned(*before: dict[str, Any], **more: Any) -> pipeline.Planned:
        return plan(make_recipe(table(model, pairs, *before, {"use": "online", "scorer": "length", **more})))[-1]

    texts = tiny_model.write_rows(tmp_path / "texts.jsonl", ({"text": f"the sun {place}"} for place in range(3)))
    assert "pretrain" not in planned().inputs
    named = planned(pretrain=str(texts))
    assert len(named.inputs["pretrain"].read()) == 3
    texts.write_text('{"text": "the rain"}\n')
    assert len({planned().key, named.key, planned(pretrain=str(texts)).key}) == 3
    made = planned({"use": "curate"}, data="recipe", pretrain="curate")
    assert made.inputs["pretrain"].description == "made by curate"
    prompts = tiny_model.write_rows(tmp_path / "prompts.jsonl", [{"prompt": [{"role": "user", "content": "tea?"}]}])
    with pytest.raises(DataError, match="no answer to train on"):
        pipeline.read_inputs([planned(pretrain=str(prompts))])


def test_rows_that_are_mixed_in_are_planned_by_hand(model: Path, pairs: Path) -> None:
    """Two of them at each of 6 steps, of 7 and 11 tokens: on average 9."""
    rows = (Lengths(0, (7,), 6), Lengths(4, (7,), 7))
    plain, mixed = (online_facts(model, pairs, "grpo", some, pretrain_rows=2) for some in ((), rows))
    assert mixed["tokens"]["trained"] - plain["tokens"]["trained"] == 6 * 2 * 9
    assert mixed["seconds"] > plain["seconds"]


def test_the_memory_of_online_learning_counts_what_stands_beside_the_policy(model: Path, pairs: Path) -> None:
    free = {"name": "ppo", "reward_kl": 0.0}
    ppo, bare_ppo = (online_facts(model, pairs, one)["memory"] for one in ("ppo", free))
    assert (ppo["reference"], bare_ppo["reference"]) == (4 * 1000, 0)
    assert online_facts(model, pairs, free, stop={"kl": 5.0})["memory"]["reference"] == 4 * 1000
    assert online_facts(model, pairs, free, stop={"entropy": 0.1})["memory"]["reference"] == 0
    averaged = online_facts(model, pairs, free, ema_decay=0.9)
    assert (averaged["memory"]["average"], bare_ppo["average"]) == (4 * 1000, 0)
    assert averaged["memory_bytes"] == online_facts(model, pairs, free)["memory_bytes"] + 4 * 1000
    assert online_facts(model, pairs, "ppo", lora={"rank": 2})["memory"]["reference"] == 0
    assert ppo["critic"] == 4000 + 8000 + 4000 + ppo["activations"]  # weights, moments, gradients
    assert online_facts(model, pairs)["memory"]["critic"] == 0
    few, many = (online_facts(model, pairs, live_answers=live)["memory"]["cache"] for live in (4, 8))
    assert many == 2 * few


def test_roles_on_one_base_take_no_weights_of_their_own(model: Path, pairs: Path) -> None:
    lora = {"rank": 2}
    one, apart = (online_facts(model, pairs, "ppo", lora=lora, one_base=shared)["memory"] for shared in (True, False))
    assert apart["critic"] - one["critic"] == one["weights"] == 4 * 1000
    assert one["critic"] == one["moments"] + one["gradients"] + one["activations"]

    def beside(*before: dict[str, Any], **settings: Any) -> tuple[bool, int]:
        online = {"use": "online", "algorithm": "ppo", "lora": lora, **settings}
        planned = plan(make_recipe(table(model, pairs, *before, online)))
        return tuple(estimates._apart(planned[-1], planned))  # type: ignore[return-value]

    judge = short("reward_model", lora=lora)
    assert beside(judge) == beside(short("sft", lora=lora), judge) == (False, 0)
    for separate in (short("reward_model"), judge | {"members": 2}):
        assert beside(separate) == (True, 1)
    assert beside(judge, one_base=False) == (True, 1)
    assert beside(judge, short("sft", lora=lora)) == (True, 1), "the policy has moved on since"


def test_an_audit_is_as_many_trainings_as_it_runs_and_passes_its_rows_on(model: Path, pairs: Path) -> None:
    def facts(**settings: Any) -> dict[str, Any]:
        recipe = make_recipe(table(model, pairs, short("audit", **settings), short("preference")))
        return dict(pipeline.check(recipe, plan(recipe))["training"])

    one, folded = facts(members=1, folds=1), facts(members=4, folds=3)
    assert folded["audit"]["steps"] == 4 * 2 * one["audit"]["steps"]
    assert one["preference"]["steps"] == one["audit"]["steps"]


def _safetensors_header(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def _size(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def test_ctrl_c_asks_once_and_insists_twice() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pipeline._stoppable(tiny_model.quiet()) as stop:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.01)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
    assert describe_error(KeyboardInterrupt())[1] == 75
    assert describe_error(OSError(28, "No space left on device", "f")) == ("f: No space left on device", 74)
    assert describe_error(ValueError("x"))[1] == 1
