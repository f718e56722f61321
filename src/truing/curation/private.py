"""Secrets and personal data in a text, by their shape and, where they have one, their check digits.

What is found is a warning and no proof; what is not found may be there all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

_KEYS = (
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bgh[pousr]_[0-9A-Za-z]{36,}\b",
    r"\bgithub_pat_[0-9A-Za-z_]{40,}\b",
    r"\bglpat-[0-9A-Za-z_-]{20,}",
    r"\bhf_[0-9A-Za-z]{30,}\b",
    r"\bsk-(?:proj-|ant-)?[0-9A-Za-z_-]{20,}",
    r"\b[rs]k_live_[0-9A-Za-z]{20,}\b",
    r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    r"\bAIza[0-9A-Za-z_-]{35}",
)


class Found(NamedTuple):
    """A piece of a text, from `start` to before `end`, and what it looks like."""

    kind: str
    start: int
    end: int


def find(text: str) -> list[Found]:
    """What looks secret or personal, in the order of the text; nothing is part of two findings."""
    found: list[Found] = []
    for kind, (shape, signs, holds) in _KINDS.items():
        if not any(sign in text for sign in signs):
            continue
        for match in shape.finditer(text):
            free = all(match.end() <= other.start or match.start() >= other.end for other in found)
            if free and holds(match[0]):
                found.append(Found(kind, match.start(), match.end()))
    return sorted(found, key=lambda one: one.start)


def mask(text: str) -> str:
    """The text with `[kind]` for everything that was found."""
    for kind, start, end in reversed(find(text)):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return text


def masked(value: Any) -> Any:
    """A JSON value with all its texts masked."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(key): masked(inner) for key, inner in value.items()}
    return [masked(inner) for inner in value] if isinstance(value, list | tuple) else value


def passes_luhn(number: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1): every second digit from the right is doubled."""
    digits = [int(sign) for sign in number if sign.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def passes_iban(number: str) -> bool:
    """The check digits of bank accounts (ISO 13616): 1 modulo 97, letters counted from 10."""
    signs = number.replace(" ", "")
    return 15 <= len(signs) <= 34 and int("".join(str(int(s, 36)) for s in signs[4:] + signs[:4])) % 97 == 1


def _always(_: str) -> bool:
    return True


_DIGITS = tuple("0123456789")
_KINDS: dict[str, tuple[re.Pattern[str], tuple[str, ...], Callable[[str], bool]]] = {
    "private key": (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        ("PRIVATE KEY",),
        _always,
    ),
    "API key": (
        re.compile("|".join(_KEYS), re.ASCII),
        ("AKIA", "ASIA", "gh", "github_pat_", "glpat-", "hf_", "sk-", "k_live_", "xox", "AIza"),
        _always,
    ),
    "e-mail address": (
        re.compile(r"(?<![0-9A-Za-z._%+-])[0-9A-Za-z._%+-]{1,64}@(?:[0-9A-Za-z-]{1,63}\.)+[A-Za-z]{2,63}"),
        ("@",),
        _always,
    ),
    "bank account": (
        re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?\b", re.ASCII),
        _DIGITS,
        passes_iban,
    ),
    "card number": (
        re.compile(
            r"(?<![\w.])(?<![0-9][ -])"
            r"(?:[3-6][0-9]{12,18}|[3-6][0-9]{3}(?:[ -][0-9]{4}){3}|3[0-9]{3}[ -][0-9]{6}[ -][0-9]{5})"
            r"(?!\w)(?![ -][0-9])",
            re.ASCII,
        ),
        _DIGITS,
        passes_luhn,
    ),
    "phone number": (
        re.compile(
            r"(?<![\w+])\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{2,4}\)?){2,4}(?:[ .-]?[0-9]{1,4})?(?!\w)"
            r"|(?<![\w.-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?![\w-])",
            re.ASCII,
        ),
        _DIGITS,
        lambda found: 8 <= sum(map(str.isdigit, found)) <= 15,
    ),
}
"""By kind: its shape, signs one of which it must have, and a check. Of two that overlap the first in order counts."""
