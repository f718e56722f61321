"""A base in 8 or 4 bits: what is kept, what comes back, and that a forest still says what plain sequences say."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
import tiny_model
import torch
from transformers import AutoModelForCausalLM

from truing.compute import Sampling
from truing.compute.engine.local import LocalEngine
from truing.compute.generate.native import NativeGenerator
from truing.costs import Shape, Weights
from truing.errors import ConfigError, MissingError
from truing.models import Loaded, add_lora, load, quantised, roles
from truing.models.quantised import BLOCK, Bits, QuantisedLinear, bits_of, weight_count
from truing.models.quiet import quiet_libraries
from truing.packing import forest
from truing.signatures import validated
from truing.stages.sft import Sft, sft

CPU = torch.device("cpu")
ROWS = tiny.random_rows(3, [(5, (4, 7)), (3, (1, 6)), (9, (2, 2))])
EACH: tuple[Bits, ...] = get_args(Bits)
needed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


def loaded(folder: Path, bits: Bits | None, dtype: torch.dtype = torch.float32) -> Loaded:
    return load(str(folder), dtype=dtype, device=CPU, bits=bits)


def adapted(base: Loaded, seed: int = 1) -> Loaded:
    torch.manual_seed(seed)
    model = add_lora(base.model, rank=2, alpha=4.0, targets="all-linear")
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return Loaded(model, base.renderer, base.source)


def widened(model: Any) -> Any:
    """The same model in ordinary layers with the weights that the bits stand for."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantisedLinear):
            plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
            plain.weight = torch.nn.Parameter(layer.wide(torch.float32))
            model.set_submodule(name, plain)
    return model


@needed
@pytest.mark.parametrize("bits", EACH)
def test_weights_go_to_the_nearest_value_of_their_block(bits: Bits) -> None:
    """Against a plain loop over the blocks."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 32)
    made = QuantisedLinear(layer, bits)
    values = made.values.tolist()
    assert len(values) == 2**bits
    kept = made.wide(torch.float32).flatten()
    for start in range(0, kept.numel(), BLOCK):
        block = layer.weight.detach().flatten()[start : start + BLOCK]
        scale = float(block.abs().max())
        for weight, found in zip(block.tolist(), kept[start : start + BLOCK].tolist(), strict=True):
            nearest = min(abs(weight - value * scale) for value in values)
            assert abs(weight - found) == pytest.approx(nearest, abs=2e-3 * scale)
    assert made.weight.nbytes + made.scale.nbytes == kept.numel() * (bits / 8 + 4 / BLOCK)
    rows = torch.randn(5, 48, requires_grad=True)
    out = made(rows)
    torch.testing.assert_close(out, rows @ made.wide(torch.float32).T + layer.bias)
    (slope,) = torch.autograd.grad(out.sum(), rows)
    torch.testing.assert_close(slope, made.wide(torch.float32).sum(0).expand(5, 48))


@needed
@pytest.mark.parametrize("bits", EACH)
def test_a_forest_says_what_plain_passes_of_the_same_model_say(bits: Bits, folder: Path) -> None:
    """And so do ordinary layers that hold what the bits stand for; rows beside it change nothing."""
    base = loaded(folder, bits)
    assert bits_of(base.model) == bits
    wide = widened(loaded(folder, bits).model)
    wide.set_attn_implementation("eager")
    with torch.no_grad():
        found = LocalEngine(base).logprobs(forest(ROWS)).token
        plain = []
        for row in ROWS:
            for answer in row.answers:
                logprobs = wide(torch.tensor([[*row.prompt, *answer.tokens]])).logits[0].log_softmax(-1)
                places = range(len(row.prompt) - 1, len(row.prompt) + len(answer.tokens) - 1)
                plain += [logprobs[place, token] for place, token in zip(places, answer.tokens, strict=True)]
        full = LocalEngine(loaded(folder, None)).logprobs(forest(ROWS)).token
    torch.testing.assert_close(found, torch.stack(plain), rtol=0, atol=1e-5)
    assert 1e-4 < (found - full).abs().max() < {8: 0.1, 4: 1.5}[bits]


@needed
@pytest.mark.parametrize("bits", EACH)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_an_adapter_are_those_over_ordinary_layers(bits: Bits, checkpointing: bool, folder: Path) -> None:
    own = LocalEngine(adapted(loaded(folder, bits)), checkpointing=checkpointing)
    base = loaded(folder, bits)
    wide = LocalEngine(adapted(Loaded(widened(base.model), base.renderer, base.source)))
    for engine in (own, wide):
        engine.backward(engine.logprobs(forest(ROWS)).token.sum())
    assert own.gradients().keys() == wide.gradients().keys()
    assert all("lora_" in name for name in own.gradients())
    for name, slope in own.gradients().items():
        torch.testing.assert_close(slope, wide.gradients()[name], rtol=1e-4, atol=1e-4)


@needed
def test_all_roles_use_the_same_bits(folder: Path) -> None:
    policy = adapted(loaded(folder, 4))
    base = roles.beneath(policy)
    critic = adapted(roles.with_head(base), 2)
    kept = [
        [tensor.data_ptr() for one in model.modules() if isinstance(one, QuantisedLinear)
         for tensor in (one.weight, one.scale, one.values)]
        for model in (policy.model, base.model, critic.model)
    ]  # fmt: skip
    assert kept[0] == kept[1] == kept[2] != []
    with torch.no_grad():
        found = LocalEngine(policy, dtype=torch.float32).logprobs(forest(ROWS), of="reference").token
        assert torch.equal(found, LocalEngine(base).logprobs(forest(ROWS)).token)


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_sampled_is_what_is_scored(dtype: torch.dtype, folder: Path) -> None:
    policy = adapted(loaded(folder, 4, dtype))
    engine = LocalEngine(policy, dtype=dtype)
    (answers,) = NativeGenerator(policy, policy="").generate(
        tiny_model.prompts(1), Sampling(max_new_tokens=6), answers=2, seed=1
    )
    group = tiny_model.prompts(1)[0]
    row = policy.renderer.render(type(group)(group.prompt, answers))
    with torch.no_grad():
        scored = engine.logprobs(forest([row])).token
    drawn = torch.tensor([logprob for one in answers if one.sampled for logprob in one.sampled.logprobs])
    torch.testing.assert_close(scored, drawn, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.1)


@needed
def test_the_adapter_of_a_stage_loads_over_the_full_base_in_peft(folder: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    run = tiny_model.open_run(tmp_path / "run")
    settings = {"lora": {"rank": 2}, "base_bits": 4, "learning_rate": 1e-2, "epochs": 4, "batch_size": 4}
    data = tiny_model.given(tiny_model.demonstrations())
    sft(tiny_model.context(run), validated(Sft, settings, "test"), tiny_model.model_of(folder), data)
    losses = [event["metrics"]["loss"] for event in tiny_model.step_events(run)]
    assert losses[-1] < 0.8 * losses[0]
    (made,) = run.artifacts()
    run.close()
    where = run.path / str(made.meta["model"])
    row = loaded(folder, None).renderer.render(tiny_model.demonstrations()[0])
    ids = torch.tensor([[*row.prompt, *row.answers[0].tokens]])
    with quiet_libraries(), torch.no_grad():
        theirs = AutoPeftModelForCausalLM.from_pretrained(where).eval()(ids).logits.log_softmax(-1)
        bare = AutoModelForCausalLM.from_pretrained(folder)(ids).logits.log_softmax(-1)
    merged = load(str(where), dtype=torch.float32, device=CPU)
    said = LocalEngine(merged).logprobs(forest([row])).token
    places = slice(len(row.prompt) - 1, -1)
    theirs, bare = (one[0, places].gather(1, ids[0, len(row.prompt) :, None])[:, 0] for one in (theirs, bare))
    torch.testing.assert_close(said, theirs, rtol=0, atol=1e-4)
    assert float(said.detach().sum()) > float(bare.sum()) + 1, "what was learnt over the bits holds over the full base"


@needed
def test_the_reference_in_other_bits_is_not_taken_from_the_cache(folder: Path) -> None:
    said = {LocalEngine(loaded(folder, bits)).arithmetic for bits in (None, *EACH)}
    assert len(said) == 3


@needed
@pytest.mark.parametrize("bits", EACH)
def test_the_formula_counts_the_bytes_that_are_kept(bits: Bits, folder: Path) -> None:
    model = loaded(folder, bits).model
    kept = sum(weight.nbytes for weight in model.parameters())
    kept += sum(one.scale.nbytes for one in model.modules() if isinstance(one, QuantisedLinear))
    count = weight_count(model)
    assert count == weight_count(loaded(folder, None).model)
    assert Weights(count, 0, 4, "cpu", bits=bits).bytes(Shape.of(model.config)) == kept


def test_trained_weights_are_not_quantised() -> None:
    with pytest.raises(ConfigError, match="base_bits is for a base that is frozen: set lora"):
        validated(Sft, {"base_bits": 4}, "test")
    with pytest.raises(ConfigError, match="base_bits"):
        validated(Sft, {"base_bits": 5, "lora": {}}, "test")


def test_what_to_install_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'truing\[quantised\]'"):
        loaded(folder, 4)


@needed
def test_a_model_without_plain_linear_layers_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config

    model = AutoModelForCausalLM.from_config(GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=tiny.VOCABULARY))
    with pytest.raises(MissingError, match="no plain linear layer"):
        quantised.quantise(model, 8, CPU)
