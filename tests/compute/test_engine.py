"""The engine against a plain loop over an ordinary model, and what must not change a number."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, Qwen3Config

from truing import reductions
from truing.compute.attention import ATTENTION
from truing.compute.engine.local import LocalEngine
from truing.compute.rounding import round_into
from truing.errors import GuardError, MissingError
from truing.models import Loaded, add_lora, load
from truing.objectives import bind
from truing.objectives.likelihood import nll
from truing.packing import forest, pack
from truing.rendering import Answer, Row
from truing.stages.asking import Case, ask, weights
from truing.stages.training import Step
from truing.tensors import Logprobs

# transformers computes RMS norms in fp32 even for an fp64 model: equal inputs give equal bits, so fp64 noise stays
# at 1e-13 unless it crosses an fp32 rounding boundary, which takes about 1e9 elements.
TIGHT = {"rtol": 0, "atol": 1e-10}
TOLERANCE = {"sdpa": TIGHT, "eager": {"rtol": 0, "atol": 1e-5}}  # eager attention takes its softmax in fp32
SHAPES = [(5, (4, 7)), (3, (1, 6)), (9, (2, 2)), (1, (5, 3))]

DPO = bind({"name": "dpo"})


def engine_of(dtype=torch.float64, **kwargs):
    return LocalEngine(tiny.loaded_model(dtype, **kwargs))


def plain_logprobs(model, row):
    """For each answer its scored tokens' log-probs, one ordinary forward pass per answer, one token at a time."""
    found = []
    for answer in row.answers:
        path = [*row.prompt, *answer.tokens]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([path])).logits[0]
        for place, (token, scored) in enumerate(zip(answer.tokens, answer.scored, strict=True)):
            predictor = len(row.prompt) + place - 1
            if scored and predictor >= 0:
                found.append(float(logits[predictor].double().log_softmax(0)[token]))
    return found


def gradients_of(engine, forests, rows, reduction="token_mean"):
    """The gradient of one optimizer step over `forests` as the stages gather it, and the step's reported means."""
    step = Step("stage", 1, rows, forests, engine)
    for some in forests:
        loss = nll(engine.logprobs(some))
        step.add(loss, reductions.token_weights(some, rows, reduction), reductions.divisor(rows, reduction))
    gathered = {name: g.clone() for name, g in engine.gradients().items()}
    engine.discard()
    return gathered, step.means()


def assert_same(left, right, **tolerance):
    assert left.keys() == right.keys()
    assert left
    for name in left:
        torch.testing.assert_close(left[name], right[name], **(tolerance or TIGHT), msg=lambda m, n=name: f"{n}: {m}")


def largest(tensors):
    return max(float(t.abs().max()) for t in tensors.values())


class TestAgainstAPlainLoop:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_llama(self, attention):
        rows = tiny.random_rows(0, SHAPES)
        plain = tiny.plain_model(torch.float64, attention=attention)
        token = engine_of().logprobs(forest(rows)).token
        expected = torch.tensor([x for row in rows for x in plain_logprobs(plain, row)], dtype=torch.float64)
        assert token.dtype == torch.float64
        torch.testing.assert_close(token, expected, **TOLERANCE[attention])

    def test_partial_spans(self):
        base = tiny.random_rows(1, [(4, (6, 5))])[0]
        patterns = [(False, True, True, False, False, True), (False, False, False, True, False)]
        answers = tuple(Answer(a.tokens, p) for a, p in zip(base.answers, patterns, strict=True))
        row = Row(base.prompt, answers, 0)
        got = engine_of().logprobs(forest([row]))
        expected = torch.tensor(plain_logprobs(tiny.plain_model(torch.float64), row), dtype=torch.float64)
        torch.testing.assert_close(got.token, expected, **TIGHT)
        assert got.length.tolist() == [3.0, 1.0]
        assert reductions.scored_tokens(row) == 4

    def test_without_a_prompt_the_first_token_is_given(self):
        rows = tiny.random_rows(2, [(0, (5, 3)), (2, (2,))])
        got = engine_of().logprobs(forest(rows))
        plain = tiny.plain_model(torch.float64)
        expected = torch.tensor([x for row in rows for x in plain_logprobs(plain, row)], dtype=torch.float64)
        torch.testing.assert_close(got.token, expected, **TIGHT)
        assert got.length.tolist() == [4.0, 2.0, 2.0]
        assert [reductions.scored_tokens(row) for row in rows] == [6, 2]

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("window", [3, 8])
    def test_sliding_window(self, attention, window):
        shape = {name: getattr(tiny.config(), name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
        made = MistralConfig(
            **shape,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=window,
            initializer_range=0.15,
        )
        rows = tiny.random_rows(3, [(9, (7, 2)), (2, (11,))])
        plain = tiny.plain_model(torch.float64, of=copy.deepcopy(made), attention=attention)
        expected = torch.tensor([x for row in rows for x in plain_logprobs(plain, row)], dtype=torch.float64)
        got = engine_of(of=copy.deepcopy(made)).logprobs(forest(rows)).token
        torch.testing.assert_close(got, expected, **TOLERANCE[attention])
        wide = engine_of(of=MistralConfig(**made.to_diff_dict() | {"sliding_window": 999})).logprobs(forest(rows)).token
        assert not torch.allclose(wide, expected, atol=1e-3), "the window must matter, or this test proves nothing"

    def test_head_width_of_its_own_and_query_norms(self):
        made = Qwen3Config(
            vocab_size=tiny.VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            initializer_range=0.15,
        )
        rows = tiny.random_rows(4, SHAPES[:2])
        plain = tiny.plain_model(torch.float64, of=copy.deepcopy(made))
        expected = torch.tensor([x for row in rows for x in plain_logprobs(plain, row)], dtype=torch.float64)
        torch.testing.assert_close(engine_of(of=made).logprobs(forest(rows)).token, expected, **TIGHT)

    def test_temperature_divides_the_logits(self):
        rows = tiny.random_rows(5, [(3, (4,))])
        path = [*rows[0].prompt, *rows[0].answers[0].tokens]
        logits = tiny.plain_model(torch.float64)(input_ids=torch.tensor([path])).logits[0].detach()
        expected = (logits[2:-1] / 0.7).log_softmax(1).gather(1, torch.tensor(path[3:])[:, None])[:, 0]
        torch.testing.assert_close(engine_of().logprobs(forest(rows), temperature=0.7).token, expected, **TIGHT)

    def test_bf16_is_close_to_fp32(self):
        rows = tiny.random_rows(6, SHAPES)
        wide = engine_of(torch.float32).logprobs(forest(rows)).token
        narrow = engine_of(torch.bfloat16).logprobs(forest(rows)).token
        assert narrow.dtype == torch.float32
        assert 0 < float((wide - narrow).detach().abs().max()) < 0.2


class TestSharingAPrompt:
    def test_changes_no_logprob_and_no_gradient(self):
        rows = tiny.random_rows(0, [(6, (4, 7, 1)), (3, (5, 5))])
        alone = [Row(row.prompt, (answer,), 0, row.weight) for row in rows for answer in row.answers]
        alone = [Row(row.prompt, row.answers, place) for place, row in enumerate(alone)]
        shared_engine, alone_engine = engine_of(), engine_of()
        for engine in (shared_engine, alone_engine):
            tiny.widen_norms(engine.model)
        shared = shared_engine.logprobs(forest(rows))
        unshared = alone_engine.logprobs(forest(alone))
        assert len(forest(rows)) < len(forest(alone))
        torch.testing.assert_close(shared.token, unshared.token, **TIGHT)
        weight = torch.randn(shared.token.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        shared_engine.backward((shared.token * weight).sum())
        alone_engine.backward((unshared.token * weight).sum())
        assert_same(shared_engine.gradients(), alone_engine.gradients(), rtol=0, atol=1e-8)
        assert largest(shared_engine.gradients()) > 1

    def test_first_tokens_are_predicted_by_one_row(self):
        made = forest(tiny.random_rows(0, [(4, (2, 3, 1)), (2, (2, 2))]))
        firsts = [int((made.completion == c).nonzero()[0]) for c in range(5)]
        assert made.hidden_row[firsts].tolist() == [3, 3, 3, 11, 11]

    @settings(max_examples=8)
    @given(which=st.integers(0, 2), seed=st.integers(0, 50))
    def test_an_answer_touches_no_other(self, which, seed):
        row = tiny.random_rows(seed, [(4, (3, 5, 2))])[0]
        other = tiny.random_rows(seed + 1000, [(4, (3, 5, 2))])[0].answers[which]
        changed = Row(row.prompt, (*row.answers[:which], other, *row.answers[which + 1 :]), 0)
        engine = engine_of()
        with torch.no_grad():
            before, after = engine.logprobs(forest([row])), engine.logprobs(forest([changed]))
        mine = before.completion == which
        assert torch.equal(before.token[~mine], after.token[~mine])
        assert not torch.equal(before.token[mine], after.token[mine])

    def test_a_tree_touches_no_other(self):
        rows = tiny.random_rows(0, SHAPES)
        engine = engine_of()
        together = engine.logprobs(forest(rows)).sum.detach()
        alone = torch.cat([engine.logprobs(forest([row])).sum.detach() for row in rows])
        backwards = engine.logprobs(forest(rows[::-1])).sum.detach()
        torch.testing.assert_close(together, alone, **TIGHT)
        torch.testing.assert_close(backwards.view(-1, 2).flip(0).reshape(-1), together, **TIGHT)


class TestCutsOfAStep:
    ROWS = tuple(
        Row(row.prompt, row.answers, row.index, weight)
        for row, weight in zip(tiny.random_rows(0, SHAPES), (1.0, 0.25, 3.0, 1.0), strict=True)
    )

    @pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sequence_sum"])
    @pytest.mark.parametrize("budget", [1, 20, 31])
    def test_gradient_and_loss_do_not_depend_on_them(self, reduction, budget):
        engine = engine_of()
        cut = pack(self.ROWS, budget)
        whole, whole_means = gradients_of(engine, pack(self.ROWS, 10_000), self.ROWS, reduction)
        parts, parts_means = gradients_of(engine, cut, self.ROWS, reduction)
        assert len(cut) > 1
        assert_same(whole, parts)
        assert parts_means == pytest.approx(whole_means, rel=1e-9)

    @pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sequence_sum"])
    def test_loss_is_what_the_reduction_says(self, reduction):
        engine = engine_of()
        _, means = gradients_of(engine, pack(self.ROWS, 20), self.ROWS, reduction)
        top, bottom = 0.0, 0.0
        plain = tiny.plain_model(torch.float64)
        for row in self.ROWS:
            for answer in row.answers:
                losses = [-x for x in plain_logprobs(plain, Row(row.prompt, (answer,), 0))]
                top += row.weight * sum(losses) / (len(losses) if reduction == "sequence_mean" else 1)
                bottom += row.weight * (len(losses) if reduction == "token_mean" else 1)
        assert means["loss"] == pytest.approx(top / bottom, rel=1e-7)  # weights such as 1/7 are fp32

    def test_of_a_preference_step(self):
        engine = engine_of()
        reference = {}
        for row in self.ROWS:
            with torch.no_grad():
                reference[row.index] = engine_of(seed=9).logprobs(forest([row])).token

        def gather(forests):
            step = Step("stage", 1, self.ROWS, forests, engine)
            for some in forests:
                old = torch.cat([reference[index] for index in some.rows])
                judged = [tiny.compared(self.ROWS[index]) for index in some.rows]
                case = Case(judged, engine.logprobs(some), Logprobs(old, some.completion, len(some.group)))
                step.add(ask(DPO, case), torch.tensor(weights(DPO, judged)), sum(row.weight for row in self.ROWS))
            kept = {name: g.clone() for name, g in engine.gradients().items()}
            engine.discard()
            return kept, step.means()

        (whole, whole_means), (parts, parts_means) = gather(pack(self.ROWS, 10_000)), gather(pack(self.ROWS, 20))
        assert_same(whole, parts)
        assert parts_means == pytest.approx(whole_means, rel=1e-9)
        assert whole_means["loss"] != pytest.approx(math.log(2), rel=1e-3)

    def test_of_bf16_are_gathered_in_fp32(self):
        engine = engine_of(torch.bfloat16)
        whole, _ = gradients_of(engine, pack(self.ROWS, 10_000), self.ROWS)
        parts, _ = gradients_of(engine, pack(self.ROWS, 1), self.ROWS)
        assert {g.dtype for g in parts.values()} == {torch.float32}
        assert all(weight.grad is None for weight in engine.model.parameters())
        assert_same(whole, parts, rtol=0, atol=0.02 * largest(whole))


class TestLora:
    @staticmethod
    def engine(dtype=torch.float64):
        loaded = tiny.loaded_model(dtype)
        torch.manual_seed(0)
        return LocalEngine(Loaded(add_lora(loaded.model, rank=2, alpha=4.0, targets="all-linear"), loaded.renderer, ""))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_at_the_start_policy_and_reference_and_base_are_one(self, dtype):
        made = forest(tiny.random_rows(0, SHAPES))
        engine = self.engine(dtype)
        policy = engine.logprobs(made)
        assert torch.equal(policy.token, engine.logprobs(made, of="reference").token)
        assert torch.equal(policy.token, engine_of(dtype).logprobs(made).token)

    def test_reference_stays_the_base(self):
        made = forest(tiny.random_rows(0, SHAPES))
        engine = self.engine()
        base = engine_of().logprobs(made).token
        for _ in range(2):
            engine.backward(-engine.logprobs(made).token.mean())
            engine.step(0.05, 1.0)
        assert torch.equal(engine.logprobs(made, of="reference").token, base)
        assert not torch.allclose(engine.logprobs(made).token, base, atol=1e-3)

    def test_only_the_adapter_is_trained(self):
        engine = self.engine()
        engine.backward(-engine.logprobs(forest(tiny.random_rows(0, SHAPES))).token.mean())
        assert engine.gradients()
        assert all("lora_" in name for name in engine.gradients())

    def test_full_fine_tuning_has_no_reference_in_memory(self):
        with pytest.raises(GuardError, match="cached before the first step"):
            engine_of().logprobs(forest(tiny.random_rows(0, SHAPES)), of="reference")


class TestStep:
    def test_bf16_weights_are_the_rounded_masters(self):
        engine = engine_of(torch.bfloat16)
        made = forest(tiny.random_rows(0, SHAPES))
        before = {name: m.detach().clone() for name, m in engine._masters.items()}
        for _ in range(3):
            engine.backward(-engine.logprobs(made).token.mean())
            engine.step(1e-4, 1.0)
        for name, weight in engine.model.named_parameters():
            master = engine._masters[name]
            assert (weight.dtype, master.dtype) == (torch.bfloat16, torch.float32)
            rounded = torch.empty_like(weight)
            round_into(rounded, master)
            assert torch.equal(weight, rounded)
        moved = [name for name, m in engine._masters.items() if not torch.equal(m, m.bfloat16().float())]
        assert moved, "steps far below bf16's resolution must be kept in the masters"
        assert any(not torch.equal(before[name], m) for name, m in engine._masters.items())

    def test_bf16_weights_keep_up_with_steps_far_below_their_resolution(self):
        """Rounded to the nearest, a model read from bf16 would not move at all."""
        engine = engine_of(torch.bfloat16)
        before = {name: weight.detach().clone() for name, weight in engine.model.named_parameters()}
        engine.backward(-engine.logprobs(forest(tiny.random_rows(0, SHAPES))).token.mean())
        engine.step(1e-5, 1.0)
        name, weight = max(engine.model.named_parameters(), key=lambda both: both[1].numel())
        moved = (weight != before[name]).float().mean().item()
        wanted = (engine._masters[name] - before[name].float()).abs().mean().item()
        assert 0 < moved < 0.2
        assert (weight.float() - before[name].float()).abs().mean().item() == pytest.approx(wanted, rel=0.25)

    def test_is_adamw(self):
        engine = engine_of(torch.float32)
        other = tiny.plain_model()
        optimizer = torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.0)
        rows = tiny.random_rows(0, [(4, (5,))])
        path = torch.tensor([[*rows[0].prompt, *rows[0].answers[0].tokens]])
        labels = path.clone()
        labels[:, :4] = -100
        for _ in range(2):
            engine.backward(-engine.logprobs(forest(rows)).token.mean())
            norm = engine.step(0.01, 0.5)
            optimizer.zero_grad()
            other(input_ids=path, labels=labels).loss.backward()
            expected = torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
            optimizer.step()
            assert norm == pytest.approx(float(expected), rel=1e-4)
            assert norm > 0.5
        assert engine.logprobs(forest(rows)).token.mean().item() == pytest.approx(
            -other(input_ids=path, labels=labels).loss.item(), rel=1e-3
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_bad_gradient_changes_nothing(self, bad, dtype):
        engine = engine_of(dtype)
        made = forest(tiny.random_rows(0, SHAPES))
        before = {name: w.detach().clone() for name, w in engine.model.named_parameters()}
        masters = {name: w.detach().clone() for name, w in engine._masters.items()}
        engine.backward(engine.logprobs(made).token.sum() * bad)
        with pytest.raises(GuardError, match="gradient norm"):
            engine.step(0.1, 1.0)
        assert_same(before, dict(engine.model.named_parameters()), rtol=0, atol=0)
        assert_same(masters, dict(engine._masters), rtol=0, atol=0)
        assert engine.gradients() == {}
        assert not engine._optimizer.state

    def test_a_bad_loss_spoils_its_step_and_is_written_down(self):
        engine = engine_of(torch.float32)
        made = forest(tiny.random_rows(0, SHAPES))
        with torch.no_grad():
            engine.model.get_decoder().norm.weight[0] = math.nan
        step = Step("stage", 1, (), (), engine)
        step.add(nll(engine.logprobs(made)), torch.ones(len(made.target)), 1.0)
        assert step.spoilt == "the loss is nan"
        assert math.isnan(step.means()["loss"])

    def test_checkpointing_changes_no_gradient(self):
        made = forest(tiny.random_rows(0, SHAPES))
        usual = engine_of()
        saving = LocalEngine(tiny.loaded_model(torch.float64), checkpointing=True)
        for engine in (usual, saving):
            engine.backward(-engine.logprobs(made).token.mean())
        assert_same(usual.gradients(), saving.gradients())


def distributions(model, row):
    """For each scored token the whole log-softmax that predicts it, and the token: one ordinary pass per answer."""
    found = []
    for answer in row.answers:
        path = [*row.prompt, *answer.tokens]
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([path])).logits[0].double().log_softmax(1)
        found += [(logprobs[len(row.prompt) + place - 1], token) for place, token in enumerate(answer.tokens)]
    return found


def plain_statistics(policy, reference, rows):
    """log-prob, reference's log-prob, KL(reference || policy), log sum p^2, entropy of every scored token."""
    columns = []
    for row in rows:
        pairs = zip(distributions(policy, row), distributions(reference, row), strict=True)
        for (ours, token), (theirs, _) in pairs:
            kl = sum(float(q.exp() * (q - p)) for p, q in zip(ours, theirs, strict=True))
            entropy = -sum(float(p.exp() * p) for p in ours)
            columns.append((ours[token], theirs[token], kl, ours.exp().square().sum().log(), entropy))
    return torch.tensor(columns, dtype=torch.float64).T


def assert_statistics(found, expected):
    got = (found.logprobs, found.reference, found.divergence, found.concentration, found.entropy)
    for values, plain in zip(got, expected, strict=True):
        torch.testing.assert_close(values.token.detach(), plain, **TIGHT)


def moved(engine, steps=2):
    """The engine after some steps on one fixed batch."""
    made = forest(tiny.random_rows(7, SHAPES[:2]))
    for _ in range(steps):
        engine.backward(-engine.logprobs(made).token.mean())
        engine.step(0.02, 1.0)
    return engine


class TestStatistics:
    ROWS = tuple(tiny.random_rows(0, [*SHAPES[:2], (1, (2,))]))
    ALL: ClassVar = {"divergence": True, "concentration": True, "entropy": True}

    def test_of_full_weights_against_a_second_model(self):
        engine = engine_of()
        engine.keep_reference()
        moved(engine)
        plain = tiny.plain_model(torch.float64)
        plain.load_state_dict(engine.model.state_dict())
        expected = plain_statistics(plain, tiny.plain_model(torch.float64), self.ROWS)
        assert expected[2].min() > 1e-4, "the two must differ"
        assert_statistics(engine.statistics(forest(self.ROWS), **self.ALL), expected)

    def test_of_an_adapter_against_the_model_without_it(self):
        engine = moved(TestLora.engine())
        found = engine.statistics(forest(self.ROWS), **self.ALL)
        reference = engine_of().logprobs(forest(self.ROWS)).token
        assert torch.equal(found.reference.token, reference)
        merged = tiny.plain_model(torch.float64)
        merged.load_state_dict(copy.deepcopy(engine.model).merge_and_unload().state_dict())
        assert_statistics(found, plain_statistics(merged, tiny.plain_model(torch.float64), self.ROWS))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("adapter", [True, False])
    def test_at_the_start_the_divergence_is_exactly_0(self, adapter, dtype):
        engine = TestLora.engine(dtype) if adapter else engine_of(dtype)
        if not adapter:
            engine.keep_reference()
        found = engine.statistics(forest(self.ROWS), **self.ALL)
        assert (found.divergence.token == 0).all()
        assert torch.equal(found.reference.token, found.logprobs.token)

    def test_change_no_logprob_and_ask_only_what_is_wanted(self):
        engine = engine_of(torch.float32)
        found = engine.statistics(forest(self.ROWS), concentration=True)
        assert torch.equal(found.logprobs.token, engine.logprobs(forest(self.ROWS)).token)
        assert (found.reference, found.divergence, found.entropy) == (None, None, None)

    def test_at_a_temperature_are_of_the_distribution_that_is_sampled(self):
        engine, made = engine_of(torch.float64), forest(self.ROWS)
        found = engine.statistics(made, temperature=0.6, entropy=True)
        assert torch.equal(found.logprobs.token, engine.logprobs(made, temperature=0.6).token)
        head = engine._head_of(made)
        plain = torch.distributions.Categorical(logits=head.hidden @ head.weight.T / 0.6).entropy()
        torch.testing.assert_close(found.entropy.token, plain, **TIGHT)
        assert (found.entropy.token < engine.statistics(made, entropy=True).entropy.token).all()

    @pytest.mark.parametrize("adapter", [True, False])
    def test_gradient_of_the_divergence_is_the_policys_alone(self, adapter):
        """Against finite differences along one direction of all weights that train, in which the reference stays."""
        engine = TestLora.engine() if adapter else engine_of()
        tiny.widen_norms(engine.model)
        if not adapter:
            engine.keep_reference()
        moved(engine)
        made = forest(self.ROWS)

        def total():
            return engine.statistics(made, divergence=True, concentration=False).divergence.token.sum()

        engine.backward(total())
        generator = torch.Generator().manual_seed(2)
        weights = dict(engine._masters)
        way = {n: torch.randn(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
        slope = sum(float((g * way[name]).sum()) for name, g in engine.gradients().items())
        values = []
        for by in (1e-5, -2e-5):
            with torch.no_grad():
                for name, weight in weights.items():
                    weight += by * way[name]
            values.append(float(total().detach()))
        assert abs(slope) > 0.01
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


class TestKeptReference:
    ROWS = TestStatistics.ROWS

    def logprobs(self, engine):
        with torch.no_grad():
            return engine.logprobs(forest(self.ROWS), of="reference").token

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_stays_while_the_policy_moves(self, dtype):
        engine = engine_of(dtype)
        before = engine.logprobs(forest(self.ROWS)).token.detach()
        engine.keep_reference()
        moved(engine)
        after = engine.logprobs(forest(self.ROWS)).token.detach()
        assert torch.equal(self.logprobs(engine), before)
        assert not torch.equal(after, before)
        assert torch.equal(engine.logprobs(forest(self.ROWS)).token, after), "the policy's weights are its own again"

    def test_moves_by_the_mix(self):
        """mix * policy + (1 - mix) * reference, of a second model's weights; twice."""
        engine = engine_of()
        engine.keep_reference()
        plain = tiny.loaded_model(torch.float64)
        for mix in (0.25, 0.6):
            moved(engine)
            engine.move_reference(mix)
            with torch.no_grad():
                for name, weight in plain.model.named_parameters():
                    weight.copy_(mix * engine._masters[name] + (1 - mix) * weight)
        expected = LocalEngine(plain).logprobs(forest(self.ROWS)).token
        torch.testing.assert_close(self.logprobs(engine), expected.detach(), **TIGHT)
        engine.move_reference(1.0)
        assert torch.equal(self.logprobs(engine), engine.logprobs(forest(self.ROWS)).token)

    def test_of_an_adapter_comes_before_adapters_off(self):
        engine = moved(TestLora.engine())
        engine.keep_reference()
        kept = engine.logprobs(forest(self.ROWS)).token.detach()
        moved(engine)
        assert torch.equal(self.logprobs(engine), kept)

    def test_refuses_to_run_with_gradient(self):
        engine = engine_of()
        engine.keep_reference()
        before = engine.logprobs(forest(self.ROWS)).token.detach()
        with pytest.raises(GuardError, match=r"without gradient: wrap the call in torch.no_grad\(\)"):
            engine.logprobs(forest(self.ROWS), of="reference")
        assert torch.equal(engine.logprobs(forest(self.ROWS)).token, before)

    def test_the_policys_weights_come_back_after_an_error(self):
        engine = engine_of()
        engine.keep_reference()
        moved(engine)
        before = engine.logprobs(forest(self.ROWS)).token.detach()
        with pytest.raises(RuntimeError, match="lost"), torch.no_grad(), engine.as_role("reference"):
            raise RuntimeError("lost")
        assert torch.equal(engine.logprobs(forest(self.ROWS)).token, before)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_is_saved_and_read_to_the_same_bits(self, dtype, tmp_path):
        engine = engine_of(dtype)
        engine.keep_reference()
        moved(engine)
        engine.move_reference(0.3)
        engine.save_state(tmp_path)
        again = engine_of(dtype)
        again.keep_reference()
        assert not torch.equal(self.logprobs(again), self.logprobs(engine))
        again.load_state(tmp_path)
        assert torch.equal(self.logprobs(again), self.logprobs(engine))
        for some in (engine, again):
            moved(some)
            some.move_reference(0.3)
        assert torch.equal(self.logprobs(again), self.logprobs(engine))
        assert_same(dict(again._masters), dict(engine._masters), rtol=0, atol=0)


def trained(engine, rows, steps):
    for number in range(steps):
        engine.backward(-engine.logprobs(forest(rows)).token.mean())
        engine.step(0.01 / (number + 1), 1.0)


class TestSaving:
    ROWS = tuple(tiny.random_rows(0, SHAPES))

    @staticmethod
    def engine(kind):
        if kind == "lora":
            return TestLora.engine(torch.float32)
        return engine_of(torch.bfloat16 if kind == "bf16" else torch.float32)

    @pytest.mark.parametrize("kind", ["full", "bf16", "lora"])
    def test_goes_on_to_the_same_bits(self, kind, tmp_path):
        uninterrupted = self.engine(kind)
        trained(uninterrupted, self.ROWS, 2)
        torch.manual_seed(5)
        uninterrupted.save_state(tmp_path)
        torch_draw = torch.rand(3)
        resumed = self.engine(kind)
        resumed.load_state(tmp_path)
        assert torch.equal(torch.rand(3), torch_draw)
        for engine in (uninterrupted, resumed):
            trained(engine, self.ROWS, 2)
        assert_same(dict(uninterrupted._masters), dict(resumed._masters), rtol=0, atol=0)
        assert_same(
            dict(uninterrupted.model.named_parameters()), dict(resumed.model.named_parameters()), rtol=0, atol=0
        )
        fresh = self.engine(kind)
        trained(fresh, self.ROWS, 2)
        pairs = zip(fresh._masters.values(), resumed._masters.values(), strict=True)
        assert not all(torch.equal(one, other) for one, other in pairs)

    @pytest.mark.parametrize("kind", ["full", "bf16"])
    def test_model_folder_is_transformers_own(self, kind, tmp_path):
        engine = self.engine(kind)
        trained(engine, self.ROWS, 2)
        engine.save_model(tmp_path)
        read = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa")
        assert read.dtype == torch.float32
        masters = dict(engine._masters)
        assert_same({n: w for n, w in read.named_parameters() if n in masters}, masters, rtol=0, atol=0)
        assert torch.equal(read.get_output_embeddings().weight, read.get_input_embeddings().weight)
        expected = torch.tensor([x for row in self.ROWS for x in plain_logprobs(read.eval(), row)])
        again = LocalEngine(load(str(tmp_path), dtype=torch.float32, device=torch.device("cpu")))
        torch.testing.assert_close(again.logprobs(forest(self.ROWS)).token, expected.float(), rtol=0, atol=1e-4)
        if kind == "full":
            assert torch.equal(again.logprobs(forest(self.ROWS)).token, engine.logprobs(forest(self.ROWS)).token)

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own call
    def test_adapter_folder_is_pefts_own(self, tmp_path):
        from peft import PeftModel

        base = tiny.save_tiny_model(tmp_path / "base")
        loaded = load(str(base), dtype=torch.float32, device=torch.device("cpu"))
        adapted = add_lora(loaded.model, rank=2, alpha=4.0, targets="all-linear")
        engine = LocalEngine(Loaded(adapted, loaded.renderer, loaded.source))
        trained(engine, self.ROWS, 2)
        engine.save_model(tmp_path / "adapter")
        assert not (tmp_path / "adapter" / "model.safetensors").exists()
        plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
        read = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
        expected = torch.tensor([x for row in self.ROWS for x in plain_logprobs(read, row)]).float()
        token = engine.logprobs(forest(self.ROWS)).token
        torch.testing.assert_close(token, expected, rtol=0, atol=1e-4)
        assert not torch.allclose(token, engine.logprobs(forest(self.ROWS), of="reference").token, atol=1e-3)
        merged = LocalEngine(load(str(tmp_path / "adapter"), dtype=torch.float32, device=torch.device("cpu")))
        torch.testing.assert_close(merged.logprobs(forest(self.ROWS)).token, token, rtol=0, atol=1e-4)


class TestRefusals:
    def gemma(self):
        return Gemma2Config(
            vocab_size=tiny.VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        )

    def test_soft_caps_in_attention(self):
        with pytest.raises(MissingError, match="softcap"):
            engine_of(torch.float32, of=self.gemma()).logprobs(forest(tiny.random_rows(0, SHAPES)))

    def test_soft_caps_on_logits(self, tmp_path):
        tiny.plain_model(of=self.gemma(), attention="eager").save_pretrained(tmp_path)
        tiny.tokenizer().save_pretrained(tmp_path)
        with pytest.raises(MissingError, match="final_logit_softcapping"):
            load(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))

    def test_attention_dropout(self):
        loaded = tiny.loaded_model(of=tiny.config(attention_dropout=0.1))
        loaded.model.train()
        with pytest.raises(MissingError, match="dropout"):
            LocalEngine(loaded).logprobs(forest(tiny.random_rows(0, SHAPES)))

    def test_bias_in_the_output_layer(self):
        loaded = tiny.loaded_model()
        loaded.model.lm_head.bias = torch.nn.Parameter(torch.zeros(tiny.VOCABULARY))
        with pytest.raises(MissingError, match="bias"):
            LocalEngine(loaded).logprobs(forest(tiny.random_rows(0, SHAPES)))

    def test_the_tiny_model_does_run_on_forest_attention(self):
        assert tiny.loaded_model().model.config._attn_implementation == ATTENTION


def test_a_moving_reference_keeps_small_moves_in_bf16():
    """A hundred moves of a hundredth each, of which every single one is below what bf16 can show."""
    engine = engine_of(torch.bfloat16)
    engine.keep_reference()
    name, master = next(iter(engine._masters.items()))
    start = master.detach().clone()
    with torch.no_grad():
        master.add_(1e-3)
    for _ in range(100):
        engine.move_reference(0.01)
    moved = engine._reference_masters[name] - start
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3 * (1 - 0.99**100)), rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_states_of_a_forest_are_those_of_each_path(attention):
    rows = [*tiny.random_rows(3, SHAPES), tiny.row([5, 6, 7], index=9)]
    batch = forest(rows)
    found = engine_of().hidden(batch)
    plain = tiny.plain_model(torch.float64, attention=attention)
    assert not found.requires_grad
    for row, tree in zip(rows, batch.trees, strict=True):
        for answer, place in zip((Answer((), ()), *row.answers), (slice(0, 0), *tree.answers), strict=True):
            with torch.no_grad():
                path = plain.model(torch.tensor([[*row.prompt, *answer.tokens]])).last_hidden_state[0]
            torch.testing.assert_close(found[tree.prompt], path[: len(row.prompt)], **TOLERANCE[attention])
            torch.testing.assert_close(found[place], path[len(row.prompt) :], **TOLERANCE[attention])
