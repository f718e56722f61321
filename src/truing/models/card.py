"""The model card of a finished checkpoint: base, data, settings and what was measured."""

from __future__ import annotations

import json
from typing import Any

from truing.store import Artifact, Checkpoint, Run
from truing.store.files import write_atomic


def write_card(run: Run, checkpoint: Checkpoint) -> None:
    """README.md in the checkpoint's folder, with the front matter that model hubs read."""
    made = [a for a in run.artifacts() if a.meta.get("model") == checkpoint.path.name]
    start = next(iter(run.events(stage=checkpoint.meta["stage"], kind="start")), {})
    info = run.info
    lines = [
        "---",
        f"base_model: {json.dumps(info['model'])}",
        "library_name: transformers",
        f"tags: {json.dumps(['truing', 'alignment', checkpoint.meta['stage']])}",
        "---",
        f"# {info['name']}, after {checkpoint.step} steps",
        "",
        f"Made by stage `{checkpoint.meta['stage']}` of a [Truing](https://pypi.org/project/truing/) run.",
        "",
        "## Measured",
        "",
        *_measured(run, made),
        "",
        "## Made from",
        "",
        f"- base: `{info['model']}`",
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


def _measured(run: Run, made: list[Artifact]) -> list[str]:
    found = [f"- {a.meta['verdict']} (stage `{a.stage}`)" for a in run.artifacts() if "verdict" in a.meta]
    for artifact in made:
        held_out: dict[str, Any] | None = artifact.meta.get("held_out")
        if held_out:
            rate = held_out["accuracy"]
            found.append(
                f"- implicit-reward accuracy on {rate['n']} held-out comparisons: {100 * rate['value']:.1f} % "
                f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
            )
    return found or ["- nothing: the run has no evaluation"]
