"""What the page says of metrics."""

from __future__ import annotations

import pytest

from truing.algorithms import ALGORITHMS
from truing.report.metrics import LOGISTIC_LOSS, LOSS, ONLINE_LOSS, metric


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_loss_of_an_algorithm_says_little_unless_it_has_no_advantages(name: str) -> None:
    row = ALGORITHMS[name]
    expected = ONLINE_LOSS if row.advantage is not None else LOGISTIC_LOSS if row.pairing is not None else LOSS
    assert metric("loss", {"algorithm": {"name": name}}) is expected
