"""Everything Truing raises on purpose, and the exit code each one means.

    TruingError            1   a bug, or something nobody foresaw
    ├── ConfigError        2   a recipe, setting or command that cannot be right
    ├── DataError         65   a file or row that cannot be read as what it should be
    ├── MissingError      69   a package, device or model that is not there
    ├── GuardError        70   a guard said no: a NaN, an Inf, a broken invariant, a capability lost
    ├── StorageError      74   a read or write that the operating system refused
    └── Interrupted       75   stopped on request; the same command goes on from here

A message says what happened, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class TruingError(Exception):
    """Root of all errors that are meant for the user's eyes."""

    exit_code = 1


class ConfigError(TruingError, ValueError):
    """A recipe, setting or command line that cannot be right."""

    exit_code = 2


class DataError(TruingError, ValueError):
    """A data file, row or rendered text that cannot be used as it is."""

    exit_code = 65


class MissingError(TruingError, RuntimeError):
    """An optional package, a device or a model that is needed and absent."""

    exit_code = 69


class GuardError(TruingError, ArithmeticError):
    """A guard said no, before it could do harm: training stopped itself, or an evaluation found what was lost."""

    exit_code = 70


class StorageError(TruingError, OSError):
    """The operating system refused a read or a write, or a stored file is damaged."""

    exit_code = 74


class Interrupted(TruingError):  # noqa: N818 - it is no error, only a way out
    """Stopped on request at a place from which the same command goes on."""

    exit_code = 75


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A ready `; did you mean 'x'?` for an unknown word, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}"


def by_reason(counts: Mapping[str, int]) -> str:
    """Reasons with how often each was given, as words: `no answer (3), two equal answers (1)`, or `none`."""
    return ", ".join(f"{reason} ({count:,})" for reason, count in counts.items()) or "none"


def describe_error(error: BaseException) -> tuple[str, int]:
    """The words for the user and the exit code of whatever went wrong."""
    if isinstance(error, TruingError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped at once: the same command goes on from the last checkpoint", 75
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {error.strerror or error}", 74
    return f"a bug in Truing: {type(error).__name__}: {error}", 1
