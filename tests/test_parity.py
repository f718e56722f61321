"""One optimizer step's loss and gradients against TRL 1.16's own trainers: same weights, same rows, fp32 on CPU."""

from __future__ import annotations

import pytest
import tiny
import torch

from truing import reductions
from truing.compute.engine.local import LocalEngine
from truing.objectives import bind
from truing.objectives.likelihood import nll
from truing.packing import pack
from truing.records import Completion, Group, Message, assistant, comparison, text, user
from truing.stages.asking import Case, ask, rows_of
from truing.stages.training import Step
from truing.tensors import Logprobs

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

# TRL's own settings and calls under names that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

CONVERSATIONS = [
    ("What is the sea?", "Water, and a lot of it.", "No."),
    ("Hi", "Hello there", "Go away, then, whoever you are"),
    ("中文？", "好的。", "the inner"),
]


def conversations():
    for asked, chosen, rejected in CONVERSATIONS:
        yield (user(asked),), (assistant(chosen),), (assistant(rejected),)


def texts():
    for asked, chosen, rejected in CONVERSATIONS:
        yield (text(asked + " "),), (text(chosen),), (text(rejected),)


def as_trl(messages: tuple[Message, ...]):
    if messages[0].role == "text":
        return messages[0].content
    return [{"role": m.role, "content": m.content} for m in messages]


def ordinary():
    return tiny.plain_model(seed=1), tiny.tokenizer(tiny.PLAIN_TEMPLATE)


def theirs(trainer):
    """Loss and gradients of TRL's compute_loss on one collated batch of the whole data set."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    model = trainer.model.train()
    model.zero_grad()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}


def arguments(kind, folder, **more):
    return kind(
        output_dir=str(folder),
        per_device_train_batch_size=len(CONVERSATIONS),
        use_cpu=True,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=True,
        max_length=None,
        **more,
    )


def assert_equal_gradients(ours, expected):
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert float((ours[name] - gradient).norm() / gradient.norm()) < 1e-4, name


@pytest.mark.parametrize("kind", [conversations, texts])
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo(tmp_path, kind, beta):
    model, tokenizer = ordinary()
    reference_model = tiny.plain_model(seed=0)
    data = datasets.Dataset.from_list(
        [{"prompt": as_trl(p), "chosen": as_trl(c), "rejected": as_trl(r)} for p, c, r in kind()]
    )
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=reference_model,
        args=arguments(trl.DPOConfig, tmp_path, beta=beta),
        train_dataset=data,
        processing_class=tokenizer,
    )
    loss, gradients = theirs(trainer)

    engine = LocalEngine(tiny.loaded_model(seed=1))
    old = LocalEngine(tiny.loaded_model(seed=0), trainable=False)
    rows = [
        engine.loaded.renderer.render(comparison(p, Completion(c), Completion(r)), index=place)
        for place, (p, c, r) in enumerate(kind())
    ]
    step = Step("stage", 1, rows, pack(rows, 60), engine)
    assert len(step.forests) > 1
    for forest in step.forests:
        with torch.no_grad():
            reference: Logprobs = old.logprobs(forest)
        objective, judged = bind({"name": "dpo", "beta": beta}), [tiny.compared(row) for row in rows]
        case = Case(rows_of(forest, judged), engine.logprobs(forest), reference)
        step.add(ask(objective, case), torch.ones(len(forest.rows)), len(rows))
    assert step.means()["loss"] == pytest.approx(loss, abs=1e-5)
    assert_equal_gradients(engine.gradients(), gradients)


@pytest.mark.parametrize("kind", [conversations, texts])
def test_sft(tmp_path, kind):
    model, tokenizer = ordinary()
    data = datasets.Dataset.from_list([{"prompt": as_trl(p), "completion": as_trl(c)} for p, c, _ in kind()])
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments(trl.SFTConfig, tmp_path, completion_only_loss=True, packing=False),
        train_dataset=data,
        processing_class=tokenizer,
    )
    loss, gradients = theirs(trainer)

    engine = LocalEngine(tiny.loaded_model(seed=1))
    rows = [
        engine.loaded.renderer.render(Group(p, (Completion(c),)), index=place) for place, (p, c, _) in enumerate(kind())
    ]
    step = Step("stage", 1, rows, pack(rows, 60), engine)
    assert len(step.forests) > 1
    for forest in step.forests:
        value = nll(engine.logprobs(forest))
        step.add(value, reductions.token_weights(forest, rows, "token_mean"), reductions.divisor(rows, "token_mean"))
    assert step.means()["loss"] == pytest.approx(loss, abs=1e-5)
    assert_equal_gradients(engine.gradients(), gradients)
