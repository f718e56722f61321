"""How tokens count on which the generator that wrote them and the engine that learns from them differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from truing.errors import ConfigError, did_you_mean
from truing.objectives.policy import masked_importance, truncated_importance
from truing.signatures import settings_of, validated
from truing.tensors import Logprobs, PerToken

CORRECTIONS: dict[str, Callable[..., PerToken]] = {"truncate": truncated_importance, "mask": masked_importance}
"""By name; their keyword-only parameters are their settings."""


def spelled_out(value: Any) -> dict[str, Any]:
    """A correction's name, or its table of name and settings, as a table with every setting."""
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or "name" not in table:
        raise ConfigError(
            f'correction is a name such as "truncate", or a table with name and settings; found {value!r}'
        )
    name = table["name"]
    if name not in CORRECTIONS:
        raise ConfigError(f"correction '{name}' does not exist{did_you_mean(str(name), CORRECTIONS)}")
    given = {key: one for key, one in table.items() if key != "name"}
    settings = validated(settings_of(CORRECTIONS[name]), given, "correction").model_dump()
    if settings.get("low", 0.0) >= settings.get("high", 1.0):
        raise ConfigError(
            f"correction.low: is {settings['low']:g}, and high {settings['high']:g}: no token would count"
        )
    return {"name": name, **settings}


def weights(correction: Mapping[str, Any], behaviour: Logprobs, sampled: Logprobs) -> PerToken:
    """The weight of each token. behaviour: what the engine says of it; sampled: what the generator said, in nats."""
    settings = {key: one for key, one in correction.items() if key != "name"}
    return CORRECTIONS[correction["name"]](behaviour, sampled, **settings)
