from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from truing.store import hash_of
from truing.store.values import line, plain


@pytest.mark.parametrize(
    "value",
    ["a\nb\r\u2028\x00\t", "é😀\U0010ffff", "\ud800", "\udc80 \\ud800", 1e-300, 10**400, [], {"": None}, True, "NaN"],
)
def test_a_line_is_one_line_and_reads_back_the_same(value: object) -> None:
    written = line({"a": value})
    assert written.count(b"\n") == 1
    assert written.endswith(b"\n")
    assert json.loads(written) == {"a": value}


def test_what_is_not_finite_keeps_its_name() -> None:
    assert plain({"a": float("nan"), "b": [float("inf"), -float("inf")]}) == {
        "a": "NaN",
        "b": ["Infinity", "-Infinity"],
    }
    assert plain(np.float32("nan")) == "NaN"
    assert float(plain(float("-inf"))) == float("-inf")


def test_numbers_tuples_and_paths_become_plain() -> None:
    value = plain({"a": np.int64(3), "b": np.float32(0.5), 4: (True, None), "c": Path("x/y")})
    assert value == {"a": 3, "b": 0.5, "4": [True, None], "c": "x/y"}
    assert type(value["a"]) is int
    assert value["4"][0] is True


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="ndarray cannot be stored"):
        plain({"a": np.zeros(3)})


def test_a_hash_is_of_the_meaning() -> None:
    assert hash_of({"a": 1, "b": (2, 3)}) == hash_of({"b": [2, 3], "a": 1})
    # SHA-256 of the five characters ["x"], worked by `printf '["x"]' | sha256sum`
    assert hash_of("x") == "cd65ea2c2ad99e94"
    different = [hash_of(*parts) for parts in ((1,), (1.0,), (True,), ("1",), (1, 2), ([1, 2],), (None,), ())]
    assert len(set(different)) == len(different)
