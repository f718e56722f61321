"""Secrets that are none: they are put together here, so that nobody who searches files for secrets finds one."""

from __future__ import annotations

import time
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from truing.curation.private import find, mask, masked, passes_iban, passes_luhn

SECRETS = {
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n-----END RSA " + "PRIVATE KEY-----",
    "API key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "e-mail address": "ada.l+x@mail.example.org",
    "bank account": "DE89 3704 0044 0532 0130 00",
    "card number": "4111 1111 1111 1111",
    "phone number": "+49 30 123456",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_each_kind_is_found_and_masked(kind: str) -> None:
    for before, after in (("see ", " now"), ("（", "）"), ("", "")):
        said = f"{before}{SECRETS[kind]}{after}"
        assert [one.kind for one in find(said)] == [kind]
        assert mask(said) == f"{before}[{kind}]{after}"


@pytest.mark.parametrize(
    "key",
    [
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1_B2" * 9,
        "glpat-" + "a1B2" * 5,
        "hf_" + "aBcD" * 8,
        "sk-" + "a1B2" * 10,
        "sk-ant-" + "a1B2" * 10,
        "sk_" + "live_" + "a1B2" * 6,
        "xoxb-" + "1234567890",
        "AIza" + "a1B2c" * 7,
    ],
)
def test_keys(key: str) -> None:
    assert mask(f"key = '{key}'") == "key = '[API key]'"


@pytest.mark.parametrize(
    "number", ["(415) 555-0123", "415-555-0123", "415.555.0123", "+1 415 555 0123", "+33612345678"]
)
def test_phone_numbers(number: str) -> None:
    assert mask(f"call {number}.") == "call [phone number]."


@pytest.mark.parametrize(
    "harmless",
    [
        "4111 1111 1111 1112",
        "DE89 3704 0044 0532 0130 01",
        "1990-2000, 2010-2020",
        "3.141592653589793238",
        "100000000000000000000",
        "@property\ndef a(self): ...",
        "a @ b",
        "2 + 3 = 5 and +5 %",
        "sk-learn and hf_hub",
        "192.168.100.200",
        "2024-01-31 12:30:59",
    ],
)
def test_harmless(harmless: str) -> None:
    assert find(harmless) == []


def test_check_digits_by_hand() -> None:
    assert passes_luhn("4539 1488 0343 6467")  # the example of most textbooks
    assert not passes_luhn("4539 1488 0343 6468")
    assert not passes_luhn("0")
    assert passes_iban("GB82WEST12345698765432")  # the example of the standard
    assert not passes_iban("GB82WEST12345698765431")


@given(number=st.text("0123456789", min_size=12, max_size=18), place=st.integers(0, 17), other=st.integers(1, 9))
def test_luhn_finds_every_wrong_digit(number: str, place: int, other: int) -> None:
    whole = next(number + str(digit) for digit in range(10) if passes_luhn(number + str(digit)))
    place %= len(whole)
    wrong = whole[:place] + str((int(whole[place]) + other) % 10) + whole[place + 1 :]
    assert not passes_luhn(wrong)


@given(st.text(st.sampled_from("a1@.-+ 4DE"), max_size=60))
def test_findings_do_not_overlap_and_masking_leaves_none_of_them(said: str) -> None:
    found = find(said)
    assert all(one.end <= other.start for one, other in pairwise(found))
    shown = mask(said)
    assert all(said[one.start : one.end] not in shown or f"[{one.kind}]" in shown for one in found)


def test_rows_are_masked_throughout() -> None:
    mail = SECRETS["e-mail address"]
    assert masked({"a": [mail, 1, None], mail: {"b": f"to {mail}"}}) == {
        "a": ["[e-mail address]", 1, None],
        "[e-mail address]": {"b": "to [e-mail address]"},
    }


@pytest.mark.parametrize("sign", ["a", "1", "1 ", "+1", "A1", "a.", "@a", "-----BEGIN PRIVATE KEY-----"])
def test_no_text_takes_long(sign: str) -> None:
    """Shapes are tried at every place of a text, and none may read on to its end each time."""
    said = "@PRIVATE KEY gh sk- " + sign * (200_000 // len(sign))
    began = time.perf_counter()
    find(said)
    assert time.perf_counter() - began < 5
