"""A part of a run's page on what stages of one kind found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from truing.report.figures import Figure

Found = TypeVar("Found")


def _no_figures(_: object) -> list[Figure]:
    return []


@dataclass(frozen=True)
class Section(Generic[Found]):
    """A section; `sections/<name>.html` draws it where a run has such findings.

    link: its name in the navigation. file: what such a stage leaves in its artifact. read: the findings, from the
    stage's name and the content of the file. figures: their charts.
    """

    name: str
    link: str
    file: str
    read: Callable[[str, Mapping[str, Any]], Found]
    figures: Callable[[Found], list[Figure]] = _no_figures
