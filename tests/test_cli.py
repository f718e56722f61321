"""The command line: exit codes, what goes to stdout, and that stopping and going on is the same as not stopping."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from truing import cli, formats
from truing.store import Run, StoreWarning

TRUING = [sys.executable, "-m", "truing.cli"]
ANSI = "\x1b["
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def here(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data and a recipe."""
    tiny_model.write_pairs(tmp_path / "pairs.jsonl", 12)
    tiny_model.write_demonstrations(tmp_path / "demos.jsonl", 8)
    (tmp_path / "recipe.toml").write_text(
        f'model = "{model}"\nprecision = "fp32"\ndevice = "cpu"\n[data]\npath = "pairs.jsonl"\nheld_out = 0.3\n'
        '[[stage]]\nuse = "preference"\nbatch_size = 4\nlearning_rate = 1e-3\n'
        '[[stage]]\nuse = "evaluate"\nmax_new_tokens = 4\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def truing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in this process: as a user types it, with its exit code, stdout and stderr."""

    def call(*words: object, stdin: str | None = None) -> Result:
        monkeypatch.setattr(sys, "argv", ["truing", *map(str, words)])
        if stdin is not None:
            import io

            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        seen = capsys.readouterr()
        return Result(code, seen.out, seen.err)

    return call


def test_run_says_the_verdict_and_the_folder_and_nothing_else_on_stdout(here: Path, truing: Any) -> None:
    done = truing("run", "recipe.toml", "--out", "out")
    assert done.code == 0, done.err
    first, second, held_out = done.out.splitlines()
    assert held_out.startswith("preference: held-out accuracy ")
    assert re.match(r"wins \d+ % \[\d+, \d+\] against the base on \d+ held-out prompts; KL ", first)
    assert second == "run: out"
    assert "preference" in done.err
    assert ANSI not in done.out + done.err
    assert (here / "out" / "recipe.toml").read_text() == (here / "recipe.toml").read_text()
    again = truing("run", "recipe.toml", "--out", "out", "--json")
    assert again.code == 0
    assert json.loads(again.out) == {"run": "out", "report": "out/report.html", "verdict": first}
    assert "preference: done before" in again.err


def test_a_run_names_its_folder_by_its_settings(here: Path, truing: Any) -> None:
    for overrides in ([], ["seed=1"], []):
        assert truing("run", "recipe.toml", "preference.max_steps=1", *overrides).code == 0
    names = sorted(p.name for p in (here / "runs").iterdir())
    assert len(names) == 2
    assert all(re.fullmatch(r"recipe-[0-9a-f]{6}", name) for name in names)


@pytest.mark.parametrize(
    ("words", "code", "say"),
    [
        (["run", "recipe.toml", "preference.learning_rat=1"], 2, "did you mean 'learning_rate'"),
        (["run", "recipe.toml", "preference.objective=dppo"], 2, "did you mean 'dpo'"),
        (["run", "recipee.toml"], 2, "did you mean 'recipe.toml'"),
        (["run"], 2, "recipe"),
        (["rnu", "recipe.toml"], 2, "rnu"),
        (["run", "recipe.toml", "--nonsense"], 2, "nonsense"),
        (["run", "recipe.toml", "model=./nowhere"], 2, "no model there"),
        (["run", "recipe.toml", "model=nobody/nothing"], 69, "nobody/nothing"),
        (["run", "recipe.toml", "device=cuda:77"], 69, "cuda:77"),
        (["run", "recipe.toml", "data.path=bad.jsonl"], 65, "bad.jsonl:2"),
        (["run", "recipe.toml", "data.path=none.jsonl"], 65, "none.jsonl"),
        (["plan", "recipe.toml", "data.path=bad.jsonl"], 65, "bad.jsonl:2"),
        (["data", "none.xml"], 65, "none.xml"),
        (["data", "bad.toml"], 2, "bad.toml: no such recipe"),
        (["data", "recipe.toml", "--max-bad", "3"], 2, "write data.format=... data.max_bad=..."),
        (["data", "pairs.jsonl", "seed=1"], 2, "'seed=1' is a setting of a recipe, and pairs.jsonl is a data file"),
        (["data", "pairs.jsonl", "--format", "sharegtp"], 65, "did you mean 'sharegpt'"),
        (["data", "pairs.jsonl", "--to", "preference"], 2, "--to needs --out"),
        (["data", "pairs.jsonl", "--out", "x.jsonl"], 2, "--out needs --to"),
        (["run", "latin.toml"], 2, "latin.toml: not valid TOML"),
        (["train", "dppo", "--model", "m", "--data", "pairs.jsonl"], 2, "did you mean 'dpo'"),
        (["compare", "out"], 2, "at least two"),
        (["report", "pairs.jsonl"], 2, "not a run folder"),
        (["chat", "./nowhere"], 2, "no model there"),
        (["run", "recipe.toml", "--out", "pairs.jsonl"], 2, "pairs.jsonl: a file lies where a folder is to be made"),
        (
            ["run", "recipe.toml", "data.path=none_good.jsonl", "data.max_bad=5", "data.format=preference"],
            65,
            "all 5 rows were",
        ),
        (
            ["train", "simcse", "of=difference", "--model", "m", "--data", "pairs.jsonl"],
            2,
            ": reward_model.objective.of: ",
        ),
    ],
)
def test_every_mistake_has_its_exit_code_and_says_what_to_do(
    here: Path, truing: Any, words: list[str], code: int, say: str
) -> None:
    good = (here / "pairs.jsonl").read_text().splitlines()
    (here / "bad.jsonl").write_text("\n".join([good[0], '{"prompt": 1, "chosen": 2}', *good[1:]]))
    (here / "none_good.jsonl").write_text('{"prompt": "a", "chosen": 2}\n' * 5)
    (here / "latin.toml").write_bytes('name = "Café"'.encode("latin-1"))
    done = truing(*words)
    flat = " ".join((done.out + done.err).split())
    assert done.code == code, flat
    assert say in flat
    assert "Traceback" not in flat
    assert done.out == "" or code == 2
    assert not (here / "runs").exists() or not list((here / "runs").rglob("checkpoint-*"))


def test_a_nan_ends_with_70_and_leaves_no_checkpoint(here: Path, truing: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    poisoned = tiny_model.save(tmp_path / "poisoned")
    weights = load_file(poisoned / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][:] = float("nan")
    save_file(weights, poisoned / "model.safetensors", {"format": "pt"})
    done = truing("train", "sft", "--model", poisoned, "--data", "demos.jsonl", "--out", "out")
    assert done.code == 70, done.err
    assert "model.layers.0.mlp.down_proj.weight: 1,536 of 1,536 values are NaN or infinite" in done.err
    assert not list((here / "out").glob("checkpoint-*"))


def test_train_sft_makes_a_model_with_a_card_that_transformers_loads(here: Path, truing: Any, model: Path) -> None:
    done = truing("train", "sft", "epochs=2", "batch_size=4", "--model", model, "--data", "demos.jsonl", "--out", "o")
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["done; the recipe has no stage 'evaluate', so there is no verdict", "run: o"]
    run = Run.read(here / "o")
    (checkpoint,) = run.checkpoints()
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint.path)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], return_tensors="pt", return_dict=True)
    assert loaded.generate(**ids, max_new_tokens=2, do_sample=False).shape[1] > ids["input_ids"].shape[1]
    card = (checkpoint.path / "README.md").read_text()
    assert card.startswith("---\n")
    (start,) = run.events(kind="start")
    for needed in (f"base_model: {json.dumps(str(model))}", start["inputs"]["data"], '"epochs": 2', "library_name"):
        assert needed in card
    assert (here / "o" / "report.html").stat().st_size > 1000


def test_train_names_the_stage_that_would_measure_a_reward_model(here: Path, truing: Any, model: Path) -> None:
    words = ("bradley_terry", "max_steps=1", "--model", model, "--data", "pairs.jsonl", "--held-out", "0.3")
    done = truing("train", *words, "--out", "o")
    assert done.code == 0, done.err
    said, folder, held_out = done.out.splitlines()
    assert said == "done; the recipe has no stage 'evaluate_reward', so there is no verdict"
    assert folder == "run: o"
    assert held_out.startswith("reward_model: held-out accuracy ")
    assert "Add an <code>evaluate_reward</code> stage" in (here / "o" / "report.html").read_text()


def test_run_ends_in_the_verdict_on_a_reward_model(here: Path, truing: Any, model: Path) -> None:
    (here / "reward.toml").write_text(
        f'model = "{model}"\nprecision = "fp32"\ndevice = "cpu"\n[data]\npath = "pairs.jsonl"\nheld_out = 0.3\n'
        '[[stage]]\nuse = "reward_model"\nmax_steps = 1\n[[stage]]\nuse = "evaluate_reward"\n'
    )
    done = truing("run", "reward.toml", "--out", "out")
    assert done.code == 0, done.err
    assert re.match(r"the reward model orders \d+ % \[\d+, \d+\] of \d+ held-out comparisons", done.out.splitlines()[0])
    plan = truing("plan", "reward.toml")
    assert plan.code == 0, plan.err
    assert "evaluate_reward" in plan.out


def test_plan_says_what_an_objective_makes_of_a_steps_size(here: Path, truing: Any) -> None:
    def notes(objective: str, **settings: Any) -> str:
        given = [f"preference.{key}={value}" for key, value in settings.items()]
        shown = truing("plan", "recipe.toml", f"preference.objective={objective}", *given)
        assert shown.code == 0, shown.err
        return "".join(line for line in shown.out.splitlines() if line.startswith("note: "))

    assert notes("dpo") == ""
    assert "meet in 'aot'" in notes("aot")
    assert "one more pass" in notes("aot", forest_tokens=16)
    assert "one more pass" not in notes("aot")
    assert "measures the KL on the 4 rows" in notes("kto")
    assert notes("kto", batch_size=8) == ""


def test_data_says_by_its_exit_code_that_rows_are_bad_and_never_writes_over_what_it_reads(
    here: Path, truing: Any
) -> None:
    rows = (here / "pairs.jsonl").read_text()
    (here / "bad.jsonl").write_text(rows + "{}\n")
    assert (truing("data", "bad.jsonl").code, truing("data", "bad.jsonl", "--max-bad", "1").code) == (65, 0)
    assert truing("data", "bad.jsonl", "--json").code == 65
    over = truing("data", "pairs.jsonl", "--to", "sharegpt", "--out", "pairs.jsonl")
    assert (over.code, (here / "pairs.jsonl").read_text()) == (2, rows)


def test_a_misspelt_model_is_told_without_asking_the_hub(here: Path, truing: Any) -> None:
    done = truing("plan", "recipe.toml", "model=smolm2")
    assert (done.code, "did you mean 'smollm2'" in done.err) == (2, True)


def test_plan_tells_that_no_row_would_be_left(here: Path, truing: Any) -> None:
    done = truing("plan", "recipe.toml", "preference.max_length=2")
    assert (done.code, "no row is left; refused" in done.err) == (65, True)


def test_held_out_accuracy_is_told_beside_the_verdict(here: Path, truing: Any) -> None:
    done = truing("run", "recipe.toml", "--out", "o")
    assert re.search(r"^preference: held-out accuracy \d+ % \[\d+, \d+\] on \d+ comparisons$", done.out, re.MULTILINE)


def test_damage_is_gone_around_with_a_warning_or_stops_if_that_is_wanted(here: Path, truing: Any) -> None:
    assert truing("run", "recipe.toml", "--out", "o").code == 0
    (weights,) = (here / "o").glob("checkpoint-*/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.suffix in (".safetensors", ".json")}
    strict = truing("run", "recipe.toml", "--out", "o", "--strict")
    assert strict.code == 74
    assert re.search(r"model\.safetensors: its content is not what was written: --strict stops here", strict.err)
    assert "without it, it is set aside as" in strict.err
    for path in ((path) for path in before if path.name != "run.json"):
        assert path.stat().st_mtime_ns == before[path], f"{path} was changed"
    with pytest.warns(StoreWarning, match="it is set aside as"):
        assert truing("run", "recipe.toml", "--out", "o").code == 0
    assert weights.read_bytes() == whole
    assert "its content is not what was written" in (here / "o" / "report.html").read_text()


def test_a_share_that_holds_nothing_out_is_told(here: Path, truing: Any) -> None:
    words = "no row is held out: 0.001 of the prompts of TRL preference"
    told = truing(
        "plan", "recipe.toml", "data.held_out=0.001", "preference.objective=dpo", "evaluate.held_out=pairs.jsonl"
    )
    assert words in " ".join(told.out.split())


def test_plan_tells_of_answers_that_sft_leaves_out(here: Path, truing: Any, model: Path) -> None:
    rows = [{"prompt": f"{n}?", "completions": ["a", "b"], "labels": [True, n > 1]} for n in range(4)]
    tiny_model.write_rows(here / "steps.jsonl", rows)
    (here / "sft.toml").write_text(f'model = "{model}"\n[data]\npath = "steps.jsonl"\n[[stage]]\nuse = "sft"\n')
    assert "note: sft: left out: an answer with a wrong step (2)" in truing("plan", "sft.toml").out
    tiny_model.write_rows(here / "steps.jsonl", rows[:2])
    none = truing("plan", "sft.toml")
    assert (none.code, "no answer is left to train on: an answer with a wrong step (2)" in none.err) == (65, True)
    shown = " ".join(truing("data", "steps.jsonl", "--model", model).out.split())
    assert shown.count("<wrong>") == shown.count("<right>") == 2


def test_plan_of_rows_that_compare_nothing_says_so(here: Path, truing: Any, model: Path) -> None:
    stages = '[[stage]]\nuse = "side_by_side"\n[[stage]]\nuse = "sft"\n'
    (here / "side.toml").write_text(f'model = "{model}"\n[data]\npath = "demos.jsonl"\n{stages}')
    done = truing("plan", "side.toml")
    words = "no row can be put side by side: a comparison needs two answers, this row has 1 (8): bring comparisons"
    assert (done.code, words in " ".join(done.err.split())) == (65, True)


def test_the_help_lists_the_formats(here: Path, truing: Any) -> None:
    shown = truing("data", "--help").out
    assert all(re.search(rf"\b{name}\b", shown) for name in formats.FORMATS)


def test_precision_has_the_names_that_recipes_take(here: Path, truing: Any) -> None:
    assert "computes in fp32" in truing("plan", "recipe.toml").out
    assert json.loads(truing("doctor", "--json").out)["precision auto"] in ("fp32", "bf16")


@pytest.mark.parametrize("method", ["kto", "simpo", "aot", "tdpo2", "plackett_luce", "csft", "dft"])
def test_train_takes_any_objective(here: Path, truing: Any, model: Path, method: str) -> None:
    words = ["train", method, "max_steps=2", "batch_size=4", "--model", model, "--data", "pairs.jsonl", "--out", "o"]
    done = truing(*words)
    assert done.code == 0, done.err
    (start,) = Run.read(here / "o").events(kind="start")
    name = start["settings"]["objective"]
    assert (name if isinstance(name, str) else name["name"]) == method


def test_objectives_says_all_there_is_to_know_of_one(truing: Any) -> None:
    page = truing("objectives", "ipo").out
    assert "(h' - 1 / (2 tau))^2" in page
    assert json.loads(truing("objectives", "ipo", "--json").out)["settings"][0]["name"] == "tau"
    unknown = truing("objectives", "ipoo")
    assert (unknown.code, "did you mean 'ipo'" in unknown.err) == (2, True)


def test_train_dpo_takes_settings_of_the_objective(here: Path, truing: Any, model: Path) -> None:
    words = ["train", "dpo", "objective.beta=0.05", "max_steps=1", "seed=4", "--model", model, "--data", "pairs.jsonl"]
    done = truing(*words, "--out", "o", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["run"] == "o"
    run = Run.read(here / "o")
    (start,) = run.events(kind="start")
    assert start["settings"]["objective"] == {"name": "dpo", "beta": 0.05, "label_smoothing": 0.0}
    assert run.info["seed"] == 4
    changed = truing(*words, "objective.beta=0.06", "--out", "o")
    assert changed.code == 0
    assert "checkpoint-1.superseded-1" in changed.err
    (here / "deep").mkdir()
    own = truing("train", "sft", "--model", "o", "--data", "demos.jsonl", "--out", "deep/../o")
    assert own.code == 2
    assert "lies in the run's own folder: choose another --out" in " ".join(own.err.split())
    assert [c.step for c in run.checkpoints()] == [1], "and nothing has happened to it"


def test_a_misspelt_setting_of_train_is_looked_for_in_the_objective_too(here: Path, truing: Any, model: Path) -> None:
    done = truing("train", "dpo", "bta=0.1", "--model", model, "--data", "pairs.jsonl")
    assert done.code == 2
    assert "there is no setting 'bta'; did you mean 'beta'?" in " ".join(done.err.split())


def test_a_second_process_in_a_run_folder_ends_with_2(here: Path, truing: Any) -> None:
    assert truing("run", "recipe.toml", "--out", "o").code == 0
    resolved = (here / "o" / "recipe.resolved.toml").read_text()
    with Run.open(here / "o", recipe="", resolved=resolved, info={}):
        done = truing("run", "recipe.toml", "--out", "o")
    assert done.code == 2
    assert f"in use by process {os.getpid()} on" in " ".join(done.err.split())


def test_plan_tells_stages_and_sizes_and_changes_nothing(here: Path, truing: Any) -> None:
    done = truing("plan", "recipe.toml", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [stage["use"] for stage in found["stages"]] == ["preference", "evaluate"]
    assert found["stages"][0]["settings"]["objective"]["beta"] == 0.1
    assert 0 < found["rows"] < 12
    assert found["tokens"] > 100
    shown = truing("plan", "recipe.toml")
    assert shown.code == 0
    assert "memory to train" in shown.out
    assert re.search(r"time: about [\d.]+ minutes \(preference [\d.]+, evaluate [\d.]+\)", shown.out)
    assert f"{found['tokens']:,} tokens" in shown.out
    assert not (here / "runs").exists()


def test_plan_counts_rows_that_are_held_out_or_cannot_be_read(here: Path, truing: Any) -> None:
    rows = (here / "pairs.jsonl").read_text()
    (here / "bad.jsonl").write_text(rows + "{}\n")
    shown = truing("plan", "recipe.toml", "data.path=bad.jsonl", "data.max_bad=1").out
    assert "1 rows cannot be read and are left out; the first: " in shown
    assert re.search(r"tokens; \d+ rows held out", shown)


def test_plan_measures_real_steps_and_leaves_nothing(here: Path, truing: Any) -> None:
    before = sorted(here.iterdir())
    done = truing("plan", "recipe.toml", "--measure", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["measured"]["preference"]
    assert found["seconds"] > found["step_seconds"] > 0
    assert 2**27 < found["peak_bytes"] < 2**32
    assert found["fits"]
    assert found["fitting_forest_tokens"] % 256 == 0
    assert found["fitting_with_checkpointing"] >= found["fitting_forest_tokens"]
    assert sorted(here.iterdir()) == before
    assert "measuring steps in forests of" in done.err


def test_data_tells_what_a_file_is(here: Path, truing: Any, model: Path) -> None:
    done = truing("data", "pairs.jsonl")
    assert done.code == 0, done.err
    assert re.search(r"preference.*; 12 rows; 0 rejected", done.out.splitlines()[0])
    assert "sun 0?" in done.out
    assert "answer 2 rank=1: nope" in done.out
    found = json.loads(truing("data", "pairs.jsonl", "--json").out)
    assert (found["format"], found["rows"], found["rejected"]) == ("preference", 12, [])
    assert truing("data", "pairs.jsonl", "--rows", "0").out.count("\n") == 1
    shown = truing("data", "pairs.jsonl", "--model", model, "--rows", "1").out
    assert "<|im_start|>assistant" in shown
    assert re.search(r"answer 1 of 2\n.*\[\[yes<\|im_end\|>", shown, re.DOTALL)
    assert re.search(r"answer 2 of 2\n.*\[\[nope<\|im_end\|>", shown, re.DOTALL)


def test_data_of_a_recipe_are_told_shown_and_written_as_they_are_blended(here: Path, truing: Any) -> None:
    tiny_model.write_pairs(here / "more.jsonl", 6, start=40)
    (here / "r.toml").write_text(
        'model = "none"\n[data]\nheld_out = 0.2\nsplits = { sft = 1, preference = 1 }\n'
        '[data.blend]\na = { path = "pairs.jsonl", weight = 1 }\nb = { path = "more.jsonl", weight = 1 }\n'
        '[[stage]]\nuse = "sft"\n[[stage]]\nuse = "preference"\n'
    )
    words = ["data", "r.toml", "data.rows=14"]
    found = json.loads(truing(*words, "--json").out)
    a, b = found["shares"]
    assert (found["rows"], a["gives"], b["gives"]) == (14, 7, 7)
    assert b["different"] < 7
    assert found["held_out"] == 18 - a["has"] - b["has"]
    assert sum(found["parts"].values()) == 14
    done = truing(*words, "--to", "group", "--out", "blend.jsonl")
    assert done.code == 0, done.err
    assert "blend of a 50 %, b 50 %; 14 rows; 0 rejected" in done.out
    assert f"a: 50 %, 7 of {a['has']} rows of {here}/pairs.jsonl\n" in done.out
    assert f"{b['different']} of {b['has']} rows of {here}/more.jsonl, each {7 / b['different']:.1f} times" in done.out
    assert f"of stage sft alone: {found['parts']['sft']} rows" in done.out
    assert f"held out: {found['held_out']} rows" in done.out
    assert "wrote 14 rows" in done.out
    assert len((here / "blend.jsonl").read_text().splitlines()) == 14
    assert "answer 2 rank=1: nope" in truing("data", "recipe.toml").out


def test_plan_says_what_a_blend_holds(here: Path, truing: Any, model: Path) -> None:
    tiny_model.write_pairs(here / "more.jsonl", 6, start=40)
    blend = 'data.blend={a={path="pairs.jsonl",weight=1},b={path="more.jsonl",weight=1}}'
    (here / "r.toml").write_text(
        f'model = "{model}"\nprecision = "fp32"\ndevice = "cpu"\n'
        '[[stage]]\nuse = "sft"\n[[stage]]\nuse = "preference"\n'
    )
    done = truing("plan", "r.toml", blend, "data.splits={sft=1,preference=1}")
    assert done.code == 0, done.err
    flat = " ".join(done.out.split())
    assert "50 % of the prompts of blend of a 50 %, b 50 %" in flat
    rows = [int(count) for count in re.findall(r"rows of (?:sft|preference): (\d+)", done.out)]
    assert (len(rows), sum(rows)) == (2, 18)
    assert ": data.blend.b: its" in flat.split("note: ", 1)[1]
    fed = json.loads(truing("plan", "r.toml", blend, "--json").out)["fed"]
    assert [(one["stages"], one["rows"]) for one in fed] == [(["sft", "preference"], 18)]
    assert [share["gives"] for share in fed[0]["shares"]] == [9, 9]


def test_data_converts_there_and_back(here: Path, truing: Any) -> None:
    there = truing("data", "pairs.jsonl", "--to", "group", "--out", "g.jsonl.gz")
    assert there.code == 0, there.err
    assert "wrote 12 rows to g.jsonl.gz" in there.out
    assert truing("data", "g.jsonl.gz", "--to", "preference", "--out", "back.jsonl").code == 0
    rows = [
        [json.loads(line) for line in Path(name).read_text().splitlines()] for name in ("pairs.jsonl", "back.jsonl")
    ]
    assert rows[0] == rows[1]


def test_data_converts_and_tells_it_as_json(here: Path, truing: Any) -> None:
    done = truing("data", "pairs.jsonl", "--to", "group", "--out", "g.jsonl", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["rows"], found["to"], found["out"]) == (12, "group", "g.jsonl")
    assert len((here / "g.jsonl").read_text().splitlines()) == 12


def test_data_holds_one_row_at_a_time(here: Path, truing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    read = formats._read

    def reads(*given: Any) -> Any:
        log.append("read")
        return read(*given)

    def writes(rows: Any, path: Path) -> int:
        log.extend("written" for _ in rows)
        return log.count("written")

    monkeypatch.setattr(formats, "_read", reads)
    monkeypatch.setattr(formats, "write_rows", writes)
    assert "wrote 12 rows" in truing("data", "pairs.jsonl", "--to", "group", "--out", "g.jsonl").out
    assert log[-24:] == ["read", "written"] * 12


def test_bad_rows_are_named_and_counted(here: Path, truing: Any) -> None:
    with open(here / "pairs.jsonl", "a") as file:
        file.write('{"prompt": 1}\n')
    done = truing("data", "pairs.jsonl")
    assert done.code == 65
    assert "12 rows; 1 rejected" in done.out
    assert "pairs.jsonl:13" in done.out
    assert truing("data", "pairs.jsonl", "--to", "group", "--out", "g.jsonl").code == 65
    assert not (here / "g.jsonl").exists()
    assert truing("data", "pairs.jsonl", "--to", "group", "--out", "g.jsonl", "--max-bad", "1").code == 0


def test_report_and_compare_make_pages(here: Path, truing: Any) -> None:
    for seed in (0, 1):
        words = ["preference.max_steps=1", f"seed={seed}", "--out", f"o{seed}"]
        assert truing("run", "recipe.toml", *words).code == 0
    page = here / "o0" / "report.html"
    page.unlink()
    done = truing("report", "o0")
    assert (done.code, done.out) == (0, "o0/report.html\n"), done.err
    assert "<html" in page.read_text()
    done = truing("compare", "o0", "o1", "--out", "both.html")
    assert (done.code, done.out) == (0, "both.html\n"), done.err
    assert json.loads(truing("report", "o0", "--json").out) == {"report": "o0/report.html"}
    again = truing("compare", "o0", "o1", "--out", "both.html", "--json")
    assert json.loads(again.out) == {"report": "both.html"}
    assert "seed" in (here / "both.html").read_text()


def test_a_run_folder_is_a_model(here: Path, truing: Any) -> None:
    assert truing("run", "recipe.toml", "--out", "o").code == 0
    words = ["--max-new-tokens", "5", "--temperature", "0.5", "--seed", "2"]
    done = truing("chat", "o", *words, stdin="hello\nand you?\n\nnever read\n")
    assert done.code == 0, done.err
    assert truing("chat", "o", *words, stdin="hello\nand you?\n\n").out == done.out
    assert truing("chat", "o", *words, stdin="").out.strip() == ""
    assert done.out != truing("chat", "o", *words, "--system", "Be kind.", stdin="hello\nand you?\n\n").out
    assert truing("train", "sft", "max_steps=1", "--model", "o", "--data", "demos.jsonl", "--out", "p").code == 0
    lines = truing("chat", "o", *words, "--json", stdin="hello\nand you?\n\n").out.splitlines()
    told = [json.loads(line) for line in lines if line]
    assert [answer["prompt"] for answer in told] == ["hello", "and you?"]
    assert "".join(answer["answer"] + "\n" for answer in told) == done.out


def test_ctrl_c_just_leaves_a_talk(here: Path, truing: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Impatient())
    done = truing("chat", model)
    assert (done.code, done.out, done.err) == (0, "> \n", "")


def test_an_adapter_of_a_model_named_from_here_is_found_from_there(
    here: Path, truing: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "tiny").symlink_to(model)
    text = (here / "recipe.toml").read_text().replace(str(model), "tiny").replace("batch_size = 4", "lora.rank = 2")
    (here / "recipe.toml").write_text(text.replace("[[stage]]", '[[stage]]\nuse = "sft"\nlora.rank = 2\n[[stage]]', 1))
    assert truing("run", "recipe.toml", "model=./tiny", "--out", "o").code == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    done = truing("chat", "../o", "--max-new-tokens", "2", stdin="hello\n")
    assert done.code == 0, done.err


def test_objectives_and_doctor(here: Path, truing: Any) -> None:
    listed = truing("objectives")
    assert listed.code == 0
    assert "dpo  Direct preference optimisation" in listed.out
    assert "    beta = 0.1  inverse temperature" in listed.out
    assert re.search(r"^nll .*\(no reference\)$", listed.out, re.M)
    assert json.loads(truing("objectives", "--json").out)["dpo"]["properties"]["beta"]["default"] == 0.1
    facts = json.loads(truing("doctor", "--json").out)
    assert facts["cache"].startswith(os.environ["TRUING_CACHE"])
    assert "python" in truing("doctor").out


def test_help_starts_at_once_and_without_torch() -> None:
    """Processor time counts and the best of three, for the machine may be busy."""
    code = "import sys; sys.argv = ['truing', '--help']; from truing import cli\ntry: cli.main()\nfinally: "
    code += "print([m for m in ('torch', 'transformers', 'numpy', 'pydantic') if m in sys.modules], file=sys.stderr)"
    taken = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert done.returncode == 0
        assert "[]" in done.stderr, "what is slow to import is imported"
        for command in ("run", "plan", "train", "data", "chat", "report", "compare", "objectives", "doctor"):
            assert re.search(rf"^\W*{command}\b", done.stdout, re.M), command
    assert min(taken) < 0.5


def test_a_mistake_is_told_without_loading_torch(here: Path) -> None:
    code = (
        "import sys; sys.argv = ['truing', 'data', 'nofile.jsonl']; from truing import cli\ntry: cli.main()\nfinally: "
    )
    code += "print([m for m in ('torch', 'transformers') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 65
    assert "nofile.jsonl: no such file" in " ".join(done.stderr.split())
    assert done.stderr.endswith("[]\n")


def test_report_needs_no_torch(here: Path, truing: Any) -> None:
    assert truing("run", "recipe.toml", "preference.max_steps=1", "--out", "o").code == 0
    code = "import sys; from pathlib import Path; from truing import report; report.build(Path('o'))\n"
    code += "assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_a_closed_pipe_ends_quietly(here: Path) -> None:
    command = f"{' '.join(TRUING)} data pairs.jsonl | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=here)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    read, write = os.pipe()
    os.close(read)  # nobody listens from the start: what is written fails for certain
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(write, "wb") as closed:
        ended = subprocess.run([*TRUING, "objectives"], stdout=closed, stderr=subprocess.PIPE, text=True, env=buffered)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_no_color_is_kept(here: Path) -> None:
    found = [
        subprocess.run(
            [*TRUING, "data", "pairs.jsonl"],
            env={**os.environ, "FORCE_COLOR": "1", **more},
            cwd=here,
            capture_output=True,
            text=True,
        ).stdout
        for more in ({}, {"NO_COLOR": "1"})
    ]
    coloured, plain = (re.findall(r"\x1b\[(?:[0-9;]*;)?[34]\d", text) for text in found)
    assert coloured, "else this test could not fail"
    assert not plain


def test_stopped_by_ctrl_c_it_ends_with_75_and_the_same_command_goes_on(here: Path, truing: Any) -> None:
    (here / "long.toml").write_text((here / "recipe.toml").read_text().replace("batch_size = 4", "batch_size = 1"))
    words = ["run", "long.toml", "preference.epochs=6", "preference.keep_checkpoints=3", "--out"]
    with subprocess.Popen(
        [*TRUING, *words, "stopped"],
        cwd=here,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as running:
        try:
            events = here / "stopped" / "events.jsonl"
            until = time.monotonic() + 60
            while time.monotonic() < until and running.poll() is None:
                if events.exists() and events.read_text().count('"kind": "step"') >= 3:
                    break
                time.sleep(0.002)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 75, said
    assert "stopped in stage 'preference': run the same command again to go on" in said
    done, whole = truing(*words, "stopped"), truing(*words, "whole")
    assert done.code == 0, done.err
    assert whole.out.replace("whole", "stopped") == done.out
    stopped, expected = Run.read(here / "stopped"), Run.read(here / "whole")
    assert tiny_model.step_events(stopped) == tiny_model.step_events(expected)
    last = expected.checkpoints()[-1].path.name
    assert tiny_model.weights_hash(stopped.path / last) == tiny_model.weights_hash(expected.path / last)
