"""The verdict is not better than the numbers."""

from __future__ import annotations

import fake_runs
from reading_html import built


def with_evaluation(tmp_path, **changes):
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.evaluate(run, fake_runs.evaluation() | changes)
    return built(tmp_path / "run").section("verdict")


def test_longer_answers_are_a_caveat(tmp_path):
    verdict = with_evaluation(tmp_path, length_ratio=fake_runs.interval(1.6, 1.4, 1.8, 60))
    assert "part of the win may be that" in verdict


def test_no_caveat_without_cause(tmp_path):
    verdict = with_evaluation(tmp_path)
    assert "part of the win" not in verdict
    assert "forgotten how to stop" not in verdict


def test_answers_that_do_not_end_are_a_caveat(tmp_path):
    finished = fake_runs.interval(0.4, 0.3, 0.5, 60)
    verdict = with_evaluation(tmp_path, model={"name": "m", "mean_tokens": 128.0, "finished": finished})
    assert "forgotten how to stop" in verdict


def test_a_difference_within_the_intervals_is_none(tmp_path):
    finished = fake_runs.interval(0.8, 0.7, 0.87, 60)
    verdict = with_evaluation(tmp_path, model={"name": "m", "mean_tokens": 128.0, "finished": finished})
    assert "forgotten how to stop" not in verdict


def test_an_open_verdict_is_not_coloured_as_a_win(tmp_path):
    with fake_runs.opened(tmp_path / "run") as run:
        fake_runs.evaluate(run, fake_runs.evaluation() | {"win_rate": fake_runs.interval(0.52, 0.4, 0.64, 60)})
    page = built(tmp_path / "run")
    assert "headline open" in {attributes.get("class") for attributes in page.all("div")}
    assert "ot distinguishable from a coin" in page.section("verdict")


def test_greedy_sampling_has_no_kl(tmp_path):
    assert "not measured: answers drawn greedily" in with_evaluation(tmp_path, kl=None)


def test_a_single_answer_has_no_interval(tmp_path):
    kl = {"value": 3.0, "low": "-Infinity", "high": "Infinity", "n": 1}
    assert "3 (no interval)" in with_evaluation(tmp_path, kl=kl)


def test_a_model_that_judges_steps_is_not_sent_to_comparisons(tmp_path):
    measured = fake_runs.interval(0.8, 0.7, 0.87, 60)
    with fake_runs.opened(tmp_path / "run") as run:
        run.event("process", "start", settings={}, inputs={}, key="aa", seconds_before=0.0)
        run.event("process", "step", step=1, metrics={"loss": 0.5, "step/right": 0.7})
        run.event("process", "held_out", step=1, accuracy=measured, loss=0.5)
        with run.new_artifact("aa", stage="process", meta={"reward": "checkpoint-1"}):
            pass
        run.event("process", "end", seconds=1.0, peak_memory_bytes=None)
    page = built(tmp_path / "run")
    assert "Compare it with the share of right steps" in page.section("verdict")
    assert "evaluate_reward" not in page.section("verdict")
    assert "on 60 steps it was not trained on" in page.section("held-out")
