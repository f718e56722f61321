"""compare-objectives: one run for all objectives, the same steps and prompts for each, and an honest reading."""

from __future__ import annotations

import json

import pytest
import tiny_model

from truing import comparing
from truing.comparing import compare_objectives
from truing.errors import ConfigError, DataError
from truing.report.contest import read_entries
from truing.store import Run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def data(tmp_path):
    return tiny_model.write_pairs(tmp_path / "pairs.jsonl", 24)


def compared(model, data, out, names=("dpo", "nll", "csft"), **more):
    given = {"budget": "4steps", "held_out": 0.4, "overrides": ["dpo.learning_rate=1e-3", "dpo.batch_size=4"]} | more
    return compare_objectives(str(data), names, model=str(model), out=out, **given)


def test_one_run_holds_all_and_goes_on(model, data, tmp_path, monkeypatch):
    page = compared(model, data, tmp_path / "out")
    assert page == tmp_path / "out" / "objectives.html"
    found = read_entries(tmp_path / "out")
    assert {entry.name: entry.steps for entry in found} == {"dpo": 4, "nll": 4, "csft": 4}
    assert len({entry.evaluation.prompts for entry in found}) == 1
    assert all(len(entry.outcomes) == entry.evaluation.prompts for entry in found)
    assert all(entry.evaluation.accuracy and entry.evaluation.margin and entry.evaluation.chosen for entry in found)
    before = {artifact.key for artifact in Run.read(tmp_path / "out").artifacts()}
    compared(model, data, tmp_path / "out", ("simpo", "csft", "nll", "dpo"))
    after = Run.read(tmp_path / "out").artifacts()
    assert before < {artifact.key for artifact in after}, "another objective costs only its own training"
    assert len(read_entries(tmp_path / "out")) == 4


def test_the_base_answers_once_for_all(model, data, tmp_path, monkeypatch):
    from truing.stages import sample

    made = []
    real = sample.make_generator

    def counted(context, model, settings):
        made.append(model.source)
        return real(context, model, settings)

    monkeypatch.setattr(sample, "make_generator", counted)
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    compared(model, data, tmp_path / "out", ("dpo", "nll"))
    assert made == [str(model)]


def test_csft_is_asked_with_the_instruction_it_was_trained_with(model, data, tmp_path):
    compared(model, data, tmp_path / "out", ("dpo", "csft"))
    stages = {e["stage"]: e["settings"] for e in Run.read(tmp_path / "out").events() if e["kind"] == "start"}
    assert stages["csft-evaluation"]["instruction"] == stages["csft"]["good"]
    assert stages["dpo-evaluation"]["instruction"] == ""


def test_a_time_is_measured_once_and_kept(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "_step_seconds", lambda *_: 2.5)
    compared(model, data, tmp_path / "out", ("dpo", "nll"), budget="10s")
    assert json.loads((tmp_path / "out" / "budget.json").read_text())["steps"] == 4
    monkeypatch.setattr(comparing, "_step_seconds", lambda *_: 0.1)
    compared(model, data, tmp_path / "out", ("dpo", "nll"), budget="10s")
    assert {entry.steps for entry in read_entries(tmp_path / "out")} == {4}
    more = tiny_model.write_pairs(tmp_path / "more.jsonl", 30)
    assert comparing._steps("1s", str(more), str(model), 4, tmp_path / "out") == 10, "other data are measured anew"


def test_a_step_takes_a_time(model, data):
    assert 0 < comparing._step_seconds(str(data), str(model), 4) < 60


def test_a_budget_is_cut_to_three_passes(model, data, tmp_path):
    compared(model, data, tmp_path / "out", ("dpo", "nll"), budget="1000steps", overrides=["dpo.batch_size=8"])
    assert all(entry.steps <= 9 for entry in read_entries(tmp_path / "out"))


@pytest.mark.parametrize(
    ("names", "more", "kind", "words"),
    [
        (("dpo",), {}, ConfigError, "at least two"),
        (("dpo", "dpo"), {}, ConfigError, "at least two different"),
        (("dpo", "xpo"), {}, DataError, "objective 'xpo' cannot use .*source"),
        (("dpo", "dop"), {}, ConfigError, "objective 'dop' does not exist"),
        (("dpo", "ipo"), {"budget": "soon"}, ConfigError, "5m, 90s or 1h, or 40steps"),
        (("dpo", "sppo"), {}, DataError, "objective 'sppo' cannot use .*needs a score"),
    ],
)
def test_refusals_come_before_any_training(model, data, tmp_path, names, more, kind, words):
    with pytest.raises(kind, match=words):
        compared(model, data, tmp_path / "out", names, **more)
    assert not (tmp_path / "out" / "checkpoints").exists()
