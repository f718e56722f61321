"""The data of a recipe as inputs of its stages: training rows and held-out rows, which share no prompt."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from truing import formats
from truing.errors import DataError
from truing.recipe import DataSettings
from truing.records import Group
from truing.stages.context import Groups
from truing.store import hash_of


def data_inputs(data: DataSettings) -> dict[str, Groups]:
    """Training rows and held-out rows, split by prompt so that no prompt is in both."""
    content = formats.content_hash(data.path)
    bad: list[str] = []

    @functools.lru_cache(maxsize=1)
    def read() -> list[Group]:
        return formats.read_groups(
            data.path,
            format=data.format,
            max_bad=data.max_bad,
            limit=data.limit,
            on_bad=lambda row: bad.append(str(row)),
        )

    about = formats.open_data(data.path, format=data.format).description
    identity = hash_of(content, data.model_dump(mode="json", exclude={"path"}))
    if isinstance(data.held_out, str):
        other = data.held_out
        kept = functools.lru_cache(maxsize=1)(lambda: _without_leak(read(), formats.read_groups(other)))
        return {
            "data": Groups(identity, read, about, bad),
            "held_out": Groups(hash_of(formats.content_hash(other)), kept, f"held out: {Path(other).name}"),
        }
    share = data.held_out
    found = {"data": Groups(identity, lambda: [g for g in read() if not _is_held_out(g, share)], about, bad)}
    if share:
        found["held_out"] = Groups(
            hash_of(identity, "held out"), lambda: [g for g in read() if _is_held_out(g, share)], f"held out of {about}"
        )
    return found


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
