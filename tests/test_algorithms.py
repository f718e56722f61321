"""Rows of the table: settings, what they need, and that each part and setting counts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from truing import algorithms
from truing.algorithms import (
    ALGORITHMS,
    ANY_TERM,
    NEEDS,
    BoundAlgorithm,
    Rollout,
    best_of_group,
    bind,
    mixed_groups,
    schema,
)
from truing.errors import ConfigError
from truing.objectives import OBJECTIVES, policy, value
from truing.reductions import step_weights
from truing.report.metrics import METRICS
from truing.rivals import paired
from truing.shaping import Shaping, ShapingState
from truing.signatures import asks_for, public_functions, setting_words, settings_of
from truing.tensors import Logprobs, PerToken

LENGTHS = (3, 1, 4, 2, 2, 5)
COMPLETION = torch.repeat_interleave(torch.arange(6), torch.tensor(LENGTHS))
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
BY_REFERENCE = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
EVERY = pytest.mark.parametrize("name", ALGORITHMS)
OTHER_VALUES = {
    "advantage_clip": 0.3,
    "advantage_scaling": "none",
    "alpha": 0.3,
    "beta": 0.7,
    "clip_high": 0.01,
    "clip_low": 0.015,
    "dual_clip": 1.02,
    "entropy_bonus_weight": 0.5,
    "epochs": 3,
    "epsilon": 0.3,
    "estimator": "k1",
    "gamma": 0.7,
    "group_size": 5,
    "kl_penalty_weight": 0.7,
    "label_smoothing": 0.3,
    "lam": 0.4,
    "link": "linear",
    "mixture": 0.6,
    "overlong_share": 0.5,
    "reduction": "group_mean",
    "reward_clip": 0.3,
    "reward_kl": 0.3,
    "reward_kl_estimator": "k2",
    "reward_kl_horizon": 7.0,
    "reward_kl_target": 0.3,
    "reward_scaling": "deviation",
    "value_clip_weight": 0.3,
    "value_range": 0.01,
}
NEEDED = {
    "reward_kl_estimator": {"reward_kl": 0.2},
    "reward_kl_target": {"reward_kl": 0.2},
    "reward_kl_horizon": {"reward_kl": 0.2, "reward_kl_target": 0.3},
    "estimator": {"kl_penalty_weight": 0.1},
}


def numbers(seed, scale=0.3):
    return scale * torch.randn(len(COMPLETION), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logprobs(token):
    return Logprobs(token, COMPLETION, 6)


def rollout(**changes):
    score = torch.tensor([1.0, 0.2, -1.0, 2.0, 0.4, 2.1], dtype=torch.float64)
    made = Rollout(
        score, COMPLETION, GROUP, 5, numbers(1) - 2, reference=numbers(2) - 2, value=numbers(3),
        rival=torch.tensor([0.1, 0.7], dtype=torch.float64), rival_length=torch.tensor([2, 5]),
    )  # fmt: skip
    return replace(made, **changes)


def learned(bound: BoundAlgorithm, seen: Rollout, drift: float = 0.1):
    """The loss of a step after the policy has drifted, with what it was computed of, and the state."""
    judged, state = bound.judge(seen, ShapingState.of(bound.shaping))
    ours = logprobs((seen.behaviour + drift * numbers(7)).requires_grad_())
    guess = PerToken(seen.value + drift * numbers(8), COMPLETION, 6)
    if judged.pairs is not None:
        offered = {"policy": ours, "reference": logprobs(seen.reference), "from_reference": BY_REFERENCE}
        return ours, bound.loss(**paired(offered, judged.pairs)), judged, state
    loss = bound.loss(
        policy=ours,
        behaviour=logprobs(seen.behaviour),
        advantage=judged.advantage,
        reference=logprobs(seen.reference),
        entropy=PerToken(numbers(9).abs(), COMPLETION, 6),
        value=guess,
        old_value=PerToken(seen.value, COMPLETION, 6),
        returns=judged.returns,
    )
    return ours, loss, judged, state


def total(bound, loss, seen, judged):
    if bound.pairs_answers:
        return loss.value.mean()
    weights, divisor = step_weights(COMPLETION, GROUP, judged.accepted.double(), bound.reduction, limit=seen.limit)
    return (loss.value * weights.token).sum() / divisor


def test_the_table_has_all_that_were_promised():
    promised = {
        "ppo", "ppo_max", "a2c", "reinforce", "reinforce_pp", "reinforce_pp_baseline", "rloo", "remax",
        "grpo", "dr_grpo", "dapo", "gspo", "cispo", "online_dpo", "xpo", "nash_md", "best_of_n",
    }  # fmt: skip
    assert set(ALGORITHMS) == promised


@EVERY
class TestRows:
    def test_a_setting_has_one_meaning(self, name):
        """Settings are addressed by their own names, so no two parts of a row may share one."""
        row = ALGORITHMS[name]
        every = [key for function in row.parts for key in settings_of(function).model_fields]
        every += [*Shaping.model_fields, "group_size", "epochs", "reduction"]
        assert len(every) == len(set(every))
        assert row.settings.keys() <= set(every)

    def test_every_setting_is_explained(self, name):
        assert all(field.description for field in schema(name).model_fields.values())
        for function in ALGORITHMS[name].parts:
            assert settings_of(function).model_fields.keys() <= setting_words(function).keys()

    def test_terms_ask_for_known_things(self, name):
        for term in ALGORITHMS[name].all_terms:
            assert asks_for(term.function).keys() <= NEEDS.keys()

    def test_bound_without_settings_it_is_the_row(self, name):
        row, bound = ALGORITHMS[name], bind({"name": name})
        assert bound.terms == tuple(term for term in row.all_terms if term.weight)
        assert (bound.shaping, bound.reduction, bound.group_size, bound.epochs) == (
            row.shaping, row.reduction, row.group_size, row.epochs,
        )  # fmt: skip

    def test_what_a_row_has_is_what_its_terms_ask_for(self, name):
        row = ALGORITHMS[name]
        asked = {key for term in row.terms for key in asks_for(term.function)}
        assert (row.advantage is not None) == ("advantage" in asked)
        kinds = {asks_for(term.function).get("policy") for term in row.terms} - {None}
        assert kinds == ({"Pair[Logprobs]"} if row.pairing else {"Logprobs"})
        assert (row.reduction is None) == (row.pairing is not None)
        assert not (row.preference or row.advantage_asks_for("greedy")) or row.rival is not None

    def test_what_is_computed_is_finite_and_of_every_token_or_pair(self, name):
        bound, seen = bind({"name": name}), rollout()
        ours, loss, judged, _ = learned(bound, seen)
        shape = ours.token.shape if judged.pairs is None else judged.pairs.shape[:1]
        assert loss.value.shape == shape
        assert torch.isfinite(loss.value).all()
        for numbers_of in (judged.reward, judged.advantage):
            if numbers_of is not None:
                assert torch.isfinite(numbers_of.token).all()
                assert numbers_of.token.shape == ours.token.shape
        assert (judged.returns is not None) == bound.needs_critic
        assert (judged.pairs is not None) == bound.pairs_answers
        for key, stat in loss.stats.items():
            assert stat.shape == shape, key
            assert not stat.requires_grad, key
            assert key in METRICS, f"{key}: the report has no words for it"

    def test_at_the_first_update_nothing_has_moved(self, name):
        bound, seen = bind({"name": name}), rollout(reference=rollout().behaviour)
        _, loss, judged, _ = learned(bound, seen, drift=0.0)
        exact = {"ratio": 1.0, "ratio/clipped": 0.0, "kl/behaviour": 0.0, "kl/reference": 0.0, "value/clipped": 0.0}
        for key, expected in (exact | {"reward/margin": 0.0}).items():
            if key in loss.stats:
                assert loss.stats[key].tolist() == [expected] * len(loss.value), key
        assert judged.kl.token.tolist() == [0.0] * len(COMPLETION)
        if name == "online_dpo":
            assert loss.value.tolist() == [math.log(2)] * 2

    def test_every_setting_changes_something_or_is_refused(self, name):
        seen = rollout()
        for key, field in schema(name).model_fields.items():
            other = OTHER_VALUES[key]
            if other == field.default:
                other = {"reward_scaling": "standard", "estimator": "k3"}[key]
            context = NEEDED.get(key, {})
            usual, changed = bind({"name": name, **context}), bind({"name": name, **context, key: other})
            if key in ("group_size", "epochs"):  # the stage's, who generates and updates
                assert {"group_size": changed.group_size, "epochs": changed.epochs}[key] == other
                continue
            if key == "mixture":  # the generator's
                assert usual.rival != changed.rival == {"reference": other}
                continue
            results = []
            for bound in (usual, changed):
                # a wide drift, so that all bounds are met
                _, loss, judged, state = learned(bound, seen, drift=3.0 if key == "clip_high" else 0.3)
                results.append((total(bound, loss, seen, judged).detach(), state.price.coefficient))
            assert results[0] != results[1], key

    def test_the_gradient_does_not_depend_on_the_cut(self, name):
        """Any share of the answers at a time, each with its own forward pass, against all at once.

        The answers of a pair stay together, as those of a prompt do.
        """
        options = {} if ALGORITHMS[name].pairing else {"entropy_bonus_weight": 0.1}
        bound, seen = bind({"name": name, **options}), rollout()
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        base = torch.linspace(-0.3, 0.3, 5, dtype=torch.float64)
        feature = torch.randn(len(COMPLETION), 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

        def gradient(cut):
            parameter = base.clone().requires_grad_()
            for answers in cut:
                which = torch.tensor(answers)
                moved = PerToken(feature @ parameter, COMPLETION, 6).select(which).token
                given = {
                    "behaviour": logprobs(seen.behaviour), "advantage": judged.advantage or logprobs(seen.behaviour),
                    "reference": logprobs(seen.reference), "old_value": PerToken(seen.value, COMPLETION, 6),
                    "returns": judged.returns or logprobs(seen.value),
                }  # fmt: skip
                given = {key: one.select(which) for key, one in given.items()}
                now = given["behaviour"].with_token(given["behaviour"].token + moved)
                if judged.pairs is not None:
                    mine = judged.pairs[torch.isin(judged.pairs[:, 0], which)]
                    places = torch.tensor([[answers.index(one) for one in pair] for pair in mine.tolist()])
                    offered = {"policy": now, "reference": given["reference"], "from_reference": BY_REFERENCE[which]}
                    (bound.loss(**paired(offered, places)).value.sum() / len(judged.pairs)).backward()
                    continue
                guess = given["old_value"].with_token(given["old_value"].token + moved)
                loss = bound.loss(**given, policy=now, value=guess, entropy=guess)
                weights, divisor = step_weights(
                    COMPLETION, GROUP, judged.accepted.double(), bound.reduction, limit=seen.limit
                )
                ((loss.value * weights.select(which).token).sum() / divisor).backward()
            return parameter.grad

        whole = gradient([[0, 1, 2, 3, 4, 5]])
        assert whole.abs().max() > 1e-3
        cuts = [[[0, 1, 2], [3, 4, 5]], [[5, 3, 4], [2, 0, 1]]]
        if not bound.pairs_answers:
            cuts += [[[0], [1], [2], [3], [4], [5]], [[5, 0], [3, 1, 4], [2]]]
        for cut in cuts:
            torch.testing.assert_close(gradient(cut), whole, rtol=1e-10, atol=1e-12)


class TestBinding:
    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ({"name": "grpo", "clip_hihg": 0.3}, "clip_hihg: there is no such setting; did you mean 'clip_high'"),
            ({"name": "gropo"}, r"algorithm 'gropo' does not exist; did you mean 'grpo'\?"),
            ({"clip_high": 0.3}, r'say which one: algorithm = "grpo"'),
            ({"name": "ppo", "lam": 1.5}, "algorithm.lam: input should be less than or equal to 1"),
            ({"name": "ppo", "dual_clip": 0.5}, "algorithm.dual_clip: input should be greater than 1"),
            ({"name": "rloo", "lam": 0.5}, "algorithm.lam: there is no such setting"),
            ({"name": "rloo", "group_size": 1}, "group_size: input should be greater than or equal to 2"),
            ({"name": "dapo", "estimator": "k2"}, "algorithm.estimator: changes nothing while kl_penalty_weight is 0"),
            ({"name": "grpo", "reward_kl_target": 3.0}, "reward_kl_target: changes nothing while reward_kl is 0"),
            ({"name": "ppo", "reward_kl_horizon": 3.0}, "changes nothing while reward_kl_target is None"),
            ({"name": "ppo", "value_clip_weight": 0, "value_range": 1.0}, "nothing while value_clip_weight is 0"),
            ({"name": "a2c", "value_clip_weight": 0}, "value_clip_weight: is 0, .* 'a2c' needs never learns"),
            ({"name": "ppo", "advantage_scaling": "none", "epsilon": 0.1}, "nothing while advantage_scaling is none"),
            ({"name": "ppo", "reduction": "mean"}, "algorithm.reduction: input should be 'token_mean'"),
            ({"name": "online_dpo", "reward_scaling": "deviation"}, "reward_scaling: there is no such setting"),
            ({"name": "online_dpo", "reduction": "token_mean"}, "reduction: there is no such setting"),
            ({"name": "online_dpo", "kl_penalty_weight": 0.1}, "kl_penalty_weight: there is no such setting"),
            ({"name": "online_dpo", "group_size": 1}, "group_size: input should be greater than or equal to 2"),
            ({"name": "best_of_n", "group_size": 1}, "group_size: input should be greater than or equal to 2"),
            ({"name": "best_of_n", "reward_kl": 0.1}, "reward_kl: there is no such setting"),
            ({"name": "xpo", "group_size": 2}, "group_size: there is no such setting"),
            ({"name": "nash_md", "mixture": 1.2}, "algorithm.mixture: input should be less than or equal to 1"),
        ],
    )  # fmt: skip
    def test_refusals(self, table, words):
        with pytest.raises(ConfigError, match=words):
            bind(table)

    def test_greedy_baselines_do_with_one_answer(self):
        assert bind({"name": "remax", "group_size": 1}).group_size == 1

    def test_what_is_asked_for_follows_the_weights(self):
        assert bind({"name": "grpo"}).needs("reference")
        assert not bind({"name": "grpo", "kl_penalty_weight": 0.0}).needs("reference")
        assert bind({"name": "grpo", "kl_penalty_weight": 0.0, "reward_kl": 0.1}).needs("reference")
        assert not bind({"name": "grpo"}).needs("entropy")
        assert bind({"name": "grpo", "entropy_bonus_weight": 0.1}).needs("entropy")
        assert [name for name in ALGORITHMS if bind({"name": name}).needs_critic] == ["a2c", "ppo", "ppo_max"]
        assert [name for name in ALGORITHMS if bind({"name": name}).needs("greedy")] == ["remax"]
        assert bind({"name": "xpo"}).needs("reference")
        alone = {"name": "nash_md", "reward_kl": 0.0}
        assert bind(alone).needs("reference")
        assert not bind({**alone, "mixture": 0.0}).needs("reference"), "self-play without a price of KL"

    def test_terms_are_known_by_their_signatures(self):
        """Nothing registers a term: any public function of the two modules that returns a Loss is one."""
        known = {**public_functions(policy, "Loss"), **public_functions(value, "Loss")}
        used = {term.name for row in ALGORITHMS.values() for term in row.all_terms}
        assert known.keys() <= used
        assert used - known.keys() <= OBJECTIVES.keys(), "what is no policy gradient is an objective of recipes"
        assert {term.name for term in ANY_TERM} <= used


class TestJudging:
    def test_ppo_by_hand(self):
        """One answer of two tokens: KL at each, the score on the last, two steps of GAE, whitened to -1 and 1."""
        seen = Rollout(
            torch.tensor([2.0]), torch.tensor([0, 0]), torch.tensor([0]), 4, torch.tensor([-1.0, -1.0]),
            reference=torch.tensor([-2.0, -0.5]), value=torch.tensor([0.5, 1.0]),
        )  # fmt: skip
        bound = bind({"name": "ppo", "reward_kl": 0.1, "lam": 0.5})
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        assert judged.kl.token.tolist() == [1.0, -0.5]
        assert judged.reward.token.tolist() == pytest.approx([-0.1, 2.0 + 0.05])
        advantages = [-0.1 + 1.0 - 0.5 + 0.5 * 1.05, 1.05]
        assert judged.returns.token.tolist() == pytest.approx([advantages[0] + 0.5, advantages[1] + 1.0])
        assert judged.advantage.token.tolist() == pytest.approx([-1.0, 1.0])

    def test_groups_compare_what_is_left_after_the_kl(self):
        seen = rollout()
        bound = bind({"name": "rloo", "reward_kl": 0.1})
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        sums = [(seen.behaviour - seen.reference)[answer == COMPLETION].sum() for answer in range(6)]
        reward = [float(score - 0.1 * kl) for score, kl in zip(seen.score, sums, strict=True)]
        expected = [
            reward[i] - sum(reward[j] for j in range(6) if GROUP[j] == GROUP[i] and j != i) / 2 for i in range(6)
        ]
        assert judged.advantage.token.tolist() == pytest.approx([expected[owner] for owner in COMPLETION.tolist()])

    def test_nash_md_by_hand(self):
        """P - 1/2 - tau log(policy / reference), of answers and rivals whose scores are 1 and 0, and 0 and 2."""
        seen = Rollout(
            torch.tensor([1.0, 0.0]), torch.tensor([0, 0, 1]), torch.tensor([0, 1]), 4,
            torch.tensor([-1.0, -1.0, -2.0]), reference=torch.tensor([-2.0, -0.5, -1.0]),
            rival=torch.tensor([0.0, 2.0]), rival_length=torch.tensor([1, 1]),
        )  # fmt: skip
        bound = bind({"name": "nash_md", "reward_kl": 0.1})
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        won, lost = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))
        assert judged.win_rate.tolist() == pytest.approx([won, lost])
        first, second = won - 0.5 - 0.1 * 0.5, lost - 0.5 + 0.1 * 1.0
        assert judged.advantage.token.tolist() == pytest.approx([first, first, second])

    def test_answers_are_paired_by_score_and_equals_teach_nothing(self):
        bound = bind({"name": "online_dpo", "group_size": 3})
        judged, _ = bound.judge(rollout(), ShapingState.of(bound.shaping))
        assert judged.pairs.tolist() == [[0, 2], [5, 4]]
        assert judged.accepted.tolist() == [True, False, True, False, True, True]
        same = rollout(score=torch.tensor([1.0, 1, 1, 0, 0, 1]).double())
        judged, _ = bound.judge(same, ShapingState.of(bound.shaping))
        assert judged.pairs.tolist() == [[5, 3]]
        assert judged.accepted.tolist() == [False] * 3 + [True, False, True]

    def test_an_answer_that_ran_to_the_limit_may_lose_its_place_in_a_pair(self):
        bound = bind({"name": "online_dpo", "overlong_share": 0.2})
        judged, _ = bound.judge(rollout(), ShapingState.of(bound.shaping))
        assert judged.pairs.tolist() == [[0, 2], [3, 4]], "the last answer has 5 tokens, all that it may"

    def test_xpo_by_hand(self):
        """DPO on the answer and the reference's, and alpha log p of the latter, be it the better or the worse one."""
        bound = bind({"name": "xpo", "beta": 0.5, "alpha": 0.3})
        owner, group = torch.arange(4), torch.tensor([0, 0, 1, 1])
        ours, theirs = torch.tensor([-1.0, -2.0, -3.0, -1.5]).double(), torch.tensor([-2.0, -2.5, -1.0, -1.0]).double()
        seen = Rollout(torch.tensor([1.0, 0.0, 0.0, 1.0]), owner, group, 1, ours.float(), reference=theirs.float())
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        offered = {
            "policy": Logprobs(ours, owner, 4), "reference": Logprobs(theirs, owner, 4),
            "from_reference": torch.tensor([0.0, 1.0, 0.0, 1.0]).double(),
        }  # fmt: skip
        loss = bound.loss(**paired(offered, judged.pairs))
        first = math.log(1 + math.exp(-0.5 * (1.0 - 0.5))) + 0.3 * -2.0
        second = math.log(1 + math.exp(-0.5 * (-0.5 + 2.0))) + 0.3 * -1.5
        assert loss.value.tolist() == pytest.approx([first, second])

    def test_the_best_of_n_is_the_first_of_the_best_and_none_where_all_are_equal(self):
        bound = bind({"name": "best_of_n", "group_size": 3})
        seen = rollout(score=torch.tensor([0.0, 1, 1, 1, 1, 1]).double())
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        assert judged.accepted.tolist() == [False, True, False, False, False, False]
        assert best_of_group(seen.score[:0], GROUP[:0]).tolist() == []
        _, loss, judged, _ = learned(bound, seen, drift=0.0)
        own = seen.behaviour[COMPLETION == 1]
        assert total(bound, loss, seen, judged).item() == pytest.approx(-float(own.mean()))

    def test_greedy_answers_are_shaped_as_the_others(self):
        """Of the length limit and as good as the answers: nothing is learnt."""
        seen = rollout(
            score=torch.ones(6).double(), rival=torch.ones(2).double(), rival_length=torch.tensor([5, 5]), limit=5
        )
        bound = bind({"name": "remax", "reward_kl": 0.0, "overlong_share": 0.2})
        judged, _ = bound.judge(seen, ShapingState.of(bound.shaping))
        ends = [judged.advantage.token[answer == COMPLETION].tolist() for answer in range(6)]
        assert ends == [[1.0] * n for n in (3, 1, 4, 2, 2)] + [[0.0] * 5]

    def test_the_price_of_kl_counts_from_the_next_step_on(self):
        bound = bind({"name": "ppo", "reward_kl": 0.1, "reward_kl_target": 0.5, "reward_kl_horizon": 10.0})
        seen = rollout(reference=rollout().behaviour - 1.0)  # one nat a token
        state = ShapingState.of(bound.shaping)
        first, state = bound.judge(seen, state)
        assert state.price.coefficient == pytest.approx(0.1 * (1 + 0.2 * 6 / 10))
        second, _ = bound.judge(seen, state)
        assert first.reward.token[0].item() == pytest.approx(-0.1)
        assert second.reward.token[0].item() == pytest.approx(-0.112)

    def test_scores_so_far_scale_this_steps(self):
        bound = bind({"name": "ppo_max", "reward_kl": 0.0})
        state = ShapingState.of(bound.shaping)
        _, state = bound.judge(rollout(score=torch.full((6,), 100.0).double()), state)
        judged, state = bound.judge(rollout(score=torch.zeros(6).double()), state)
        assert state.scale.count == 12
        assert judged.reward.sum.tolist() == pytest.approx([-50 / state.scale.deviation] * 6)


def test_mixed_groups():
    score = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.5])
    assert mixed_groups(score, torch.tensor([0, 0, 2, 2, 3])).tolist() == [False, False, True, True, False]
    assert mixed_groups(score[:0], torch.zeros(0, dtype=torch.long)).tolist() == []
    dapo, grpo = bind({"name": "dapo"}), bind({"name": "grpo"})
    seen = rollout(score=torch.tensor([0.0, 0, 0, 1, 0, 1]).double())
    judged, _ = dapo.judge(seen, ShapingState.of(dapo.shaping))
    assert judged.accepted.tolist() == [False] * 3 + [True] * 3
    judged, _ = grpo.judge(seen, ShapingState.of(grpo.shaping))
    assert judged.accepted.all()


def test_the_rows_are_read_from_the_module():
    assert ALGORITHMS["grpo"] is algorithms.GRPO
