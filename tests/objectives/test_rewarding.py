"""Objectives of reward models once more in plain Python, from their equations."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from by_hand import lsig, smoothed

from truing.objectives import OBJECTIVES, bind, stage_of
from truing.objectives.rewarding import difference
from truing.signatures import settings_of
from truing.tensors import Logprobs, Pair, RankedScores, Scores

CHOSEN = ((0.3, -0.2, 1.4), (2.0, 0.1), (-0.6,), (0.5, 0.5, 0.5, -2.0))
REJECTED = ((0.3, 0.9), (2.0, -1.3, 0.4, 0.0), (-0.6, 1.1), (3.0,))
LENGTH_CHOSEN = tuple(tuple(0.4 * value + 0.3 for value in row) for row in CHOSEN)
LENGTH_REJECTED = tuple(tuple(0.9 - value for value in row) for row in REJECTED)
WRITTEN_CHOSEN, WRITTEN_REJECTED = (
    tuple(tuple(-1.0 - value**2 for value in row) for row in rows) for rows in (CHOSEN, REJECTED)
)
FIRST_CHOSEN, FIRST_REJECTED = (
    tuple(tuple(-0.5 - abs(value) for value in row) for row in rows) for rows in (CHOSEN, REJECTED)
)
PARTED = (1, 1, 1, 0)
"""The third chosen answer is the beginning of the rejected one."""
MARGIN = (0.7, -1.2, 0.0, -0.1)
SHARE = ((0.9, 0.1), (0.5, 0.5), (0.3, 0.1), (1.0, 0.0))


def scores(rows, kind=Scores):
    lengths = torch.tensor([len(row) for row in rows])
    token = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    return kind(token.requires_grad_(), torch.arange(len(rows)).repeat_interleave(lengths), len(rows))


def asked(name, **settings):
    """The objective on the four comparisons."""
    every = {
        "score": Pair(scores(CHOSEN), scores(REJECTED)),
        "length_score": Pair(scores(LENGTH_CHOSEN), scores(LENGTH_REJECTED)),
        "writing": Pair(scores(WRITTEN_CHOSEN, Logprobs), scores(WRITTEN_REJECTED, Logprobs)),
        "reference": Pair(scores(FIRST_CHOSEN, Logprobs), scores(FIRST_REJECTED, Logprobs)),
        "margin": torch.tensor(MARGIN, dtype=torch.float64),
        "parted": torch.tensor(PARTED),
        "reward": Pair(*(torch.tensor([share[side] for share in SHARE], dtype=torch.float64) for side in (0, 1))),
    }
    return bind({"name": name, **settings})(**every)


GAPS = [c[-1] - r[-1] for c, r in zip(CHOSEN, REJECTED, strict=True)]

DEFAULTS = {
    "bradley_terry": {"label_smoothing": 0.0, "centering": 0.0},
    "margin": {"scale": 1.0, "centering": 0.0},
    "soft_margin": {"scale": 1.0, "label_smoothing": 0.2},
    "ordinal": {},
    "bradley_terry_nll": {"nll_weight": 0.1},
    "grm": {"weight": 0.01, "beta": 0.1, "rejected": False},
    "grm_dpo": {"weight": 0.01, "beta": 0.1},
    "odin": {"length_weight": 1.0},
    "token_level": {},
    "regression": {},
    "listwise": {},
}


def test_none_is_forgotten():
    assert DEFAULTS.keys() == {name for name, function in OBJECTIVES.items() if stage_of(function) == "reward_model"}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name):
    assert settings_of(OBJECTIVES[name])().model_dump() == DEFAULTS[name]


@pytest.mark.parametrize(("smoothing", "centering"), [(0.0, 0.0), (0.2, 0.0), (0.1, 0.3)])
def test_bradley_terry(smoothing, centering):
    expected = [
        smoothed(gap, smoothing) + centering * (c[-1] + r[-1]) ** 2
        for gap, c, r in zip(GAPS, CHOSEN, REJECTED, strict=True)
    ]
    loss = asked("bradley_terry", label_smoothing=smoothing, centering=centering)
    assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)
    assert loss.stats["reward/margin"].tolist() == pytest.approx(GAPS)
    assert loss.stats["reward/accuracy"].tolist() == [1.0, 1.0, 0.0, 1.0 if GAPS[3] > 0 else 0.0]


@pytest.mark.parametrize("weight", [0.1, 0.4])
def test_bradley_terry_nll(weight):
    expected = [-lsig(gap) - weight * sum(row) / len(row) for gap, row in zip(GAPS, WRITTEN_CHOSEN, strict=True)]
    loss = asked("bradley_terry_nll", nll_weight=weight)
    assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)
    assert loss.stats["reward/margin"].tolist() == pytest.approx(GAPS)


@pytest.mark.parametrize("rejected", [False, True])
def test_grm(rejected):
    a, beta = 0.3, 0.7
    margins = [
        sum(chosen) - rejected * sum(other) for chosen, other in zip(WRITTEN_CHOSEN, WRITTEN_REJECTED, strict=True)
    ]
    expected = [-(1 - a) * lsig(gap) - a * lsig(beta * m) for gap, m in zip(GAPS, margins, strict=True)]
    loss = asked("grm", weight=a, beta=beta, rejected=rejected)
    assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)
    assert loss.stats["regulariser"].tolist() == pytest.approx([-lsig(beta * m) for m in margins])


def test_grm_dpo():
    a, beta = 0.3, 0.7
    rows = zip(WRITTEN_CHOSEN, WRITTEN_REJECTED, FIRST_CHOSEN, FIRST_REJECTED, strict=True)
    margins = [(sum(w) - sum(r)) - (sum(fw) - sum(fr)) for w, r, fw, fr in rows]
    expected = [-(1 - a) * lsig(gap) - a * lsig(beta * m) for gap, m in zip(GAPS, margins, strict=True)]
    assert asked("grm_dpo", weight=a, beta=beta).value.tolist() == pytest.approx(expected, rel=1e-12)


def test_odin():
    lengths = [len(row) for row in CHOSEN + REJECTED]
    quality = statistics.correlation([row[-1] for row in CHOSEN + REJECTED], lengths)
    length = statistics.correlation([row[-1] for row in LENGTH_CHOSEN + LENGTH_REJECTED], lengths)
    others = [c[-1] - r[-1] for c, r in zip(LENGTH_CHOSEN, LENGTH_REJECTED, strict=True)]
    expected = [-lsig(gap + other) + 0.4 * (abs(quality) - length) for gap, other in zip(GAPS, others, strict=True)]
    loss = asked("odin", length_weight=0.4)
    assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)
    assert loss.stats["correlation/quality"].tolist() == pytest.approx([quality] * 4)
    assert loss.stats["reward/margin"].tolist() == pytest.approx(GAPS), "of the head that is kept"


def test_difference_of_unlabelled_answers():
    said = (0.3, -1.0, 2.5)
    row = RankedScores(torch.tensor(said), torch.arange(3), 3)
    expected = sum(1 / (1 + math.exp(-abs(said[i] - said[j]))) for i in range(3) for j in range(i + 1, 3)) * 2 / 9
    assert difference(row).item() == pytest.approx(expected, rel=1e-6)
    same = RankedScores(torch.zeros(4), torch.arange(4), 4)
    assert difference(same).item() == pytest.approx(3 / 8)


def test_answers_of_one_length_have_no_correlation():
    same = Pair(scores(((0.1, 1.0), (0.2, 0.4))), scores(((0.3, 0.6), (0.2, 0.9))))
    loss = bind({"name": "odin"})(score=same, length_score=same)
    loss.value.sum().backward()
    assert loss.stats["correlation/quality"].tolist() == [0.0, 0.0]
    assert torch.isfinite(same.chosen.token.grad).all()


@pytest.mark.parametrize(("scale", "centering"), [(1.0, 0.0), (0.4, 0.0), (0.4, 0.3)])
def test_margin(scale, centering):
    rows = zip(GAPS, MARGIN, CHOSEN, REJECTED, strict=True)
    expected = [-lsig(gap - scale * m) + centering * (c[-1] + r[-1]) ** 2 for gap, m, c, r in rows]
    assert asked("margin", scale=scale, centering=centering).value.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("scale", "smoothing"), [(1.0, 0.2), (0.4, 0.35)])
def test_soft_margin_smooths_below_0_alone(scale, smoothing):
    expected = [smoothed(gap - scale * m, smoothing if m < 0 else 0.0) for gap, m in zip(GAPS, MARGIN, strict=True)]
    loss = asked("soft_margin", scale=scale, label_smoothing=smoothing)
    assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)


def test_ordinal():
    expected = [smoothed(gap, b / (a + b)) for gap, (a, b) in zip(GAPS, SHARE, strict=True)]
    assert asked("ordinal").value.tolist() == pytest.approx(expected, rel=1e-12)


def test_token_level_goes_on_from_where_the_answers_part():
    expected = []
    for c, r, start in zip(CHOSEN, REJECTED, PARTED, strict=True):
        places = range(start, max(len(c), len(r)))
        losses = [-lsig(c[min(t, len(c) - 1)] - r[min(t, len(r) - 1)]) for t in places]
        expected.append(math.fsum(losses) / len(losses))
    assert asked("token_level").value.tolist() == pytest.approx(expected, rel=1e-12)


def test_regression():
    reward = torch.tensor([1.0, 0.0, 3.0, -1.0], dtype=torch.float64)
    loss = bind({"name": "regression"})(score=scores(CHOSEN), reward=reward)
    expected = [(c[-1] - r) ** 2 for c, r in zip(CHOSEN, reward.tolist(), strict=True)]
    assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)


def ranked(rewards):
    return bind({"name": "listwise"})(
        score=scores(CHOSEN, RankedScores), reward=torch.tensor(rewards, dtype=torch.float64)
    )


@pytest.mark.parametrize("rewards", [(4.0, 3.0, 2.0, 1.0), (2.0, 2.0, 1.0, 1.0), (3.0, 1.0, 1.0, 1.0)])
def test_listwise_is_plackett_luce_and_lets_ties_be(rewards):
    expected = 0.0
    for mine, reward in zip(CHOSEN, rewards, strict=True):
        below = [math.exp(other[-1]) for other, rival in zip(CHOSEN, rewards, strict=True) if rival < reward]
        expected -= math.log(math.exp(mine[-1]) / (math.exp(mine[-1]) + sum(below)))
    assert ranked(rewards).value.item() == pytest.approx(expected, rel=1e-12)


def test_listwise_of_two_is_bradley_terry():
    two = bind({"name": "listwise"})(
        score=scores(CHOSEN[:2], RankedScores), reward=torch.tensor([1.0, 0.0], dtype=torch.float64)
    )
    assert two.value.item() == pytest.approx(-lsig(CHOSEN[0][-1] - CHOSEN[1][-1]))


def test_a_reward_is_the_last_score_by_position():
    assert scores(CHOSEN).last.tolist() == [row[-1] for row in CHOSEN]
    without = Scores(torch.tensor([1.0, 2.0]), torch.tensor([0, 2]), 3)
    assert without.last.tolist() == [1.0, 0.0, 2.0]
