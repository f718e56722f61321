"""A tiny model in a folder, files of data and recipes for it, and a Context: what tests of whole stages need."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tiny
import torch
from rich.console import Console

from truing.compute import seed_everything
from truing.models import content_hash
from truing.progress import Reporter
from truing.records import Completion, Group, Message, Sampled, assistant, comparison, user
from truing.stages.context import Context, Groups, Model
from truing.store import Run

WORDS = ("sun", "rain", "tea", "cats", "jazz", "snow", "bread", "ships", "moss", "clay", "owls", "figs")


def save(folder: Path, *, seed: int = 0) -> Path:
    """A model folder: `model = "<folder>"` works in recipes."""
    return tiny.save_tiny_model(folder, seed=seed)


def pairs(count: int = 12, *, start: int = 0) -> list[Group]:
    """Comparisons with a pattern: the preferred answer is one short word, the other one a different short word."""
    return [
        comparison(
            (user(f"{WORDS[i % len(WORDS)]} {i}?"),),
            Completion((assistant("yes"),)),
            Completion((assistant("nope"),)),
        )
        for i in range(start, start + count)
    ]


def demonstrations(count: int = 12, *, start: int = 0) -> list[Group]:
    """Rows with one answer."""
    return [
        Group((user(f"{WORDS[i % len(WORDS)]} {i}?"),), (Completion((assistant(f"yes {i % 3}"),)),))
        for i in range(start, start + count)
    ]


def prompts(count: int = 4, *, start: int = 0) -> list[Group]:
    """Rows without an answer."""
    return [Group((user(f"{WORDS[i % len(WORDS)]} {i}?"),)) for i in range(start, start + count)]


def texts(count: int = 6) -> list[Group]:
    """Plain text, as `pretrain` takes it."""
    return [Group((), (Completion((Message("text", f"the {word} and the {word} {i}"),)),))
            for i, word in zip(range(count), WORDS, strict=False)]  # fmt: skip


def sampled(words: str, *, tokens: int = 3, stop: bool = True) -> Completion:
    """An answer as if a generator had drawn it."""
    drawn = Sampled(tuple(range(tokens)), (-1.0,) * tokens, "stop" if stop else "length", "none", "none")
    return Completion((assistant(words),), sampled=drawn)


def given(groups: Sequence[Group], key: str = "data") -> Groups:
    """The Groups as an input of a stage."""
    return Groups(key, lambda: list(groups), "made in a test")


def model_of(folder: Path) -> Model:
    return Model(content_hash(str(folder)), str(folder))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pairs(path: Path, count: int = 12, *, start: int = 0) -> Path:
    """TRL's explicit-prompt preference format, conversational."""
    return write_rows(
        path,
        (
            {
                "prompt": [{"role": "user", "content": group.prompt[0].content}],
                "chosen": [{"role": "assistant", "content": group.completions[0].text}],
                "rejected": [{"role": "assistant", "content": group.completions[1].text}],
            }
            for group in pairs(count, start=start)
        ),
    )


def write_demonstrations(path: Path, count: int = 12, *, start: int = 0) -> Path:
    return write_rows(
        path,
        (
            {
                "messages": [
                    {"role": "user", "content": group.prompt[0].content},
                    {"role": "assistant", "content": group.completions[0].text},
                ]
            }
            for group in demonstrations(count, start=start)
        ),
    )


def quiet() -> Reporter:
    """A reporter nobody hears."""
    return Reporter(Console(file=io.StringIO()))


def open_run(folder: Path) -> Run:
    info = {"name": "test", "model": "tiny", "seed": 0, "versions": {}}
    return Run.open(folder, recipe="", resolved="", info=info)


def context(run: Run, stage: str = "stage", *, seed: int = 0, first_step: int = 0, key: str = "key") -> Context:
    seed_everything(seed)
    return Context(
        run=run,
        stage=stage,
        key=key,
        seed=seed,
        device=torch.device("cpu"),
        precision="fp32",
        reporter=quiet(),
        first_step=first_step,
    )


def weights_hash(folder: Path) -> str:
    """One hash over all weights of a model or adapter folder."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    assert files, f"{folder} holds no weights"
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def step_events(run: Run, stage: str | None = None) -> list[dict[str, Any]]:
    """Step events without what the clock decides."""
    found = []
    for event in run.events(stage, "step"):
        metrics = {name: value for name, value in event["metrics"].items() if name != "tokens_per_second"}
        found.append({**{k: v for k, v in event.items() if k != "time"}, "metrics": metrics})
    return found
