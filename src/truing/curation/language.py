"""Which language a text is in, by py3langid (the optional extra `curate`)."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from truing.errors import ConfigError, did_you_mean
from truing.formats.containers import import_extra
from truing.records import TEXT_ROLE, Group, Message

CLEARLY = 0.5
"""Probability from which on a text is in a language."""
HARDLY = 0.05
"""Probability up to which it is in none of those allowed; kin such as Mandarin and Wu share theirs."""
NONE = "zxx"
"""What py3langid calls text without language, such as drawings in letters."""

_NO_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|[\d_]+", re.DOTALL)
"""Code, addresses and numbers, which say nothing of the language around them."""


def foreign(group: Group, languages: Sequence[str], least: int) -> str | None:
    """The language of the first part of a row that is clearly in none of `languages`, or None.

    Parts are the prompt and each answer; of a prompt the person's turns alone. What has fewer than `least` characters
    besides code, addresses and numbers is not judged, nor is what might be in many languages, as bare code might.
    """
    asked = [message for message in group.prompt if message.role in ("user", TEXT_ROLE)]
    for turns in [asked, *(_own(answer.messages) for answer in group.completions)]:
        text = _NO_LANGUAGE.sub(" ", "\n".join(turn.content for turn in turns)).strip()
        if len(text) >= least:
            best, chance = _identifier().classify(text)
            if best not in (*languages, NONE) and chance >= CLEARLY and _chance_of(languages, text) <= HARDLY:
                return str(best)
    return None


def demand_known(languages: Sequence[str]) -> None:
    """ConfigError for a name that the identifier does not know; MissingError where it is not installed."""
    known = set(_identifier().labels)
    for language in languages:
        if language not in known:
            raise ConfigError(f"languages: '{language}' is unknown{did_you_mean(language, known)}")


def _chance_of(languages: Sequence[str], text: str) -> float:
    return float(sum(chance for language, chance in _identifier().rank(text) if language in languages))


def _own(turns: Sequence[Message]) -> list[Message]:
    return [turn for turn in turns if turn.role in ("assistant", TEXT_ROLE)]


@functools.cache
def _identifier() -> Any:
    langid = import_extra("py3langid.langid", "curate", "languages")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
