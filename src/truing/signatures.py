"""A function's signature as its schema: what it asks for, and which settings it has with types, defaults and words.

Positional parameters are what a function asks for by name; keyword-only parameters are its settings. The settings'
words come from lines `name: words` of the docstring.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from truing.errors import ConfigError, did_you_mean

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of everything a user may set: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def public_functions(module: ModuleType, returns: str) -> dict[str, Callable[..., Any]]:
    """Functions defined in a module whose return annotation is `returns`: a module is its own registry."""
    found: dict[str, Callable[..., Any]] = {}
    for name, function in vars(module).items():
        if name.startswith("_") or not inspect.isfunction(function) or function.__module__ != module.__name__:
            continue
        if inspect.signature(function).return_annotation == returns:
            found[name] = function
    return found


def asks_for(function: Callable[..., Any]) -> dict[str, str]:
    """Names and annotations, as written, of the positional parameters."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: str(p.annotation) for p in parameters if p.kind is not p.KEYWORD_ONLY}


@lru_cache(maxsize=256)
def settings_of(function: Callable[..., Any]) -> type[Settings]:
    """A pydantic model of the keyword-only parameters."""
    hints = typing.get_type_hints(function, include_extras=True)
    words = setting_words(function)
    given: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            default = ... if parameter.default is parameter.empty else parameter.default
            given[parameter.name] = (hints[parameter.name], Field(default, description=words.get(parameter.name, "")))
    return create_model(function.__name__, __base__=Settings, **given)


def setting_words(function: Callable[..., Any]) -> dict[str, str]:
    """The docstring's words on each setting."""
    words: dict[str, str] = {}
    name = ""
    for line in (inspect.getdoc(function) or "").splitlines():
        match = re.match(r"^(\w+): (.+)$", line)
        if match:
            name = match[1]
            words[name] = match[2]
        elif line.startswith("    ") and name:
            words[name] += " " + line.strip()
        else:
            name = ""
    return words


def validated(schema: type[Settings], values: Mapping[str, Any], where: str) -> Any:
    """The settings, or a ConfigError that names the key, what is wrong with it, and the nearest known key."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_complaint(schema, problem, where) for problem in error.errors())) from None


def _complaint(schema: type[Settings], problem: Any, where: str) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    path = ".".join(part for part in (where, place) if part)
    if problem["type"] == "extra_forbidden":
        owner = _owner(schema, problem["loc"][:-1])
        known = owner.model_fields if owner else []
        return f"{path}: there is no such setting{did_you_mean(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{path}: this setting is required"
    if problem["type"] == "value_error":  # a validator's own words, which say all there is to say
        said = str(problem["ctx"]["error"])
        if place and said.startswith((f"{place}.", f"{place}:")):  # what was checked inside has named its place itself
            return "\n".join(f"{where}.{line}".removeprefix(".") for line in said.splitlines())
        return f"{path}: {said}".removeprefix(": ")
    words, given = problem["msg"], problem["input"]
    # a table's values are not repeated: whoever puts a key into the wrong place shall not find it in a log
    found = f"a table of {', '.join(map(str, given))}" if isinstance(given, Mapping) else repr(given)
    return f"{path}: {words[:1].lower()}{words[1:]}; found {found}"


def _owner(schema: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """The nested model that a path of keys leads to. A key of a table with names of the user's own leads no further."""
    owner: type[BaseModel] | None = schema
    free = False
    for part in path:
        if free:
            free = False
            continue
        if owner is None or part not in owner.model_fields:
            return None
        annotation = owner.model_fields[part].annotation
        owner, free = _first_model(annotation), typing.get_origin(annotation) is dict
    return owner


def _first_model(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(candidate) and issubclass(candidate, BaseModel):
            return candidate
    return None
