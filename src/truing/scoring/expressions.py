r"""Numbers and expressions of mathematics out of answers, and whether two of them are equal.

Nothing is evaluated as code and nothing is simplified: a text of bounded length becomes a tree, and a tree one number
for given values of its variables. Fractions are exact. Roots, constants and variables are numbers of 50 digits, at
values drawn once: two expressions that differ agree there by a chance that nobody will see. So the time is bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from mpmath import MPContext

Mark = Literal["tag", "hashes", "boxed", "phrase", "last"]
"""Where an answer says its result, see `result_of`."""

LONGEST = 300
"""Characters of an expression; a longer one is none."""
DEEPEST = 40
BITS = 4096
"""Powers with more are not worked out exactly."""
NEAR = Fraction(1, 10**30)
"""How near two numbers that are not fractions must be to count as equal."""
POINTS = 3

_reals = MPContext()
_reals.dps = 50

LARGEST = 10**6
"""Of exponents and of what exponentials and angles are taken of; beyond it numbers could grow without bound."""

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\d))?)"
# a mixed number or a fraction counts as one; a minus counts where it is no operation
_WRITTEN = re.compile(rf"(?:(?<![\w.)\]}}%])[-−])?\s?[$€£]?(?:\d+\s+\d+\s*/\s*\d+|{NUMBER}(?:\s*/\s*\d+)?)(?:\s*\\?%)?")
_PHRASE = re.compile(r"(?:\banswer\s*(?:is|:|=)|^\s*A:)[\s:*]*([^\n]*)", re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r"^.*?####[ \t]*([^\n]+)", re.MULTILINE)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)

_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\!,|\\,)(?=\d{3})")
_MIXED = re.compile(r"(?<![\d.])(\d+)(?:\s+(\d+)\s*/\s*(\d+)$|\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\})")
_PRIMES = [n for n in range(2, 1000) if all(n % d for d in range(2, n))]

_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sqrt": _reals.sqrt, "ln": _reals.ln, "log": _reals.ln, "exp": _reals.exp, "abs": abs,
    "sin": _reals.sin, "cos": _reals.cos, "tan": _reals.tan,
    "arcsin": _reals.asin, "arccos": _reals.acos, "arctan": _reals.atan,
}  # fmt: skip
_CONSTANTS = {"pi": _reals.pi, "e": _reals.e, "i": _reals.mpc(0, 1), "infty": _reals.inf, "infinity": _reals.inf}
_WORDS = {
    r"\left": "", r"\right": "", r"\!": "", r"\,": " ", r"\;": " ", r"\ ": " ", r"\$": "", "$": "", "€": "", "£": "",
    r"\cdot": "*", r"\times": "*", "×": "*", "·": "*", r"\div": "/", "÷": "/", "−": "-", "–": "-",
    "**": "^", "π": r"\pi", "∞": r"\infty", "√": r"\sqrt", r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\%": "%",
    "°": "", r"^\circ": "", r"^{\circ}": "", r"\{": "⟨", r"\}": "⟩", r"\lbrace": "⟨", r"\rbrace": "⟩",
}  # fmt: skip
_TOKEN = re.compile(rf"\s*(?:({NUMBER})|\\?([A-Za-z]+)|(\S))")
_CLOSING = {"(": ")", "[": "]", "{": "}", "⟨": "⟩"}

Tree = tuple[Any, ...]
"""A kind and its parts: ("number", Fraction), ("name", "x"), ("+", a, b), ("sqrt", a), ("root", n, a), ..."""


@dataclass(frozen=True, slots=True)
class Result:
    """What an answer comes to: an expression, or several in brackets such as a point, an interval or a set.

    percent: the number was written with a percent sign, so it may be meant as it stands or as hundredths.
    """

    parts: tuple[Tree, ...]
    brackets: str = ""
    percent: bool = False


def result_of(text: str, marks: Sequence[Mark], reference: Result) -> Result | None:
    """The result that an answer gives, by the first of the marks that it has; of several alike the last counts.

    Words may stand around a number, unless it is boxed: "5 cm" is 5, where the reference has no such variables.

    tag: `<answer>...</answer>`. hashes: `#### ...`, as in GSM8K. boxed: `\\boxed{...}`. phrase: the rest of the line
    after "answer is", "answer:" or "A:". last: the last number of all.
    """
    text = _THOUSANDS.sub(",", text)
    for mark in marks:
        if mark == "last":
            numbers = [match[0] for match in _WRITTEN.finditer(text)]
            return read(numbers[-1]) if numbers else None
        said = marked(text, mark)
        if said is not None:
            boxed = said if mark == "boxed" else marked(said, "boxed")
            return read(boxed) if boxed is not None else _among_words(said, reference)
    return None


def reference_of(text: str, marks: Sequence[Mark]) -> Result | None:
    """The result of a reference: what a mark says, or else the whole text, which then must be nothing but a result."""
    for mark in marks:
        said = marked(text, mark) if mark != "last" else None
        if said is not None:
            return read(said)
    return read(text)


def marked(text: str, mark: Mark) -> str | None:
    """What stands at the last mark of a kind."""
    if mark == "boxed":
        return _boxed(text)
    found = {"tag": _TAG, "hashes": _HASHES, "phrase": _PHRASE}[mark].findall(text)
    return found[-1].strip() if found else None


def read(text: str) -> Result | None:
    """A text that is a result and nothing else; None of any other."""
    text = _THOUSANDS.sub(",", text).strip().strip("*`").removesuffix(".").strip("*`").strip()
    text = re.sub(r"\\(?:text|mathrm|mbox)\{[^{}]*\}|\\\(|\\\)|\\\[|\\\]", " ", text)
    for word in sorted(_WORDS, key=len, reverse=True):
        text = text.replace(word, _WORDS[word])
    text = _MIXED.sub(lambda found: "({}+{}/{})".format(*filter(None, found.groups())), text.strip())
    if len(text) > LONGEST:
        return None
    try:
        text = _right_side(text)
        percent = text.endswith("%")
        text = text.removesuffix("%").strip()
        inner = _within_brackets(text)
        if inner is not None and len(inner) > 1:
            return Result(tuple(_Reader(part).whole() for part in inner), text[0] + text[-1])
        return Result((_Reader(text).whole(),), percent=percent)
    except _UnreadableError:
        return _listed(text)


def _listed(text: str) -> Result | None:
    """Results with commas between them and no brackets: a set."""
    parts = _within_brackets(f"⟨{text}⟩") or []
    try:
        return Result(tuple(_Reader(part).whole() for part in parts), "⟨⟩") if len(parts) > 1 else None
    except _UnreadableError:
        return None


def _among_words(text: str, reference: Result) -> Result | None:
    """All of a text as a result, or else the first number in it."""
    found = read(text)
    if found is not None and _variables(found) <= _variables(reference):
        return found
    number = _WRITTEN.search(text)
    return read(number[0]) if number else found


def _variables(result: Result) -> set[str]:
    return set().union(*map(_names, result.parts))


def equal(answer: Result, reference: Result, tolerance: float = 0.0) -> bool:
    """Whether two results are the same, or apart by at most a share `tolerance` of the reference."""
    if answer.brackets != reference.brackets or len(answer.parts) != len(reference.parts):
        return False
    if answer.brackets == "⟨⟩":  # a set: in any order
        left = list(answer.parts)
        for part in reference.parts:
            same = next((one for one in left if _same(one, part, tolerance)), None)
            if same is None:
                return False
            left.remove(same)
        return True
    if answer.percent == reference.percent:
        return all(_same(a, b, tolerance) for a, b in zip(answer.parts, reference.parts, strict=True))
    (a,), (b,) = answer.parts, reference.parts
    hundredth: Tree = ("number", Fraction(1, 100))
    if _same(a, b, tolerance):
        return True
    if answer.percent:
        return _same(("*", a, hundredth), b, tolerance)
    return _same(a, ("*", b, hundredth), tolerance)


def _same(answer: Tree, reference: Tree, tolerance: float) -> bool:
    names = sorted(_names(answer) | _names(reference))
    for point in range(POINTS if names else 1):
        # no value is special: each is a root of a prime, and another one for every name and point
        primes = _PRIMES[point * len(names) :]
        values = {name: _reals.sqrt(prime) / 3 for name, prime in zip(names, primes, strict=False)}
        try:
            a, b = _value(answer, values), _value(reference, values)
            if not _near(a, b, tolerance):
                return False
        except (ArithmeticError, ValueError, _UnreadableError):
            return False
    return True


def _near(a: Any, b: Any, tolerance: float) -> bool:
    if a == b:
        return True
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return abs(a - b) <= Fraction(tolerance) * abs(b)
    a, b = _real(a), _real(b)
    if not (_reals.isfinite(a) and _reals.isfinite(b)):
        return False
    return bool(abs(a - b) <= max(tolerance * abs(b), _real(NEAR) * max(1, abs(a), abs(b))))


def _value(tree: Tree, values: Mapping[str, Any]) -> Any:
    """A Fraction where the tree has nothing but fractions in it, or else a number of 50 digits."""
    kind, *parts = tree
    if kind == "number":
        return parts[0]
    if kind == "name":
        return values[parts[0]] if parts[0] in values else +_CONSTANTS[parts[0]]
    found = [_value(part, values) for part in parts]
    if kind == "!":
        return _factorial(found[0])
    if kind == "^":
        return _power(*found)
    if kind in ("sqrt", "root"):
        return _root(*found) if kind == "root" else _root(Fraction(2), found[0])
    if kind in _FUNCTIONS:
        value = abs(found[0]) if kind == "abs" else _real(found[0])
        if kind in ("exp", "sin", "cos", "tan") and abs(value) > LARGEST:
            raise _UnreadableError
        return value if kind == "abs" else _FUNCTIONS[kind](value)
    a, b = found
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = _real(a), _real(b)
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[kind]()


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * size <= BITS:
            return base ** int(exponent)
    if abs(_real(exponent)) > LARGEST:
        raise _UnreadableError
    return _real(base) ** _real(exponent)


def _root(degree: Any, value: Any) -> Any:
    """Exact where it is a fraction."""
    if isinstance(value, Fraction) and value >= 0 and degree == 2:
        exact = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
        if exact * exact == value:
            return exact
    if degree == 0:
        raise _UnreadableError
    if isinstance(value, Fraction) and value < 0 and isinstance(degree, Fraction) and degree % 2 == 1:
        return -_root(degree, -value)
    return _real(value) ** (1 / _real(degree))


def _factorial(value: Any) -> Fraction:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 200:
        raise _UnreadableError
    return Fraction(math.factorial(int(value)))


def _real(value: Any) -> Any:
    return _reals.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _names(tree: Tree) -> set[str]:
    if tree[0] == "number":
        return set()
    if tree[0] == "name":
        return set() if tree[1] in _CONSTANTS else {tree[1]}
    return set().union(*map(_names, tree[1:]))


def _boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}` whose braces close."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len(r"\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + len(r"\boxed{") : place]
    return None


def _right_side(text: str) -> str:
    """Of `x = 5`, `f(x) = 5` and `2 + 3 = 5` what is found: 5. Any other equation is no result."""
    *sides, last = text.split("=")
    for side in sides:
        if re.fullmatch(r"\s*[A-Za-z](?:_\w|\([A-Za-z]\))?\s*", side):
            continue
        if not side.strip() or _names(_Reader(side).whole()):
            raise _UnreadableError
    return last.strip()


def _within_brackets(text: str) -> list[str] | None:
    """The parts between commas of a text that is one pair of brackets; half-open intervals too."""
    if len(text) < 2 or text[0] not in "([⟨" or text[-1] not in ")]⟩":
        return None
    parts, depth, start = [], 0, 1
    for place, letter in enumerate(text):
        depth += (letter in "([{⟨") - (letter in ")]}⟩")
        if depth == 0 and place < len(text) - 1:
            return None
        if depth == 1 and letter == ",":
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:-1]]


class _UnreadableError(Exception):
    """No expression that this module knows."""


class _Reader:
    """Recursive descent: sum, product, sign, power, factor. `2x`, `2(x+1)` and `2\\pi` are products."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        for number, word, sign in _TOKEN.findall(text.strip()):
            self.tokens.append(("number", number) if number else ("word", word) if word else ("sign", sign))
        self.place = 0
        self.depth = 0

    def whole(self) -> Tree:
        found = self.sum()
        if self.place < len(self.tokens):
            raise _UnreadableError
        return found

    def next(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("", "")

    def take(self, *signs: str) -> str:
        """The sign that comes next, if it is one of these."""
        kind, word = self.next()
        if kind != "sign" or word not in signs:
            return ""
        self.place += 1
        return word

    def expect(self, sign: str) -> None:
        if not self.take(sign):
            raise _UnreadableError

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > DEEPEST:
            raise _UnreadableError
        found = self.product()
        while sign := self.take("+", "-"):
            found = (sign, found, self.product())
        self.depth -= 1
        return found

    def product(self) -> Tree:
        found = self.signed()
        while True:
            if sign := self.take("*", "/"):
                found = (sign, found, self.signed())
            elif self.next()[0] == "word" or self.next()[1] in ("(", "{"):
                found = ("*", found, self.power())
            else:
                return found

    def signed(self) -> Tree:
        minus = False
        while sign := self.take("-", "+"):
            minus ^= sign == "-"
        found = self.power()
        return ("*", ("number", Fraction(-1)), found) if minus else found

    def power(self) -> Tree:
        found = self.factor()
        while self.take("!"):
            found = ("!", found)
        if self.take("^"):
            self.depth += 1
            if self.depth > DEEPEST:
                raise _UnreadableError
            exponent = self.signed()
            self.depth -= 1
            return ("^", found, exponent)
        return found

    def factor(self) -> Tree:
        kind, word = self.next()
        self.place += 1
        if kind == "number":
            return ("number", Fraction(word.replace(",", "")))
        if kind == "word":
            return self.named(word)
        if word in _CLOSING:
            found = self.sum()
            self.expect(_CLOSING[word])
            return found
        if word == "|":
            found = self.sum()
            self.expect("|")
            return ("abs", found)
        raise _UnreadableError

    def named(self, word: str) -> Tree:
        if word == "frac":
            return ("/", self.argument(), self.argument())
        if word == "sqrt" and self.take("["):
            degree = self.sum()
            self.expect("]")
            return ("root", degree, self.argument())
        if word in _FUNCTIONS:
            return (word, self.argument())
        if word in _CONSTANTS or len(word) == 1:
            return ("name", word)
        if word.isalpha() and len(word) == 2 and word.islower():  # a product of variables, such as xy
            return ("*", ("name", word[0]), ("name", word[1]))
        raise _UnreadableError

    def argument(self) -> Tree:
        """What a function stands before: brackets, or one factor. Of `\\frac12` each digit is one."""
        kind, word = self.next()
        if kind == "number" and len(word) > 1 and word.isdigit() and self.tokens[self.place - 1][1] == "frac":
            self.tokens[self.place : self.place + 1] = [("number", letter) for letter in word]
        self.depth += 1
        if self.depth > DEEPEST:
            raise _UnreadableError
        found = self.factor()
        self.depth -= 1
        return found
