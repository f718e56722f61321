"""One optimizer step's loss and gradients, Truing's and TRL's: same weights, same rows, fp32 on CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import tiny_model
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from parity.cases import Case
from truing import reductions
from truing.compute.attention import ATTENTION
from truing.compute.engine.local import LocalEngine
from truing.models import Loaded
from truing.objectives import bind
from truing.packing import pack
from truing.records import Group, Message
from truing.rendering import Renderer, Row
from truing.stages.arranging import judge
from truing.stages.context import Model
from truing.stages.material import Sources
from truing.stages.preference import Preference, _add
from truing.stages.training import Step, Training, render_rows

Outcome = tuple[float, dict[str, Tensor]]
"""A loss, and the gradient of every weight by name."""


def difference(case: Case, folder: Path) -> tuple[float, float]:
    """How far apart the losses are, and the largest relative difference of a weight's gradient."""
    step = ours(case, folder)
    loss, gradients = theirs(case, folder)
    found = step.engine.gradients()
    if found.keys() != gradients.keys():
        raise AssertionError(f"gradients of other weights: {sorted(found.keys() ^ gradients.keys())}")
    apart = {name: float((found[name] - other).norm() / other.norm()) for name, other in gradients.items()}
    return abs(step.means()["loss"] - loss), max(apart.values())


def ours(case: Case, folder: Path) -> Step:
    """The step as the stages take it, from Groups to gathered gradients."""
    objective = bind({"name": case.ours.name, **case.ours.settings})
    engine = LocalEngine(_loaded(case))
    if objective.kind == "token":
        step = _step(engine, case.rows())
        divisor = reductions.divisor(step.rows, "token_mean")
        for forest in step.forests:
            loss = objective(policy=engine.logprobs(forest))
            step.add(loss, reductions.token_weights(forest, step.rows, "token_mean"), divisor)
        return step
    judged = [judge(group, objective.kind, scored=objective.needs("reward")) for group in case.rows()]
    step = _step(engine, [one.group for one in judged])
    settings = Preference(reference="base" if case.reference else "none", forest_tokens=_budget(step.rows))
    run = tiny_model.open_run(folder / "run")
    base = tiny_model.model_of(_saved_reference(folder))
    sources = Sources(tiny_model.context(run), settings, settings.reference, engine, Model("the policy", ""), base)
    _add(step, engine, objective, sources.material(objective, step.rows, judged), {}, 0)
    run.close()
    return step


def theirs(case: Case, folder: Path) -> Outcome:
    """TRL's compute_loss on its own collated batches of the whole data set, averaged as in gradient accumulation."""
    trainer = _trainer(case, folder)
    model = trainer.model.train()
    model.zero_grad()
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader()]
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(model, batch) / len(batches)
        loss.backward()
        total += float(loss.detach())
    return total, {name: weight.grad for name, weight in model.named_parameters()}


def reference_model() -> Any:
    """Weights near the policy's: log-ratios are a few nats, as in training, and most are positive, so KTO's KL is."""
    model, other = tiny.plain_model(seed=1), tiny.plain_model(seed=3)
    with torch.no_grad():
        for weight, against in zip(model.parameters(), other.parameters(), strict=True):
            weight.lerp_(against, -0.1)
    return model


def reward_model(attention: str) -> Any:
    """A decoder with a head that gives one score, the same each time."""
    config = tiny.config(num_labels=1, pad_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()


@cache
def trainers() -> dict[str, tuple[Any, Any]]:
    """TRL's trainers and their settings, by name."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import trl
    from trl.experimental import cpo, orpo, tpo

    homes = {"DPO": trl, "KTO": trl, "SFT": trl, "Reward": trl, "CPO": cpo, "ORPO": orpo, "TPO": tpo}
    return {name: (getattr(home, f"{name}Trainer"), getattr(home, f"{name}Config")) for name, home in homes.items()}


def _loaded(case: Case) -> Loaded:
    if case.theirs.name != "Reward":
        return tiny.loaded_model(seed=1)
    return Loaded(reward_model(ATTENTION), Renderer(case.tokenizer(), [tiny.VOCABULARY - 1]), "tiny")


def _step(engine: LocalEngine, groups: Sequence[Group]) -> Step:
    rows, _, _ = render_rows(engine.loaded.renderer, groups, Training())
    return Step("parity", 1, rows, pack(rows, _budget(rows)), engine)


def _budget(rows: Sequence[Row]) -> int:
    """Tokens of a forest such that there are several, and rows that share one."""
    return sum(map(len, rows)) * 2 // 3


def _saved_reference(folder: Path) -> Path:
    path = folder / "reference"
    if not path.exists():
        reference_model().save_pretrained(path)
        tiny.tokenizer().save_pretrained(path)
    return path


def _trainer(case: Case, folder: Path) -> Any:
    from datasets import Dataset

    trainer, config = trainers()[case.theirs.name]
    groups = case.rows()
    common = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": len(groups),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "max_length": None,
    }
    return trainer(
        model=reward_model("sdpa") if case.theirs.name == "Reward" else tiny.plain_model(seed=1),
        args=config(**{**common, **case.theirs.settings}),
        train_dataset=Dataset.from_list([_columns(group) for group in groups]),
        processing_class=case.tokenizer(),
        **({"ref_model": reference_model()} if case.theirs.name in ("DPO", "KTO") else {}),
    )


def _columns(group: Group) -> dict[str, Any]:
    """The row under TRL's names. `reference`, which TPO alone reads, is its gold answer: the best one."""
    answers = [_written(answer.messages) for answer in group.completions]
    row: dict[str, Any] = {"prompt": _written(group.prompt)}
    if len(answers) == 1:
        label = group.completions[0].label
        return row | {"completion": answers[0]} | ({} if label is None else {"label": label})
    row |= {"reference": answers[0], "chosen": answers[-2], "rejected": answers[-1]}
    return row if group.strength is None else row | {"margin": group.strength}


def _written(messages: tuple[Message, ...]) -> Any:
    if messages[0].role == "text":
        return messages[0].content
    return [{"role": message.role, "content": message.content} for message in messages]
