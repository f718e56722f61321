"""Objectives of reward models once more in plain Python, from their equations."""

from __future__ import annotations

import math

import pytest
import torch
from by_hand import lsig, smoothed

from truing.objectives import OBJECTIVES, bind, stage_of
from truing.signatures import settings_of
from truing.tensors import Pair, RankedScores, Scores

CHOSEN = ((0.3, -0.2, 1.4), (2.0, 0.1), (-0.6,), (0.5, 0.5, 0.5, -2.0))
REJECTED = ((0.3, 0.9), (2.0, -1.3, 0.4, 0.0), (-0.6, 1.1), (3.0,))
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
        "margin": torch.tensor(MARGIN, dtype=torch.float64),
        "parted": torch.tensor(PARTED),
        "reward": Pair(*(torch.tensor([share[side] for share in SHARE], dtype=torch.float64) for side in (0, 1))),
    }
    return bind({"name": name, **settings})(**every)


GAPS = [c[-1] - r[-1] for c, r in zip(CHOSEN, REJECTED, strict=True)]

DEFAULTS = {
    "bradley_terry": {"label_smoothing": 0.0, "centering": 0.0},
    "margin": {"scale": 1.0},
    "soft_margin": {"scale": 1.0, "label_smoothing": 0.2},
    "ordinal": {},
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


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_margin(scale):
    expected = [-lsig(gap - scale * m) for gap, m in zip(GAPS, MARGIN, strict=True)]
    assert asked("margin", scale=scale).value.tolist() == pytest.approx(expected, rel=1e-12)


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
