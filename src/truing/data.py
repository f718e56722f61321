"""The data of a recipe as inputs of its stages: training rows and held-out rows, which share no prompt."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from truing import formats
from truing.errors import DataError
from truing.recipe import DataSettings
from truing.records import Group
from truing.stages.context import Groups
from truing.store import hash_of


class Sources:
    """The data files of one run, each of them hashed only once, whoever names it."""

    def __init__(self) -> None:
        self._hash = functools.cache(formats.content_hash)

    def hashes(self, files: Mapping[str, str]) -> dict[str, str]:
        """The hash of each file's content."""
        return {name: self._hash(path) for name, path in files.items()}

    def inputs(self, data: DataSettings) -> dict[str, Groups]:
        """Training rows and held-out rows, split by prompt so that no prompt is in both. Rows are read once."""
        bad: list[str] = []

        @functools.cache
        def read() -> list[Group]:
            return formats.read_groups(
                data.path,
                format=data.format,
                max_bad=data.max_bad,
                limit=data.limit,
                on_bad=lambda row: bad.append(str(row)),
            )

        about = formats.open_data(data.path, format=data.format).description
        how = data.model_dump(mode="json", include={"format", "limit", "max_bad"})
        if isinstance(data.held_out, str):
            every = Groups(hash_of(self._hash(data.path), how), read, about, bad)
            return {"data": every, "held_out": self._file_of_held_out(data.held_out, data.format, every)}
        share = data.held_out
        key = hash_of(self._hash(data.path), how, share)
        train = functools.cache(lambda: [group for group in read() if not _is_held_out(group, share)])
        kept = functools.cache(lambda: [group for group in read() if _is_held_out(group, share)])
        found = {"data": Groups(key, train, about, bad)}
        if share:
            found["held_out"] = Groups(hash_of(key, "held out"), kept, f"held out of {about}")
        return found

    def _file_of_held_out(self, path: str, format: str | None, train: Groups) -> Groups:
        read = functools.cache(lambda: _without_leak(train.read(), formats.read_groups(path, format=format)))
        return Groups(hash_of(self._hash(path), format), read, f"held out: {Path(path).name}")


def _is_held_out(group: Group, share: float) -> bool:
    """Decided by the prompt, or the text where there is none: order plays no part, and equals stay together."""
    return int.from_bytes(_prompt_hash(group)[:8], "big") < share * 2**64


def _prompt_hash(group: Group) -> bytes:
    messages = group.prompt or [message for answer in group.completions for message in answer.messages]
    text = "\x00".join(f"{message.role}\x01{message.content}" for message in messages)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _without_leak(train: Sequence[Group], held_out: list[Group]) -> list[Group]:
    seen = {_prompt_hash(group) for group in train}
    for group in held_out:
        if _prompt_hash(group) in seen:
            raise DataError(f"{group.place}: this held-out prompt is also in the training data: remove it from one")
    return held_out
