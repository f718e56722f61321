"""The reference pages of docs: what recipes, stages, scorers and online algorithms may be told, from their signatures.

`python -m truing.handbook docs/reference` writes them. docs/objectives is made by `truing.describing`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from truing.algorithms import ALGORITHMS, schema
from truing.describing import bounds
from truing.recipe import LoopSpec, Recipe
from truing.scoring.scorers import SCORERS
from truing.shaping import Shaping
from truing.signatures import setting_words, settings_of
from truing.stages import STAGES, inputs_of, product_of, settings_type
from truing.stages.sample import SamplingSettings
from truing.stages.training import Updates
from truing.store.files import write_atomic

MADE = "Made by `make docs` from the signatures; the defaults are those of the code.\n"
HEAD = "| setting | default | may be | meaning |\n| --- | --- | --- | --- |\n"
SHARED: dict[str, type[BaseModel]] = {"Training": Updates, "Sampling": SamplingSettings}
"""Settings that many stages have, told once."""


def pages() -> dict[str, str]:
    """All pages by their file's name."""
    return {"recipe.md": recipe(), "stages.md": stages(), "scorers.md": scorers(), "algorithms.md": algorithms()}


def recipe() -> str:
    """What stands at the top of a recipe, in [data] and [principle], and in a loop."""
    loop = [row for row in rows(LoopSpec) if not row.startswith("| `stage")]
    top = [row for row in rows(Recipe) if not row.startswith("| `stage")]
    return "\n".join(
        [
            "# Settings of a recipe\n",
            MADE,
            "`data.path` is the setting `path` of the table `[data]`, and is given so on the command line.\n",
            HEAD + "\n".join(top),
            '\n## A loop\n\nA `[[stage]]` with `use = "loop"`, and its body as `[[stage.stage]]`.\n',
            HEAD + "\n".join(loop) + "\n",
        ]
    )


def stages() -> str:
    """Every stage: what it does, takes and makes, and its settings."""
    parts = ["# Settings of the stages\n", MADE]
    for title, shared in SHARED.items():
        words = (inspect.getdoc(shared) or "").splitlines()[0]
        parts.append(f"## {title}\n\n{words}\n\n{HEAD}" + "\n".join(rows(shared)) + "\n")
    for name, function in STAGES.items():
        settings = settings_type(function)
        takes = [f"`{key}`" + ("" if required else " (optional)") for key, required in inputs_of(function).items()]
        words = _first(inspect.getdoc(function) or "")
        parts.append(f"## {name}\n\n{words}\n\nTakes {', '.join(takes)}; makes {_made(product_of(function))}.\n")
        parts += [
            f"With the settings of [{title.lower()}](#{title.lower()}), but where the table says otherwise.\n"
            for title, shared in SHARED.items()
            if issubclass(settings, shared)
        ]
        own = list(_own(settings))
        parts.append(HEAD + "\n".join(own) + "\n" if own else "No other settings.\n")
    return "\n".join(parts)


def scorers() -> str:
    """Every scorer and its settings."""
    parts = ["# Settings of the scorers\n", MADE]
    for name, function in SCORERS.items():
        parts.append(f"## {name}\n\n{_first(inspect.getdoc(function) or '')}\n")
        own = list(rows(settings_of(function)))
        parts.append(HEAD + "\n".join(own) + "\n" if own else "No settings.\n")
    return "\n".join(parts)


def algorithms() -> str:
    """Every online algorithm and its settings."""
    told = list(rows(Shaping))
    words = (
        "What becomes of the scores before advantages are taken, of every algorithm whose table does not say otherwise."
    )
    parts = ["# Settings of the online algorithms\n", MADE]
    parts.append("[../online.md](../online.md#algorithms) says what each is, and names its paper.\n")
    parts.append(f"## Rewards\n\n{words}\n\n{HEAD}" + "\n".join(told) + "\n")
    for name in ALGORITHMS:
        own = [row for row in rows(schema(name)) if row not in told]
        shaped = set(Shaping.model_fields) & set(schema(name).model_fields)
        others = "With the settings of [rewards](#rewards), but where the table says otherwise.\n\n"
        parts.append(f"## {name}\n\n{others if len(shaped) > 1 else ''}{HEAD}" + "\n".join(own) + "\n")
    return "\n".join(parts)


def rows(settings: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Rows of a Markdown table, a setting each; those of a table in it follow by their full names."""
    docstring = setting_words(settings)
    for key, field in settings.model_fields.items():
        words = field.description or docstring.get(key, "")
        words = words if words.endswith("...") else words.removesuffix(".")
        cells = (f"`{prefix}{key}`", shown(field), bounds(field.metadata) or _choices(field.annotation), words)
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
        inner = _table_in(field.annotation)
        if inner:
            owner = f"{key}.NAME" if typing.get_origin(field.annotation) is dict else key
            yield from rows(inner, f"{prefix}{owner}.")


def shown(field: FieldInfo) -> str:
    """A default as a recipe would have it."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "none" if default is None else f"`{_toml(default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        flat = json.dumps(" ".join(value.split()) if len(value) > 2 else value, ensure_ascii=False)
        return flat if len(flat) <= 60 else f'{flat[:56]}..."'
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _own(settings: type[BaseModel]) -> Iterator[str]:
    """Rows of settings that are not told once for many stages, or that differ here."""
    told = {row for shared in SHARED.values() if issubclass(settings, shared) for row in rows(shared)}
    return (row for row in rows(settings) if row not in told)


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """The table that a setting may be: of a union the first."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(candidate) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _choices(annotation: Any) -> str:
    """The words that a setting may be, where these are all; of a union those of its parts."""
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{_toml(one)}`" for one in typing.get_args(annotation))
    return ", ".join(filter(None, map(_choices, typing.get_args(annotation))))


def _made(product: str) -> str:
    return {
        "model": "the model",
        "reward": "the reward model",
        "data": "rows",
        "measured": "a measurement",
        "verdict": "a verdict",
    }[product]


def _first(words: str) -> str:
    """The first paragraphs of a docstring, up to the lines on single settings."""
    kept: list[str] = []
    for paragraph in words.split("\n\n"):
        lines = paragraph.splitlines()
        plain = [line for line in lines if not re.match(r"^(\w+: |    )", line)]
        if plain:
            kept.append(" ".join(plain))
    return "\n\n".join(kept)


if __name__ == "__main__":
    for name, text in pages().items():
        write_atomic(Path(sys.argv[1]) / name, text)
