"""Scorers that check instead of judging: whether a result is right, and whether code passes its tests.

What an answer should come to is the row's: a column of it, or an answer of it that serves as the reference. A row
without one has failed scores, since nothing can be said of its answers. An answer that is wrong, says no result or
never comes to an end has the score 0, with the reason: a model that learns from its rewards has to be told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

from pydantic import Field

from truing.records import Completion, Group
from truing.scoring import expressions, sandbox
from truing.scoring.expressions import Mark, Result
from truing.scoring.sandbox import Isolation, Limits, Test
from truing.scoring.score import Score, Scorer, each
from truing.signatures import Count, NonNegative, Positive

REFERENCE = "answer"
"""The column in which a reference stands unless a recipe says otherwise."""
Marks = Annotated[tuple[Mark, ...], Field(min_length=1)]

_BLOCK = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_LANGUAGES = ("", "python", "python3", "py")


def maths(
    *,
    reference: str = REFERENCE,
    marks: Marks = ("tag", "hashes", "boxed", "phrase", "last"),
    tolerance: NonNegative = 0.0,
) -> Scorer:
    """1 where the result of an answer equals the row's reference, and else 0; an answer that gives none has 0 too.

    1/2, 0.5, \\frac{1}{2} and 50 % are equal, and so are 2(x + 1) and 2x + 2. "%" may be read as hundredths or left
    out. Of an answer that was cut at its limit, the last word and a last number without a mark do not count.

    reference: the column that holds the right result, or the source of an answer that gives it.
    marks: where a result is looked for, first to last: tag, <answer>...</answer>; hashes, "#### 18"; boxed,
        \\boxed{18}; phrase, "the answer is 18" and lines with "A: 18"; last, the last number of all.
    tolerance: how far off a result may be, as a share of the reference; 0 is exact.
    """

    def say(group: Group, answer: Completion) -> Score:
        wanted = reference_in(group, reference)
        if not isinstance(wanted, str | int | float) or isinstance(wanted, bool):
            return Score.failed(f"the row has no reference '{reference}'")
        right = expressions.reference_of(str(wanted), marks)
        if right is None:
            return Score.failed(f"the reference is no number or expression: {str(wanted)[:60]!r}")
        found = _result(answer, marks, right)
        if found is None:
            return Score.of(0.0, reason="no result found")
        return Score.of(float(expressions.equal(found, right, tolerance)))

    return each(say)


def code(
    *,
    tests: str = "tests",
    reads: Literal["block", "answer"] = "block",
    counts: Literal["share", "all"] = "share",
    isolation: Isolation = "namespaces",
    seconds: Positive = 5.0,
    memory: Count = 512,
    processes: Count = 8,
    at_once: Count = 2,
) -> Scorer:
    """The share of the row's tests that the Python of an answer passes, run in a sandbox; 0 where there is no code.

    A test is Python, best of the form `assert f(1) == [2]`, whose right side the sandbox never sees; or
    `{"input": ..., "output": ...}` for a program that reads and prints.

    tests: the column that holds a list of tests, or one.
    reads: the last fenced block of an answer, or all of it.
    counts: the share of the tests that pass, or all: 1 where each one does, and else 0.
    isolation: namespaces: no network, no other processes, nothing to write to, no home or current folder, unless that
        lies under /usr or /opt; limits: only what a process may use, with the user's own rights, for machines that are
        sandboxes themselves.
    seconds: by the clock, and of computing, for each test.
    memory: MiB for each process.
    processes: processes and threads of a test.
    at_once: answers run at one time.
    """
    sandbox.check(isolation)
    limits = Limits(seconds, memory, processes)

    def say(asked: tuple[Group, Completion]) -> Score:
        group, answer = asked
        given = group.extra.get(tests)
        try:
            checks = _tests(given, tests)
        except ValueError as error:
            return Score.failed(str(error))
        written = answer.text if reads == "answer" else code_of(answer.text)
        if written is None:
            return Score.of(0.0, reason="no code block")
        found = sandbox.verdicts(written, checks, limits, isolation)
        passed = sum(one.passed for one in found)
        value = passed / len(found) if counts == "share" else float(passed == len(found))
        return Score.of(value, reason=next((one.reason for one in found if not one.passed), ""))

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        asked = [(group, answer) for group in groups for answer in group.completions]
        with ThreadPoolExecutor(at_once) as pool:
            said = pool.map(say, asked)
            return [tuple(next(said) for _ in group.completions) for group in groups]

    return score


def code_of(text: str) -> str | None:
    """The last closed block of Python in a text."""
    found = [block for language, block in _BLOCK.findall(text) if language.lower() in _LANGUAGES]
    return found[-1] if found else None


def _tests(given: object, column: str) -> list[Test]:
    if given is None or given == [] or given == "":
        raise ValueError(f"the row has no tests in '{column}'")
    return [sandbox.read_test(one) for one in (given if isinstance(given, list | tuple) else [given])]


def reference_in(group: Group, name: str) -> object:
    """What a row has as its reference: in a column of this name, or by the source of an answer; None: nothing."""
    if name in group.extra:
        return group.extra[name]
    return next((answer.text for answer in group.completions if answer.source == name), None)


def _result(answer: Completion, marks: Sequence[Mark], reference: Result) -> Result | None:
    if answer.finished:
        return expressions.result_of(answer.text, marks, reference)
    whole_words = re.sub(r"\S*$", "", answer.text)  # "#### 18" may have been on the way to 180
    return expressions.result_of(whole_words, [mark for mark in marks if mark != "last"], reference)
