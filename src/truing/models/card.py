"""The model card of a finished checkpoint: base, data, settings and what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from truing.models import locate, smollm2
from truing.store import Artifact, Checkpoint, Run
from truing.store.files import write_atomic


def write_card(run: Run, checkpoint: Checkpoint) -> None:
    """README.md in the checkpoint's folder, with the front matter that model hubs read."""
    own = [a for a in run.artifacts() if "chosen" not in a.meta]  # one that is only chosen was made elsewhere
    made = [a for a in own if checkpoint.path.name in (a.meta.get("model"), a.meta.get("reward"))]
    start = next(iter(run.events(stage=checkpoint.meta["stage"], kind="start")), {})
    info = run.info
    base = _base(run, made)
    lines = [
        "---",
        f"base_model: {json.dumps(base)}",
        "library_name: transformers",
        f"tags: {json.dumps(['truing', 'alignment', checkpoint.meta['stage']])}",
        "---",
        f"# {info['name']}, after {checkpoint.step} steps",
        "",
        f"Made by stage `{checkpoint.meta['stage']}` of a [Truing](https://pypi.org/project/truing/) run.",
        "",
        "## Measured",
        "",
        *_measured(run, checkpoint, made),
        "",
        "## Made from",
        "",
        f"- base: `{base}`" + ("" if base == info["model"] else f", in a run that began with `{info['model']}`"),
        *(f"- {name}: `{key}`" for name, key in start.get("inputs", {}).items()),
        f"- seed: {info['seed']}",
        *(f"- {name}: {number}" for name, number in info["versions"].items()),
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(start.get("settings", {}), indent=1, ensure_ascii=False),
        "```",
        "",
    ]
    write_atomic(checkpoint.path / "README.md", "\n".join(lines))


def _base(run: Run, made: list[Artifact]) -> str:
    """What the stage started from: the recipe's model by the recipe's name, what the run made by its folder there."""
    source = str(made[-1].meta["base"]) if made else str(run.info["model"])
    if Path(source).is_relative_to(run.path.absolute()):
        return Path(source).relative_to(run.path.absolute()).as_posix()
    if run.info["model"] == smollm2.NAME and source == locate(smollm2.NAME):
        return smollm2.HUB_ID  # the name by which others know it
    return str(run.info["model"]) if source == locate(run.info["model"]) else source


def _measured(run: Run, checkpoint: Checkpoint, made: list[Artifact]) -> list[str]:
    """Results of this very checkpoint; those of what was made from it are not its own."""
    own = [a for a in run.artifacts() if "verdict" in a.meta and a.meta.get("of") == checkpoint.stage_key]
    found = [f"- {a.meta['verdict']} (stage `{a.stage}`)" for a in own]
    for artifact in made:
        held_out: dict[str, Any] | None = artifact.meta.get("held_out")
        kind = "accuracy" if "reward" in artifact.meta else "implicit-reward accuracy"
        if held_out and "accuracy" in held_out:
            rate = held_out["accuracy"]
            found.append(
                f"- {kind} on {rate['n']} held-out comparisons: {100 * rate['value']:.1f} % "
                f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
            )
    return found or ["- nothing: no stage of the run evaluated this checkpoint"]
