"""Objectives of reward models once more in plain Python, from their equations."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from by_hand import lsig, smoothed

from truing.objectives import OBJECTIVES, bind, stage_of
from truing.objectives.batchwise import balanced
from truing.objectives.rewarding import difference
from truing.signatures import settings_of
from truing.tensors import Features, Logprobs, Pair, RankedScores, Scores, StepScores

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
DRAWN = ((0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0))
"""Of each comparison whether a model drew the chosen answer, and the rejected one."""
SHARE = ((0.9, 0.1), (0.5, 0.5), (0.3, 0.1), (1.0, 0.0))


WIDTH = 6
_CHANCES = torch.Generator().manual_seed(0)
VECTORS_CHOSEN, VECTORS_REJECTED = torch.randn(2, 4, WIDTH, generator=_CHANCES, dtype=torch.float64)
UNIFORM_CHOSEN, UNIFORM_REJECTED = torch.rand(2, 4, 2, WIDTH, generator=_CHANCES, dtype=torch.float64)
HEAD = torch.randn(2, WIDTH, generator=_CHANCES, dtype=torch.float64)
PROTOTYPES = torch.randn(3, WIDTH, generator=_CHANCES, dtype=torch.float64)


def features(answers=((0, 1, 2, 3), (4, 5, 6, 7))):
    """What the head reads of the four comparisons, and which answers of the step they are of."""
    return Pair(
        Features(VECTORS_CHOSEN.clone().requires_grad_(), UNIFORM_CHOSEN, torch.tensor(answers[0])),
        Features(VECTORS_REJECTED.clone().requires_grad_(), UNIFORM_REJECTED, torch.tensor(answers[1])),
    )


def scores(rows, kind=Scores):
    lengths = torch.tensor([len(row) for row in rows])
    token = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    return kind(token.requires_grad_(), torch.arange(len(rows)).repeat_interleave(lengths), len(rows))


def asked(name, other=MappingProxyType({}), **settings):
    """The objective on the four comparisons. other: what is offered in place of the usual."""
    every = {
        "score": Pair(scores(CHOSEN), scores(REJECTED)),
        "length_score": Pair(scores(LENGTH_CHOSEN), scores(LENGTH_REJECTED)),
        "writing": Pair(scores(WRITTEN_CHOSEN, Logprobs), scores(WRITTEN_REJECTED, Logprobs)),
        "reference": Pair(scores(FIRST_CHOSEN, Logprobs), scores(FIRST_REJECTED, Logprobs)),
        "margin": torch.tensor(MARGIN, dtype=torch.float64),
        "parted": torch.tensor(PARTED),
        "feature": features(),
        "head": HEAD,
        "prototype": PROTOTYPES,
        "reward": Pair(*(torch.tensor([share[side] for share in SHARE], dtype=torch.float64) for side in (0, 1))),
        "drawn": Pair(*(torch.tensor([each[side] for each in DRAWN], dtype=torch.float64) for side in (0, 1))),
    }
    return bind({"name": name, **settings})(**{**every, **other})


GAPS = [c[-1] - r[-1] for c, r in zip(CHOSEN, REJECTED, strict=True)]

DEFAULTS = {
    "bradley_terry": {"label_smoothing": 0.0, "centering": 0.0},
    "margin": {"scale": 1.0, "centering": 0.0},
    "soft_margin": {"scale": 1.0, "label_smoothing": 0.2},
    "ordinal": {},
    "adversarial": {"kl_weight": 1.0, "game_weight": 0.1, "game": "ranking"},
    "bradley_terry_nll": {"nll_weight": 0.1},
    "grm": {"weight": 0.01, "beta": 0.1, "rejected": False},
    "grm_dpo": {"weight": 0.01, "beta": 0.1},
    "odin": {"length_weight": 1.0, "orthogonality_weight": 1.0},
    "simcse": {"weight": 1.0, "of": "answers", "temperature": 0.05, "dropout": 0.05},
    "swav": {
        "weight": 0.1,
        "of": "answers",
        "prototypes": 50,
        "temperature": 0.1,
        "epsilon": 0.05,
        "iterations": 3,
        "dropout": 0.05,
    },
    "token_level": {},
    "process": {},
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
    heads = 0.7 * abs(cosine(*HEAD.tolist()))
    expected = [
        -lsig(gap + other) + 0.4 * (abs(quality) - length) + heads for gap, other in zip(GAPS, others, strict=True)
    ]
    loss = asked("odin", length_weight=0.4, orthogonality_weight=0.7)
    assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)
    assert loss.stats["head/cosine"].tolist() == pytest.approx([cosine(*HEAD.tolist())] * 4)
    assert loss.stats["correlation/quality"].tolist() == pytest.approx([quality] * 4)
    assert loss.stats["reward/margin"].tolist() == pytest.approx(GAPS), "of the head that is kept"


def test_heads_that_read_the_same_are_pushed_apart():
    """One step down the penalty's slope, from two heads at an angle of 60 degrees; at right angles nothing is left."""
    head = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64, requires_grad=True)
    loss = asked("odin", {"head": head}, length_weight=0.0)
    assert loss.stats["head/cosine"][0].item() == pytest.approx(0.5)
    loss.value.mean().backward()
    nearer = cosine(*(head - 0.1 * head.grad).tolist())
    assert abs(nearer) < 0.5
    right = asked("odin", {"head": torch.eye(2, dtype=torch.float64)}, length_weight=0.0)
    without = asked("odin", {"head": head.detach()}, length_weight=0.0, orthogonality_weight=0.0)
    assert torch.equal(right.value, without.value)


def cosine(one, other):
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def viewed(which, of, dropout):
    """A view of all elements: of all chosen answers and all rejected ones, or of their differences either way."""

    def dropped(vectors, uniform):
        return [
            [x / (1 - dropout) if u >= dropout else 0.0 for x, u in zip(vector, chances[which], strict=True)]
            for vector, chances in zip(vectors.tolist(), uniform.tolist(), strict=True)
        ]

    chosen, rejected = dropped(VECTORS_CHOSEN, UNIFORM_CHOSEN), dropped(VECTORS_REJECTED, UNIFORM_REJECTED)
    if of == "answers":
        return chosen + rejected
    ahead = [[a - b for a, b in zip(c, r, strict=True)] for c, r in zip(chosen, rejected, strict=True)]
    return ahead + [[-x for x in one] for one in ahead]


def with_term(terms, weight):
    """Of each pair the logistic loss and the mean of its two elements' terms."""
    return [-lsig(gap) + weight * (terms[i] + terms[i + 4]) / 2 for i, gap in enumerate(GAPS)]


@pytest.mark.parametrize("of", ["answers", "differences"])
@pytest.mark.parametrize(("temperature", "dropout"), [(0.05, 0.05), (0.7, 0.4), (0.3, 0.0)])
def test_simcse(of, temperature, dropout):
    first, second = (viewed(which, of, dropout) for which in (0, 1))
    terms = []
    for i in range(8):
        weights = [math.exp(cosine(first[i], second[j]) / temperature) for j in range(8)]
        terms.append(-math.log(weights[i] / math.fsum(weights)))
    loss = asked("simcse", weight=0.3, of=of, temperature=temperature, dropout=dropout)
    assert loss.value.tolist() == pytest.approx(with_term(terms, 0.3), rel=1e-9)
    assert loss.stats["contrast"].tolist() == pytest.approx([(terms[i] + terms[i + 4]) / 2 for i in range(4)])
    assert loss.stats["reward/margin"].tolist() == pytest.approx(GAPS)


def test_an_answer_that_is_compared_twice_is_no_rival_of_itself():
    """The chosen answers of the first two pairs are one: neither is pushed away from the other."""
    first, second = (viewed(which, "answers", 0.05) for which in (0, 1))
    terms = []
    for i in range(8):
        rivals = [j for j in range(8) if j == i or {i, j} != {0, 1}]
        weights = {j: math.exp(cosine(first[i], second[j]) / 0.5) for j in rivals}
        terms.append(-math.log(weights[i] / math.fsum(weights.values())))
    twice = {"feature": features(((0, 0, 2, 3), (4, 5, 6, 7)))}
    loss = asked("simcse", twice, temperature=0.5)
    assert loss.value.tolist() == pytest.approx(with_term(terms, 1.0), rel=1e-9)
    assert loss.value[0] < asked("simcse", temperature=0.5).value[0]
    of_differences = asked("simcse", twice, temperature=0.5, of="differences")
    assert torch.equal(of_differences.value, asked("simcse", temperature=0.5, of="differences").value)


def codes(alike, epsilon, iterations):
    """Sinkhorn's iteration in plain numbers."""
    count, groups = len(alike), len(alike[0])
    code = [[math.exp(x / epsilon) for x in row] for row in alike]
    for _ in range(iterations):
        filled = [math.fsum(row[k] for row in code) for k in range(groups)]
        code = [[x / total * count / groups for x, total in zip(row, filled, strict=True)] for row in code]
        code = [[x / math.fsum(row) for x in row] for row in code]
    return code


def softmax(row):
    return [math.exp(x) / math.fsum(map(math.exp, row)) for x in row]


@pytest.mark.parametrize("of", ["answers", "differences"])
@pytest.mark.parametrize(("temperature", "epsilon", "iterations"), [(0.1, 0.05, 3), (0.7, 0.4, 1)])
def test_swav(of, temperature, epsilon, iterations):
    alike = [[[cosine(x, c) for c in PROTOTYPES.tolist()] for x in viewed(which, of, 0.05)] for which in (0, 1)]
    code = [codes(one, epsilon, iterations) for one in alike]
    chance = [[softmax([x / temperature for x in row]) for row in one] for one in alike]
    terms = []
    for i in range(8):
        across = [(code[0][i], chance[1][i]), (code[1][i], chance[0][i])]
        terms.append(-math.fsum(q * math.log(p) for q_s, p_s in across for q, p in zip(q_s, p_s, strict=True)))
    settings = {"of": of, "temperature": temperature, "epsilon": epsilon, "iterations": iterations}
    loss = asked("swav", weight=0.3, prototypes=3, **settings)
    assert loss.value.tolist() == pytest.approx(with_term(terms, 0.3), rel=1e-9)


def test_codes_fill_all_groups_alike():
    """At the end of many rounds, however unevenly the elements lie; and every element's add up to 1 after any."""
    alike = torch.cat([torch.rand(20, 4, dtype=torch.float64), torch.ones(20, 1, dtype=torch.float64)], 1)
    for iterations in (1, 3, 200):
        code = balanced(alike, 0.05, iterations)
        torch.testing.assert_close(code.sum(1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(code.sum(0), torch.full((5,), 4.0, dtype=torch.float64))
    assert balanced(alike, 0.05, 1).sum(0).std() > 0.01, "one round does not do, or this test proves nothing"
    assert torch.isfinite(balanced(alike, 1e-4, 3)).all(), "no exponential is taken of large numbers"


@pytest.mark.parametrize("name", ["simcse", "swav"])
def test_only_directions_are_contrasted(name):
    """The length of a feature, or of a prototype, does not count; codes are given and not learned."""
    prototype = PROTOTYPES.clone().requires_grad_()
    settings = {"prototypes": 3} if name == "swav" else {}
    given = features()
    loss = asked(name, {"feature": given, "prototype": prototype}, **settings)
    longer = Pair(*(replace(one, vector=7 * one.vector.detach()) for one in (given.chosen, given.rejected)))
    again = asked(name, {"feature": longer, "prototype": 3 * prototype.detach()}, **settings)
    torch.testing.assert_close(again.value, loss.value)
    loss.value.sum().backward()
    for one in (given.chosen, given.rejected):
        assert (one.vector.grad * one.vector).sum(1).abs().max() < 1e-12, "the slope is across the vector"
        assert one.vector.grad.abs().max() > 1e-3
    assert name == "simcse" or (prototype.grad.abs().max() > 1e-3)


def test_nothing_dropped_is_the_vector_itself():
    one = features().chosen
    assert torch.equal(one.view(0, 0.0), one.vector)
    for which, dropout in itertools.product((0, 1), (0.3, 0.9)):
        view = one.view(which, dropout)
        gone = UNIFORM_CHOSEN[:, which] < dropout
        assert (view[gone] == 0).all()
        torch.testing.assert_close(view[~gone], one.vector[~gone] / (1 - dropout))


def test_difference_of_unlabelled_answers():
    said = (0.3, -1.0, 2.5)
    row = RankedScores(torch.tensor(said), torch.arange(3), 3)
    expected = sum(1 / (1 + math.exp(-abs(said[i] - said[j]))) for i in range(3) for j in range(i + 1, 3)) * 2 / 9
    assert difference(row).item() == pytest.approx(expected, rel=1e-6)
    same = RankedScores(torch.zeros(4), torch.arange(4), 4)
    assert difference(same).item() == pytest.approx(3 / 8)


def test_answers_of_one_length_have_no_correlation():
    same = Pair(scores(((0.1, 1.0), (0.2, 0.4))), scores(((0.3, 0.6), (0.2, 0.9))))
    loss = bind({"name": "odin"})(score=same, length_score=same, head=HEAD)
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


@pytest.mark.parametrize(("kl", "game"), [(1.0, 0.1), (0.0, 0.3), (0.7, 0.0)])
def test_adversarial_tells_given_answers_from_the_policy_s(kl, game):
    """Only the first and the last comparison are of a given answer against one that was drawn."""
    against = (True, False, False, True)
    for form, played in (("ranking", lambda gap: -lsig(gap)), ("difference", lambda gap: -gap)):
        expected = [game * played(gap) if one else -kl * lsig(gap) for gap, one in zip(GAPS, against, strict=True)]
        loss = asked("adversarial", kl_weight=kl, game_weight=game, game=form)
        assert loss.value.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert loss.stats["reward/margin"].tolist() == pytest.approx(GAPS)


def test_token_level_goes_on_from_where_the_answers_part():
    expected = []
    for c, r, start in zip(CHOSEN, REJECTED, PARTED, strict=True):
        places = range(start, max(len(c), len(r)))
        losses = [-lsig(c[min(t, len(c) - 1)] - r[min(t, len(r) - 1)]) for t in places]
        expected.append(math.fsum(losses) / len(losses))
    assert asked("token_level").value.tolist() == pytest.approx(expected, rel=1e-12)


def test_process():
    """Two answers of three and two steps, which end at these tokens of theirs."""
    ends, right = ((0, 1, 2), (0, 1)), ((True, True, False), (False, True))
    step = torch.tensor([0, 1, 2, 3, 4])
    loss = bind({"name": "process"})(score=scores(CHOSEN[:2]).at(step), right=torch.tensor([*right[0], *right[1]]))
    said = [(CHOSEN[a][end], ok) for a in (0, 1) for end, ok in zip(ends[a], right[a], strict=True)]
    assert loss.value.tolist() == pytest.approx([-lsig(r) if ok else -lsig(-r) for r, ok in said], rel=1e-12)
    assert loss.stats["reward/accuracy"].tolist() == [float((r > 0) == ok) for r, ok in said]
    assert loss.stats["step/right"].mean() == 3 / 5


def test_process_is_a_classifier_of_two_classes_whose_logits_differ_by_the_score():
    """As other trainers of process rewards have it: cross-entropy of a head with two outputs."""
    said = torch.tensor([0.3, -1.2, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    right = torch.tensor([True, True, False, False])
    loss = bind({"name": "process"})(score=StepScores(said, torch.tensor([0, 0, 1, 1]), 2), right=right)
    logits = torch.stack([said - 7.0 - said, said - 7.0], 1).detach().requires_grad_()
    other = torch.nn.functional.cross_entropy(logits, right.long(), reduction="none")
    torch.testing.assert_close(loss.value, other)
    loss.value.sum().backward()
    other.sum().backward()
    torch.testing.assert_close(said.grad, logits.grad[:, 1])


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
