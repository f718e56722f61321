"""Medians, intervals and ratios of the benchmark, and the gate before a ratio."""

from __future__ import annotations

import json

import pytest
import tiny

from bench import flops, gate, page, results, rows
from bench.statistics import median, ratio


def test_a_median_has_an_interval_that_lies_among_the_measurements():
    found = median([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found["value"] == 3.0
    assert found["n"] == 5
    assert 1.0 <= found["low"] <= 3.0 <= found["high"] <= 100.0
    assert found == median([1.0, 2.0, 3.0, 4.0, 100.0])


def test_equal_measurements_leave_no_doubt():
    assert median([2.0] * 6) == {"value": 2.0, "low": 2.0, "high": 2.0, "n": 6}


def test_one_measurement_has_no_interval():
    found = median([2.0])
    assert (found["low"], found["high"]) == (None, None)
    assert "one measurement" in results.worded(found)


def test_no_measurement_has_no_median():
    with pytest.raises(ValueError, match="at least one"):
        median([])


def test_ratios_are_of_measurements_that_belong_together():
    # a slow round slows both sides, and the ratio does not see it
    assert ratio([10.0, 40.0, 20.0], [1.0, 4.0, 2.0]) == {"value": 10.0, "low": 10.0, "high": 10.0, "n": 3}


def test_the_gate_opens_within_tolerance():
    ours = {"loss": [0.7, 0.5], "gradient_norm": [3.0, 2.0]}
    theirs = {"loss": [0.7 * (1 + 5e-5), 0.5], "gradient_norm": [3.0, 2.0 * (1 + 5e-4)]}
    assert gate.training(ours, theirs)["agreed"]


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"loss": [0.7, 0.501], "gradient_norm": [3.0, 2.0]}, "loss of step 2"),
        ({"loss": [0.7, 0.5], "gradient_norm": [3.01, 2.0]}, "gradient_norm of step 1"),
        ({"loss": [0.7, float("nan")], "gradient_norm": [3.0, 2.0]}, "loss of step 2"),
        ({"loss": [0.7], "gradient_norm": [3.0, 2.0]}, "loss: 2 steps against 1"),
    ],
)
def test_the_gate_says_what_disagrees(theirs, said):
    verdict = gate.training({"loss": [0.7, 0.5], "gradient_norm": [3.0, 2.0]}, theirs)
    assert not verdict["agreed"]
    assert said in verdict["disagreed"][0]


def test_greedy_answers_must_be_the_same():
    assert gate.sampling([[1, 2]], [[1, 2]])["agreed"]
    assert "answer 1 differs at token 1" in gate.sampling([[1, 2]], [[1, 3]])["disagreed"][0]
    assert not gate.sampling([[1, 2]], [[1]])["agreed"]


def run_of(seconds, above):
    memory = {"baseline": 1, "above": above, "peak": above + 1}
    return {"seconds": seconds, "memory": memory, "cache_seconds_per_row": 0.5}


def test_a_shut_gate_lets_no_ratio_through(tmp_path):
    shut = gate.Verdict(agreed=False, differences={}, disagreed=["loss of step 1: 1 against 2"])
    runs = {"truing": [run_of([1.0, 2.0], 10)], "trl-default": [run_of([4.0, 8.0], 40)]}
    found = results.comparison("truing", "trl-default", runs, shut, 8)
    assert found.keys() == {"ours", "theirs", "gate"}
    said = results.say(found)
    assert "no ratio: loss of step 1" in said
    assert "x as fast" not in said
    entry = {"comparisons": [found], "utilisation": []}
    assert page._found(page.TARGETS[0], {"dpo/hh": entry}) == "the sides disagree, so there is no ratio"


def test_an_open_gate_gives_speed_and_memory():
    opened = gate.Verdict(agreed=True, differences={}, disagreed=[])
    runs = {"truing": [run_of([1.0, 2.0], 10)], "trl-default": [run_of([4.0, 8.0], 40)]}
    found = results.comparison("truing", "trl-default", runs, opened, 8)
    assert found["times_faster"]["value"] == 4.0
    assert found["memory"]["value"] == 0.25
    assert found["times_faster_with_cache"]["value"] == pytest.approx((8 / 5 + 12 / 6) / 2)


def test_an_entry_replaces_only_its_own(tmp_path):
    path = tmp_path / "results.json"
    results.store(path, "dpo", "hh", {"value": 1})
    results.store(path, "sft", "hh", {"value": 2})
    results.store(path, "dpo", "hh", {"value": 3})
    kept = json.loads(path.read_text())
    assert {name: entry["value"] for name, entry in kept.items()} == {"dpo/hh": 3, "sft/hh": 2}
    assert kept["dpo/hh"]["machine"]["versions"]["trl"]


def test_flops_by_hand():
    shape = flops.Shape(layers=1, width=4, inner=8, heads=2, groups=1, head_width=2, vocabulary=10)
    (row,) = tiny.random_rows(0, [(2, (1, 1))])
    # matrices: 4x4, 4x2 twice, 4x4, and 4x8 three times; 3 + 3 + 3 pairs of query and key; 2 scored tokens
    assert flops.forward(shape, [row]) == 2 * 144 * 4 + 4 * 4 * (3 + 3 + 3) + 2 * 40 * 2
    assert flops.training(shape, [row]) == 3 * flops.forward(shape, [row])
    assert flops.useful_tokens([row]) == 4
    # a reward's head: one number for each of the two answers, however many tokens are scored
    (longer,) = tiny.random_rows(0, [(2, (2, 1))])
    assert flops.forward(shape, [longer], scores=True) == 2 * 144 * 5 + 4 * 4 * (3 + 7 + 3) + 2 * 4 * 2
    assert flops.training(shape, [row], scores=True) == 3 * flops.forward(shape, [row], scores=True)


def test_steps_are_whole_and_grouped_ones_are_alike():
    data = tiny.random_rows(0, [(length, (3, 2)) for length in (9, 1, 8, 2, 7, 3, 6, 4)])
    shuffled = rows.shuffled_steps(data, 2, 4)
    assert sorted(index for step in shuffled for index in step) == list(range(8))
    grouped = rows.grouped_steps(data, 2, 1, 2)
    assert [[len(data[index].prompt) for index in step] for step in grouped] == [[9, 8], [7, 6], [2, 1]]


def test_rows_survive_the_way_to_a_worker():
    data = tiny.random_rows(0, [(5, (3, 2)), (4, (1, 1))])
    assert rows.from_json(rows.as_json(data)) == data
