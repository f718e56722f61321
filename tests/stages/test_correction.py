"""What a recipe may say of the difference between generator and engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from truing.errors import ConfigError
from truing.objectives.policy import masked_importance, truncated_importance
from truing.signatures import validated
from truing.stages.correction import spelled_out, weights
from truing.stages.online_settings import Online
from truing.tensors import Logprobs

ENGINE = Logprobs(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([0, 0, 1]), 2)
DRAWN = Logprobs(torch.tensor([-1.0, -3.0, 0.0]), torch.tensor([0, 0, 1]), 2)


def test_a_name_is_short_for_its_table() -> None:
    assert spelled_out("truncate") == {"name": "truncate", "limit": 2.0}
    assert spelled_out({"name": "mask", "low": 0.25}) == {"name": "mask", "low": 0.25, "high": 5.0}


def test_its_bounds_are_those_of_the_weights() -> None:
    held = weights(spelled_out({"name": "truncate", "limit": 3.0}), ENGINE, DRAWN)
    assert held.token.tolist() == truncated_importance(ENGINE, DRAWN, limit=3.0).token.tolist()
    assert held.token[1] == 3.0
    dropped = weights(spelled_out({"name": "mask", "low": 0.0, "high": 7.0}), ENGINE, DRAWN)
    assert dropped.token.tolist() == masked_importance(ENGINE, DRAWN, low=0.0, high=7.0).token.tolist()
    assert dropped.token.tolist() == pytest.approx([1.0, 0.0, 0.36787944])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (2.0, "a name such as .*; found 2.0"),
        ({"limit": 2.0}, "a name such as"),
        ("trunkate", "'trunkate' does not exist; did you mean 'truncate'"),
        ({"name": "truncate", "limt": 2}, "limt: there is no such setting; did you mean 'limit'"),
        ({"name": "mask", "limit": 2}, "limit: there is no such setting"),
        ({"name": "truncate", "limit": 0}, "limit: input should be greater than 0"),
        ({"name": "mask", "low": 2, "high": 2}, "low: is 2, and high 2: no token would count"),
    ],
)
def test_refusals(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^online\.correction.*{words}"):
        validated(Online, {"correction": given}, "online")
