"""Scorers that check: right is 1, wrong is 0 with its reason, and a row that does not say what is right has failed."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from truing import formats
from truing.errors import ConfigError
from truing.records import Completion, Group, Sampled, assistant, user
from truing.scoring import sandbox
from truing.scoring.score import Score
from truing.scoring.scorers import make, spelled_out
from truing.scoring.verify import code_of

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"


def scores(spec: Any, *answers: str | Completion, **extra: Any) -> list[Score]:
    """Scores of answers to one prompt, in a row with these columns."""
    given = tuple(one if isinstance(one, Completion) else Completion((assistant(one),)) for one in answers)
    (found,) = make(spelled_out(spec))([Group((user("How many?"),), given, extra=extra)])
    return list(found)


def values(spec: Any, *answers: str | Completion, **extra: Any) -> list[float | None]:
    return [score.value for score in scores(spec, *answers, **extra)]


def cut(text: str) -> Completion:
    return Completion((assistant(text),), sampled=Sampled((1,), (-1.0,), "length", "tokenizer", "policy"))


def test_maths_compares_with_a_column() -> None:
    assert values("maths", "#### 18", "It is 17", answer="9 * 2 = 18\n#### 18") == [1, 0]
    assert values({"name": "maths", "reference": "target"}, "18.0", target=18) == [1]
    assert values({"name": "maths", "marks": ["boxed"]}, "18", r"\boxed{18}", answer="18") == [0, 1]
    assert values({"name": "maths", "tolerance": 0.1}, "17", answer="18") == [1]


def test_maths_compares_with_an_answer_that_is_the_reference() -> None:
    solution = Completion((assistant("9 * 2 = 18\n#### 18"),), source="human")
    assert values({"name": "maths", "reference": "human"}, solution, "18", "19") == [1, 1, 0]


def test_an_answer_without_a_result_is_wrong_and_a_row_without_a_reference_has_failed() -> None:
    assert scores("maths", "I cannot say.", answer="18") == [Score(0.0, None, "no result found")]
    for extra in ({}, {"answer": None}, {"answer": True}, {"answer": [18]}):
        assert scores("maths", "18", **extra) == [Score.failed("the row has no reference 'answer'")]
    (failed,) = scores("maths", "Friday", answer="Friday")
    assert failed == Score.failed("the reference is no number or expression: 'Friday'")


def test_a_cut_answer_is_believed_up_to_its_last_word() -> None:
    assert values("maths", cut("#### 18"), cut("#### 18\n\nAnd"), cut("so 18 and then"), answer="18") == [0, 1, 0]
    assert values("maths", cut("<answer>18</answer> Now"), "so 18 and then", answer="18") == [1, 1]


SUM = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."


@pytest.fixture
def isolation() -> str:
    for name in ("namespaces", "limits"):
        try:
            sandbox.check(name)  # type: ignore[arg-type]
        except ConfigError as error:
            reason = str(error)
        else:
            return name
    pytest.skip(reason)


def test_code_has_the_share_of_tests_that_it_passes(isolation: str) -> None:
    spec = {"name": "code", "isolation": isolation}
    tests = ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'", "assert add(1, 1) == 3", "assert add(1) == 1"]
    wrong = "```python\ndef add(a, b):\n    return a - b\n```"
    assert scores(spec, SUM, wrong, "No code.", tests=tests) == [
        Score(0.5, None, "wrong result"),
        Score(0.0, None, "wrong result"),
        Score(0.0, None, "no code block"),
    ]
    assert scores(spec, SUM, tests=tests[0]) == [Score(1.0)]
    assert values({**spec, "counts": "all"}, SUM, tests=tests) == [0]
    assert values({**spec, "counts": "all"}, SUM, tests=tests[:2]) == [1]
    program = [{"input": "2 3", "output": "5\n"}]
    assert values({**spec, "reads": "answer"}, "print(sum(map(int, input().split())))", tests=program) == [1]
    assert values({**spec, "memory": 256}, "```\nx = bytes(10**9)\nadd = sum\n```", tests=["assert 1 == 1"]) == [0]


def test_rows_without_good_tests_have_failed(isolation: str) -> None:
    spec = {"name": "code", "isolation": isolation, "tests": "checks"}
    assert scores(spec, SUM) == [Score.failed("the row has no tests in 'checks'")]
    assert scores(spec, SUM, checks=[]) == [Score.failed("the row has no tests in 'checks'")]
    for wrong in (["assert ("], [3], [{"in": "x"}]):
        (failed,) = scores(spec, SUM, checks=wrong)
        assert failed.value is None
        assert "a test" in failed.reason


def test_the_rows_that_the_guide_shows(isolation: str, tmp_path: Path) -> None:
    lines = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text().splitlines()
    shown = [line for line in lines if line.startswith("{") and ('"answer": ' in line or '"tests": ' in line)]
    (tmp_path / "rows.jsonl").write_text("\n".join(shown))
    ducks, adding = formats.read_groups(tmp_path / "rows.jsonl")
    assert values("maths", "It is 18.", "It is 11.", **ducks.extra) == [1, 0]
    assert values({"name": "code", "isolation": isolation}, SUM, **adding.extra) == [1]


def test_the_last_closed_block_of_python_counts() -> None:
    assert code_of("```py\na\n```\nor\n```\nb\n```\nrun it:\n```bash\nc\n```") == "b\n"
    assert code_of("```python\na\n```\n```python\nb") == "a\n"
    assert code_of("  ```python\n  a\n  ```") == "  a\n"
    assert code_of("none, `a`") is None


def gsm8k(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress((GSM8K / f"{name}.jsonl.gz").read_bytes()).splitlines()]


@pytest.mark.data
@pytest.mark.skipif(not GSM8K.is_dir(), reason=f"the real data is not at {GSM8K}")
def test_gsm8k_says_the_same_of_the_solutions_of_four_models() -> None:
    rows = gsm8k("example_model_solutions")
    said: Counter[tuple[float | None, bool]] = Counter()
    for row in rows:
        solutions = [one for one in row.values() if isinstance(one, dict)]
        found = values("maths", *(one["solution"] for one in solutions), answer=row["ground_truth"])
        said.update(zip(found, (one["is_correct"] for one in solutions), strict=True))
    assert said == {(1.0, True): 2001, (0.0, False): 3275}, "5,276 of 5,276"


@pytest.mark.data
@pytest.mark.skipif(not GSM8K.is_dir(), reason=f"the real data is not at {GSM8K}")
@pytest.mark.parametrize(("name", "count"), [("train", 7473), ("test", 1319)])
def test_every_reference_of_gsm8k_can_be_read(name: str, count: int) -> None:
    rows = gsm8k(name)
    right = [values("maths", row["answer"], "#### -1.5", answer=row["answer"]) for row in rows]
    assert right == [[1.0, 0.0]] * count
