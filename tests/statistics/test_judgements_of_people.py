"""Agreement of real raters: numbers that their publishers, or plain counting, give for the same rows."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from truing.statistics import bradley_terry, cohen_kappa, dawid_skene, fleiss_kappa, krippendorff_alpha, proportion

DATA = Path(os.environ.get("TRUING_DATA") or Path(__file__).parents[3] / "shared" / "data")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not at {DATA}: set TRUING_DATA to its folder"),
]


def rows_of(name):
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file)) if ".csv" in name else [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def votes():
    rows = rows_of("pandalm_testset/testset.jsonl.gz")
    return [[str(row[f"annotator{number}"]) for number in (1, 2, 3)] for row in rows]


@pytest.fixture(scope="module")
def crowd():
    return rows_of("llmfao/crowd-comparisons.csv.gz")


@pytest.fixture(scope="module")
def plurality(crowd):
    """What more of the crowd said than anything else, where there is such."""
    votes: dict[str, Counter[str]] = {}
    for row in crowd:
        votes.setdefault(row["id"], Counter())[row["winner"]] += 1
    found = {}
    for pair, counts in votes.items():
        (best, most), *rest = counts.most_common()
        if not rest or most > rest[0][1]:
            found[pair] = best
    return found


class TestPandaLM:
    """999 pairs of answers, each judged by three annotators; the publisher names kappas of 0.85, 0.88 and 0.86."""

    def test_cohens_kappas(self, votes):
        columns = list(zip(*votes, strict=True))
        found = sorted(round(cohen_kappa(a, b).value, 3) for a, b in combinations(columns, 2))
        assert found == [0.852, 0.862, 0.879]

    def test_fleiss_and_krippendorff_lie_between(self, votes):
        """With three raters each and 999 items the two differ by the correction for few items alone."""
        fleiss, alpha = fleiss_kappa(votes), krippendorff_alpha(votes)
        assert 0.852 < fleiss.value < 0.879
        assert 1 - alpha.value == pytest.approx((1 - fleiss.value) * (1 - 1 / (3 * len(votes))), rel=1e-9)
        assert fleiss.high - fleiss.low < 0.06


class TestLlmfao:
    """2,139 pairs judged by a crowd and by two models."""

    @pytest.mark.parametrize(
        ("judge", "three_way", "decided", "pairs"),
        [("gpt4", 44.6, 74.6, 1043), ("gpt3", 37.7, 63.1, None)],
    )
    def test_how_often_a_judge_is_with_the_crowd(self, plurality, judge, three_way, decided, pairs):
        said = {row["id"]: row["winner"] for row in rows_of(f"llmfao/{judge}-crowd-comparisons.csv.gz")}
        both = [(said[pair], best) for pair, best in plurality.items()]
        found = proportion(sum(a == b for a, b in both), len(both))
        assert (round(100 * found.value, 1), found.n) == (three_way, 1831)
        sides = [(a, b) for a, b in both if "tie" not in (a, b)]
        found = proportion(sum(a == b for a, b in sides), len(sides))
        assert round(100 * found.value, 1) == decided
        assert pairs is None or found.n == pairs
        assert cohen_kappa(*zip(*both, strict=True)).low > 0

    def test_a_consensus_of_the_crowd(self, crowd, plurality):
        """It weighs who said what, so it differs from the plurality, but seldom."""
        found = dawid_skene(*([row[name] for row in crowd] for name in ("id", "worker", "winner"))).best
        alike = [found[pair] == best for pair, best in plurality.items()]
        assert sum(alike) / len(alike) > 0.8

    def test_strengths_of_models(self, crowd):
        outcome = {"left": 1.0, "tie": 0.5, "right": 0.0}
        found = bradley_terry(
            [row["left"] for row in crowd], [row["right"] for row in crowd], [outcome[row["winner"]] for row in crowd],
            prompts=[row["id"] for row in crowd],
        )  # fmt: skip
        table = list(found.table.items())
        assert len(table) == len({row["left"] for row in crowd} | {row["right"] for row in crowd})
        assert table[0][1].low > table[-1][1].high, "the best is told from the worst"


class TestXSTest:
    """2,250 completions with two human labels, a final one, and a label by GPT-4."""

    def test_people_and_a_judge(self):
        rows = rows_of("xstest/completions_labels.jsonl.gz")
        people = cohen_kappa([row["annotation_1"] for row in rows], [row["annotation_2"] for row in rows])
        assert round(people.value, 3) == 0.937
        judge = proportion(sum(row["gpt4_label"] == row["final_label"] for row in rows), len(rows))
        assert round(100 * judge.value, 1) == 79.9
