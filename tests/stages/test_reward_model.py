"""Reward models: trained, saved as transformers and PEFT read them, and read back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_model
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM

from truing import models
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError, Interrupted
from truing.models.quiet import quiet_libraries
from truing.packing import forest
from truing.records import Completion, Group, assistant
from truing.rendering import Row
from truing.signatures import validated
from truing.stages.arranging import judge
from truing.stages.asking import Case
from truing.stages.context import Model
from truing.stages.preference import _dropped
from truing.stages.reward_model import RewardModel, reward_model
from truing.stages.sft import Sft, sft
from truing.stages.training import Step
from truing.store import Run

CPU = torch.device("cpu")


def trained(run: Run, folder: Path, key: str = "key", **settings: Any) -> Path:
    """The folder of a reward model trained for three epochs."""
    usual = {"batch_size": 4, "epochs": 3, "learning_rate": 5e-3, "warmup": 0.0}
    reward_model(
        tiny_model.context(run, "rm", key=key),
        validated(RewardModel, usual | settings, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(tiny_model.pairs()),
        tiny_model.given(tiny_model.pairs(8, start=30)),
    )
    (made,) = run.artifacts()
    return run.path / str(made.meta["reward"])


def some_rows(source: Path) -> list[Row]:
    renderer = models.read_renderer(str(source))
    return [renderer.render(group, place) for place, group in enumerate(tiny_model.pairs(3))]


def rewards(source: Path, rows: list[Row], dtype: torch.dtype = torch.float32) -> Tensor:
    """By Truing."""
    loaded = models.load(str(source), dtype=dtype, device=CPU, outputs=1)
    with torch.no_grad():
        return LocalEngine(loaded, trainable=False).scores(forest(rows))[0].last


def paths(rows: list[Row]) -> list[list[int]]:
    return [[*row.prompt, *answer.tokens] for row in rows for answer in row.answers]


def test_transformers_gives_a_padded_batch_the_same_scores(folder: Path, runs: Callable[[], Run]) -> None:
    """On either side, though the model's own tokenizer pads with the token that ends a turn."""
    made = trained(runs(), folder)
    assert models.read_renderer(str(folder)).tokenizer.pad_token == tiny.END
    rows = some_rows(made)
    plain = AutoModelForSequenceClassification.from_pretrained(made).requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert plain.config.num_labels == 1
    assert tokenizer.pad_token != tiny.END
    for side in ("left", "right"):
        batch = tokenizer.pad({"input_ids": paths(rows)}, padding_side=side, return_tensors="pt")
        assert (batch["attention_mask"] == 0).any()
        torch.testing.assert_close(plain(**batch).logits[:, 0], rewards(made, rows), rtol=1e-4, atol=1e-5)


def test_an_adapter_is_read_by_peft(folder: Path, runs: Callable[[], Run]) -> None:
    from peft import AutoPeftModelForSequenceClassification

    made = trained(runs(), folder, lora={"rank": 2})
    rows = some_rows(made)
    with quiet_libraries():
        plain = AutoPeftModelForSequenceClassification.from_pretrained(made, num_labels=1).eval().requires_grad_(False)
    theirs = torch.cat([plain(input_ids=torch.tensor([path])).logits[:, 0] for path in paths(rows)])
    torch.testing.assert_close(theirs, rewards(made, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_learns_on_answers_it_never_saw(folder: Path, runs: Callable[[], Run], lora: dict[str, Any] | None) -> None:
    run = runs()
    trained(run, folder, lora=lora)
    before, after = run.events("rm", "held_out")
    assert after["accuracy"] == {"value": 1.0, "low": pytest.approx(0.6756, abs=1e-4), "high": 1.0, "n": 8}
    assert after["loss"] < 0.1 * before["loss"]


def test_the_head_is_drawn_by_the_seed_alone(folder: Path) -> None:
    def weight(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return models.load(str(folder), dtype=torch.float32, device=CPU, outputs=1).model.score.weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    assert 0.5 < weight(1).std() * weight(1).shape[1] ** 0.5 < 1.5


def test_a_second_stage_goes_on_from_the_head_of_the_first(folder: Path, runs: Callable[[], Run]) -> None:
    made = trained(runs(), folder)
    rows = some_rows(made)
    again = runs()
    reward_model(
        tiny_model.context(again, "rm"),
        validated(RewardModel, {"max_steps": 1, "learning_rate": 1e-12}, "test"),
        Model("other", str(made)),
        tiny_model.given(tiny_model.pairs()),
    )
    (artifact,) = again.artifacts()
    torch.testing.assert_close(rewards(again.path / artifact.meta["reward"], rows), rewards(made, rows))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own call
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("start", ["sft", "reward"])
def test_starts_from_an_adapter(folder: Path, runs: Callable[[], Run], start: str, lora: dict[str, Any] | None) -> None:
    """Of a language model, and of a reward model with its head: the adapter counts."""
    first = runs()
    if start == "sft":
        settings = validated(Sft, {"lora": {"rank": 2}, "learning_rate": 1e-2, "epochs": 3}, "test")
        sft(tiny_model.context(first, "s"), settings, tiny_model.model_of(folder), tiny_model.given(tiny_model.pairs()))
        adapter = first.path / str(first.artifacts()[0].meta["model"])
    else:
        adapter = trained(first, folder, lora={"rank": 2})
    run = runs()
    reward_model(
        tiny_model.context(run, "rm"),
        validated(RewardModel, {"max_steps": 1, "learning_rate": 1e-12, "lora": lora}, "test"),
        Model("other", str(adapter)),
        tiny_model.given(tiny_model.pairs()),
    )
    made = run.path / str(next(a for a in run.artifacts() if "reward" in a.meta).meta["reward"])
    rows = some_rows(made)
    if start == "reward":
        torch.testing.assert_close(rewards(made, rows), rewards(adapter, rows), rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    bare = rewards(folder, rows)
    torch.manual_seed(0)
    assert (rewards(adapter, rows) - bare).abs().max() > 0.05, "the adapter must matter, or this test proves nothing"


def test_differences_survive_bf16(folder: Path, runs: Callable[[], Run]) -> None:
    made = trained(runs(), folder)
    rows = some_rows(made)
    narrow = rewards(made, rows, torch.bfloat16)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, rewards(made, rows), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_writes_as_the_language_model_it_was(tmp_path: Path, tied: bool) -> None:
    """Scores and log-probabilities of one pass, each as by itself; the head is none of the saved weights."""
    folder = tmp_path / "tiny"
    torch.manual_seed(0)
    LlamaForCausalLM(tiny.config(tie_word_embeddings=tied)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    rows = forest(some_rows(folder))
    language = LocalEngine(models.load(str(folder), dtype=torch.float32, device=CPU), trainable=False)
    loaded = models.load(str(folder), dtype=torch.float32, device=CPU, outputs=2, writes=True)
    engine = LocalEngine(loaded)
    scores, written = engine.scores_and_logprobs(rows)
    assert torch.equal(written.token, language.logprobs(rows).token)
    assert torch.equal(engine.logprobs(rows).token, written.token)
    for one, other in zip(scores, engine.scores(rows), strict=True):
        assert torch.equal(one.token, other.token)
    engine.save_model(tmp_path / "saved")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(plain.score.weight, loaded.model.score.weight[:1])
    assert models.load(str(tmp_path / "saved"), dtype=torch.float32, device=CPU, outputs=1)
    if not tied:
        with pytest.raises(ConfigError, match="has no head to write with"):
            models.load(str(tmp_path / "saved"), dtype=torch.float32, device=CPU, outputs=1, writes=True)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("objective", ["bradley_terry_nll", "grm", "grm_dpo"])
def test_trains_with_a_second_term(
    folder: Path, runs: Callable[[], Run], objective: str, lora: dict[str, Any] | None
) -> None:
    """The saved model is an ordinary one, and it is right on answers it never saw."""
    run = runs()
    made = trained(run, folder, objective=objective, lora=lora)
    _, after = run.events("rm", "held_out")
    assert after["accuracy"]["value"] == 1.0
    assert rewards(made, some_rows(made)).shape == (6,)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_the_second_head_takes_length_upon_itself(
    folder: Path, runs: Callable[[], Run], lora: dict[str, Any] | None
) -> None:
    """Where the chosen answer is always the shorter one; the plain model's score is a score of length then."""
    found = {}
    for objective in ("bradley_terry", "odin"):
        run = runs()
        made = trained(run, folder, objective=objective, lora=lora, epochs=8)
        rows = some_rows(made)
        tokens = torch.tensor([float(len(answer.tokens)) for row in rows for answer in row.answers])
        found[objective] = abs(float(torch.corrcoef(torch.stack([rewards(made, rows), tokens]))[0, 1]))
    *_, last = run.events("rm", "step")
    assert last["metrics"]["correlation/length"] > 0.9
    assert found["odin"] < 0.5
    assert found["bradley_terry"] > 0.9


def test_a_second_head_does_not_depend_on_how_the_step_is_cut(folder: Path, runs: Callable[[], Run]) -> None:
    whole, cut = (trained(runs(), folder, objective="odin", forest_tokens=tokens) for tokens in (2048, 8))
    rows = some_rows(whole)
    torch.testing.assert_close(rewards(whole, rows), rewards(cut, rows), rtol=1e-3, atol=1e-4)


CONTRASTED = [
    {"name": "simcse"},
    {"name": "simcse", "of": "differences"},
    {"name": "swav", "prototypes": 5},
    {"name": "swav", "prototypes": 5, "of": "differences"},
]


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("objective", CONTRASTED, ids=lambda table: "-".join([table["name"], table.get("of", "")]))
def test_trains_with_a_contrastive_term(
    folder: Path, runs: Callable[[], Run], objective: dict[str, Any], lora: dict[str, Any] | None
) -> None:
    """It is right on answers it never saw, and the saved model is an ordinary one, without the prototypes."""
    run = runs()
    made = trained(run, folder, objective=objective, lora=lora)
    _, after = run.events("rm", "held_out")
    assert after["accuracy"]["value"] == 1.0
    terms = [event["metrics"]["contrast"] for event in run.events("rm", "step")]
    assert terms[-1] < terms[0]
    names = {name for file in made.glob("*.safetensors") for name in load_file(file)}
    assert names
    assert not [name for name in names if "prototype" in name]
    assert rewards(made, some_rows(made)).shape == (6,)


@pytest.mark.parametrize("name", ["simcse", "swav"])
def test_views_do_not_depend_on_how_the_step_is_cut(folder: Path, runs: Callable[[], Run], name: str) -> None:
    """But on the seed."""
    whole, cut = (trained(runs(), folder, objective=name, forest_tokens=tokens) for tokens in (2048, 8))
    rows = some_rows(whole)
    torch.testing.assert_close(rewards(whole, rows), rewards(cut, rows), rtol=1e-3, atol=1e-4)


def test_what_is_dropped_is_drawn_anew_each_step_for_each_row(folder: Path) -> None:
    judged = [judge(group, "pair") for group in tiny_model.pairs(3)]
    case = Case(judged, feature=torch.zeros(6, 8))

    def drawn(rows: list[int], step: int = 1, seed: int = 0) -> Tensor:
        found = _dropped(case, rows, Step("s", step, [], [], LocalEngine(tiny.loaded_model())), seed)
        assert found is not None
        return found

    usual = drawn([0, 1, 2])
    assert usual.shape == (6, 2, 8)
    assert torch.equal(drawn([2, 1, 0]), usual.reshape(3, 2, 2, 8).flip(0).reshape(6, 2, 8)), "a row takes it along"
    assert len(set(usual.flatten().tolist())) == usual.numel(), "no two entries share theirs"
    for other in (drawn([0, 1, 2], step=2), drawn([0, 1, 2], seed=1), drawn([3, 4, 5])):
        assert not (other == usual).any()


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_prototypes_are_part_of_the_checkpoint(
    folder: Path, runs: Callable[[], Run], lora: dict[str, Any] | None
) -> None:
    """Stopped and gone on with, the result is the same to the bit; the prototypes were trained on the way."""
    settings = {"objective": {"name": "swav", "prototypes": 5}, "lora": lora, "epochs": 2, "save_every": 1}
    whole = trained(runs(), folder, **settings)
    run = runs()
    context = tiny_model.context(run, "rm")
    inputs = (
        context,
        validated(RewardModel, {"batch_size": 4, "learning_rate": 5e-3, "warmup": 0.0} | settings, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(tiny_model.pairs()),
        tiny_model.given(tiny_model.pairs(8, start=30)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "prune", lambda *_: context.stop.__setattr__("requested", True))
        with pytest.raises(Interrupted):
            reward_model(*inputs)
    *_, kept = run.checkpoints()
    state = load_file(kept.path / "trainer" / "state.safetensors")
    (name,) = [name for name in state if name.startswith("master.") and name.endswith("prototypes")]
    assert state[name].shape == (5, 32)
    assert state[name.replace("master", "optimizer.exp_avg")].abs().max() > 0, "it has learned"
    context.stop.requested = False
    reward_model(*inputs)
    (made,) = run.artifacts()
    assert tiny_model.weights_hash(run.path / str(made.meta["reward"])) == tiny_model.weights_hash(whole)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_members_are_averaged(folder: Path, runs: Callable[[], Run], lora: dict[str, Any] | None) -> None:
    """They learned in different orders from one head, and the result's weights are the mean of theirs."""
    run = runs()
    settings = {"batch_size": 4, "epochs": 2, "learning_rate": 5e-3, "members": 3, "lora": lora}
    arguments = (
        tiny_model.context(run, "rm"),
        validated(RewardModel, settings, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(tiny_model.pairs()),
        tiny_model.given(tiny_model.pairs(8, start=30)),
    )
    reward_model(*arguments)
    artifact = run.artifact("key")
    assert artifact is not None
    names = [*artifact.meta["members"], artifact.meta["reward"]]
    assert names == ["checkpoint-6", "checkpoint-12", "checkpoint-18", "checkpoint-19"]
    *members, average = (
        dict(models.load(str(run.path / name), dtype=torch.float32, device=CPU, outputs=1).model.named_parameters())
        for name in names
    )
    for name, weight in average.items():
        torch.testing.assert_close(weight, torch.stack([member[name] for member in members]).mean(0))
    head = [member["score.weight"] for member in members]
    assert 0 < (head[0] - head[1]).abs().max() < 0.3, "one head at the start, another order of the rows"
    shutil.rmtree(run.path / "artifacts" / "key")  # killed before the average was written down
    before = [(run.path / name).stat().st_mtime_ns for name in names[:3]]
    reward_model(*arguments)
    assert [(run.path / name).stat().st_mtime_ns for name in names[:3]] == before, "what is there is not trained again"


def unlabelled(answers: int = 3) -> list[Group]:
    """Several answers to each prompt, of which nobody said anything."""
    words = ("yes", "nope", "well", "no")
    return [
        Group(group.prompt, tuple(Completion((assistant(f"{words[k]} {place}"),)) for k in range(answers)))
        for place, group in enumerate(tiny_model.pairs(6, start=50))
    ]


def meta_trained(run: Run, folder: Path, rate: float, **settings: Any) -> Path:
    usual = {"batch_size": 4, "learning_rate": 5e-3, "epochs": 2, "meta": {"rate": rate, "rows": 2}}
    reward_model(
        tiny_model.context(run, "rm"),
        validated(RewardModel, usual | settings, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(tiny_model.pairs()),
        unlabelled=tiny_model.given(unlabelled()),
    )
    artifact = run.artifact("key")
    assert artifact is not None
    return run.path / str(artifact.meta["reward"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_taken_where_the_move_leads(folder: Path, dtype: torch.dtype) -> None:
    """First order: the moved weights' gradient, for the weights where they were, which are the same bits again."""
    torch.manual_seed(0)
    rows = some_rows(folder)
    first, second = forest(rows[:1]), forest(rows[1:])
    engine = LocalEngine(models.load(str(folder), dtype=torch.float32, device=CPU, outputs=1), dtype=dtype)
    before = {name: master.detach().clone() for name, master in engine._masters.items()}
    narrow = {name: weight.detach().clone() for name, weight in engine.model.named_parameters()}
    engine.backward(engine.scores(first)[0].last.sum())
    slopes = {name: slope.clone() for name, slope in engine.gradients().items()}
    with engine.moved(0.1):
        engine.backward(engine.scores(second)[0].last.square().sum())
    found = {name: slope.clone() for name, slope in engine.gradients().items()}
    assert all(torch.equal(engine._masters[name], master) for name, master in before.items())
    assert all(torch.equal(weight, narrow[name]) for name, weight in engine.model.named_parameters())
    other = LocalEngine(models.load(str(folder), dtype=torch.float32, device=CPU, outputs=1), dtype=dtype)
    with torch.no_grad():
        for name, master in other._masters.items():
            master.copy_(before[name] + 0.1 * slopes[name])
    other._renew_compute_weights()
    other.backward(other.scores(second)[0].last.square().sum())
    for name, slope in other.gradients().items():
        torch.testing.assert_close(found[name], slope)
        assert dtype == torch.bfloat16 or not torch.equal(slope, slopes[name])


def test_without_a_move_meta_learning_is_the_plain_reward_model(folder: Path, runs: Callable[[], Run]) -> None:
    """And with one it is not."""
    plain = trained(runs(), folder, epochs=2, warmup=0.1)
    run = runs()
    still, moved = meta_trained(run, folder, 1e-12), meta_trained(runs(), folder, 0.1)
    rows = some_rows(plain)
    torch.testing.assert_close(rewards(plain, rows), rewards(still, rows))
    assert not torch.allclose(rewards(plain, rows), rewards(moved, rows), atol=0.01)
    for event in run.events("rm", "step"):
        assert 1 / 3 <= event["metrics"]["meta/difference"] < 2 / 3


def test_meta_learning_does_not_depend_on_how_the_answers_are_cut(folder: Path, runs: Callable[[], Run]) -> None:
    whole, cut = (meta_trained(runs(), folder, 0.1, forest_tokens=tokens) for tokens in (2048, 8))
    rows = some_rows(whole)
    torch.testing.assert_close(rewards(whole, rows), rewards(cut, rows), rtol=1e-3, atol=1e-4)


def test_meta_learning_without_answers_is_refused(folder: Path, runs: Callable[[], Run]) -> None:
    with pytest.raises(ConfigError, match="`meta` and `unlabelled` go together"):
        trained(runs(), folder, meta={"rate": 0.1})
    with pytest.raises(DataError, match="no row of `unlabelled` has two answers"):
        reward_model(
            tiny_model.context(runs(), "rm"),
            validated(RewardModel, {"meta": {}}, "test"),
            tiny_model.model_of(folder),
            tiny_model.given(tiny_model.pairs()),
            unlabelled=tiny_model.given(unlabelled(1)),
        )


def test_goes_on_with_a_fresh_second_head(folder: Path, runs: Callable[[], Run]) -> None:
    made = trained(runs(), folder)
    loaded = models.load(str(made), dtype=torch.float32, device=CPU, outputs=2)
    kept = models.load(str(made), dtype=torch.float32, device=CPU, outputs=1)
    assert torch.equal(loaded.model.score.weight[:1], kept.model.score.weight)
    assert loaded.model.score.weight[1].abs().sum() > 0


def test_a_kind_is_not_taken_for_another(folder: Path, runs: Callable[[], Run]) -> None:
    for settings in ({}, {"lora": {"rank": 2}}):
        made = trained(runs(), folder, **settings)
        with pytest.raises(ConfigError, match="reward model, which writes nothing"):
            models.load(str(made), dtype=torch.float32, device=CPU)
    with pytest.raises(ConfigError, match="belongs to stage 'preference': use = \"preference\""):
        validated(RewardModel, {"objective": "dpo"}, "test")
    with pytest.raises(ConfigError, match="take the setting `reference` out"):
        validated(RewardModel, {"reference": "base"}, "test")


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    folder = tiny_model.save(tmp_path / "tiny")
    kind = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    kind.save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "three")
    with pytest.raises(ConfigError, match="a classifier with 3 labels, where 1 is asked for"):
        models.load(str(tmp_path / "three"), dtype=torch.float32, device=CPU, outputs=1)


@torch.no_grad()
def test_a_score_is_read_where_the_answer_ends(folder: Path) -> None:
    """Also where other trees and answers surround it, and for every token on the way."""
    torch.manual_seed(0)
    loaded = models.load(str(folder), dtype=torch.float32, device=CPU, outputs=1)
    engine = LocalEngine(loaded, trainable=False)
    rows = some_rows(folder)
    (found,) = engine.scores(forest(rows))
    head = loaded.model.score
    plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).model
    starts = [len(row.prompt) for row in rows for _ in row.answers]
    for answer, (path, start) in enumerate(zip(paths(rows), starts, strict=True)):
        hidden = plain(input_ids=torch.tensor([path])).last_hidden_state[0]
        expected = head(hidden)[start:, 0]
        torch.testing.assert_close(found.token[found.completion == answer], expected, rtol=1e-4, atol=1e-5)
        assert found.last[answer] == found.token[found.completion == answer][-1]
