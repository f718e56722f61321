"""Dawid and Skene against their own example, a plain loop, and truths that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.errors import DataError
from truing.statistics import dawid_skene

ANAESTHETISTS = """
111 1 1 1 1  333 4 3 3 4  112 2 1 2 2  222 3 1 2 1  222 3 2 2 2  222 3 3 2 2  122 2 1 1 1  333 3 4 3 3  222 2 2 2 3
232 2 2 2 3  444 4 4 4 4  222 3 3 4 3  111 1 1 1 1  222 3 2 1 2  121 1 1 1 1  111 2 1 1 1  111 1 1 1 1  111 1 1 1 1
222 2 2 2 1  222 1 3 2 2  222 2 2 2 2  222 2 2 2 1  222 3 2 2 2  221 2 2 2 2  111 1 1 1 1  111 1 1 1 1  232 2 2 2 2
111 1 1 1 1  111 1 1 1 1  112 1 1 2 1  111 1 1 1 1  333 3 2 3 3  111 1 1 1 1  222 2 2 2 2  222 3 2 3 2  433 4 3 4 3
221 2 2 3 2  232 3 2 3 3  333 3 4 3 2  111 1 1 1 1  111 1 1 1 1  121 2 1 1 1  232 2 2 2 2  121 1 1 1 1  222 2 2 2 2
"""
"""Table 1 of the paper: 45 patients; the first anaesthetist saw each three times, the four others once."""


def patients():
    words = ANAESTHETISTS.split()
    rows = [
        (place // 5, place % 5, int(label)) for place, word in enumerate(words) for label in word
    ]  # fmt: skip
    return tuple(zip(*rows, strict=True))


def loop_em(rows):
    """The paper's equations as they stand, over dictionaries; the log-likelihood of each round as well."""
    items, raters, kinds = ({row[place]: None for row in rows} for place in range(3))
    truth = {i: {j: sum(r[0] == i and r[2] == j for r in rows) for j in kinds} for i in items}
    truth = {i: {j: share / sum(truth[i].values()) for j, share in truth[i].items()} for i in items}
    told = []
    while len(told) < 2 or told[-1] - told[-2] >= 1e-7:
        prior = {j: sum(truth[i][j] for i in items) / len(items) for j in kinds}
        error = {}
        for k in raters:
            for j in kinds:
                said = {m: sum(truth[r[0]][j] for r in rows if r[1] == k and r[2] == m) for m in kinds}
                total = sum(said.values())
                error[k, j] = {m: said[m] / total if total else 1 / len(kinds) for m in kinds}
        told.append(0.0)
        for i in items:
            joint = {j: prior[j] * math.prod(error[r[1], j][r[2]] for r in rows if r[0] == i) for j in kinds}
            told[-1] += math.log(sum(joint.values()))
            truth[i] = {j: value / sum(joint.values()) for j, value in joint.items()}
    return prior, error, truth, told


class TestTheirExample:
    def test_how_common_the_labels_are(self):
        """Table 4 of the paper, to its two decimals."""
        found = dawid_skene(*patients())
        prior = dict(zip(found.labels, found.prior, strict=True))
        assert [round(float(prior[label]), 2) for label in (1, 2, 3, 4)] == [0.40, 0.42, 0.11, 0.07]

    def test_equals_a_plain_loop(self):
        columns = patients()
        rows = list(zip(*columns, strict=True))
        prior, error, truth, told = loop_em(rows)
        found = dawid_skene(*columns)
        assert told == sorted(told), "EM never descends"
        assert found.log_likelihood == pytest.approx(told[-1], abs=1e-6)
        for j, label in enumerate(found.labels):
            assert found.prior[j] == pytest.approx(prior[label], abs=1e-6)
            assert found.posterior[:, j] == pytest.approx([truth[i][label] for i in found.items], abs=1e-6)
            for k, rater in enumerate(found.raters):
                assert found.confusion[k, j] == pytest.approx([error[rater, label][m] for m in found.labels], abs=1e-6)


class TestKnownTruth:
    def made(self, right, n=400, kinds=3, seed=60):
        """Raters who are right with the given chances and else say one of the other labels."""
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, kinds, n)
        rows = []
        for rater, chance in enumerate(right):
            wrong = (truth + rng.integers(1, kinds, n)) % kinds
            said = np.where(rng.random(n) < chance, truth, wrong)
            rows += [(item, f"r{rater}", int(label)) for item, label in enumerate(said)]
        return truth, tuple(zip(*rows, strict=True))

    def test_finds_who_is_right_how_often(self):
        right = (0.95, 0.8, 0.6, 0.45, 0.4)
        _, columns = self.made(right, n=2000)
        found = dawid_skene(*columns)
        assert [found.accuracy[f"r{r}"] for r in range(5)] == pytest.approx(right, abs=0.05)

    def test_beats_the_majority_where_one_knows_and_many_guess(self):
        truth, columns = self.made((0.95, 0.9, 0.4, 0.4, 0.4, 0.4))
        found = dawid_skene(*columns)
        best = np.array([found.best[item] for item in range(len(truth))])
        said = np.array(columns[2]).reshape(6, -1)
        votes = np.stack([(said == label).sum(0) for label in range(3)], axis=1)
        assert (best == truth).mean() > (votes.argmax(1) == truth).mean() + 0.05

    def test_posteriors_are_right_as_often_as_they_say(self):
        truth, columns = self.made((0.85, 0.75, 0.7, 0.6), n=1500)
        found = dawid_skene(*columns)
        sure = found.posterior.max(axis=1)
        right = np.array([found.best[item] for item in range(len(truth))]) == truth
        assert right.mean() == pytest.approx(sure.mean(), abs=0.03)


class TestInvariance:
    @given(
        st.lists(st.tuples(st.integers(0, 4), st.sampled_from("pqr"), st.sampled_from([0, 1])), min_size=1, max_size=30)
    )
    def test_probabilities_and_any_order_of_rows(self, rows):
        found = dawid_skene(*zip(*rows, strict=True))
        turned = dawid_skene(*zip(*rows[::-1], strict=True))
        assert found.posterior.sum(axis=1) == pytest.approx(1)
        assert found.confusion.sum(axis=2) == pytest.approx(1)
        assert found.prior.sum() == pytest.approx(1)
        assert turned.log_likelihood == pytest.approx(found.log_likelihood, abs=1e-6)

    def test_labels_by_any_name(self):
        items, raters, labels = patients()
        found, named = (
            dawid_skene(items, raters, labels),
            dawid_skene(items, raters, [f"class {label}" for label in labels]),
        )
        assert named.posterior == pytest.approx(found.posterior)


class TestDegenerate:
    def test_all_agree(self):
        found = dawid_skene([0, 0, 1, 1], ["a", "b", "a", "b"], ["x", "x", "y", "y"])
        assert found.posterior.tolist() == [[1, 0], [0, 1]]
        assert found.best == {0: "x", 1: "y"}
        assert found.accuracy == {"a": 1, "b": 1}

    def test_one_rater_is_believed(self):
        assert dawid_skene([0, 1, 2], ["a"] * 3, ["x", "y", "x"]).best == {0: "x", 1: "y", 2: "x"}

    def test_one_label(self):
        assert dawid_skene([0, 1], ["a", "b"], ["x", "x"]).posterior.tolist() == [[1], [1]]

    def test_a_rater_who_met_none_of_a_label(self):
        """The second rater saw the one item that all call x."""
        found = dawid_skene([0, 0, 1], ["a", "b", "a"], ["x", "x", "y"])
        assert found.confusion[1].tolist() == [[1, 0], [0.5, 0.5]]

    def test_none(self):
        with pytest.raises(DataError, match="no label"):
            dawid_skene([], [], [])
        with pytest.raises(DataError, match="2 of one and 1 of the other"):
            dawid_skene([1, 2], ["a", "a"], ["x"])
