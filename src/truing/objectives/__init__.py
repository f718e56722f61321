"""What training minimises: pure functions from log-probabilities to one loss per pair, answer or token.

An objective is any public function of these modules that returns a Loss. Its positional parameters are the tensors it
asks for, by name (`policy`, `reference`); its keyword-only parameters are its settings. Nothing else registers it.
"""

from __future__ import annotations

from collections.abc import Callable

from truing.errors import ConfigError, did_you_mean
from truing.objectives import likelihood, pairwise
from truing.signatures import asks_for, public_functions
from truing.tensors import Loss

Objective = Callable[..., Loss]

OBJECTIVES: dict[str, Objective] = {
    name: function for module in (likelihood, pairwise) for name, function in public_functions(module, "Loss").items()
}


def objective(name: str) -> Objective:
    """The objective of this name."""
    if name not in OBJECTIVES:
        raise ConfigError(f"objective '{name}' does not exist{did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def needs_reference(function: Objective) -> bool:
    """Whether the objective asks for the reference's log-probabilities."""
    return "reference" in asks_for(function)


def is_pairwise(function: Objective) -> bool:
    """Whether the objective compares a chosen and a rejected answer."""
    return asks_for(function).get("policy", "").startswith("Pair")
