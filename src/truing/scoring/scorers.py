"""All scorers by name, and those made of others: sums, minima, gates, ensembles.

A scorer is any public function of these modules that returns a Scorer; its keyword-only parameters are its settings.
Where a part of a sum or an ensemble fails, the whole has failed: a number is never made up.
"""

from __future__ import annotations

import math
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from truing.errors import ConfigError, GuardError, did_you_mean
from truing.records import Group
from truing.scoring import duels, grades, judges, learned, rules, verify
from truing.scoring.score import NO_TOOLS, Pooling, Score, Scorer, Tools, added, pooled
from truing.signatures import asks_for, public_functions, settings_of, validated


def spelled_out(value: Any) -> dict[str, Any]:
    """A scorer's name, or its table of name and settings, as a table with every setting."""
    if not isinstance(value, str | Mapping):
        raise ConfigError(f'a scorer is a name such as "length", or a table with name and settings; found {value!r}')
    table = {"name": value} if isinstance(value, str) else dict(value)
    name = table.pop("name", None)
    function = scorer_of(name)
    return {"name": name, **validated(settings_of(function), table, str(name)).model_dump(mode="json")}


Spec = Annotated[dict[str, Any], BeforeValidator(spelled_out)]
"""A scorer as a recipe has it: its name, or a table of name and settings. Checked, and spelled out."""
Several = Annotated[tuple[Spec, ...], Field(min_length=1)]


def weighted(tools: Tools, *, of: Several, weights: tuple[float, ...]) -> Scorer:
    """A weighted sum. A negative weight is a penalty.

    of: the scorers.
    weights: as many numbers.
    """
    if len(of) != len(weights):
        raise ConfigError(f"weighted: {len(of)} scorers need as many weights, and there are {len(weights)}")

    def join(scores: Sequence[Score]) -> Score:
        deviations = [weight * (score.deviation or 0.0) for weight, score in zip(weights, scores, strict=True)]
        total = sum(weight * _value(score) for weight, score in zip(weights, scores, strict=True))
        known = any(score.deviation is not None for score in scores)
        return Score.of(total, math.hypot(*deviations) if known else None)

    return _joined(tools, of, join)


def minimum(tools: Tools, *, of: Several) -> Scorer:
    """The lowest of several scores.

    of: the scorers.
    """
    return _joined(tools, of, lambda scores: min(scores, key=_value))


def gate(tools: Tools, *, of: Spec, condition: Spec, at_least: float = 0.5, closed: float = 0.0) -> Scorer:
    """A score that counts only where another one is high enough.

    of: the scorer that counts.
    condition: the scorer that opens.
    at_least: how high that one must be.
    closed: the score where it is lower.
    """

    def join(scores: Sequence[Score]) -> Score:
        return scores[0] if _value(scores[1]) >= at_least else Score.of(closed)

    return _joined(tools, (of, condition), join)


def constraints(*, column: str = "constraints", counts: Literal["share", "all"] = "all") -> Scorer:
    """Whether an answer keeps to what its row asks of its form: each row names the scorers that check it.

    Such as `"constraints": [{"name": "within", "at_most": 20}, "valid_json"]`; a constraint is kept where its scorer
    says 0.5 or more. Those that run a model, or need more than the answer's text, are not for rows.
    column: the column that holds a list of scorers, or one.
    counts: the share of the constraints that are kept, or all: 1 where each one is, and else 0.
    """

    def say(group: Group) -> tuple[Score, ...]:
        given = group.extra.get(column)
        if not given:
            return (Score.failed(f"the row has no constraints in '{column}'"),) * len(group.completions)
        try:
            checks = [_check(one) for one in (given if isinstance(given, list | tuple) else [given])]
        except ConfigError as error:
            raise ConfigError(f"{group.place}: {column}: {error}") from None
        said = [check([group])[0] for check in checks]
        return tuple(_or_failure(scores, kept) for scores in zip(*said, strict=True))

    def kept(scores: Sequence[Score]) -> Score:
        share = sum(_value(score) >= 0.5 for score in scores) / len(scores)
        return Score.of(share if counts == "share" else float(share == 1))

    return lambda groups: [say(group) for group in groups]


def _check(spec: Any) -> Scorer:
    """A scorer that a row names. What runs a model, or rests on a file, is named by recipes alone."""
    table = spelled_out(spec)
    function = scorer_of(table["name"])
    if function.__module__ != rules.__name__ or "path" in table or table.get("file"):
        known = sorted(set(public_functions(rules, "Scorer")) - {"function"})
        raise ConfigError(f"'{table['name']}' is no check that a row can name; known: {', '.join(known)}")
    return make(table)


def ensemble(tools: Tools, *, of: Several, by: Pooling = "mean", deviations: float = 1.0) -> Scorer:
    """Several scorers of one thing, with how far they are apart (arXiv:2310.02743): what they disagree on is doubtful.

    of: the scorers; their scales must be alike.
    by: mean; min, the most doubtful of them; or lower, the mean less some deviations.
    deviations: how many, for lower.
    """
    if len(of) < 2:
        raise ConfigError("ensemble: one scorer alone is none: name at least two")
    return _joined(tools, of, lambda scores: pooled([_value(score) for score in scores], by, deviations))


def _joined(tools: Tools, of: Sequence[dict[str, Any]], join: Callable[[Sequence[Score]], Score]) -> Scorer:
    """A scorer that joins what others say of each answer."""
    parts = [make(spec, tools) for spec in of]

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        said = [part(groups) for part in parts]
        return [
            tuple(_or_failure(scores, join) for scores in zip(*(rows[place] for rows in said), strict=True))
            for place in range(len(groups))
        ]

    return score


def _or_failure(scores: Sequence[Score], join: Callable[[Sequence[Score]], Score]) -> Score:
    counts = added(*(score.counts for score in scores))
    failed = next((score for score in scores if score.value is None), None)
    if failed:
        return failed._replace(counts=counts)
    reasons = dict.fromkeys(score.reason for score in scores if score.reason)
    return join(scores)._replace(reason="; ".join(reasons), counts=counts)


def _value(score: Score) -> float:
    assert score.value is not None, "failures never come this far"
    return score.value


MODULES: tuple[ModuleType, ...] = (rules, verify, learned, grades, judges, duels, sys.modules[__name__])
SCORERS: dict[str, Callable[..., Scorer]] = {
    name: function for module in MODULES for name, function in public_functions(module, "Scorer").items()
}


def scorer_of(name: object) -> Callable[..., Scorer]:
    """The scorer of this name."""
    if not isinstance(name, str):
        raise ConfigError(f'a scorer\'s table says which one by name = "...": one of {", ".join(sorted(SCORERS))}')
    if name not in SCORERS:
        raise ConfigError(f"scorer '{name}' does not exist{did_you_mean(name, SCORERS)}")
    return SCORERS[name]


def make(spec: Mapping[str, Any], tools: Tools = NO_TOOLS) -> Scorer:
    """The scorer of a table."""
    given = dict(spec)
    function = scorer_of(given.pop("name", None))
    settings = validated(settings_of(function), given, str(spec["name"]))
    offered = {"tools": tools}
    chosen = dict(iter(settings))  # a setting named `keys` would make it look like a mapping
    return _checked(function(**{name: offered[name] for name in asks_for(function)}, **chosen), str(spec["name"]))


def _checked(scorer: Scorer, name: str) -> Scorer:
    """The scorer, held to what it owes: a Score for each answer, each a finite number or a failure."""

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        said = scorer(groups)
        if len(said) != len(groups):
            raise GuardError(f"scorer '{name}' gave scores of {len(said):,} rows for {len(groups):,}: mend it")
        for group, scores in zip(groups, said, strict=True):
            if len(scores) != len(group.completions):
                raise GuardError(
                    f"{group.place}: scorer '{name}' gave {len(scores)} scores for {len(group.completions)} answers: "
                    "mend it"
                )
            broken = next((one.value for one in scores if not _is_sound(one.value)), None)
            if broken is not None:
                raise GuardError(f"{group.place}: scorer '{name}' gave {broken!r}, which is no finite number: mend it")
        return said

    return score


def _is_sound(value: object) -> bool:
    return value is None or (isinstance(value, Real) and math.isfinite(value))


Place = Literal["model", "process_model", "language_model", "file", "function"]
Kind = Place | Literal["isolation"]


def named_in(spec: Mapping[str, Any], kind: Kind) -> list[str]:
    """What a scorer and its parts name of a kind, such as models and files; "" is the run's own model of that kind."""
    return [
        value
        for part in parts_of(spec)
        for name, hint in _hints(part).items()
        if isinstance(value := part.get(name), str) and kind in _marks(hint)
    ]


def parts_of(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A scorer's table, and those of the scorers that it joins."""
    found = [spec]
    for name, hint in _hints(spec).items():
        if hint is Spec:
            found += parts_of(spec[name])
        elif hint is Several:
            found += [one for part in spec[name] for one in parts_of(part)]
    return found


def is_ensemble(spec: Mapping[str, Any]) -> bool:
    """Whether a scorer, or a part of it, is made of several that judge the same thing, and says how far they differ."""
    return any(part["name"] == ensemble.__name__ or part.get("members") is not None for part in parts_of(spec))


def _hints(spec: Mapping[str, Any]) -> dict[str, Any]:
    return typing.get_type_hints(scorer_of(spec["name"]), include_extras=True)


def paths_of(name: object) -> list[str]:
    """The settings of a scorer that may name a file or folder; none of a name that is no scorer's."""
    if not isinstance(name, str) or name not in SCORERS:
        return []
    hints = typing.get_type_hints(SCORERS[name], include_extras=True)
    return [setting for setting, hint in hints.items() if set(typing.get_args(Place)) & set(_marks(hint))]


def _marks(hint: Any) -> tuple[Any, ...]:
    """What an annotation says beside its type, inside of `X | None` too."""
    beside = getattr(hint, "__metadata__", ())
    return (*beside, *(mark for inner in typing.get_args(hint) for mark in _marks(inner)))
