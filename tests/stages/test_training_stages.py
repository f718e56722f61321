"""sft, pretrain and preference on a tiny model: they learn, and every setting does what it says."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from transformers import AutoModelForCausalLM

from truing import models
from truing.compute.engine.local import LocalEngine
from truing.compute.ranks import Alone
from truing.errors import DataError, Interrupted
from truing.models.quiet import quiet_libraries
from truing.packing import forest
from truing.pipeline import _stoppable
from truing.records import Completion, Group, assistant, comparison, user
from truing.signatures import validated
from truing.stages.context import Model
from truing.stages.preference import Preference, preference
from truing.stages.sft import Sft, pretrain, sft
from truing.stages.training import Training, learning_rate, make_engine, step_count, step_rows
from truing.store import Run, StoreWarning

Stage = Callable[..., None]


SHORT: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-3, "epochs": 1}


def trained(run: Run, folder: Path, stage: Stage, data: list[Group], seed: int = 0, **settings: Any) -> list[Any]:
    """The stage's step events."""
    schema = Preference if stage is preference else Sft
    checked = validated(schema, SHORT | settings, "test")
    stage(tiny_model.context(run, "s", seed=seed), checked, tiny_model.model_of(folder), tiny_model.given(data))
    return tiny_model.step_events(run)


def losses(events: list[Any]) -> list[float]:
    return [event["metrics"]["loss"] for event in events]


def final(run: Run) -> Path:
    return run.checkpoints()[-1].path


def test_sft_learns_and_what_it_saves_loads_in_plain_transformers(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    events = trained(run, folder, sft, tiny_model.demonstrations(), epochs=12, learning_rate=1e-2)
    seen = losses(events)
    assert len(seen) == 36
    assert seen[-1] < 0.35 * seen[0], "it learned too little"
    # an ordinary model, an ordinary loss, on a row it was trained on
    rendered = models.read_renderer(str(folder)).render(tiny_model.demonstrations()[0])
    ids = torch.tensor([[*rendered.prompt, *rendered.answers[0].tokens]])
    labels = torch.tensor([[-100] * len(rendered.prompt) + list(rendered.answers[0].tokens)])
    before, after = (
        AutoModelForCausalLM.from_pretrained(path)(input_ids=ids, labels=labels).loss.item()
        for path in (folder, final(run))
    )
    assert after < 0.35 * before
    assert not (final(run) / "trainer").exists()


def test_the_first_loss_is_that_of_an_ordinary_forward_pass(folder: Path, runs: Callable[[], Run]) -> None:
    """Token mean over the rows of the step, whatever the forests they were cut into."""
    data = tiny_model.demonstrations(3)
    renderer, plain = models.read_renderer(str(folder)), AutoModelForCausalLM.from_pretrained(folder)
    total = count = 0.0
    for group in data:
        row = renderer.render(group)
        ids = torch.tensor([[*row.prompt, *row.answers[0].tokens]])
        logprobs = plain(input_ids=ids).logits[0].log_softmax(-1)
        for place in range(len(row.prompt), ids.shape[1]):
            total -= logprobs[place - 1, ids[0, place]].item()
            count += 1
    for budget in (20, 4096):
        events = trained(runs(), folder, sft, data, forest_tokens=budget)
        assert losses(events) == [pytest.approx(total / count, rel=1e-5)]


def test_sft_trains_on_the_best_answer(folder: Path, runs: Callable[[], Run]) -> None:
    def answers(**marks: Any) -> list[Group]:
        good, bad = Completion((assistant("good"),)), Completion((assistant("bad one"),))
        values = next(iter(marks.values()))
        name = next(iter(marks))
        return [
            Group((user("q"),), (replace(good, **{name: values[0]}), replace(bad, **{name: values[1]}))),
            Group((user("r"),), (replace(bad, **{name: values[1]}), replace(good, **{name: values[0]}))),
        ]

    alone = [Group(g.prompt, (Completion((assistant("good"),)),)) for g in answers(rank=(0, 1))]
    expected = losses(trained(runs(), folder, sft, alone))
    assert losses(trained(runs(), folder, sft, answers(rank=(0, 1)))) == expected
    assert losses(trained(runs(), folder, sft, answers(score=(2.5, -1.0)))) == expected
    assert losses(trained(runs(), folder, sft, answers(score=(-1.0, 2.5)))) != expected
    with pytest.raises(DataError, match="2 answers and no rank or score"):
        trained(runs(), folder, sft, answers(source=("a", "b")))
    with pytest.raises(DataError, match="no answer to train on"):
        trained(runs(), folder, sft, tiny_model.prompts(2))


def test_pretrain_takes_plain_text_and_nothing_else(folder: Path, runs: Callable[[], Run]) -> None:
    events = trained(runs(), folder, pretrain, tiny_model.texts(), epochs=15, learning_rate=1e-2)
    assert losses(events)[-1] < 0.6 * losses(events)[0]
    with pytest.raises(DataError, match="plain text, and this row has chat turns: use stage 'sft'"):
        trained(runs(), folder, pretrain, tiny_model.demonstrations())


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 16.0}])
def test_dpo_raises_the_accuracy_on_prompts_it_never_saw(
    folder: Path, runs: Callable[[], Run], lora: dict[str, Any] | None
) -> None:
    """From a coin's one half (every margin is exactly 0 at the reference) and a loss of ln 2."""
    run = runs()
    settings = validated(
        Preference, {"batch_size": 4, "learning_rate": 5e-3, "epochs": 3, "warmup": 0.0, "lora": lora}, "test"
    )
    # half of the rows prefer the other word by the other prompt, so one word alone does not win
    data = [
        comparison(
            (user(f"{kind} {i}"),),
            Completion((assistant(good),)),
            Completion((assistant(bad),)),
        )
        for i in range(24)
        for kind, good, bad in (("up", "yes", "nope"), ("down", "nope", "yes"))
    ]
    train, held_out = data[:36], data[36:]
    preference(
        tiny_model.context(run, "dpo"),
        settings,
        tiny_model.model_of(folder),
        tiny_model.given(train),
        tiny_model.given(held_out),
    )
    before, after = run.events("dpo", "held_out")
    assert (before["step"], before["accuracy"]["value"]) == (0, 0.5)
    assert before["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (after["step"], after["accuracy"]["n"]) == (27, 12)
    assert after["accuracy"]["value"] >= 0.9
    assert after["loss"] < 0.5
    first = tiny_model.step_events(run)[0]["metrics"]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["reward/margin"] == 0.0, "policy and reference agree exactly at step 0"
    (made,) = run.artifacts()
    assert made.meta["held_out"]["accuracy"] == after["accuracy"]
    assert (made.path.parent.parent / made.meta["model"]) == final(run)
    assert (final(run) / "adapter_config.json").exists() == (lora is not None)


def test_a_lora_run_freezes_the_base_and_its_folder_loads_as_a_model(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    trained(run, folder, sft, tiny_model.demonstrations(), lora={"rank": 2}, learning_rate=1e-2)
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(folder)
    kept = {name: weight.clone() for name, weight in plain.named_parameters()}
    with quiet_libraries():
        adapted = PeftModel.from_pretrained(plain, final(run))
    for name, weight in adapted.get_base_model().named_parameters():
        if "lora" not in name:
            assert torch.equal(weight, kept[name.replace(".base_layer", "")]), name
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = adapted(input_ids=ids).logits
    merged = models.load(str(final(run)), dtype=torch.float32, device=torch.device("cpu")).model
    merged.set_attn_implementation("sdpa")
    got = merged(input_ids=ids).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got, AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits, atol=1e-3)


def test_the_reference_of_a_second_stage_is_the_first_ones_model(folder: Path, runs: Callable[[], Run]) -> None:
    """With the adapter merged: the loss starts at ln 2 again."""
    run = runs()
    trained(run, folder, sft, tiny_model.demonstrations(), lora={"rank": 2}, learning_rate=1e-2)
    second = tiny_model.context(run, "dpo", first_step=3, key="other")
    settings = validated(Preference, SHORT | {"lora": {"rank": 2}}, "test")
    preference(second, settings, Model("key", str(final(run))), tiny_model.given(tiny_model.pairs()))
    events = tiny_model.step_events(run, "dpo")
    assert [event["step"] for event in events] == [4, 5, 6]
    assert events[0]["metrics"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert events[0]["metrics"]["reward/margin"] == 0.0


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own call
def test_an_adapter_trained_on_an_adapter_loads_as_the_model_that_was_trained(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Truing and by PEFT alone: its base is the first stage's model in full, not the model that one began with."""
    from peft import AutoPeftModelForCausalLM

    run = runs()
    trained(run, folder, sft, tiny_model.demonstrations(), lora={"rank": 2}, learning_rate=1e-2, epochs=4)
    engines: list[LocalEngine] = []

    def kept(*given: Any) -> LocalEngine:
        engines.append(make_engine(*given))
        return engines[-1]

    monkeypatch.setattr("truing.stages.preference.make_engine", kept)
    second = tiny_model.context(run, "dpo", first_step=12, key="other")
    settings = validated(Preference, SHORT | {"lora": {"rank": 3}, "learning_rate": 1e-2}, "test")
    preference(second, settings, Model("key", str(final(run))), tiny_model.given(tiny_model.pairs()))
    row = engines[0].loaded.renderer.render(tiny_model.demonstrations()[0])
    live = engines[0].logprobs(forest([row])).token.detach()
    begun = engines[0].logprobs(forest([row]), of="reference").token.detach()

    loaded = models.load(str(final(run)), dtype=torch.float32, device=torch.device("cpu"))
    again = LocalEngine(loaded, trainable=False).logprobs(forest([row])).token
    torch.testing.assert_close(again, live, rtol=0, atol=1e-4)
    with quiet_libraries():
        plain = AutoPeftModelForCausalLM.from_pretrained(final(run)).eval()
    ids = torch.tensor([[*row.prompt, *row.answers[0].tokens]])
    logprobs = plain(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
    torch.testing.assert_close(logprobs.gather(1, ids[0, len(row.prompt) :, None])[:, 0], live, rtol=0, atol=1e-4)
    root = models.load(str(folder), dtype=torch.float32, device=torch.device("cpu"))
    untrained = LocalEngine(root, trainable=False).logprobs(forest([row])).token
    for one, other in ((live, begun), (begun, untrained)):
        assert float((one - other).abs().max()) > 0.1, "both stages must matter, or this test proves nothing"


def test_all_weights_are_trained_after_an_adapter(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    trained(run, folder, sft, tiny_model.demonstrations(), lora={"rank": 2}, learning_rate=1e-2)
    second = tiny_model.context(run, "dpo", first_step=3, key="other")
    settings = validated(Preference, SHORT | {"learning_rate": 1e-2}, "test")
    preference(second, settings, Model("key", str(final(run))), tiny_model.given(tiny_model.pairs()))
    before, after = (
        dict(models.load(str(where), dtype=torch.float32, device=torch.device("cpu")).model.named_parameters())
        for where in (run.checkpoints()[0].path, final(run))
    )
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_preference_refuses_what_is_no_comparison(folder: Path, runs: Callable[[], Run]) -> None:
    same = comparison((user("q"),), Completion((assistant("a"),)), Completion((assistant("a"),)))
    with pytest.raises(DataError, match="'chosen' and 'rejected' are equal: drop the line"):
        trained(runs(), folder, preference, [same])
    with pytest.raises(
        DataError, match="'dpo' compares two answers, this row has 1: bring a second answer, or use stage 'sft'"
    ):
        trained(runs(), folder, preference, tiny_model.demonstrations())


def test_a_comparison_given_the_other_way_round_is_the_same_comparison(folder: Path, runs: Callable[[], Run]) -> None:
    data = tiny_model.pairs(4)
    turned = [replace(group, completions=group.completions[::-1]) for group in data]
    assert trained(runs(), folder, preference, turned) == trained(runs(), folder, preference, data)


CHANGES: list[tuple[Stage, dict[str, Any], dict[str, Any]]] = [
    (sft, {}, {"epochs": 2}),
    (sft, {}, {"max_steps": 2}),
    (sft, {}, {"batch_size": 3}),
    (sft, {}, {"learning_rate": 2e-3}),
    (sft, {}, {"schedule": "cosine"}),
    (sft, {}, {"schedule": "constant"}),
    (sft, {}, {"warmup": 1.0}),
    (sft, {}, {"weight_decay": 0.5}),
    (sft, {}, {"max_gradient_norm": 1e-6}),
    (sft, {"weights": True}, {"reduction": "sequence_mean"}),
    (sft, {"weights": True}, {"reduction": "sequence_sum"}),
    (sft, {}, {"lora": {"rank": 2}}),
    (sft, {"lora": {"rank": 2}}, {"lora": {"rank": 3}}),
    (sft, {"lora": {"rank": 2}}, {"lora": {"rank": 2, "alpha": 4.0}}),
    (sft, {"lora": {"rank": 2}}, {"lora": {"rank": 2, "targets": ["q_proj"]}}),
    (preference, {}, {"objective": {"name": "dpo", "beta": 1.0}}),
    (preference, {}, {"objective": {"name": "dpo", "label_smoothing": 0.2}}),
]


@pytest.mark.parametrize(("stage", "base", "change"), CHANGES)
def test_every_setting_changes_what_is_learned(
    folder: Path, runs: Callable[[], Run], stage: Stage, base: dict[str, Any], change: dict[str, Any]
) -> None:
    data = tiny_model.pairs() if stage is preference else tiny_model.demonstrations()
    if base.pop("weights", False) or change.get("reduction"):
        data = [replace(g, completions=(Completion((assistant("x" * (i + 1)),)),)) for i, g in enumerate(data)]
    one, other = runs(), runs()
    trained(one, folder, stage, data, **base)
    trained(other, folder, stage, data, **base | change)
    assert tiny_model.weights_hash(final(one)) != tiny_model.weights_hash(final(other))


def test_the_seed_decides_the_order_of_rows_and_nothing_else_is_random(folder: Path, runs: Callable[[], Run]) -> None:
    data = tiny_model.demonstrations()
    first, again, other = (trained(runs(), folder, sft, data, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert losses(first) != losses(other)


@pytest.mark.parametrize("change", [{"forest_tokens": 1}, {"checkpointing": True}, {"save_every": 1}])
def test_what_must_not_change_the_result_does_not(
    folder: Path, runs: Callable[[], Run], change: dict[str, Any]
) -> None:
    data = tiny_model.demonstrations()
    for lora in (None, {"rank": 2}):
        one, other = (trained(runs(), folder, sft, data, lora=lora, **some) for some in ({}, change))
        assert losses(one) == pytest.approx(losses(other), rel=1e-4)


def test_checkpointing_recomputes_and_a_small_budget_makes_more_forests(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = LocalEngine.logprobs

    def counted(self: LocalEngine, forest: Any, *given: Any, **named: Any) -> Any:
        calls.append(len(forest))
        assert self.model.is_activation_checkpointing == recompute
        return real(self, forest, *given, **named)

    monkeypatch.setattr(LocalEngine, "logprobs", counted)
    seen = []
    for recompute, budget in ((False, 4096), (True, 40), (False, 1)):
        calls.clear()
        trained(runs(), folder, sft, tiny_model.demonstrations(4), checkpointing=recompute, forest_tokens=budget)
        seen.append(len(calls))
    assert seen[0] == 1
    assert seen[2] == 4
    assert 1 < seen[1] <= 4


def test_save_every_and_keep_checkpoints(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    real = Run.event

    def watched(self: Run, stage: str, kind: str, **values: Any) -> None:
        real(self, stage, kind, **values)
        if kind == "step":
            seen.append([c.step for c in self.checkpoints()])

    monkeypatch.setattr(Run, "event", watched)
    run = runs()
    trained(run, folder, sft, tiny_model.demonstrations(14), batch_size=2, save_every=2, keep_checkpoints=2)
    assert seen == [[], [], [2], [2], [2, 4], [2, 4], [4, 6]]
    assert [c.step for c in run.checkpoints()] == [7], "the finished model alone is kept"
    assert run.checkpoints()[0].meta["finished"] is True


@pytest.mark.parametrize("way", ["drop", "cut_prompt", "error"])
def test_rows_over_the_limit(folder: Path, runs: Callable[[], Run], way: str) -> None:
    data = [*tiny_model.demonstrations(4), Group((user("long " * 30),), (Completion((assistant("yes"),)),))]
    run = runs()
    if way == "error":
        with pytest.raises(DataError, match=r"\d+ tokens, and max_length is 60: raise it"):
            trained(run, folder, sft, data, max_length=60, too_long=way)
        return
    trained(run, folder, sft, data, max_length=60, too_long=way)
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"]) == (5, 4 if way == "drop" else 5)
    assert event["refused"] == ({"longer than 60 tokens": 1} if way == "drop" else {})
    assert max(p + a for p, a in zip(event["prompt_tokens"], event["answer_tokens"], strict=True)) <= 60
    with pytest.raises(DataError, match="no row is left; refused"):
        trained(runs(), folder, sft, data, max_length=2, too_long=way)


def test_every_row_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    settings = Training(batch_size=4, epochs=3)
    assert step_count(10, settings) == 9
    assert step_count(10, Training(batch_size=4, epochs=3, max_steps=2)) == 2
    assert step_count(10, Training(batch_size=4, epochs=3, max_steps=20)) == 9
    epochs = []
    for epoch in range(3):
        steps = [step_rows(10, 3 * epoch + place + 1, settings, seed=5) for place in range(3)]
        assert [len(step) for step in steps] == [4, 4, 2]
        epochs.append([row for step in steps for row in step])
        assert sorted(epochs[-1]) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2]
    assert step_rows(10, 1, settings, seed=6) != step_rows(10, 1, settings, seed=5)


def test_learning_rates_by_hand() -> None:
    """Ten steps, two of warm-up: 1/2, 1 of the peak, then 8/8, 7/8, ..., 1/8 where it is linear."""
    linear, constant, cosine = (
        [learning_rate(n, 10, Training(learning_rate=8.0, warmup=0.2, schedule=name)) for n in range(1, 11)]  # type: ignore[arg-type]
        for name in ("linear", "constant", "cosine")
    )
    assert linear == pytest.approx([4, 8, 8, 7, 6, 5, 4, 3, 2, 1])
    assert constant == pytest.approx([4] + [8] * 9)
    assert cosine == pytest.approx([4, 8] + [4 * (1 - math.cos(math.pi * left / 8)) for left in range(8, 0, -1)])
    assert learning_rate(1, 1, Training(learning_rate=8.0)) == 8.0
    assert learning_rate(4, 4, Training(learning_rate=8.0, warmup=1.0)) == 8.0


def test_the_reference_is_computed_once_and_belongs_to_its_rows(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from truing.stages import reference

    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    made: list[int] = []
    real = reference._score
    monkeypatch.setattr(reference, "_score", lambda *given: made.append(1) or real(*given))
    data = tiny_model.pairs()
    first = trained(runs(), folder, preference, data)
    assert trained(runs(), folder, preference, data) == first
    for other in (
        {"objective": {"name": "dpo", "beta": 0.5}},
        {"objective": "ipo"},
        {"learning_rate": 1e-4, "epochs": 2},
    ):
        assert trained(runs(), folder, preference, data, **other) != first
    assert len(made) == 1, "a sweep of settings shares it"
    (kept,) = (tmp_path / "cache" / "reference").iterdir()
    content = bytearray((kept / "reference.safetensors").read_bytes())
    content[-3] ^= 1
    (kept / "reference.safetensors").write_bytes(content)
    with pytest.warns(StoreWarning, match="its content is not what was written; it is made again"):
        assert trained(runs(), folder, preference, data) == first, "a damaged cache is made again, never used"
    assert len(made) == 2
    trained(runs(), folder, preference, data[:-1])
    assert len(made) == 3


def test_activations_are_recomputed_where_they_do_not_fit(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for free in (2**40, 2**10):
        monkeypatch.setattr("truing.stages.training.free_memory", lambda _, free=free: free)
        run = runs()
        events = trained(run, folder, sft, tiny_model.demonstrations())
        (decided,) = run.events(kind="checkpointing")
        assert (decided["on"], decided["free_bytes"]) == (free == 2**10, free)
        found.append([{k: v for k, v in e["metrics"].items() if k != "tokens_per_second"} for e in events])
    assert found[0] == found[1], "recomputing changes no bit, so a run may go on where other memory is free"


@dataclass(frozen=True)
class Asked(Alone):
    """One of two ranks that agree whether to stop, of which the other one was asked before it is their turn to agree.

    other, own: for which time of agreeing the other one was asked before it, and after which time this one hears
    SIGTERM, counted from 1; 0 for never.
    """

    other: int = 0
    own: int = 0
    said: list[bool] = field(default_factory=list)

    def gather(self, value: Any) -> list[Any]:
        if not isinstance(value, bool):
            return [value]
        self.said.append(value)
        if len(self.said) == self.own:
            signal.raise_signal(signal.SIGTERM)
        return [value, len(self.said) == self.other]


@pytest.mark.parametrize(("other", "step"), [(0, 3), (2, 2)])
def test_ranks_stop_after_the_step_for_which_they_agreed(
    other: int, step: int, folder: Path, runs: Callable[[], Run]
) -> None:
    """One that is asked while they agree does not save and leave without the others."""
    run = runs()
    with _stoppable(tiny_model.quiet()) as stop:
        context = replace(tiny_model.context(run), stop=stop, ranks=Asked(other=other, own=2))
        settings = validated(Sft, {"batch_size": 2}, "stage")
        with pytest.raises(Interrupted, match="run the same command again"):
            sft(context, settings, tiny_model.model_of(folder), tiny_model.given(tiny_model.demonstrations(12)))
    assert [event["step"] for event in tiny_model.step_events(run)] == list(range(1, step + 1))
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [step]


def test_who_is_asked_to_stop_after_the_others_is_asked_once(runs: Callable[[], Run]) -> None:
    """`torchrun` sends its signal to one rank after the other: the first ones may have agreed before the last hears it.

    A second signal would stop that one at once, in the middle of its checkpoint.
    """
    with _stoppable(tiny_model.quiet()) as stop:
        context = replace(tiny_model.context(runs()), stop=stop, ranks=Asked(other=1))
        assert context.agree_to_stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
