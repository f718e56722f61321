"""Each objective at values worked by hand, and the identities its paper states."""

from __future__ import annotations

import decimal
import math
import random
from types import SimpleNamespace

import pytest
import torch
from by_hand import BATCHWISE, EVERY, LIKELIHOOD, LISTWISE, PAIRWISE, POINTWISE, Said, weight_of
from hypothesis import given
from hypothesis import strategies as st

from truing.objectives import OBJECTIVES, bind, stage_of
from truing.objectives.likelihood import nll
from truing.objectives.pairwise import dpo
from truing.objectives.shared import better, log1mexp, logistic
from truing.signatures import settings_of
from truing.tensors import Logprobs, Pair, PerToken, Ranking


def answers(*sums):
    """Answers of two tokens each, whose log-probs sum to `sums`."""
    token = torch.tensor([share for total in sums for share in (0.25 * total, 0.75 * total)], dtype=torch.float64)
    completion = torch.repeat_interleave(torch.arange(len(sums)), 2)
    return Logprobs(token.requires_grad_(), completion, len(sums))


def test_nll_is_minus_the_logprob():
    assert nll(answers(-4.0)).value.tolist() == [1.0, 3.0]


class TestDpo:
    POLICY = ((-10.0, -7.0), (-12.0, -5.0))
    REFERENCE = ((-11.0, -6.0), (-11.0, -8.0))
    # chosen log-ratios 1 and -1, rejected -1 and 3: margins 2 and -4 before beta

    def loss(self, **settings):
        policy = Pair(*(answers(*some) for some in self.POLICY))
        reference = Pair(*(answers(*some) for some in self.REFERENCE))
        return policy, dpo(policy, reference, **settings)

    def test_at_the_reference_is_ln_2(self):
        same = Pair(answers(-3.0, -50.0), answers(-9.0, -0.5))
        loss = dpo(same, same)
        assert loss.value.tolist() == [math.log(2)] * 2
        assert loss.stats["reward/accuracy"].tolist() == [0.5, 0.5]
        assert loss.stats["reward/margin"].tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("beta", [0.1, 0.5])
    def test_by_hand(self, beta):
        _, loss = self.loss(beta=beta)
        expected = [math.log(1 + math.exp(-beta * 2)), math.log(1 + math.exp(beta * 4))]
        assert loss.value.tolist() == pytest.approx(expected, rel=1e-12)
        assert loss.stats["reward/margin"].tolist() == pytest.approx([2 * beta, -4 * beta])
        assert loss.stats["reward/chosen"].tolist() == pytest.approx([beta, -beta])
        assert loss.stats["reward/rejected"].tolist() == pytest.approx([-beta, 3 * beta])
        assert loss.stats["reward/accuracy"].tolist() == [1.0, 0.0]
        assert loss.stats["logprob/chosen"].tolist() == [-10.0, -7.0]
        assert loss.stats["logprob/rejected"].tolist() == [-12.0, -5.0]

    def test_label_smoothing_by_hand(self):
        _, loss = self.loss(beta=1.0, label_smoothing=0.25)
        down, up = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
        assert loss.value[0].item() == pytest.approx(0.75 * down + 0.25 * up, rel=1e-12)

    def test_labels_fully_flipped_swap_the_answers(self):
        policy, loss = self.loss(label_smoothing=1.0)
        reference = Pair(*(answers(*some) for some in self.REFERENCE))
        swapped = dpo(Pair(policy.rejected, policy.chosen), Pair(reference.rejected, reference.chosen))
        torch.testing.assert_close(loss.value, swapped.value)

    def test_gradient_by_hand(self):
        """Eq. 8: -beta * sigmoid(-margin) on each token of chosen, the opposite on rejected."""
        policy, loss = self.loss(beta=0.5)
        loss.value.sum().backward()
        slope = [0.5 / (1 + math.exp(0.5 * margin)) for margin in (2, -4)]
        assert policy.chosen.token.grad.tolist() == pytest.approx([-slope[0]] * 2 + [-slope[1]] * 2, rel=1e-12)
        assert policy.rejected.token.grad.tolist() == pytest.approx([slope[0]] * 2 + [slope[1]] * 2, rel=1e-12)

    def test_gradient_signs(self):
        policy, loss = self.loss()
        loss.value.sum().backward()
        assert (policy.chosen.token.grad < 0).all(), "descent must raise the chosen answer"
        assert (policy.rejected.token.grad > 0).all(), "descent must lower the rejected answer"

    @given(st.floats(-50, 50), st.floats(-200, -1), st.floats(-200, -1))
    def test_only_log_ratios_count(self, shift, chosen, rejected):
        """Adding the same to policy and reference of an answer changes nothing."""
        policy, reference = Pair(answers(-4.0), answers(-5.0)), Pair(answers(chosen), answers(rejected))
        moved = Pair(answers(-4.0 + shift), answers(-5.0 - shift))
        moved_reference = Pair(answers(chosen + shift), answers(rejected - shift))
        torch.testing.assert_close(dpo(policy, reference).value, dpo(moved, moved_reference).value, atol=1e-9, rtol=0)


def test_logistic_far_out():
    assert logistic(torch.tensor([1e4, -1e4])).tolist() == [0.0, 1e4]


def test_better_counts_ties_half():
    assert better(torch.tensor([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]


def made(kind, lists):
    """Answers of these tokens."""
    completion = torch.repeat_interleave(torch.arange(len(lists)), torch.tensor([len(some) for some in lists]))
    token = torch.tensor([x for some in lists for x in some], dtype=torch.float64)
    return kind(token, completion, len(lists))


def offered(answers):
    """What the objectives ask of some answers."""
    return {
        "policy": made(Logprobs, [a.ours for a in answers]),
        "reference": made(Logprobs, [a.theirs for a in answers]),
        "divergence": made(PerToken, [a.divergence for a in answers]),
        "concentration": made(PerToken, [a.concentration for a in answers]),
        "reward": torch.tensor([a.reward for a in answers], dtype=torch.float64),
        "from_reference": torch.tensor([a.known for a in answers], dtype=torch.float64),
        "label": torch.tensor([a.up for a in answers]),
    }


def on_pairs(name, rows, strength=None, uniform=None, memory=None, **settings):
    """The objective on (chosen, rejected) rows, and the pair of log-probabilities whose gradient can be taken."""
    chosen, rejected = offered([c for c, _ in rows]), offered([r for _, r in rows])
    both = {key: Pair(chosen[key], rejected[key]) for key in chosen}
    both["policy"].chosen.token.requires_grad_()
    both["policy"].rejected.token.requires_grad_()
    both["strength"] = torch.tensor(strength or [1.0] * len(rows), dtype=torch.float64)
    both["uniform"] = torch.tensor(uniform or [0.5] * len(rows), dtype=torch.float64)
    return bind({"name": name, **settings})(**both, memory=memory or {}), both["policy"]


def on_answers(name, answers, kl=0.0, memory=None, **settings):
    given = offered(answers)
    given["policy"].token.requires_grad_()
    loss = bind({"name": name, **settings})(**given, kl=torch.tensor(kl, dtype=torch.float64), memory=memory or {})
    return loss, given["policy"]


def on_ranking(name, row, **settings):
    given = offered(row)
    policy, reference = (
        Ranking(values.token, values.completion, values.count) for values in (given["policy"], given["reference"])
    )
    policy.token.requires_grad_()
    return bind({"name": name, **settings})(policy=policy, reference=reference, reward=given["reward"]), policy


A = Said((-0.4, -1.3, -0.2), (-0.9, -0.8, -1.1), (0.05, 0.2, 0.1), (-0.7, -1.5, -0.3), 0.8, 1.0, True)  # D = 0.9
B = Said((-2.0,), (-1.1,), (0.3,), (-1.0,), 0.3, 0.0, False)  # D = -0.9
C = Said((-1.6, -0.7), (-0.6, -0.4), (0.4, 0.02), (-1.9, -0.8), 0.6, 0.0, True)  # D = -1.3
D = Said((-0.3, -0.6, -0.9, -0.1), (-1.5, -0.2, -0.8, -1.9), (0.1, 0.1, 0.3, 0.2), (-0.4, -0.9, -0.5, -0.2), 0.1, 1.0,
         False)  # fmt: skip  # D = 2.5
ROWS = ((A, B), (C, D), (D, A), (B, C), (A, C))
STRENGTH = (1.0, 0.4, 2.5, 3.0, 0.1)

SETTINGS = {
    "dpo": [{"beta": 0.1, "label_smoothing": 0.0}, {"beta": 0.7, "label_smoothing": 0.2}],
    "robust_dpo": [{"beta": 0.1, "label_smoothing": 0.1}, {"beta": 0.7, "label_smoothing": 0.3}],
    "ipo": [{"tau": 0.1}, {"tau": 0.8}],
    "ipo_sum": [{"tau": 0.1}, {"tau": 0.8}],
    "hinge": [{"beta": 0.1}, {"beta": 0.9}],
    "rso": [{"gamma": 0.05}, {"gamma": 0.9}],
    "slic": [{"delta": 1.0, "weight": 0.1}, {"delta": 0.35, "weight": 0.6}],
    "simpo": [
        {"beta": 2.0, "gamma": 0.5, "label_smoothing": 0.0},
        {"beta": 0.7, "gamma": 1.5, "label_smoothing": 0.2},
    ],
    "alphapo": [{"beta": 2.0, "gamma": 0.5, "alpha": 0.25}, {"beta": 0.7, "gamma": 0.0, "alpha": 1.5}],
    "cpo": [
        {"beta": 0.1, "nll_weight": 1.0, "label_smoothing": 0.0},
        {"beta": 0.7, "nll_weight": 0.3, "label_smoothing": 0.2},
    ],
    "orpo": [{"weight": 0.1}, {"weight": 2.0}],
    "dpop": [{"beta": 0.3, "penalty": 50.0}, {"beta": 0.9, "penalty": 0.4}],
    "r_dpo": [{"beta": 0.1, "length_weight": 0.01}, {"beta": 0.7, "length_weight": 0.6}],
    "ld_dpo": [{"beta": 0.1, "tail_weight": 0.5}, {"beta": 0.7, "tail_weight": 0.0}],
    "ln_dpo": [{"beta": 5.0}, {"beta": 0.7}],
    "soft_dpo": [{"beta": 0.1}, {"beta": 0.7}],
    "odpo": [{"beta": 0.1, "alpha": 1.0}, {"beta": 0.7, "alpha": 0.4}],
    "f_dpo": [{"beta": 0.1, "divergence": kind} for kind in ("js", "reverse_kl", "forward_kl", 0.5, 0.2)],
    "exo": [{"beta": 0.1, "label_smoothing": 1e-3}, {"beta": 0.7, "label_smoothing": 0.3}],
    "nca": [{"beta": 0.1}, {"beta": 0.7}],
    "bco_pair": [{"beta": 0.1}, {"beta": 0.7}],
    "sppo_hard": [{"eta": 1000.0}, {"eta": 0.7}],
    "sppo": [{"eta": 1000.0}, {"eta": 0.7}],
    "apo_zero": [{"beta": 0.1}, {"beta": 0.7}],
    "apo_down": [{"beta": 0.1}, {"beta": 0.7}],
    "discopop": [{"beta": 0.05, "tau": 0.05}, {"beta": 0.7, "tau": 2.0}],
    "wpo": [{"beta": 0.1}, {"beta": 0.7}],
    "cal_dpo": [{"beta": 0.002, "weight": 0.5}, {"beta": 0.7, "weight": 0.1}],
    "tdpo1": [{"beta": 0.1}, {"beta": 0.7}],
    "tdpo2": [{"beta": 0.1, "alpha": 0.5}, {"beta": 0.7, "alpha": 2.0}],
    "spin": [{"beta": 0.1}, {"beta": 0.7}],
    "xpo": [{"beta": 0.1, "alpha": 1e-5}, {"beta": 0.7, "alpha": 0.3}],
    "unlikelihood": [{"alpha": 0.1}, {"alpha": 0.8}],
    "rpo": [{"beta": 0.1, "nll_weight": 1.0}, {"beta": 0.7, "nll_weight": 0.3}],
    "mpo": [
        {"beta": 0.1, "preference_weight": 0.8, "quality_weight": 0.2, "nll_weight": 1.0},
        {"beta": 0.7, "preference_weight": 0.5, "quality_weight": 1.7, "nll_weight": 0.3},
    ],
    "kto": [
        {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        {"beta": 0.7, "desirable_weight": 1.3, "undesirable_weight": 0.6},
    ],
    "apo_zero_unpaired": [{"beta": 0.1}, {"beta": 0.7}],
    "token_unlikelihood": [{"alpha": 1.0}, {"alpha": 0.3}],
    "weighted_nll": [{}],
    "reward_weighted": [{"beta": 1.0, "max_weight": 20.0}, {"beta": 0.3, "max_weight": 5.0}],
    "plackett_luce": [{"beta": 0.1}, {"beta": 0.7}],
    "lipo": [{"beta": 0.1}, {"beta": 0.7}],
    "info_nca": [{"beta": 0.1, "alpha": 1.0}, {"beta": 0.7, "alpha": 0.2}],
    "rrhf": [{"length_exponent": 1.0, "nll_weight": 1.0}, {"length_exponent": 0.4, "nll_weight": 0.3}],
    "pro": [{"nll_weight": 0.05}, {"nll_weight": 0.7}],
    "tpo": [{"beta": 0.01, "nll_weight": 1.0}, {"beta": 0.7, "nll_weight": 0.3}],
    "nll": [{}],
    "dft": [{}],
    "csft": [{}],
    "chain_of_hindsight": [{}],
    "aot": [{"beta": 0.1, "label_smoothing": 0.0}, {"beta": 0.7, "label_smoothing": 0.2}],
    "aot_unpaired": [{"beta": 0.1, "label_smoothing": 0.0}, {"beta": 0.7, "label_smoothing": 0.2}],
    "bco": [{"beta": 0.1, "decay": 0.9}, {"beta": 0.7, "decay": 0.3}],
    "beta_dpo": [
        {"beta": 0.1, "alpha": 0.6, "keep": 0.8, "decay": 0.9},
        {"beta": 0.7, "alpha": 0.2, "keep": 0.4, "decay": 0.3},
        {"beta": 0.1, "alpha": 90.0, "keep": 0.2, "decay": 0.3},
    ],
}
"""For every objective its defaults, spelled out so that they are held to the papers' values, and something else."""


def cases(of):
    return [pytest.param(name, settings, id=f"{name}-{i}") for name in of for i, settings in enumerate(SETTINGS[name])]


class TestEveryObjectiveByHand:
    def test_none_is_forgotten(self):
        of_policies = {name for name, function in OBJECTIVES.items() if stage_of(function) != "reward_model"}
        assert EVERY.keys() == of_policies == SETTINGS.keys()

    @pytest.mark.parametrize("name", SETTINGS)
    def test_defaults(self, name):
        usual = settings_of(OBJECTIVES[name])().model_dump()
        assert usual == SETTINGS[name][0]

    @pytest.mark.parametrize(("name", "settings"), cases(PAIRWISE))
    def test_pairs(self, name, settings):
        loss, _ = on_pairs(name, ROWS, STRENGTH, **settings)
        expected = [
            PAIRWISE[name](c, r, SimpleNamespace(**settings, strength=strength))
            for (c, r), strength in zip(ROWS, STRENGTH, strict=True)
        ]
        assert loss.value.tolist() == pytest.approx(expected, rel=1e-11)

    @pytest.mark.parametrize(("name", "settings"), cases(POINTWISE))
    @pytest.mark.parametrize("kl", [0.0, 0.8])
    def test_answers(self, name, settings, kl):
        loss, _ = on_answers(name, (A, B, C, D), kl, **settings)
        expected = [POINTWISE[name](a, SimpleNamespace(**settings, kl=kl)) for a in (A, B, C, D)]
        assert loss.value.tolist() == pytest.approx(expected, rel=1e-11)

    @pytest.mark.parametrize(("name", "settings"), cases(LISTWISE))
    @pytest.mark.parametrize(
        "row",
        [(A, B), (A, C, B), (A, C, B, D), (A, A._replace(ours=(-0.9, -0.7)), C, B._replace(reward=0.6), D)],
        ids=["two", "three", "four", "ties"],
    )
    def test_rankings(self, name, settings, row):
        loss, _ = on_ranking(name, row, **settings)
        assert loss.value.item() == pytest.approx(LISTWISE[name](row, SimpleNamespace(**settings)), rel=1e-11)

    @pytest.mark.parametrize("name", LIKELIHOOD)
    def test_tokens(self, name):
        loss, policy = on_answers(name, (A, B, D))
        assert loss.value.tolist() == pytest.approx([LIKELIHOOD[name](x) for a in (A, B, D) for x in a.ours])
        if name != "dft":
            return
        loss.value.sum().backward()
        assert policy.token.grad.tolist() == pytest.approx([-math.exp(x) for a in (A, B, D) for x in a.ours])

    @pytest.mark.parametrize(("name", "settings"), cases(["aot", "aot_unpaired"]))
    def test_transport_against_brute_force(self, name, settings):
        loss, _ = on_pairs(name, ROWS, **settings)
        expected = BATCHWISE[name](ROWS, SimpleNamespace(**settings))
        assert sorted(loss.value.tolist()) == pytest.approx(sorted(expected), rel=1e-11)
        ours = [c.sum - r.sum if name == "aot" else c.ratio for c, r in ROWS]
        by_rank = [loss.value[place].item() for place in sorted(range(len(ROWS)), key=lambda place: ours[place])]
        assert by_rank == pytest.approx(expected, rel=1e-11), "each loss stays with its row"

    @pytest.mark.parametrize(("name", "settings"), cases(["bco"]))
    def test_bco_over_two_steps(self, name, settings):
        shift, memory = None, {}
        for step in ((A, B, D), (C, A, A, B)):  # the mean of both kinds, however many there are of each
            loss, _ = on_answers(name, step, memory=memory, **settings)
            expected, shift = BATCHWISE[name](step, SimpleNamespace(**settings), shift)
            assert loss.value.tolist() == pytest.approx(expected, rel=1e-11)
            assert loss.memory["shift"].item() == pytest.approx(shift, rel=1e-11)
            memory = loss.memory

    @pytest.mark.parametrize(("name", "settings"), cases(["beta_dpo"]))
    def test_beta_dpo_over_three_steps(self, name, settings):
        known, memory = (0.0, 1.0), {}
        for step, uniform in (
            (ROWS, [0.9, 0.2, 0.4, 0.05, 0.7]),
            (ROWS[:3], [0.3, 0.9, 0.1]),
            (ROWS[::-1], [0.1, 0.95, 0.5, 0.6, 0.3]),
        ):
            loss, _ = on_pairs(name, step, uniform=uniform, memory=memory, **settings)
            expected, known = BATCHWISE[name](step, uniform, SimpleNamespace(**settings), known)
            assert loss.value.tolist() == pytest.approx(expected, rel=1e-9)
            assert (loss.memory["middle"].item(), loss.memory["spread"].item()) == pytest.approx(known, rel=1e-11)
            assert loss.stats["kept"].tolist() == [float(x > 0) for x in expected]
            memory = loss.memory


HELD = {
    "tdpo1": "the divergence's own gradient is the engine's",
    "tdpo2": "the same, and K(chosen) is held",
    "wpo": "the weight is held",
}


@pytest.mark.parametrize(("name", "settings"), cases([name for name in PAIRWISE if name not in HELD]))
def test_gradients_of_pairs_by_finite_differences(name, settings):
    """Of the plain Python, so that nothing is detached that should not be."""
    strength = 0.4
    s = SimpleNamespace(**settings, strength=strength)
    for c, r in ROWS:
        loss, policy = on_pairs(name, [(c, r)], [strength], **settings)
        loss.value.sum().backward()
        for side, answer in (("chosen", c), ("rejected", r)):
            for place, slope in enumerate(getattr(policy, side).token.grad.tolist()):

                def moved(by, answer=answer, place=place, side=side, c=c, r=r):
                    ours = [x + by * (at == place) for at, x in enumerate(answer.ours)]
                    other = answer._replace(ours=ours)
                    return PAIRWISE[name](other, r, s) if side == "chosen" else PAIRWISE[name](c, other, s)

                assert slope == pytest.approx((moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(("name", "settings"), cases(["plackett_luce", "info_nca", "rrhf", "pro", "tpo", "lipo"]))
def test_gradients_of_rankings_by_finite_differences(name, settings):
    row, s = (A, C, B, D), SimpleNamespace(**settings)
    loss, policy = on_ranking(name, row, **settings)
    loss.value.backward()
    expected = []
    for which, answer in enumerate(row):
        for place in range(len(answer.ours)):
            values = []
            for by in (1e-5, -1e-5):
                ours = [x + by * (at == place) for at, x in enumerate(answer.ours)]
                values.append(LISTWISE[name]([*row[:which], answer._replace(ours=ours), *row[which + 1 :]], s))
            expected.append((values[0] - values[1]) / 2e-5)
    assert policy.token.grad.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-8)


class TestWhatIsHeld:
    def test_wpo_gets_no_gradient_through_its_weight(self):
        loss, policy = on_pairs("wpo", ROWS, beta=0.7)
        plain, other = on_pairs("dpo", ROWS, beta=0.7)
        weight = torch.tensor([weight_of(c, r) for c, r in ROWS], dtype=torch.float64)
        loss.value.sum().backward()
        (plain.value * weight).sum().backward()
        torch.testing.assert_close(policy.chosen.token.grad, other.chosen.token.grad)
        torch.testing.assert_close(policy.rejected.token.grad, other.rejected.token.grad)
        assert loss.stats["weight"].tolist() == pytest.approx(weight.tolist())
        assert 1.0 in weight.tolist(), "one pair is held at 1"
        assert weight.min() < 0.5

    @pytest.mark.parametrize(("name", "share"), [("tdpo1", 1.0), ("tdpo2", 0.0)])
    def test_tdpo_and_the_divergences(self, name, share):
        """With g = beta sigmoid(-margin): -g to D_w and K_w (in tdpo2 to D_w alone), +g and +alpha g to D_l and K_l."""
        settings = SETTINGS[name][1]
        chosen, rejected = offered([A]), offered([B])
        both = {key: Pair(chosen[key], rejected[key]) for key in ("policy", "reference", "divergence")}
        asked = [both[key] for key in ("policy", "divergence")]
        for values in asked:
            values.chosen.token.requires_grad_()
            values.rejected.token.requires_grad_()
        loss = bind({"name": name, **settings})(**both)
        tensors = [side.token for values in asked for side in (values.chosen, values.rejected)]
        slopes = torch.autograd.grad(loss.value.sum(), tensors, allow_unused=True)
        value = PAIRWISE[name](A, B, SimpleNamespace(**settings))
        g = settings["beta"] * (1 - math.exp(-value))
        alpha = settings.get("alpha", 1.0)
        for slope, wanted, tensor in zip(slopes, (-g, g, -share * g, alpha * g), tensors, strict=True):
            got = torch.zeros_like(tensor) if slope is None else slope
            assert got.tolist() == pytest.approx([wanted] * len(tensor))

    def test_beta_dpo_gets_no_gradient_through_beta(self):
        uniform = [0.5] * len(ROWS)
        loss, policy = on_pairs("beta_dpo", ROWS, uniform=uniform, keep=1.0)
        loss.value.sum().backward()
        beta = loss.stats["beta"][0].item()
        plain, other = on_pairs("dpo", ROWS, beta=beta)
        plain.value.sum().backward()
        assert beta != 0.1
        torch.testing.assert_close(policy.chosen.token.grad, other.chosen.token.grad)

    def test_bco_gets_no_gradient_through_its_shift(self):
        loss, policy = on_answers("bco", (A, B, D), beta=0.7)
        loss.value.sum().backward()
        shift = loss.memory["shift"].item()
        expected = []
        for a in (A, B, D):
            reward = 0.7 * a.ratio
            slope = -0.7 / (1 + math.exp(reward - shift)) if a.up else 0.7 / (1 + math.exp(shift - reward))
            expected += [slope] * len(a.ours)
        assert policy.token.grad.tolist() == pytest.approx(expected)


def same(*sums, **changes):
    """Answers of which policy and reference say the same."""
    return [
        Said((0.25 * x, 0.75 * x), (0.25 * x, 0.75 * x), (0.0, 0.0), (-0.4, -0.9))._replace(**changes) for x in sums
    ]


LN2 = math.log(2)
AT_THE_REFERENCE = [
    ("dpo", {}, LN2),
    ("dpo", {"label_smoothing": 0.3}, LN2),
    *[("robust_dpo", {"label_smoothing": e}, LN2) for e in (0.0, 0.1, 0.49)],
    *[("ipo", {"tau": tau}, 1 / (4 * tau**2)) for tau in (0.1, 2.0)],
    *[("ipo_sum", {"tau": tau}, 1 / (4 * tau**2)) for tau in (0.1, 2.0)],
    ("hinge", {}, 1.0),
    ("rso", {}, 1.0),
    ("dpop", {}, LN2),
    ("ld_dpo", {}, LN2),
    ("ln_dpo", {}, LN2),
    ("odpo", {}, LN2),
    *[("f_dpo", {"divergence": kind}, LN2) for kind in ("reverse_kl", "forward_kl", "js", 0.3)],
    *[("exo", {"label_smoothing": e}, -LN2 - 0.5 * math.log(e * (1 - e))) for e in (1e-3, 0.2)],
    ("nca", {}, 2 * LN2),
    ("bco_pair", {}, 2 * LN2),
    *[("sppo_hard", {"eta": eta}, 2 * (eta / 2) ** 2) for eta in (1.0, 1000.0)],
    ("apo_zero", {}, 1.0),
    ("apo_down", {}, 1.0),
    ("discopop", {}, (LN2 + 1) / 2),
    ("tdpo1", {}, LN2),
    ("tdpo2", {}, LN2),
    ("spin", {}, LN2),
    ("cal_dpo", {"beta": 0.5, "weight": 0.25}, LN2 + 0.5),
    ("aot", {}, LN2),
    ("aot_unpaired", {}, LN2),
    ("beta_dpo", {"keep": 1.0}, LN2),
]


class TestAtTheReference:
    """Section by section of the papers: what the loss is where policy and reference agree."""

    @pytest.mark.parametrize(("name", "settings", "expected"), AT_THE_REFERENCE)
    def test_pairs(self, name, settings, expected):
        rows = list(zip(same(-3.0, -50.0), same(-9.0, -0.5), strict=True))
        loss, _ = on_pairs(name, rows, **settings)
        assert loss.value.tolist() == pytest.approx([expected] * 2, rel=1e-12)
        assert loss.stats["reward/margin"].tolist() == [0.0, 0.0]
        assert loss.stats["reward/accuracy"].tolist() == [0.5, 0.5]

    def test_wpo_is_its_weight_times_ln_2(self):
        rows = list(zip(same(-3.0, -5.0), same(-9.0, -0.5), strict=True))
        loss, _ = on_pairs("wpo", rows)
        assert loss.value.tolist() == pytest.approx([weight_of(c, r) * LN2 for c, r in rows], rel=1e-12)

    def test_r_dpo_is_ln_2_where_lengths_agree(self):
        (long,) = same(-9.0, ours=(-1.0,) * 3, theirs=(-1.0,) * 3)
        (short,) = same(-3.0)
        loss, _ = on_pairs("r_dpo", [(*same(-3.0), *same(-4.0)), (long, short)], length_weight=0.2)
        assert loss.value.tolist() == pytest.approx([LN2, math.log(1 + math.exp(-0.2))])

    @pytest.mark.parametrize(("up", "expected"), [(True, 0.5 * 1.3), (False, 0.5 * 0.7)])
    def test_kto_is_half_the_weight(self, up, expected):
        loss, _ = on_answers("kto", same(-3.0, up=up), desirable_weight=1.3, undesirable_weight=0.7)
        assert loss.value.item() == pytest.approx(expected)

    @pytest.mark.parametrize(("name", "expected"), [("bco", LN2), ("apo_zero_unpaired", 0.5)])
    def test_thumbs(self, name, expected):
        loss, _ = on_answers(name, [*same(-3.0, up=True), *same(-4.0, up=False)])
        assert loss.value.tolist() == pytest.approx([expected] * 2)

    @pytest.mark.parametrize("answers", [2, 3, 5])
    def test_rankings(self, answers):
        row = [a._replace(reward=-float(i)) for i, a in enumerate(same(*[-1.0 - i for i in range(answers)]))]
        plackett, _ = on_ranking("plackett_luce", row)
        assert plackett.value.item() == pytest.approx(math.log(math.factorial(answers)))
        contrast, _ = on_ranking("info_nca", row)
        assert contrast.value.item() == pytest.approx(math.log(answers))

    def test_soft_sppo_of_an_even_match_is_0(self):
        loss, _ = on_pairs("sppo", [(*same(-3.0, reward=0.5), *same(-4.0, reward=0.5))])
        assert loss.value.item() == 0.0


def slopes(name, c, r, **settings):
    """Gradient of the loss to the log-probability of the chosen and of the rejected answer, per token."""
    loss, policy = on_pairs(name, [(c, r)], **settings)
    loss.value.sum().backward()
    return [
        0.0 if side.token.grad is None else side.token.grad.mean().item() for side in (policy.chosen, policy.rejected)
    ]


PAIRS_OF_ANY_KIND = [*PAIRWISE, "aot", "aot_unpaired", "beta_dpo"]
DISCOPOP = {"discopop": {"tau": 1.0}}
"""At its own tau of 0.05 its slope at the reference points the other way; see its own test."""


class TestGradientSigns:
    @pytest.mark.parametrize("name", PAIRS_OF_ANY_KIND)
    @pytest.mark.parametrize("lead", [0.0, -2.0])
    def test_a_step_down_raises_the_chosen_over_the_rejected(self, name, lead):
        (c,), (r,) = same(-3.0, reward=0.9), same(-3.2, reward=0.2)
        c = c._replace(ours=tuple(x + lead / 4 for x in c.ours))
        r = r._replace(ours=tuple(x - lead / 4 for x in r.ours))
        up, down = slopes(name, c, r, **DISCOPOP.get(name, {}))
        assert down - up > 1e-9, "h rises by slope(rejected) - slope(chosen)"

    def test_discopop_turns_at_the_reference(self):
        """At tau 0.05 the loss of h = 0 falls towards a lower h, to a minimum left of it: the paper says so."""
        (c,), (r,) = same(-3.0), same(-3.2)
        up, _ = slopes("discopop", c, r)
        assert up == pytest.approx(0.05 * ((1 - LN2) / (4 * 0.05) - 0.75))
        assert up > 0
        up, _ = slopes("discopop", c._replace(theirs=(-20.0, -20.0)), r)
        assert up < 0

    def test_apo_down_does_not_touch_the_chosen_at_the_reference(self):
        up, down = slopes("apo_down", *same(-3.0), *same(-4.0))
        assert up == 0.0
        assert down == pytest.approx(0.1 / 4)

    @pytest.mark.parametrize(
        ("name", "settings"),
        [("dpop", {"beta": 1.0}), ("cal_dpo", {"beta": 0.05}), ("nca", {"beta": 1.0}), ("bco_pair", {"beta": 1.0}),
         ("apo_zero", {"beta": 1.0})],
    )  # fmt: skip
    def test_some_push_the_chosen_up_even_where_the_pair_is_won(self, name, settings):
        """D_w = -1, D_l = -30: dpo is content, and lets the chosen answer fall."""
        (c,), (r,) = same(-3.0), same(-4.0)
        c, r = c._replace(ours=(-1.25, -2.75)), r._replace(ours=(-16.0, -18.0))
        up, _ = slopes(name, c, r, **settings)
        assert up < -0.1
        assert abs(slopes("dpo", c, r, beta=1.0)[0]) < 1e-11

    @pytest.mark.parametrize("name", ["kto", "bco", "apo_zero_unpaired", "token_unlikelihood"])
    def test_thumbs_raise_and_lower(self, name):
        loss, policy = on_answers(name, [*same(-3.0, up=True), *same(-4.0, up=False)])
        loss.value.sum().backward()
        assert (policy.token.grad[:2] < 0).all()
        assert (policy.token.grad[2:] > 0).all()

    @pytest.mark.parametrize("name", LISTWISE)
    def test_rankings_raise_the_best_over_the_worst(self, name):
        row = [a._replace(reward=2.0 - i) for i, a in enumerate(same(-3.0, -2.9, -2.8))]
        loss, policy = on_ranking(name, row)
        loss.value.backward()
        best, worst = policy.token.grad[:2].mean().item(), policy.token.grad[4:].mean().item()
        assert best < worst

    @pytest.mark.parametrize("name", PAIRS_OF_ANY_KIND)
    def test_accuracy_and_margin_have_the_preferences_sign(self, name):
        good, bad = Said((-0.1,) * 2, (-1.0,) * 2, (0.0,) * 2, (-1.0,) * 2), Said((-2.0,) * 2, (-1.0,) * 2, (0.0,) * 2,
                                                                              (-1.0,) * 2)  # fmt: skip
        loss, _ = on_pairs(name, [(good, bad), (bad, good)])
        assert loss.stats["reward/accuracy"].tolist() == [1.0, 0.0]
        assert loss.stats["reward/margin"][0] > 0 > loss.stats["reward/margin"][1]


def values_of(name, rows=ROWS, **settings):
    return on_pairs(name, rows, **settings)[0].value.tolist()


class TestRelations:
    """What one paper says of another one's loss."""

    @pytest.mark.parametrize(
        ("one", "settings", "other", "others"),
        [
            ("rso", {"gamma": 0.3}, "hinge", {"beta": 0.3}),
            ("spin", {"beta": 0.3}, "dpo", {"beta": 0.3}),
            ("robust_dpo", {"beta": 0.3, "label_smoothing": 0.0}, "dpo", {"beta": 0.3}),
            ("odpo", {"beta": 0.3, "alpha": 0.0}, "dpo", {"beta": 0.3}),
            ("odpo", {"beta": 0.3}, "dpo", {"beta": 0.3}),
            ("r_dpo", {"beta": 0.3, "length_weight": 0.0}, "dpo", {"beta": 0.3}),
            ("ld_dpo", {"beta": 0.3, "tail_weight": 1.0}, "dpo", {"beta": 0.3}),
            ("dpop", {"beta": 0.3, "penalty": 0.0}, "dpo", {"beta": 0.3}),
            ("xpo", {"beta": 0.3, "alpha": 0.0}, "dpo", {"beta": 0.3}),
            ("rpo", {"beta": 0.3, "nll_weight": 0.0}, "dpo", {"beta": 0.3}),
            ("f_dpo", {"beta": 0.3, "divergence": "reverse_kl"}, "dpo", {"beta": 0.3}),
            ("f_dpo", {"divergence": 1.0}, "f_dpo", {"divergence": "reverse_kl"}),
            ("f_dpo", {"divergence": 0.0}, "f_dpo", {"divergence": "forward_kl"}),
            ("tdpo2", {"beta": 0.3, "alpha": 1.0}, "tdpo1", {"beta": 0.3}),
            ("tdpo2", {"beta": 0.3, "alpha": 0.0}, "dpo", {"beta": 0.3}),
            ("mpo", {"preference_weight": 1.0, "quality_weight": 0.0}, "rpo", {}),
            ("cal_dpo", {"weight": 0.0}, "dpo", {"beta": 1.0}),
            ("beta_dpo", {"beta": 0.3, "alpha": 0.0, "keep": 1.0}, "dpo", {"beta": 0.3}),
        ],
    )
    def test_one_loss_is_another(self, one, settings, other, others):
        assert values_of(one, **settings) == pytest.approx(values_of(other, **others), rel=1e-12)

    @pytest.mark.parametrize(("one", "other"), [("ln_dpo", "dpo"), ("ipo", "ipo_sum"), ("ld_dpo", "dpo")])
    def test_lengths_of_one(self, one, other):
        def shortest(answer):
            return answer._replace(ours=answer.ours[:1], theirs=answer.theirs[:1])

        rows = [(shortest(c), shortest(r)) for c, r in ROWS]
        beta = {} if one == "ipo" else {"beta": 0.3}
        assert values_of(one, rows, **beta) == pytest.approx(values_of(other, rows, **beta), rel=1e-12)
        assert values_of(one, **beta) != pytest.approx(values_of(other, **beta), rel=1e-3)

    @pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
    def test_transport_of_a_single_pair_is_dpo(self, name):
        for row in ROWS:
            assert values_of(name, [row], beta=0.3) == pytest.approx(values_of("dpo", [row], beta=0.3), rel=1e-12)

    def test_two_answers_ranked_are_a_pair(self):
        for c, r in ROWS:
            row = (c._replace(reward=1.0), r._replace(reward=0.0))
            (dpo,) = values_of("dpo", [(c, r)], beta=0.3)
            assert on_ranking("plackett_luce", row, beta=0.3)[0].value.item() == pytest.approx(dpo, rel=1e-12)
            assert on_ranking("info_nca", row, beta=0.3, alpha=1e-3)[0].value.item() == pytest.approx(dpo, rel=1e-12)
            discount = 1 / math.log(2) - 1 / math.log(3)  # of the two places, whoever stands on which
            assert on_ranking("lipo", row, beta=0.3)[0].value.item() == pytest.approx(discount * dpo, rel=1e-12)

    def test_pairs_are_two_thumbs(self):
        for c, r in ROWS:
            thumbs = (c._replace(up=True), r._replace(up=False))
            for pair, single, beside in (
                ("apo_zero", "apo_zero_unpaired", {}),
                ("apo_zero", "kto", {}),
                ("bco_pair", "bco", {"memory": {"shift": torch.zeros((), dtype=torch.float64)}, "decay": 1.0}),
            ):
                loss, _ = on_answers(single, thumbs, beta=0.3, **beside)
                assert loss.value.sum().item() == pytest.approx(values_of(pair, [(c, r)], beta=0.3)[0], rel=1e-12)

    def test_r_dpo_is_dpo_of_the_reward_less_the_length(self):
        """Where the policy is the optimum of r - a |y|, D = (r - a |y|) / beta and the loss is that of r's own odds."""
        beta, a, rewards = 0.3, 0.2, (1.7, 0.4)
        rows = []
        for c, r in ROWS:
            ratios = [(reward - a * len(y.ours)) / beta for reward, y in zip(rewards, (c, r), strict=True)]
            rows.append([
                y._replace(ours=tuple(t + ratio / len(y.ours) for t in y.theirs))
                for y, ratio in zip((c, r), ratios, strict=True)
            ])  # fmt: skip
        expected = [math.log(1 + math.exp(-(1.7 - 0.4)))] * len(rows)
        assert values_of("r_dpo", rows, beta=beta, length_weight=a) == pytest.approx(expected)

    def test_alphapo_bends_into_simpo(self):
        """r = beta (m - alpha m^2 / 2 + ...), so the two differ by the square term, which halves with alpha."""
        difference = {}
        for alpha in (1e-3, 5e-4):
            for row in ROWS:
                (bent,) = values_of("alphapo", [row], beta=2.0, gamma=0.5, alpha=alpha)
                (plain,) = values_of("simpo", [row], beta=2.0, gamma=0.5)
                bound = max(answer.mean**2 for answer in row) * 2.0 * alpha / 2
                assert abs(bent - plain) <= 1.01 * bound
                difference.setdefault(alpha, []).append(bent - plain)
        for whole, half in zip(difference[1e-3], difference[5e-4], strict=True):
            assert whole / half == pytest.approx(2.0, rel=0.01)

    def test_alpha_divergence_near_1_is_near_reverse_kl(self):
        """(u^-e - 1) / -e = log u - e log^2 u / 2 + ..."""
        near = values_of("f_dpo", divergence=1 - 1e-4, beta=0.3)
        for value, plain, row in zip(near, values_of("dpo", beta=0.3), ROWS, strict=True):
            assert abs(value - plain) <= 0.3 * 1e-4 / 2 * sum(answer.ratio**2 for answer in row) * 1.01
            assert value != plain


class TestLengths:
    @staticmethod
    def doubled(answer):
        return answer._replace(ours=answer.ours * 2, theirs=answer.theirs * 2)

    @pytest.mark.parametrize(
        ("name", "counts"),
        [
            *[(name, False) for name in ("ipo", "ln_dpo", "simpo", "orpo", "alphapo")],
            *[(name, True) for name in ("ipo_sum", "dpo", "cpo")],
        ],
    )
    def test_of_the_chosen_answer(self, name, counts):
        """Twice the same tokens: means are as they were, sums are not."""
        rows = [(self.doubled(c), r) for c, r in ROWS]
        alike = values_of(name, rows) == pytest.approx(values_of(name), rel=1e-12)
        assert alike != counts

    def test_ld_dpo_weighs_what_is_longer(self):
        """A has three tokens and B one, so of A's ratios 0.5, -0.5, 0.9 the last two are tail; B's is -0.9."""
        for tail in (0.0, 0.5, 0.9):
            (value,) = values_of("ld_dpo", [(A, B)], beta=1.0, tail_weight=tail)
            assert value == pytest.approx(math.log(1 + math.exp(-(0.5 + tail * 0.4 + 0.9))))
            (value,) = values_of("ld_dpo", [(B, A)], beta=1.0, tail_weight=tail)
            assert value == pytest.approx(math.log(1 + math.exp(0.5 + tail * 0.4 + 0.9)))


def exactly(x):
    """Of a mean log-probability, in fifty digits: log odds, their slope, log(1 - p)."""
    with decimal.localcontext(prec=50):
        p = decimal.Decimal(x).exp()
        return float(decimal.Decimal(x) - (1 - p).ln()), float(1 / (1 - p)), float((1 - p).ln())


class TestOrpoNearCertainty:
    """Weight 1 on a rejected answer of even odds: the loss is x's own log odds and its likelihood."""

    @pytest.mark.parametrize("x", [-1e-6, -1e-4, -0.01, -0.5, -0.6931471, -0.6931472, -0.7, -3.0, -30.0, -40.0])
    @pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
    def test_against_fifty_digits(self, x, dtype, within):
        token = torch.tensor([x], dtype=dtype, requires_grad=True)
        odds, slope, away = exactly(token.item())
        assert log1mexp(token).item() == pytest.approx(away, rel=within, abs=0), "at either end"
        value = token - log1mexp(token)
        assert value.item() == pytest.approx(odds, rel=within, abs=within)
        (got,) = torch.autograd.grad(value.sum(), token)
        assert got.item() == pytest.approx(slope, rel=10 * within)

    @pytest.mark.parametrize("x", [-1e-6, -1e-3, -0.3])
    def test_loss(self, x):
        even = Said((-LN2,), (-LN2,))
        sure = Said((x, x), (x, x))
        odds, _, _ = exactly(x)
        (value,) = values_of("orpo", [(sure, even)], weight=1.0)
        assert value == pytest.approx(-x + math.log1p(math.exp(-odds)), rel=1e-9)
        (value,) = values_of("orpo", [(even, sure)], weight=1.0)
        assert value == pytest.approx(LN2 + odds + math.log1p(math.exp(-odds)), rel=1e-9)

    def test_certain_tokens_are_held_where_the_odds_end(self):
        sure = Said((0.0, 0.0), (0.0, 0.0))
        (value,) = values_of("orpo", [(Said((-LN2,), (-LN2,)), sure)], weight=1.0)
        assert value == pytest.approx(LN2 + math.log(1e7), rel=1e-6)


class TestKto:
    def test_only_beta_times_the_distance_from_kl_counts(self):
        """D and kl are in nats and beta stands outside: 1 - sigmoid(0.5 (0.9 - 0.4)) for A, whose D is 0.9."""
        loss, _ = on_answers("kto", [A, A._replace(up=False)], kl=0.4, beta=0.5)
        assert loss.value.tolist() == pytest.approx([1 - 1 / (1 + math.exp(-0.25)), 1 - 1 / (1 + math.exp(0.25))])
        assert loss.stats["kl"].tolist() == [0.4, 0.4]

    def test_slope_by_hand(self):
        loss, policy = on_answers("kto", [A], kl=0.4, beta=0.5, desirable_weight=2.0)
        loss.value.sum().backward()
        up = 1 / (1 + math.exp(-0.25))
        assert policy.token.grad.tolist() == pytest.approx([-2.0 * 0.5 * up * (1 - up)] * 3)


class TestSppo:
    @pytest.mark.parametrize("eta", [0.5, 1000.0])
    def test_minimum_is_half_eta_on_either_side(self, eta):
        (c,) = same(-3.0, ours=(eta / 2 - 1.0, -2.0))
        (r,) = same(-3.0, ours=(-eta / 2 - 1.0, -2.0))
        loss, policy = on_pairs("sppo_hard", [(c, r)], eta=eta)
        assert loss.value.item() == pytest.approx(0.0, abs=1e-18)
        soft = (c._replace(reward=1.0), r._replace(reward=0.0))
        assert values_of("sppo", [soft], eta=eta) == pytest.approx([0.0], abs=1e-18)
        loss.value.sum().backward()
        assert policy.chosen.token.grad.abs().max() < 1e-9

    def test_target_by_hand(self):
        """P = 0.8: the chosen answer's target is 0.3 eta, the rejected one's -0.4 eta for P = 0.1."""
        (c,), (r,) = same(-3.0, reward=0.8), same(-3.0, reward=0.1)
        assert values_of("sppo", [(c, r)], eta=10.0) == pytest.approx([3.0**2 + 4.0**2])


class TestPro:
    def test_temperatures_of_three_by_hand(self):
        """Rewards 2, 1.5, 0: the best is heated by 2, and meets the others at 0.5 and 2; the second meets at 1.5."""
        row = [a._replace(reward=x) for a, x in zip(same(-2.0, -4.0, -6.0), (2.0, 1.5, 0.0), strict=True)]
        e = math.exp  # means are -1, -2, -3
        first = e(2 * -1) / (e(2 * -1) + e(0.5 * -2) + e(2 * -3))
        second = e(1.5 * -2) / (e(1.5 * -2) + e(1.5 * -3))
        loss, _ = on_ranking("pro", row, nll_weight=0.05)
        assert loss.value.item() == pytest.approx(-math.log(first) - math.log(second) + 0.05 * 4 * 2.0)


class TestLipo:
    def test_weights_by_hand(self):
        """Scores say C, A, B (best first) of rewards 1, 0.5, 0: gains 1, sqrt 2 - 1, 0; places 2, 1, 3."""
        row = [
            Said((0.0, x), (0.0, 0.0), reward=reward)
            for x, reward in zip((-1.0, -0.5, -2.0), (1.0, 0.5, 0.0), strict=True)
        ]
        d = [1 / math.log(1 + place) for place in (2, 1, 3)]
        g = [1.0, math.sqrt(2) - 1, 0.0]
        pairs = ((0, 1, -0.5), (0, 2, 1.0), (1, 2, 1.5))
        expected = sum(abs(g[i] - g[j]) * abs(d[i] - d[j]) * math.log(1 + math.exp(-h)) for i, j, h in pairs)
        loss, _ = on_ranking("lipo", row, beta=1.0)
        assert loss.value.item() == pytest.approx(expected)


class TestPlackettLuce:
    def test_all_tied_says_nothing(self):
        row = [a._replace(reward=0.5) for a in (A, B, C)]
        loss, policy = on_ranking("plackett_luce", row)
        loss.value.backward()
        assert loss.value.item() == 0.0
        assert policy.token.grad.abs().max() == 0.0

    def test_two_tied_over_one(self):
        """Each of the two has to beat the last one, and neither the other."""
        row = [A._replace(reward=1.0), C._replace(reward=1.0), B._replace(reward=0.0)]
        expected = math.log(1 + math.exp(-(0.9 + 0.9))) + math.log(1 + math.exp(-(-1.3 + 0.9)))
        assert on_ranking("plackett_luce", row, beta=1.0)[0].value.item() == pytest.approx(expected)


class TestBetaDpo:
    def test_draws_without_replacement_and_likelier_near_the_middle(self):
        """Pairs at h = 0 and one at h = 9, nine deviations out: it is never among the kept."""
        near = [(*same(-3.0), *same(-4.0))] * 4
        (far,) = same(-3.0, theirs=(-6.0, -6.0))
        rows = [*near, (far, *same(-4.0))]
        memory = {"middle": torch.tensor(0.0), "spread": torch.tensor(1.0)}
        chances = random.Random(0)
        kept = torch.zeros(5)
        for _ in range(200):
            uniform = [chances.random() for _ in rows]
            drawn = on_pairs("beta_dpo", rows, uniform=uniform, memory=memory, keep=0.4)[0].stats["kept"]
            assert drawn.sum() == 2
            kept += drawn
        assert kept[4] == 0
        assert (abs(kept[:4] - 100) < 30).all(), "the others are kept alike, half of the time"

    def test_beta_has_a_floor(self):
        (worse,) = same(-3.0, ours=(-40.0, -40.0))
        loss, _ = on_pairs("beta_dpo", [(worse, *same(-4.0))])
        assert loss.stats["beta"].tolist() == pytest.approx([1e-3])


class TestFDpo:
    @pytest.mark.parametrize(
        ("divergence", "of"),
        [("js", lambda u: math.log(2 * u / (1 + u))), ("forward_kl", lambda u: 1 - 1 / u)],
    )
    def test_implicit_reward_by_formula(self, divergence, of):
        loss, _ = on_pairs("f_dpo", [(A, B)], divergence=divergence, beta=0.3)
        chosen, rejected = (0.3 * of(math.exp(a.ratio)) for a in (A, B))
        assert loss.stats["reward/chosen"].item() == pytest.approx(chosen)
        assert loss.stats["reward/rejected"].item() == pytest.approx(rejected)
