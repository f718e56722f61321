"""Stages: functions from artifacts to artifacts, each a plain loop.

A stage is any public function of these modules whose first two parameters are a Context and its settings. The others
are its inputs, asked for by name: `model`, `base`, `reward`, `data`, `also`, `held_out`, `unlabelled`, `pretrain`,
`principle`, `judges`, whatever the scorers in its settings name, `encoder`, by which rows are compared, `measured`,
what was measured before, and `earlier`, what the stage itself made in earlier rounds of a loop; one with a default is
optional.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Literal

from truing.errors import ConfigError, did_you_mean
from truing.signatures import Settings, public_functions
from truing.stages import (
    accept,
    audit,
    choose,
    curate,
    evaluate,
    evaluate_reward,
    evolve,
    guard,
    join,
    judgements,
    measure,
    merge,
    online,
    preference,
    rank,
    revise,
    reward_model,
    sample,
    score,
    select,
    self_instruct,
    sft,
    side_by_side,
)

Stage = Callable[..., None]
Product = Literal["model", "reward", "data", "measured", "verdict"]

MAKES: dict[ModuleType, Product] = {
    sft: "model",
    preference: "model",
    online: "model",
    reward_model: "reward",
    audit: "data",
    curate: "data",
    evolve: "data",
    join: "data",
    judgements: "data",
    rank: "data",
    revise: "data",
    sample: "data",
    score: "data",
    accept: "data",
    select: "data",
    self_instruct: "data",
    side_by_side: "data",
    evaluate: "verdict",
    evaluate_reward: "verdict",
    measure: "measured",
    guard: "verdict",
    merge: "model",
    choose: "model",
}
"""The modules with stages, and what those of each one make: later stages take the last of each kind."""


INPUTS = frozenset(
    {"model", "base", "reward", "data", "also", "held_out", "unlabelled", "pretrain", "principle", "judges", "encoder"}
    | {"measured", "earlier"}
)
"""What stages may ask for. A public function that asks for anything else is no stage, but what stages share."""


def _stages(module: ModuleType) -> dict[str, Stage]:
    found = public_functions(module, "None")
    return {name: function for name, function in found.items() if _is_stage(function)}


def _is_stage(function: Stage) -> bool:
    names = list(inspect.signature(function).parameters)
    return names[:2] == ["context", "settings"] and set(names[2:]) <= INPUTS


STAGES: dict[str, Stage] = {name: function for module in MAKES for name, function in _stages(module).items()}


def stage(name: str) -> Stage:
    """The stage of this name."""
    if name not in STAGES:
        raise ConfigError(f"stage '{name}' does not exist{did_you_mean(name, STAGES)}")
    return STAGES[name]


def product_of(function: Stage) -> Product:
    """What a stage makes."""
    return MAKES[sys.modules[function.__module__]]


def settings_type(function: Stage) -> type[Settings]:
    """The settings that a stage takes."""
    found: type[Settings] = typing.get_type_hints(function)["settings"]
    return found


def inputs_of(function: Stage) -> dict[str, bool]:
    """Names of the inputs a stage asks for, and whether each is required."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    return {parameter.name: parameter.default is parameter.empty for parameter in parameters}
