"""Roles over one base: the very same tensors, the numbers of separate models, and gradients that do not meet."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_model
import torch
from torch import Tensor
from transformers import MistralConfig, MistralModel

from truing.compute.engine.local import LocalEngine
from truing.errors import MissingError
from truing.models import Loaded, add_lora, load, roles
from truing.models.reward import over
from truing.packing import forest

CPU = torch.device("cpu")
ROWS = tiny.random_rows(3, [(5, (4, 7)), (3, (1, 6))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


def loaded(folder: Path, outputs: int = 0) -> Loaded:
    return load(str(folder), dtype=torch.float32, device=CPU, outputs=outputs)


def adapted(base: Loaded, seed: int) -> Loaded:
    """A fresh adapter on it that changes what it says."""
    torch.manual_seed(seed)
    model = add_lora(base.model, rank=2, alpha=4.0, targets="all-linear")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    return Loaded(model, base.renderer, base.source)


def storages(*models: Any) -> dict[int, int]:
    """Bytes of each storage that the parameters lie in, by its address."""
    weights = [weight for model in models for weight in model.parameters()]
    return {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in weights}


def save_adapter(folder: Path, *, outputs: int, seed: int, where: Path) -> Path:
    adapted(loaded(folder, outputs), seed).model.save_pretrained(where)
    tiny.tokenizer(tiny.NEWLINE_TEMPLATE).save_pretrained(where)
    return where


def test_the_base_is_in_memory_once(folder: Path, tmp_path: Path) -> None:
    whole = sum(storages(loaded(folder).model).values())
    judge = save_adapter(folder, outputs=1, seed=5, where=tmp_path / "judge")
    policy = adapted(loaded(folder), 1)
    base = roles.beneath(policy)
    critic = adapted(roles.with_head(base), 2)
    scorer = roles.beside(base, str(judge), scores=True)
    together = storages(policy.model, base.model, critic.model, scorer.model)
    own = [
        weight.nbytes
        for one in (policy, critic, scorer)
        for name, weight in one.model.named_parameters()
        if "lora_" in name or "score" in name
    ]
    assert sum(together.values()) == whole + sum(own)
    assert sum(own) < whole, "the base must be most of it, or this test proves little"


def test_a_critic_over_the_base_says_what_a_separate_one_says(folder: Path) -> None:
    """To the bit, its head and its adapter drawn by the same seed."""
    base = roles.beneath(adapted(loaded(folder), 1))
    makers: tuple[Callable[[], Loaded], ...] = (lambda: roles.with_head(base), lambda: roles.with_head(loaded(folder)))
    found = []
    for make in makers:
        torch.manual_seed(7)
        model = add_lora(make().model, rank=2, alpha=4.0, targets="all-linear")
        engine = LocalEngine(Loaded(model, base.renderer, base.source))
        engine.backward(engine.values(forest(ROWS)).token.pow(2).sum())
        engine.step(1e-1, 1.0)
        engine.backward(engine.values(forest(ROWS)).token.pow(2).sum())
        found.append(engine)
    shared, apart = found
    assert torch.equal(shared.values(forest(ROWS)).token, apart.values(forest(ROWS)).token)
    assert shared.gradients().keys() == apart.gradients().keys()
    assert all(torch.equal(slope, apart.gradients()[name]) for name, slope in shared.gradients().items())


def test_what_trains_one_role_does_not_reach_the_other(folder: Path) -> None:
    policy = adapted(loaded(folder), 1)
    critic = adapted(roles.with_head(roles.beneath(policy)), 2)
    engines = LocalEngine(policy), LocalEngine(critic)
    batch = forest(ROWS)

    def said() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return engines[0].logprobs(batch).token, engines[1].values(batch).token

    losses: list[Callable[[], Tensor]] = [
        lambda: engines[0].logprobs(batch).token.sum(),
        lambda: engines[1].values(batch).token.pow(2).sum(),
    ]
    for own, other in ((0, 1), (1, 0)):
        before = said()
        engines[own].backward(losses[own]())
        assert engines[own].gradients().keys() == engines[own]._weights.keys()
        assert engines[other].gradients() == {}
        engines[own].step(1e-2, 1.0)
        after = said()
        assert not torch.equal(before[own], after[own])
        assert torch.equal(before[other], after[other])


def test_the_reference_is_the_base_whatever_lies_beside_it(folder: Path) -> None:
    policy = adapted(loaded(folder), 1)
    adapted(roles.with_head(roles.beneath(policy)), 2)
    with torch.no_grad():
        found = LocalEngine(policy).logprobs(forest(ROWS), of="reference").token
        plain = LocalEngine(loaded(folder)).logprobs(forest(ROWS)).token
    assert torch.equal(found, plain)


def test_a_reward_models_adapter_over_the_base_scores_as_merged(folder: Path, tmp_path: Path) -> None:
    judge = save_adapter(folder, outputs=1, seed=5, where=tmp_path / "judge")
    base = roles.beneath(adapted(loaded(folder), 1))
    with torch.no_grad():
        shared, merged, bare = (
            LocalEngine(one, trainable=False).scores(forest(ROWS))[0].token
            for one in (roles.beside(base, str(judge), scores=True), loaded(judge, outputs=1), roles.with_head(base))
        )
    torch.testing.assert_close(shared, merged, rtol=1e-5, atol=1e-5)
    assert (shared - bare).abs().max() > 0.1


def test_a_writer_that_is_the_base_itself_is_read_from_it(folder: Path) -> None:
    base = roles.beneath(adapted(loaded(folder), 1))
    with torch.no_grad():
        shared, plain = (
            LocalEngine(one, trainable=False).logprobs(forest(ROWS)).token
            for one in (roles.beside(base, str(folder), scores=False), loaded(folder))
        )
    assert torch.equal(shared, plain)


def test_what_lies_on_a_base(folder: Path, tmp_path: Path) -> None:
    """Content decides, not the place."""
    moved = shutil.copytree(folder, tmp_path / "moved")
    other = tiny_model.save(tmp_path / "other", seed=3)
    adapter = save_adapter(folder, outputs=0, seed=5, where=tmp_path / "adapter")
    judge = save_adapter(folder, outputs=1, seed=5, where=tmp_path / "judge")
    whole = tmp_path / "whole"
    loaded(folder, outputs=1).model.save_pretrained(whole)
    for one in (folder, moved, adapter, judge):
        assert roles.lies_on(str(one), str(folder))
        assert roles.lies_on(str(one), str(moved))
        assert not roles.lies_on(str(one), str(other))
    assert not roles.lies_on(str(whole), str(folder))


def test_a_head_stands_on_the_decoder_it_was_made_for_alone(folder: Path) -> None:
    model = loaded(folder).model
    model.model = MistralModel(MistralConfig(hidden_size=32, num_hidden_layers=1, vocab_size=8, intermediate_size=8))
    with pytest.raises(MissingError, match=r"do not have the same decoder.*set one_base = false"):
        over(model)
