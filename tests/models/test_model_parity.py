"""Architectures that run on forests are loaded; the others are refused by name, whatever it is that they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from truing import packing
from truing.compute import Sampling
from truing.compute.attention import ATTENTION, ForestLayout
from truing.compute.engine.local import LocalEngine
from truing.compute.generate.native import NativeGenerator
from truing.errors import MissingError
from truing.models import Loaded, add_lora, load, parity
from truing.models.parity import longest_exact
from truing.models.quiet import quiet_libraries
from truing.packing import forest
from truing.records import Group, text
from truing.rendering import Row
from truing.tensors import Forest, Tree

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": tiny.VOCABULARY - 1,
    "pad_token_id": None,
}
GATED_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
RUN: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1},
    "mistral": {"sliding_window": 3},
    "gemma3_text": {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "granite": {},
    "qwen2": {},
    "qwen3": {},
}
DO_NOT: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({"state_size": 8}, "linear_attention"),
    "qwen3_next": (
        GATED_DELTA
        | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"shared_expert_intermediate_size": 16},
        "linear_attention",
    ),
    "lfm2": ({"layer_types": ["conv", "full_attention"] * 2}, "conv"),
    "falcon_h1": ({"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}, "hybrid"),
    "rwkv": ({"attention_hidden_size": 32, "context_length": 64}, "nats apart"),
    "bloom": ({"n_head": 4, "n_layer": 2}, "nats apart"),
    "xglm": ({"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}, "nats apart"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2}, "AttributeError"),
    "stablelm": ({}, "TypeError"),
    "gptj": ({"n_embd": 32, "n_head": 4, "n_layer": 2, "rotary_dim": 4}, "KeyError"),
}


def saved(folder: Path, kind: str, changes: dict[str, Any]) -> str:
    """A model folder of that architecture with small random weights."""
    with quiet_libraries(), torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoConfig.for_model(kind, **SMALL | changes)
        AutoModelForCausalLM.from_config(made, attn_implementation="eager").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", RUN)
def test_accepted(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    loaded = load(saved(tmp_path, kind, RUN[kind]), dtype=dtype, device=CPU)
    assert loaded.model.config._attn_implementation == ATTENTION, "the check leaves the model as it was"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("opt", {"dropout": 0.3, "attention_dropout": 0.3}), ("llama", {"attention_dropout": 0.3}),
     ("gpt2", {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3})],
)  # fmt: skip
def test_recomputing_activations_lets_no_dropout_in(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    source = saved(tmp_path, kind, RUN[kind] | changes)
    made = forest(tiny.random_rows(0, [(4, (3, 2)), (3, (2,))]))
    found = []
    for checkpointing in (False, True):
        engine = LocalEngine(load(source, dtype=torch.float32, device=CPU), checkpointing=checkpointing)
        logprobs = engine.logprobs(made).token
        engine.backward(logprobs.sum())
        found.append((logprobs.detach(), engine.gradients()))
    (plain, slopes), (saving, others) = found
    assert torch.equal(plain, saving)
    assert slopes.keys() == others.keys()
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, others[name], rtol=1e-5, atol=1e-6)


def test_recomputing_takes_place(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    engine = LocalEngine(load(saved(tmp_path, "opt", RUN["opt"]), dtype=torch.float32, device=CPU), checkpointing=True)
    calls = []
    for layer in engine.model.get_decoder().layers:
        layer.fc1.register_forward_hook(lambda *_: calls.append(1))
    engine.backward(engine.logprobs(forest(tiny.random_rows(0, [(4, (3,))]))).token.sum())
    assert len(calls) == 2 * len(engine.model.get_decoder().layers)


def test_an_adapter_on_the_output_layer_is_refused() -> None:
    loaded = tiny.loaded_model(of=tiny.config(tie_word_embeddings=False))
    adapted = Loaded(add_lora(loaded.model, rank=2, alpha=4.0, targets=["q_proj", "lm_head"]), loaded.renderer, "tiny")
    with pytest.raises(MissingError, match="leave it out of the adapter's targets"):
        LocalEngine(adapted).logprobs(forest(tiny.random_rows(0, [(4, (3,))])))


def test_positions_that_depend_on_the_call_have_a_limit() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    loaded = tiny.loaded_model(of=tiny.config(rope_parameters=rope, max_position_embeddings=8))
    assert longest_exact(loaded.model.config) == 8
    assert longest_exact(tiny.config()) is None
    engine = LocalEngine(loaded)
    engine.logprobs(forest(tiny.random_rows(0, [(4, (4, 2))])))
    with pytest.raises(MissingError, match="at most 8"):
        engine.logprobs(forest(tiny.random_rows(0, [(4, (5,))])))
    generator = NativeGenerator(loaded, policy="p")
    prompt = Group((text("ab"),))
    generator.generate([prompt], Sampling(max_new_tokens=6))
    with pytest.raises(MissingError, match="at most 8"):
        generator.generate([prompt], Sampling(max_new_tokens=7))


@pytest.mark.parametrize("kind", DO_NOT)
def test_refused_by_name(kind: str, tmp_path: Path) -> None:
    changes, why = DO_NOT[kind]
    source = saved(tmp_path, kind, changes)
    with pytest.raises(MissingError, match=rf"models of type '{kind}' do not run on forests.*{why}.*use a model"):
        load(source, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("kind", ["mamba", "qwen3_next", "lfm2", "falcon_h1"])
def test_other_layers_are_found_out_even_where_nothing_names_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truing.models._refuse_other_layers", lambda config: None)
    with pytest.raises(MissingError, match=f"'{kind}' .*nats apart"):
        load(saved(tmp_path, kind, DO_NOT[kind][0]), dtype=torch.float32, device=CPU)


def test_wrong_positions_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.loaded_model().model
    parity.demand_parity(model, torch.float32)

    def counted_through(rows: list[Row]) -> Forest:
        made = packing.forest(rows)
        return replace(made, positions=torch.arange(len(made)))

    monkeypatch.setattr(parity, "forest", counted_through)
    with pytest.raises(MissingError, match=r"'llama'.*nats apart"):
        parity.demand_parity(model, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_answer_that_sees_another_is_found_out(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.loaded_model(dtype).model
    parity.demand_parity(model, dtype)

    def one_after_the_other(trees: Sequence[Tree]) -> ForestLayout:
        return ForestLayout([Tree(t.prompt, (slice(t.prompt.stop, t.answers[-1].stop),)) for t in trees])

    monkeypatch.setattr(parity, "ForestLayout", one_after_the_other)
    with pytest.raises(MissingError, match=r"'llama'.*nats apart"):
        parity.demand_parity(model, dtype)


def test_a_bias_in_the_output_layer_is_refused_on_loading(tmp_path: Path) -> None:
    source = saved(tmp_path, "phi", {})
    with pytest.raises(MissingError, match="PhiForCausalLM has a bias in its output layer"):
        load(source, dtype=torch.float32, device=CPU)


def test_weights_that_are_no_numbers_are_not_blamed_on_the_architecture() -> None:
    model = tiny.loaded_model().model
    torch.nn.init.constant_(model.get_decoder().norm.weight, float("nan"))
    parity.demand_parity(model, torch.float32)
