"""What a format is: a function that reads a row, one that writes it, and what all formats share around them.

Shared here, so that a family of formats says nothing but its own layout: other names of columns, columns left blank,
columns that belong to nobody (they are kept in `Group.extra`), `tools` in their several shapes, and the promise that
nothing is lost: a written row is read back and compared before it counts as written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from truing.errors import DataError
from truing.formats.checks import Json, RowError, difference, expect_object, shown
from truing.formats.strict_json import parse, parse_text
from truing.records import Group, to_json

AS_READ = "as_read"
"""Key of `Group.extra`: how a row was spelled, so that its own format writes it back letter for letter.

It says nothing about content: other formats leave it out.
"""

Notes = Mapping[str, Any]


class Row:
    """A row while it is read: what a reader takes is gone, what is left becomes `Group.extra`.

    notes: spellings which the writer would not choose by itself.
    """

    def __init__(self, columns: Mapping[str, Json]) -> None:
        self.columns = dict(columns)
        self.notes: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def take(self, name: str) -> Json:
        """The column, which must be there."""
        if name not in self.columns:
            raise RowError("this column is missing; add it or drop the line", name)
        return self.columns.pop(name)

    def take_optional(self, name: str) -> Json:
        """The column, or None where the row has none of that name."""
        return self.columns.pop(name, None)

    def note(self, name: str, path: str, spelling: Json) -> None:
        """Remember how the value at `path` was spelled."""
        self.notes.setdefault(name, {})[path] = spelling


@dataclass(frozen=True, slots=True)
class Format:
    """One layout of rows.

    describe: its name in full and, after a comma, what tells it apart.
    matches: True if the row's columns are this format's; what stands in them may still be wrong.
    aliases: other names of a column; a row may use one of them.
    optional: columns which mean nothing while they are null or empty.
    flat: other columns stand beside the format's own; a format with a place of its own for them is not flat.
    """

    name: str
    describe: str
    matches: Callable[[Mapping[str, Json]], bool]
    reader: Callable[[Row], Group]
    writer: Callable[[Group, Notes], dict[str, Json]]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    flat: bool = True

    def read(self, row: Mapping[str, Json], file: str | None = None, line: int | None = None) -> Group:
        """The row as a Group; raises RowError, with file and line, if it is not what the format says."""
        names = other_names(row, self.aliases)
        try:
            group = self._read(row, names)
        except RowError as found:
            path = _renamed(found.path, {known: name for name, known in names.items()})
            raise RowError(found.what, path, f"{file}:{line}" if file else "") from None
        return replace(group, file=file, line=line)

    def write(self, group: Group) -> dict[str, Json]:
        """The Group as a row that reads back as the same Group; DataError names what the format cannot hold."""
        spelled = self._spelled(group)
        if spelled is not None:
            return spelled
        try:
            row = self._write(group, {})
            lost = self._lost(group, row)
        except RowError as found:
            row, lost = {}, found.problem
        if lost is not None:
            advice = "change it, or write the format 'group', which holds everything"
            raise DataError(f"{_place(group)}: the format '{self.name}' cannot hold this row: {lost}; {advice}")
        return row

    def _spelled(self, group: Group) -> dict[str, Json] | None:
        """The row as it was once spelled; None without notes, or if a stage has changed the Group and they misfit."""
        notes = group.extra.get(AS_READ)
        if not isinstance(notes, Mapping) or notes.get("format") != self.name:
            return None
        try:
            row = self._write(group, notes)
            return None if self._lost(group, row) else row
        except (AttributeError, LookupError, TypeError, ValueError):
            return None

    def _read(self, columns: Mapping[str, Json], names: Mapping[str, str]) -> Group:
        if self.flat and AS_READ in columns:
            raise RowError("this name is Truing's own; rename the column", AS_READ)
        row = Row(canonical(columns, self.aliases))
        blank = {name: row.take(name) for name in self.optional if name in row and row.columns[name] in _BLANK}
        group = self.reader(row)
        if not self.flat:
            return group
        _read_tools(row)
        if names:
            row.notes["names"] = {known: name for name, known in names.items()}
        if blank:
            row.notes["blank"] = blank
        notes = {AS_READ: {"format": self.name, **row.notes}} if row.notes else {}
        return replace(group, extra={**row.columns, **notes})

    def _write(self, group: Group, notes: Notes) -> dict[str, Json]:
        row = self.writer(group, notes)
        if not self.flat:
            return row
        for name, value in notes.get("blank", {}).items():
            row.setdefault(name, value)
        names = notes.get("names", {})
        row = {names.get(name, name): value for name, value in row.items()}
        for name, value in group.extra.items():
            if name in row:
                raise RowError(f"the extra column '{name}' has the name of one of the format's own", name)
            if name != AS_READ:
                row[name] = value
        if "tools" in notes:
            row["tools"] = notes["tools"]
        return row

    def _lost(self, group: Group, row: dict[str, Json]) -> str | None:
        """What a trip through JSON and back would change: the one check that keeps every format honest."""
        try:
            again = self.read(parse(orjson.dumps(row)))
        except TypeError as error:
            raise RowError(f"its values are not JSON: {error}") from None
        return difference(self._content(group), self._content(again))

    def _content(self, group: Group) -> dict[str, Json]:
        hidden = {AS_READ} if self.flat else set()
        extra = {name: value for name, value in group.extra.items() if name not in hidden}
        return {**to_json(group), "extra": extra}


_BLANK: tuple[Json, ...] = (None, "", [], {})


def other_names(row: Mapping[str, Json], aliases: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The row's other names of columns, each with the name that the reader knows."""
    names = {}
    for known, others in aliases.items():
        name = next((other for other in others if other in row), None)
        if known not in row and name is not None:
            names[name] = known
    return names


def canonical(row: Mapping[str, Json], aliases: Mapping[str, tuple[str, ...]]) -> dict[str, Json]:
    """The row under the names that the reader knows."""
    names = other_names(row, aliases)
    return {names.get(name, name): value for name, value in row.items()}


def _renamed(path: str, names: Mapping[str, str]) -> str:
    """The path under the name that the file uses for its column."""
    for known, name in names.items():
        if path == known or path.startswith((f"{known}[", f"{known}.")):
            return name + path[len(known) :]
    return path


def _place(group: Group) -> str:
    try:
        return group.place
    except (TypeError, ValueError, RecursionError):
        return "a row"  # a row of what is not JSON has no id either


def _read_tools(row: Row) -> None:
    """Chat templates take a list of `{"type": "function", "function": ...}`; older data has JSON text or bare ones."""
    if row.columns.get("tools") in _BLANK:
        return
    given = row.columns["tools"]
    try:
        tools = parse_text(given) if isinstance(given, str) else given
    except RowError as found:
        raise RowError(found.what, "tools") from None
    if not isinstance(tools, list):
        raise RowError(f"expected a list of tools; found {shown(tools)}; make it a list or drop the line", "tools")
    row.columns["tools"] = [_wrapped(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    if row.columns["tools"] != given:
        row.notes["tools"] = given


def _wrapped(tool: Json, path: str) -> Json:
    inner = expect_object(tool, path)
    return inner if "function" in inner else {"type": "function", "function": inner}
