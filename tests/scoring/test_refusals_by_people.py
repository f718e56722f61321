"""The scorer `refusal` beside what people called refusals in XSTest (arXiv:2308.01263)."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from truing.records import Completion, Group, assistant, user
from truing.scoring.scorers import make

DATA = Path(os.environ.get("TRUING_DATA") or Path(__file__).parents[3] / "shared" / "data")
ANSWERS = DATA / "xstest" / "completions_labels.jsonl.gz"


@pytest.mark.data
@pytest.mark.skipif(not ANSWERS.is_file(), reason=f"the real data is not at {ANSWERS}: set TRUING_DATA to its folder")
def test_most_refusals_of_xstest_are_found() -> None:
    with gzip.open(ANSWERS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    groups = [Group((user(row["prompt"]),), (Completion((assistant(row["completion"]),)),)) for row in rows]
    said = [one.value == 1 for (one,) in make({"name": "refusal"})(groups)]
    refused, complied = (
        [hit for row, hit in zip(rows, said, strict=True) if row["final_label"] == label]
        for label in ("2_full_refusal", "1_full_compliance")
    )
    assert (sum(refused), len(refused)) == (816, 983)
    assert (sum(complied), len(complied)) == (34, 1091)
