"""The own decoding loop against the model's own forward pass, and for which models it stands aside."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from truing.compute import Sampling
from truing.compute.generate import fused, native
from truing.compute.generate.cache import Cache, Decode
from truing.models import add_lora
from truing.records import Group, user

SHAPE = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": tiny.VOCABULARY - 1,
    "pad_token_id": None,
}
SCALED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10_000.0}
KINDS = {
    "llama": LlamaConfig(**SHAPE),
    "llama with biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama with scaled positions": LlamaConfig(**SHAPE, rope_parameters=SCALED),
    "mistral": MistralConfig(**SHAPE, sliding_window=None, head_dim=16),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
}


def roughened(config, dtype=torch.float64):
    """A tiny model whose norms and biases are not the ones and zeros that they are born as."""
    loaded = tiny.loaded_model(of=config)
    generator = torch.Generator().manual_seed(1)
    for name, weight in loaded.model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    loaded.model.to(dtype)
    return loaded


def decoding(rows):
    """Prompts of 3 and 5 tokens in a cache of random keys, and answers that have written 0, 1, ... tokens."""
    of = [row % 2 for row in range(rows)]
    written = [row % 7 for row in range(rows)]

    def layout(heads, width):
        generator = torch.Generator().manual_seed(2)
        caches = [Cache(3, heads, width, torch.empty(0, dtype=torch.float64)) for _ in range(2)]
        for cache, (count, length) in zip(caches, ((2, 5), (rows, 8)), strict=True):
            cache.reshape(range(0), count, length)
            for tensor in (*cache.keys, *cache.values):
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        return Decode(*caches, of, [3, 5], written)

    return layout


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_hidden_states_are_the_models(kind, rows):
    config = KINDS[kind]
    decoder = roughened(config).model.get_decoder()
    assert fused.can_decode(decoder)
    tokens = torch.arange(rows) * 7 % tiny.VOCABULARY
    width = getattr(config, "head_dim", None) or 8
    make = decoding(rows)
    layout = make(2, width)
    ours = fused.decode(decoder, tokens, layout.positions, layout)
    layout = make(2, width)
    theirs = decoder(
        input_ids=tokens[None], position_ids=layout.positions[None], use_cache=False, layout=layout
    ).last_hidden_state[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)  # transformers takes its norms in fp32


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_models_own_forward(kind, monkeypatch):
    loaded = roughened(KINDS[kind], torch.float32)
    prompts = [Group((user(words),)) for words in ("Hi", "What is it?", "no")]
    answers = []
    for own in (True, False):
        monkeypatch.setattr(native, "can_decode", lambda decoder, own=own: own and fused.can_decode(decoder))
        generator = native.NativeGenerator(loaded, policy="p")
        answers.append(generator.generate(prompts, Sampling(temperature=0, max_new_tokens=40), answers=6))
    for ours, theirs in zip(*answers, strict=True):
        assert [one.sampled.tokens for one in ours] == [one.sampled.tokens for one in theirs]


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE, sliding_window=5),
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1),
        LlamaConfig(**SHAPE, hidden_act="gelu"),
        Gemma3TextConfig(**SHAPE, head_dim=8),
        GPT2Config(vocab_size=tiny.VOCABULARY, n_embd=32, n_layer=2, n_head=4),
    ],
    ids=lambda config: config.model_type,
)
def test_stands_aside_for_other_models(config):
    assert not fused.can_decode(tiny.plain_model(of=config).get_decoder())


def test_stands_aside_for_adapters():
    adapted = add_lora(tiny.loaded_model().model, rank=2, alpha=8.0, targets=["q_proj"])
    assert not fused.can_decode(adapted.get_decoder())
