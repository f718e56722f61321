"""The data of a recipe as inputs of its stages: training rows and held-out rows, which share no dialogue."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path

from truing import formats
from truing.blending import Among, Share, bounds, drawn, interleaved, is_held_out, part, prompt_hash, quotas, within
from truing.errors import DataError
from truing.recipe import DataSettings, Source
from truing.records import Group
from truing.rounds import Round
from truing.stages.context import Groups
from truing.store import hash_of

SPLIT = "first turns, text as a user's turn"
"""By what rows are held out; another rule needs another name, or old runs would go on with rows of the old one."""
_ADVICE: dict[Among, str] = {"stages": "raise its weight", "rounds": "set fewer rounds"}


@dataclass(frozen=True, slots=True)
class _Rows:
    """One source of a blend: the hash of its rows, and how to read them."""

    name: str
    source: Source
    key: str
    read: Callable[[], list[Group]]


class Sources:
    """The data files of one run, each of them hashed only once, whoever names it."""

    def __init__(self) -> None:
        self._hash = functools.cache(formats.content_hash)

    def hashes(self, files: Mapping[str, str]) -> dict[str, str]:
        """The hash of each file's content."""
        return {name: self._hash(path) for name, path in files.items()}

    def inputs(self, data: DataSettings, seed: int = 0) -> dict[str, Groups]:
        """Training rows and held-out rows, split so that no two that begin alike are apart. Rows are read once."""
        return self._of_blend(data, seed) if data.path is None else self._of_file(data, data.path)

    def _of_file(self, data: DataSettings, path: str) -> dict[str, Groups]:
        bad: list[str] = []
        read = functools.cache(lambda: _read(Source(path=path), data, bad))
        about = _description_of("data.path", path, data.format)
        how = data.model_dump(mode="json", include={"format", "limit", "max_bad"})
        if isinstance(data.held_out, str):
            every = Groups(hash_of(self._hash(path), how), read, about, bad)
            return {"data": every, "held_out": self._file_of_held_out(data.held_out, data.format, read)}
        share = data.held_out
        key = hash_of(self._hash(path), how, share, SPLIT)
        train = functools.cache(lambda: [group for group in read() if not is_held_out(group, share)])
        kept = functools.cache(lambda: [group for group in read() if is_held_out(group, share)])
        found = {"data": Groups(key, train, about, bad)}
        if share:
            found["held_out"] = Groups(hash_of(key, "held out"), kept, f"{share:g} of the prompts of {about}")
        return found

    def _of_blend(self, data: DataSettings, seed: int) -> dict[str, Groups]:
        """Rows of several sources by their weights. Held-out rows are of all sources, each row once."""
        bad: list[str] = []
        # By content: the order in which a recipe names them decides nothing.
        sources = sorted(
            (self._rows(name, source, data, bad) for name, source in data.blend.items()),
            key=lambda rows: (rows.key, rows.source.path),
        )
        weights = _weights(sources)
        share = 0.0 if isinstance(data.held_out, str) else data.held_out

        @functools.cache
        def trained() -> list[list[Group]]:
            return [[group for group in rows.read() if not is_held_out(group, share)] for rows in sources]

        @functools.cache
        def shares() -> list[Share]:
            return _shares(sources, weights, [len(groups) for groups in trained()], data.rows)

        @functools.cache
        def blend() -> list[Group]:
            given = zip(trained(), shares(), strict=True)
            return interleaved([drawn(groups, share.gives, seed) for groups, share in given])

        @functools.cache
        def kept() -> list[Group]:
            held = [[group for group in rows.read() if is_held_out(group, share)] for rows in sources]
            return interleaved([drawn(groups, len(groups), 0) for groups in held])  # the same ones with every seed

        keys = [rows.key for rows in sources]
        names = list(data.blend)
        about = _description(data.blend)
        key = hash_of("blend", keys, weights, data.rows, share, SPLIT, seed)
        found = {
            "data": Groups(
                key, blend, about, bad, shares=lambda: sorted(shares(), key=lambda one: names.index(one.name))
            )
        }
        if isinstance(data.held_out, str):
            every = functools.cache(lambda: [group for rows in sources for group in rows.read()])
            found["held_out"] = self._file_of_held_out(data.held_out, data.format, every)
        elif share:
            found["held_out"] = Groups(
                hash_of("held out", keys, share, SPLIT), kept, f"{share:g} of the prompts of {about}"
            )
        return found

    def _rows(self, name: str, source: Source, data: DataSettings, bad: list[str]) -> _Rows:
        _description_of(f"data.blend.{name}.path", source.path, source.format or data.format)
        how = [source.format or data.format, source.limit or data.limit, data.max_bad]
        read = functools.cache(lambda: _read(source, data, bad))
        return _Rows(name, source, hash_of(self._hash(source.path), how), read)

    def _file_of_held_out(self, path: str, format: str | None, train: Callable[[], list[Group]]) -> Groups:
        read = functools.cache(lambda: _without_leak(train(), formats.read_groups(path, format=format)))
        return Groups(hash_of(self._hash(path), format), read, f"held out: {Path(path).name}")


def _description_of(setting: str, path: str, format: str | None) -> str:
    """What a file is, in words. Where it cannot be opened, the error begins with the setting that names it."""
    try:
        return formats.open_data(path, format=format).description
    except DataError as error:
        raise DataError(f"{setting}: {error}") from None


def parts(splits: Mapping[str, float], data: Groups) -> dict[str, Groups]:
    """By name of a stage, the part of the training rows that is its own: no two have a dialogue in common."""
    return {
        name: _part(data, "stages", f"data.splits.{name}", low, high) for name, (low, high) in bounds(splits).items()
    }


def of_round(data: Groups, round: Round) -> Groups:
    """The part of these rows that is a round's own: no two rounds of a loop have a dialogue in common."""
    return _part(data, "rounds", round.name, (round.number - 1) / round.of, round.number / round.of)


def _part(data: Groups, among: Among, owner: str, low: float, high: float) -> Groups:
    @functools.cache
    def read() -> list[Group]:
        groups = part(data.read(), low, high, among)
        if not groups:
            raise DataError(
                f"{owner}: no prompt of {data.description} falls into this part of {high - low:.0%}: "
                f"{_ADVICE[among]}, or bring more rows"
            )
        return groups

    about = f"{100 * (high - low):.3g} % of the prompts of {data.description}"
    return Groups(
        hash_of(data.key, SPLIT, among, low, high), read, about, data.bad, shares=lambda: within(data.shares(), read())
    )


def _read(source: Source, data: DataSettings, bad: list[str]) -> list[Group]:
    """A source's rows; what it does not say itself is as the data say for all."""
    return formats.read_groups(
        source.path,
        format=source.format or data.format,
        max_bad=data.max_bad,
        limit=source.limit or data.limit,
        on_bad=lambda row: bad.append(str(row)),
    )


def _weights(sources: Sequence[_Rows]) -> list[float] | None:
    """Each source's share of 1; None where all rows are taken once."""
    given = [rows.source.weight for rows in sources if rows.source.weight is not None]
    return [weight / fsum(given) for weight in given] if given else None


def _shares(
    sources: Sequence[_Rows], weights: Sequence[float] | None, sizes: Sequence[int], total: int | None
) -> list[Share]:
    """What each source gives to an epoch of so many rows, or of as many as all sources have."""
    total = total or sum(sizes)
    given = quotas(total, weights) if weights else sizes
    found: list[Share] = []
    for place, rows in enumerate(sources):
        if not sizes[place]:
            raise DataError(
                f"data.blend.{rows.name}: no row of {rows.source.path} is left to train on: lower data.held_out, or "
                "take the source out"
            )
        if not given[place]:
            raise DataError(
                f"data.blend.{rows.name}: its share of the {total:,} rows of an epoch is less than one row: raise its "
                "weight or data.rows, or take the source out"
            )
        weight = weights[place] if weights else None
        different = min(given[place], sizes[place])
        found.append(Share(rows.name, rows.source.path, weight, sizes[place], given[place], different))
    return found


def _description(blend: Mapping[str, Source]) -> str:
    weights = [source.weight for source in blend.values() if source.weight is not None]
    if not weights:
        return f"all rows of {', '.join(blend)}"
    return "blend of " + ", ".join(
        f"{name} {100 * source.weight / sum(weights):.3g} %" for name, source in blend.items() if source.weight
    )


def _without_leak(train: Sequence[Group], held_out: list[Group]) -> list[Group]:
    places = {prompt_hash(group): group.place for group in train}
    for group in held_out:
        known = places.get(prompt_hash(group))
        if known:
            raise DataError(
                f"{group.place}: this held-out prompt is also in the training data, at {known}: remove it from one"
            )
    return held_out
