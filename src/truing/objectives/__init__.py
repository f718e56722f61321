"""What training minimises: pure functions from log-probabilities to one loss per pair, answer, ranking or token.

An objective is any public function of these modules that returns a Loss. Its positional parameters are the tensors it
asks for, by name (NEEDS lists them); its keyword-only parameters are its settings. Nothing else registers it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from truing.errors import ConfigError, did_you_mean
from truing.objectives import batchwise, likelihood, listwise, pairwise, pointwise, rewarding
from truing.signatures import asks_for, public_functions, settings_of, validated
from truing.tensors import Loss

Objective = Callable[..., Loss]
Kind = Literal["pair", "ranking", "answer", "step", "token"]

MODULES: tuple[ModuleType, ...] = (pairwise, pointwise, listwise, batchwise, likelihood, rewarding)

OBJECTIVES: dict[str, Objective] = {
    name: function for module in MODULES for name, function in public_functions(module, "Loss").items()
}

NEEDS: dict[str, str] = {
    "policy": "log-probabilities under the model that is trained",
    "score": "scores of the reward model that is trained, after each token of an answer",
    "writing": "log-probabilities of the answers under the same model, which keeps the head that it writes with",
    "length_score": "scores of a second head, for what is to be kept out of the first; it is not saved with the model",
    "head": "weights of the reward head's outputs, one row for each",
    "feature": "hidden states that the reward head reads at the end of each answer, with random numbers from the run's "
    "seed by which two views of them lose some entries",
    "prototype": "directions that features are sorted by, trained beside the head; they are not saved with the model",
    "reference": "log-probabilities under the model it must stay near: cached where that model is fixed",
    "label": "a thumb for each answer, up or down; of comparisons the chosen answers are up",
    "right": "whether each step of an answer is right",
    "reward": "a score for each answer; rankings can do with ranks or thumbs instead",
    "strength": "how much better the chosen answer is: the row's `strength`, or the difference of the scores",
    "margin": "the same number without a bound: below 0 where the label is probably wrong",
    "parted": "place of the first token at which the two answers differ",
    "kl": "KL of policy and reference, measured each step on prompts with other prompts' answers: one more pass",
    "divergence": "KL(reference || policy) over the vocabulary at each token: the reference is run live, uncached",
    "concentration": "log of the sum of squared probabilities at each token of the policy: no further pass",
    "from_reference": '1 for answers that the reference wrote (their `source` is "reference"), else 0',
    "drawn": "1 for answers that a model drew in this run or another, else 0",
    "uniform": "a random number from 0 to 1 for each pair, from the run's seed",
    "memory": "what the objective returned at the step before; it is part of the checkpoint",
}

KINDS: dict[str, Kind] = {"Pair": "pair", "Ranking": "ranking", "RankedScores": "ranking", "StepScores": "step"}
"""What one loss belongs to, by the type of what is trained; of other types to an answer."""


def objective(name: str) -> Objective:
    """The objective of this name."""
    if name not in OBJECTIVES:
        raise ConfigError(f"objective '{name}' does not exist{did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def kind_of(function: Objective) -> Kind:
    """What one loss belongs to."""
    if function.__module__ == likelihood.__name__:
        return "token"
    asked = asks_for(function)
    main = asked.get("score") or asked["policy"]
    return KINDS.get(main.partition("[")[0], "answer")


def stage_of(function: Objective) -> str:
    """The stage that trains under it."""
    if "score" in asks_for(function):
        return "reward_model"
    return "sft" if kind_of(function) == "token" else "preference"


@dataclass(frozen=True, slots=True)
class Bound:
    """An objective with its settings."""

    name: str
    function: Objective
    settings: Mapping[str, Any]

    def __call__(self, **offered: Any) -> Loss:
        """The loss, given of what is offered what the objective asks for."""
        return self.function(**{name: offered[name] for name in asks_for(self.function)}, **self.settings)

    @property
    def kind(self) -> Kind:
        """What one loss belongs to."""
        return kind_of(self.function)

    @property
    def stage(self) -> str:
        """The stage that trains under it."""
        return stage_of(self.function)

    @property
    def is_coupled(self) -> bool:
        """Whether the rows of one optimizer step meet in the objective, so that it needs them all at once."""
        return self.function.__module__ == batchwise.__name__

    @property
    def passes(self) -> tuple[int, int]:
        """Passes through the model, at each step and once for all epochs; one with gradient counts three."""
        live = self.needs("divergence")
        each = 3 + live + self.needs("kl") + self.is_coupled
        return each, (self.needs("reference") and not live) + self.needs("kl")

    @property
    def takes_shares(self) -> bool:
        """Whether it is about what share of a pair's scores each answer has."""
        return asks_for(self.function).get("reward") == "Pair[Votes]"

    def needs(self, name: str) -> bool:
        """Whether the objective asks for this input."""
        return name in asks_for(self.function)


def bind(table: Mapping[str, Any], where: str = "objective") -> Bound:
    """The objective of a recipe's table: `name` and settings, which are checked and spelled out."""
    name = table.get("name")
    if not isinstance(name, str):
        raise ConfigError(f'{where}: say which one: {where} = "dpo", or {where} = {{ name = "dpo", beta = 0.1 }}')
    function = objective(name)
    given = {key: value for key, value in table.items() if key != "name"}
    return Bound(name, function, validated(settings_of(function), given, where).model_dump())
