"""Results out of answers: what is read, what is equal, and that nothing takes long. Fractions are the judge."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.scoring.expressions import LONGEST, Mark, equal, read, reference_of, result_of

MARKS: tuple[Mark, ...] = ("tag", "hashes", "boxed", "phrase", "last")


def right(answer: str, reference: str, tolerance: float = 0.0) -> bool | None:
    """Whether an answer comes to the reference; None where it comes to nothing."""
    wanted = reference_of(reference, MARKS)
    assert wanted is not None, reference
    found = result_of(answer, MARKS, wanted)
    return None if found is None else equal(found, wanted, tolerance)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("so\n#### 1,234", "1234"),
        ("A: 3,000", "5 * 600 = 3000\n#### 3000"),
        ("#### $-3", "-3"),
        (r"\boxed{7} and \boxed{8}", "8"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{-\frac12}", "-1/2"),
        (r"$10,\!000$ it is: \boxed{10{,}000}", "10000"),
        (r"\boxed{1\frac{1}{2}}", "3/2"),
        (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt2}"),
        (r"\boxed{\sqrt[3]{-8}}", "-2"),
        (r"\boxed{2(x+1)}", "2x+2"),
        (r"\boxed{\pi r^2}", r"r^2\pi"),
        (r"\boxed{|{-3}| + 5!}", "123"),
        (r"\boxed{5\text{ cm}}", "5"),
        (r"\boxed{f(x) = 3x}", "3x"),
        (r"\boxed{\left(3, \tfrac{1}{2}\right)}", "(3, 0.5)"),
        (r"\boxed{\{1, 2\}}", r"\{2, 1\}"),
        (r"\boxed{1, -2}", "-2, 1"),
        (r"\boxed{[0, \infty)}", r"[0,\infty)"),
        ("Answer: 1 1/2", "1.5"),
        ("**Answer:**\n**18**", "18"),
        ("The answer is $x = 5$.", "x=5"),
        ("The answer is 5 cm, not 6.", "5"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("the answer is 50%.", "50"),
        ("the answer is 50%", "0.5"),
        (r"\boxed{0.5}", r"50\%"),
        (r"<think>\boxed{3}</think><answer>The number is 4.</answer>", "4"),
        ("He has 5 - 3 = 2 left, which is about $18.50", "18.5"),
        ("from 10-20", "20"),
        ("It is 1.5e3", "1500"),
        ("It is −4", "-4"),
    ],
)
def test_right(answer: str, reference: str) -> None:
    assert right(answer, reference) is True


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\boxed{8} and \boxed{7}", "8"),
        (r"\boxed{0.333}", "1/3"),
        (r"\boxed{3.14}", r"\pi"),
        ("#### 1e400", "1"),
        (r"\boxed{(1, 2)}", "(2, 1)"),
        (r"\boxed{(1, 2)}", "[1, 2]"),
        (r"\boxed{\{1, 1\}}", r"\{1, 2\}"),
        (r"\boxed{x + 1}", "x + 2"),
        (r"\boxed{y}", "x"),
        (r"\boxed{\frac{1}{0}}", "1"),
        (r"\boxed{\infty}", "1"),
        ("the answer is 50%", "51"),
        ("#### 18.0001", "18"),
        ("The answer is 10-20", "20"),
    ],
)
def test_wrong(answer: str, reference: str) -> None:
    assert right(answer, reference) is False


@pytest.mark.parametrize("answer", ["", "I do not know.", r"\boxed{}", r"\boxed{\text{Friday}}", "\\boxed{x", "#### ?"])
def test_nothing_is_found(answer: str) -> None:
    assert right(answer, "1") is None


def test_an_open_box_is_no_mark() -> None:
    assert right("\\boxed{2", "2") is True, "as the last number"
    assert right("\\boxed{3} \\boxed{2", "3") is False, "the last box counts, and it does not close"


def test_only_the_marks_asked_for_count() -> None:
    wanted = read("4")
    assert wanted is not None
    assert result_of("It is 4", ("boxed", "hashes"), wanted) is None
    found = result_of(r"\boxed{5} #### 4", ("hashes", "boxed"), wanted)
    assert found == wanted


def test_a_reference_is_nothing_but_a_result() -> None:
    for words in ("Friday", "She has 18 dollars", "", "x + y = 3", "3 4", "a?"):
        assert reference_of(words, MARKS) is None


def test_a_tolerance_is_a_share_of_the_reference() -> None:
    assert right("#### 101", "100", 0.01) is True
    assert right("#### 101.1", "100", 0.01) is False
    assert right(r"\boxed{3.1416}", r"\pi", 1e-5) is True
    assert right("#### 0.001", "0", 0.5) is False


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^{9^{9}}}}",
        "e^{e^{e^{e^{e^{e^{e}}}}}}",
        "exp(exp(exp(exp(exp(99)))))",
        r"\sin(10^{10^{5}})",
        "200!!",
        "(" * 150 + ")" * 150,
        "-" * LONGEST,
        "sqrt " * 60 + "2",
        "1+" * 149 + "1",
        "x^" * 149 + "x",
        "1" * LONGEST,
        "9" * (LONGEST + 1),
        r"\frac" * 60,
        "__import__('os').system('true')",
        "{1" * 100,
    ],
)
def test_nothing_takes_long_or_breaks(text: str) -> None:
    started = time.perf_counter()
    assert right(f"\\boxed{{{text}}}", "77") in (False, None)
    result_of(text, MARKS, read("1"))  # type: ignore[arg-type]
    assert time.perf_counter() - started < 1


numbers = st.fractions(min_value=-1000, max_value=1000, max_denominator=50)


def written(value: Fraction) -> str:
    return rf"({'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}})"


@given(numbers, numbers, numbers, st.integers(0, 4), st.sampled_from("+-*/"))
def test_arithmetic_is_that_of_fractions(a: Fraction, b: Fraction, c: Fraction, power: int, sign: str) -> None:
    text = f"{written(a)} {sign} {written(b)}^{{{power}}} - {written(c)}"
    divisor = b**power
    if sign == "/" and divisor == 0:
        return
    value = {"+": a + divisor, "-": a - divisor, "*": a * divisor, "/": a / divisor if divisor else a}[sign] - c
    assert right(rf"\boxed{{{text}}}", str(value))
    assert right(rf"\boxed{{{text}}}", str(value + Fraction(1, 10**12))) is False


@given(st.text(max_size=80))
def test_any_text_is_read_or_not(text: str) -> None:
    assert right(text, "123456789") in (True, False, None)


@given(st.text(alphabet=r"0123456789.,+-*/^(){}[]|!%=\ xyefracsqrtpi", max_size=60))
def test_any_formula_is_read_or_not(text: str) -> None:
    result = read(text)
    assert result is None or equal(result, result) in (True, False)
