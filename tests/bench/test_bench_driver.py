"""The whole benchmark on the tiny model: every task, then the page."""

from __future__ import annotations

import importlib
import json
import warnings
from dataclasses import replace
from importlib.util import find_spec

import pytest
import tiny_model
import torch

from bench import curves, dpo, gpu, grpo, machine, page, plan, process, reward, roles, sampling, scaling, sft, training
from bench import profile as profiling
from bench.rows import ROOT, NotThereError
from bench.training import RESULTS, Settings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """The least of everything, and workers in this process: starting twenty would take minutes."""

    def here(function, spec):
        module, name = function.split(":")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            worker = getattr(importlib.import_module(module), name)
            return json.loads(json.dumps(worker(json.loads(json.dumps({**spec, "folder": str(tmp_path)})))))

    monkeypatch.setenv("TRUING_DATA", str(tmp_path))
    monkeypatch.setattr(process, "run", here)
    monkeypatch.setattr(sampling, "_refusal", lambda *_: "not tried: it takes seconds to start")
    monkeypatch.setattr(machine, "LEAST_SECONDS", 0.001)
    monkeypatch.setattr(machine, "BUFFER", 1000)
    model = str(tiny_model.save(tmp_path / "model"))
    return Settings(model=model, rounds=2, timed=1, batch=4, tune=False, out=tmp_path / "results.json")


def test_every_task_ends_in_the_page(settings, capsys):
    dpo.run("tiny", settings)
    sft.run("tiny", settings)
    reward.run("tiny", settings)
    sampling.run(settings, length=4)
    grpo.run("tiny", settings, length=6)
    curves.run(settings, steps=2, seeds=2)
    scaling.run(settings, pairs=(4, 8), batches=(2, 4), words=4)
    entries = json.loads(settings.out.read_text())
    compared = {"dpo/tiny", "sft/tiny", "reward/tiny", "sampling/brief", "grpo/tiny"}
    assert entries.keys() == compared | {"curves/sft", "scaling/hh"}
    for name in compared:
        for one in entries[name]["comparisons"]:
            assert one["gate"]["agreed"], one
            assert one["times_faster"]["value"] > 0
    assert capsys.readouterr().err.count("x as fast") >= 11
    page.write(settings.out)
    text = (settings.out.parent / "README.md").read_text()
    assert "no CUDA device was at hand" in text
    assert "| `trl-tuned` |" in text
    for picture in ("dpo-rate", "sft-memory", "reward-memory", "sampling-rate", "grpo-rate", "curves"):
        assert (settings.out.parent / f"{picture}.svg").read_text().startswith("<?xml")
    again = text
    page.write(settings.out)
    assert (settings.out.parent / "README.md").read_text() == again


def test_an_iteration_of_grpo_is_a_rollout_and_an_update(settings):
    grpo.run("tiny", replace(settings, rounds=1, timed=2), length=6)
    entry = json.loads(settings.out.read_text())["grpo/tiny"]
    for name, one in entry["systems"].items():
        parts = one["phases"]
        assert min(parts["rollout"]["value"], parts["update"]["value"]) > 0, name
        assert sum(part["value"] for part in parts.values()) == pytest.approx(one["seconds"]["value"], rel=0.5)
        assert one["seconds"]["n"] == 2
        assert 0 < one["answer_tokens"]["value"] <= settings.batch * grpo.ANSWERS * 6
        assert one["prompt_tokens"] == entry["systems"]["truing"]["prompt_tokens"]
    for one in entry["comparisons"]:
        assert one["gate"]["agreed"], one
        assert min(one[f"{part}times_faster"]["value"] for part in ("", "rollout_", "update_")) > 0
    page.write(settings.out)
    text = (settings.out.parent / "README.md").read_text()
    assert "## grpo on tiny" in text
    assert "| `truing` against `trl-tuned` |" in text


@pytest.mark.parametrize("other", [{"scale_rewards": "none"}, {"learning_rate": 1e-3}, {"epsilon": 1e-7}])
def test_the_gate_of_grpo_refuses_other_mathematics(other, settings, monkeypatch):
    """Another advantage, and what only a second step on a rollout shows: other weights, and another bound of ratios."""
    work = grpo._Work(settings, grpo._prompts("tiny", settings), 6)
    with_it = process.run

    def changed(function, spec):
        if function == grpo.THEIRS:
            rate = {name: other[name] for name in other if name == "learning_rate"}
            spec = {**spec, **rate, "options": {**spec["options"], **{k: v for k, v in other.items() if k not in rate}}}
        return with_it(function, spec)

    monkeypatch.setattr(process, "run", changed)
    peer = training.System("trl", grpo.THEIRS, options={"micro_batch": 8})
    assert not work.gate(peer, work.given())["agreed"]


def test_tuning_of_grpo_takes_the_fastest(settings, monkeypatch):
    def pretend(function, spec):
        options = spec["options"]
        if options["micro_batch"] == 32:
            raise process.WorkerError("trl-tuned: killed")
        took = 8.0 if options["micro_batch"] == 16 else 10.0
        took *= 2 if spec["precision"] == "fp32" else 1
        return {"seconds": [took * (0.5 if spec["threads"] else 1) + ("cache_implementation" in options)]}

    monkeypatch.setattr(process, "run", pretend)
    best, tried = grpo._Work(replace(settings, tune=True), ["one", "two", "three", "four"], 6).tuned()
    assert best.options == {**grpo.TUNED, "micro_batch": 16}
    assert (best.precision, best.threads) == ("bf16", True)
    assert [one.get("seconds") for one in tried] == [10.0, 10.0, 8.0, None, 9.0, 16.0, 4.0]


def test_a_profile_shares_out_a_whole_step(settings):
    profiling.run(settings)
    found = json.loads(settings.out.read_text())["profile/hh"]["shares"]
    assert found.keys() == set(profiling.TASKS)
    for shares in found.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["products of layers and head"] > 0
    page.write(settings.out)
    assert "## Where the time of a step goes" in (settings.out.parent / "README.md").read_text()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_roles_are_measured_each_way(settings):
    roles.run(replace(settings, rounds=1, forest_tokens=256), new_tokens=4)
    entry = json.loads(settings.out.read_text())["roles/ppo"]
    assert entry["ways"].keys() == roles.WAYS.keys()
    assert entry["apart"] < 0.05, "in bf16 a merged reward model rounds otherwise"
    for one in entry["ways"].values():
        assert one["memory"]["iteration"]["value"] >= one["memory"]["loaded"]["value"] > 0
        assert one["planned"] > 0
    page.write(settings.out)
    assert "| adapters over one base in 4 bits |" in (settings.out.parent / "README.md").read_text()


def test_adapters_agree_as_well(settings):
    reward.run("tiny", replace(settings, lora=True, rounds=1))
    for one in json.loads(settings.out.read_text())["reward/tiny"]["comparisons"]:
        assert one["gate"]["agreed"], one


def test_tuning_takes_the_fastest_and_tells_what_was_tried(settings, monkeypatch):
    from bench import training

    took = {"bf16": 3.0, "fp32": 5.0}

    def pretend(function, spec):
        faster = (2 if spec["options"].get("micro_batch") == 2 else 1) * (1.25 if spec["threads"] else 1)
        return {"seconds": [took[spec["precision"]] / faster]}

    monkeypatch.setattr(process, "run", pretend)
    work = training._Work.of("dpo", "tiny", Settings(**{**as_dict(settings), "tune": True}))
    best, tried = work.tuned(dpo.TUNED)
    assert best.precision == "bf16"
    assert best.options == {**dpo.TUNED, "micro_batch": 2}
    assert best.threads
    assert [one["seconds"] for one in tried] == [3.0, 1.5, 3.0, 2.5, 1.2]


def test_a_peer_that_accumulates_does_so_before_the_gate(settings, monkeypatch):
    from bench import training

    asked = {}

    def told(function, spec):
        asked[spec["name"]] = spec
        return {"loss": [1.0], "gradient_norm": [1.0]}

    monkeypatch.setattr(process, "run", told)
    work = training._Work.of("dpo", "tiny", settings)
    ours = training.System("truing-reference-pass", training.OURS, reference_pass=True)
    for micro, expected in ((settings.batch, 2), (settings.batch // 2, 1)):
        work.gate(ours, training.System("trl", training.THEIRS, options={"micro_batch": micro}))
        assert asked["gate of trl"]["options"]["micro_batch"] == expected
        assert asked["gate of truing-reference-pass"]["reference_pass"]


def test_a_peer_that_runs_out_of_memory_has_no_ratio(settings, monkeypatch, capsys):
    def killed(function, spec, here=process.run):
        if spec.get("name") == "trl-default":
            raise process.WorkerError("trl-default: killed")
        return here(function, spec)

    monkeypatch.setattr(process, "run", killed)
    dpo.run("tiny", settings)
    entry = json.loads(settings.out.read_text())["dpo/tiny"]
    assert "trl-default" not in entry["systems"]
    assert ["times_faster" in one for one in entry["comparisons"]] == [False, True, False]
    assert "no ratio: trl-default: killed" in capsys.readouterr().err
    page.write(settings.out)


def test_predictions_stand_beside_runs(settings, monkeypatch):
    def told(function, spec):
        return {"memory": 2.0**30, "time": 1.0} if function.endswith("predicted") else real(function, spec)

    real = process.run
    monkeypatch.setattr(process, "run", told)  # the prediction itself starts processes, which takes seconds
    plan.run(settings, "sft", 64, words=4)
    entry = json.loads(settings.out.read_text())["plan/sft-64"]
    assert entry["measured"]["memory"] > 2**26
    assert entry["off"]["time"] == pytest.approx(abs(1 - entry["measured"]["time"]) / entry["measured"]["time"])
    page.write(settings.out)
    text = (settings.out.parent / "README.md").read_text()
    assert "| sft-64 | 1.00 |" in text


def as_dict(settings):
    return {name: getattr(settings, name) for name in settings.__slots__}


def test_an_error_of_a_worker_is_told():
    with pytest.raises(process.WorkerError, match=r"No module named 'bench\.nothing'"):
        process.run("bench.nothing:at_all", {})


def test_memory_counts_from_its_beginning():
    memory = machine.Memory(torch.device("cpu"))
    block = torch.ones(20_000_000)
    del block
    taken = memory.taken()
    assert 70e6 < taken["above"] < 200e6
    assert taken["peak"] >= taken["baseline"] + taken["above"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no device")
def test_without_a_device_the_gpu_benchmark_says_so():
    with pytest.raises(NotThereError, match="CUDA"):
        gpu.run(Settings())


def test_the_readme_says_what_was_measured():
    assert page.headline(json.loads(RESULTS.read_text())) in (ROOT / "README.md").read_text()
