"""Losses of online learning: once more in plain Python, at the first update, and against TRL."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.objectives.policy import (
    cispo,
    entropy_bonus,
    gspo,
    kl_penalty,
    masked_importance,
    ppo_clip,
    reinforce,
    truncated_importance,
)
from truing.reductions import step_weights
from truing.signatures import public_functions, settings_of
from truing.tensors import Logprobs, PerToken

LENGTHS = (3, 1, 4)
COMPLETION = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
CLIPPED = {"ppo_clip": ppo_clip, "gspo": gspo, "cispo": cispo}


def numbers(seed, kind=Logprobs, scale=1.0):
    token = scale * torch.randn(sum(LENGTHS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return kind(-token.abs() if kind is Logprobs else token, COMPLETION, 3)


def slope(loss, policy, weights=None):
    weights = torch.ones_like(loss.value) if weights is None else weights
    (gradient,) = torch.autograd.grad((loss.value * weights).sum(), policy.token)
    return gradient


def trained(seed, **moves):
    made = numbers(seed, **moves)
    return made.with_token(made.token.requires_grad_())


def clipped_by_hand(log_ratio, advantage, low, high, dual):
    ratio = math.exp(log_ratio)
    gain = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    return -max(gain, dual * advantage) if dual is not None and advantage < 0 else -gain


@pytest.mark.parametrize("settings", [{}, {"clip_low": 0.1, "clip_high": 0.5}, {"dual_clip": 1.5}])
def test_ppo_clip_against_plain_python(settings):
    policy, behaviour, advantage = numbers(1), numbers(2), numbers(3, PerToken)
    bound = settings_of(ppo_clip)(**settings)
    expected = [
        clipped_by_hand(ours - old, better, bound.clip_low, bound.clip_high, bound.dual_clip)
        for ours, old, better in zip(*(x.token.tolist() for x in (policy, behaviour, advantage)), strict=True)
    ]
    assert ppo_clip(policy, behaviour, advantage, **settings).value.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "value", "gradient", "clipped"),
    [
        (math.log(1.1), 2.0, -2.2, -2.2, 0.0),
        (math.log(1.5), 2.0, -2.4, 0.0, 1.0),  # likely enough already
        (math.log(0.5), 2.0, -1.0, -1.0, 0.0),  # the bound below holds for A > 0 back to where it came from
        (math.log(0.5), -2.0, 1.6, 0.0, 1.0),  # rare enough already
        (math.log(2.0), -2.0, 4.0, 4.0, 0.0),
        (math.log(5.0), -2.0, 6.0, 0.0, 1.0),  # the second clip: at most 3 times the advantage
    ],
)
def test_ppo_clip_in_each_region(log_ratio, advantage, value, gradient, clipped):
    policy = Logprobs(torch.tensor([log_ratio - 1.0], dtype=torch.float64).requires_grad_(), torch.tensor([0]), 1)
    behaviour = Logprobs(torch.tensor([-1.0], dtype=torch.float64), torch.tensor([0]), 1)
    loss = ppo_clip(
        policy, behaviour, PerToken(torch.tensor([advantage]).double(), policy.completion, 1), dual_clip=3.0
    )
    assert loss.value.item() == pytest.approx(value)
    assert slope(loss, policy).item() == pytest.approx(gradient)
    assert loss.stats["ratio/clipped"].item() == clipped


@pytest.mark.parametrize("function", CLIPPED.values(), ids=CLIPPED)
class TestTheFirstUpdate:
    def test_the_ratio_is_exactly_1_and_the_kl_exactly_0(self, function):
        policy = trained(1)
        stats = function(policy, policy.detach(), numbers(3, PerToken)).stats
        assert stats["ratio"].tolist() == [1.0] * 8
        assert stats["ratio/clipped"].tolist() == [0.0] * 8
        assert stats["kl/behaviour"].tolist() == [0.0] * 8

    @pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "constant"])
    def test_the_gradient_is_that_of_reinforce(self, function, reduction):
        """For one advantage an answer, as gspo takes it."""
        policy = trained(1)
        advantage = PerToken(torch.tensor([1.0, -2.0, 0.5]).double()[COMPLETION], COMPLETION, 3)
        weights, divisor = step_weights(COMPLETION, torch.tensor([0, 0, 1]), torch.ones(3), reduction, limit=9)
        share = weights.token / divisor
        theirs = slope(reinforce(policy, advantage), policy, share)
        torch.testing.assert_close(slope(function(policy, policy.detach(), advantage), policy, share), theirs)

    def test_no_advantage_no_gradient(self, function):
        policy, none = trained(1), PerToken(torch.zeros(8).double(), COMPLETION, 3)
        assert slope(function(policy, numbers(2), none), policy).tolist() == [0.0] * 8


@pytest.mark.parametrize("function", [*CLIPPED.values(), reinforce])
def test_losses_are_linear_in_weights_of_the_advantage(function):
    """So the correction for the generator can be multiplied into the advantage."""
    policy, advantage = numbers(1), numbers(3, PerToken)
    weight = numbers(4, PerToken).token.abs()
    given = (policy,) if function is reinforce else (policy, numbers(2))
    weighted = function(*given, advantage.with_token(weight * advantage.token))
    torch.testing.assert_close(weighted.value, weight * function(*given, advantage).value)


class TestGspo:
    def test_is_the_clipped_ratio_of_whole_answers(self):
        """Eq. 5 and 7 as printed: one loss an answer, its gradient by autograd through the mean."""
        policy, behaviour = trained(1, scale=0.3), numbers(2, scale=0.3)
        of_answer = torch.tensor([1.0, -2.0, 0.5]).double()
        advantage = PerToken(of_answer[COMPLETION], COMPLETION, 3)
        ratio = torch.stack([part.mean() for part in (policy.token - behaviour.token).split(LENGTHS)]).exp()
        printed = -torch.minimum(ratio * of_answer, ratio.clamp(1 - 0.1, 1 + 0.01) * of_answer)
        (expected,) = torch.autograd.grad(printed.mean(), policy.token, retain_graph=True)
        loss = gspo(policy, behaviour, advantage, clip_low=0.1, clip_high=0.01)
        weights, divisor = step_weights(COMPLETION, torch.tensor([0, 1, 2]), torch.ones(3), "sequence_mean", limit=9)
        assert float((loss.value.detach() * weights.token).sum()) / divisor == pytest.approx(
            float(printed.detach().mean())
        )
        torch.testing.assert_close(slope(loss, policy, weights.token / divisor), expected)
        assert 0 < sum(loss.stats["ratio/clipped"].tolist()) < 8, "the example has both kinds"


class TestCispo:
    def test_no_token_loses_its_slope(self):
        policy, behaviour, advantage = trained(1), numbers(2), numbers(3, PerToken)
        ratio = (policy.token - behaviour.token).detach().exp()
        loss = cispo(policy, behaviour, advantage, clip_low=0.5, clip_high=0.5)
        held = torch.tensor([min(max(one, 0.5), 1.5) for one in ratio.tolist()]).double()
        assert set(held.tolist()) & {0.5, 1.5}, "the example has tokens out of bounds"
        torch.testing.assert_close(slope(loss, policy), -held * advantage.token)
        torch.testing.assert_close(loss.value, -held * advantage.token * policy.token)

    def test_there_is_no_lower_bound_unless_asked_for(self):
        far = PerToken(torch.full((8,), 9.0).double(), COMPLETION, 3)
        policy, behaviour = numbers(1), numbers(1)
        rarer = cispo(behaviour.with_token(policy.token - 5), behaviour, far)
        assert rarer.stats["ratio/clipped"].tolist() == [0.0] * 8


class TestKlPenalty:
    def test_of_equals_is_exactly_0(self):
        for estimator in ("k1", "k2", "k3"):
            loss = kl_penalty(numbers(1), numbers(1), estimator=estimator)
            assert loss.value.tolist() == [0.0] * 8
            assert loss.stats["kl/reference"].tolist() == [0.0] * 8

    @given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=2, max_size=6))
    def test_which_gradient_each_estimator_has(self, logits):
        """The expected slope over the policy's own answers, enumerated: of k2 that of KL(policy || reference)."""
        ours, theirs = (torch.tensor(column, dtype=torch.float64) for column in zip(*logits, strict=True))
        ours.requires_grad_()
        policy, reference = ours.log_softmax(0), theirs.log_softmax(0)
        found = {}
        for estimator in ("k1", "k2", "k3"):
            each = torch.arange(len(ours))
            value = kl_penalty(Logprobs(policy, each, len(ours)), Logprobs(reference, each, len(ours)),
                               estimator=estimator).value  # fmt: skip
            expected = (policy.detach().exp() * value).sum()
            (found[estimator],) = torch.autograd.grad(expected, ours, retain_graph=True)
        (reverse,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), ours, retain_graph=True)
        (forward,) = torch.autograd.grad((reference.exp() * (reference - policy)).sum(), ours)
        torch.testing.assert_close(found["k1"], torch.zeros_like(reverse), atol=1e-12, rtol=0)
        torch.testing.assert_close(found["k2"], reverse)
        torch.testing.assert_close(found["k3"], forward)


def test_entropy_bonus():
    entropy = numbers(1, PerToken)
    loss = entropy_bonus(entropy)
    assert loss.value.tolist() == (-entropy.token).tolist()
    assert loss.stats["entropy/update"].tolist() == entropy.token.tolist()


class TestGeneratorGap:
    ENGINE = Logprobs(torch.tensor([-1.0, -1.0, -1.0, -1.0]).requires_grad_(), torch.tensor([0, 0, 1, 1]), 2)
    DRAWN = Logprobs(torch.tensor([-1.0, -1.5, -4.0, 0.0]), torch.tensor([0, 0, 1, 1]), 2)

    def test_truncated(self):
        weight = truncated_importance(self.ENGINE, self.DRAWN, limit=3.0)
        assert weight.token.tolist() == pytest.approx([1.0, math.exp(0.5), 3.0, math.exp(-1.0)])
        assert not weight.token.requires_grad

    def test_masked(self):
        weight = masked_importance(self.ENGINE, self.DRAWN, low=0.5, high=5.0)
        assert weight.token.tolist() == pytest.approx([1.0, math.exp(0.5), 0.0, 0.0])
        assert not weight.token.requires_grad

    def test_where_engine_and_generator_agree_nothing_changes(self):
        same = self.ENGINE.detach()
        for weight in (truncated_importance(same, same), masked_importance(same, same)):
            assert weight.token.tolist() == [1.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", CLIPPED.values(), ids=CLIPPED)
def test_far_out_losses_and_slopes_are_finite(function, dtype):
    policy = Logprobs((100 * numbers(1).token).to(dtype).requires_grad_(), COMPLETION, 3)
    behaviour = Logprobs((100 * numbers(2).token).to(dtype), COMPLETION, 3)
    advantage = PerToken(numbers(3).token.to(dtype), COMPLETION, 3)
    loss = function(policy, behaviour, advantage)
    assert loss.value.dtype == dtype
    assert torch.isfinite(loss.value).all()
    assert torch.isfinite(slope(loss, policy)).all()


class TestTrl:
    """GRPOTrainer._compute_loss of TRL on the same numbers: value and gradient, with all it adds up."""

    LIMIT = 6

    def padded(self, values):
        parts = values.split(LENGTHS)
        return torch.stack([torch.cat([part, part.new_zeros(max(LENGTHS) - len(part))]) for part in parts])

    def theirs(self, policy, behaviour, reference, advantage, **changes):
        grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
        mask = self.padded(torch.ones(8)).long()
        nothing = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1)
        settings = {
            "loss_type": "grpo", "importance_sampling_level": "token", "beta": 0.0, "epsilon_low": 0.2,
            "epsilon_high": 0.2,
        } | changes  # fmt: skip
        trainer = SimpleNamespace(
            **settings,
            _get_per_token_logps_and_entropies=lambda *_, **__: (self.padded(policy), torch.zeros(3, 4), None),
            args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
            model=SimpleNamespace(training=True),
            accelerator=nothing,
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            use_vllm=False,
            current_gradient_accumulation_steps=1,
            max_completion_length=self.LIMIT,
            _entropy_bonus_enabled=False,
            use_adaptive_entropy=False,
            _metrics=defaultdict(lambda: defaultdict(list)),
        )
        ids = torch.zeros(3, 4, dtype=torch.long)
        inputs = {
            "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids, "completion_mask": mask,
            "advantages": advantage, "old_per_token_logps": self.padded(behaviour),
            "ref_per_token_logps": self.padded(reference), "num_items_in_batch": mask.sum(),
        }  # fmt: skip
        return grpo_trainer.GRPOTrainer._compute_loss(trainer, None, inputs)

    @pytest.mark.parametrize(
        ("name", "reduction", "kl", "settings", "trl"),
        [
            ("ppo_clip", "sequence_mean", 0.04, {}, {"beta": 0.04}),
            ("ppo_clip", "constant", 0.0, {}, {"loss_type": "dr_grpo"}),
            ("ppo_clip", "token_mean", 0.0, {"clip_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
            ("gspo", "sequence_mean", 0.0, {},
             {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
            ("cispo", "token_mean", 0.0, {"clip_high": 0.5}, {"loss_type": "cispo", "epsilon_high": 1.5}),
        ],
    )  # fmt: skip
    def test_value_and_gradient(self, name, reduction, kl, settings, trl):
        policy, behaviour, reference = trained(1, scale=0.3), numbers(2, scale=0.3), numbers(5, scale=0.3)
        of_answer = torch.tensor([1.0, -2.0, 0.5]).double()
        loss = CLIPPED[name](policy, behaviour, PerToken(of_answer[COMPLETION], COMPLETION, 3), **settings)
        loss = loss + kl * kl_penalty(policy, reference)
        weights, divisor = step_weights(COMPLETION, torch.tensor([0, 0, 1]), torch.ones(3), reduction, limit=self.LIMIT)
        ours = (loss.value * weights.token).sum() / divisor
        theirs = self.theirs(policy.token, behaviour.token, reference.token, of_answer, **trl)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(*(torch.autograd.grad(x, policy.token)[0] for x in (ours, theirs)))


def test_no_objective_of_recipes():
    """Stage `preference` must not offer them."""
    from truing import objectives
    from truing.objectives import policy, value

    mine = {**public_functions(policy, "Loss"), **public_functions(value, "Loss")}
    assert {"ppo_clip", "value_clip"} <= mine.keys()
    assert not mine.keys() & objectives.OBJECTIVES.keys()
