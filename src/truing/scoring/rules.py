"""Scorers that only read the text: length, patterns, word lists, and any function of the user's own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from truing.errors import ConfigError, MissingError
from truing.records import Completion, Group
from truing.scoring.principle import says_nothing
from truing.scoring.score import FileName, FunctionName, Score, Scorer, each

Unit = Literal["characters", "words"]
WITHOUT_SPACES = r"[\u2e80-\u9fff\uf900-\ufaff\u3040-\u30ff\u0e00-\u0e7f]"
"""Letters of scripts that put no spaces between words: Chinese, Japanese, Thai."""

WORD = re.compile(rf"{WITHOUT_SPACES}|[^\W_]+")
"""What counts as a word."""

REFUSED = (
    "help|assist|support|provide|give|offer|share|answer|do that|do this|comply|engage|fulfill?|satisfy|discuss|write"
    "|create|tell|suggest|encourage|endorse|promote|condone|recommend|advise|feel comfortable"
    "|think (?:it|that) (?:is|would be) (?:right|appropriate)"
)
"""What one says that one does not do."""
REFUSALS = (
    r"\b(?:i|we)(?:'m| am|'re| are)? (?:so |very |truly |really )?(?:sorry|afraid)\b",
    r"\b(?:i|we) (?:can ?not|can't|could not|couldn't|will not|won't|must not|shouldn't|do not|don't)"
    rf" (?:{REFUSED})\b",
    r"\b(?:i|we)(?:'m| am|'re| are) (?:not able|unable|not allowed|not permitted|not comfortable|not going)\b",
    r"\b(?:i|we) (?:have to|must|need to|would have to|respectfully) (?:decline|refuse)\b",
    r"\b(?:i|we) (?:decline|refuse)\b",
    r"\bit(?:'s| is| would be) (?:not|never) (?:ok|okay|appropriate|acceptable|right|safe|legal|ethical)"
    r"(?: or \w+)? (?:for me )?to\b",
    r"\b(?:goes|is|are) against (?:my|our) (?:guidelines|principles|programming|policy|policies|values)\b",
)
"""How English refusals begin."""
OPENING = 60
"""A refusal says so within so many words: what an answer regrets further down is no refusal of it."""


def length(*, unit: Unit = "words", beyond: int = 0) -> Scorer:
    """How long an answer is. With a negative weight in `weighted` it is a length penalty.

    unit: characters or words; in scripts without spaces every letter counts as a word.
    beyond: only what is over this length counts.
    """
    return each(lambda _, answer: Score.of(float(max(0, length_of(answer.text, unit) - beyond))))


def random(*, seed: int = 0) -> Scorer:
    """A number from 0 to 1 that depends on the row and nothing else: what any other choice must be better than.

    seed: another seed gives other numbers.
    """

    def say(group: Group) -> tuple[Score, ...]:
        names = [f"{seed}:{group.id}:{number}" for number in range(len(group.completions))]
        drawn = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 for name in names]
        return tuple(map(Score.of, drawn))

    return lambda groups: [say(group) for group in groups]


def pattern(*, regex: str, found: float = 1.0, missing: float = 0.0) -> Scorer:
    """One number for answers in which a regular expression is found, another for the rest.

    regex: a Python regular expression, searched anywhere in the answer.
    found: the score where it is found.
    missing: the score where it is not.
    """
    try:
        searched = re.compile(regex)
    except re.error as error:
        raise ConfigError(f"regex: {regex!r} is no regular expression: {error}") from None
    return each(lambda _, answer: Score.of(found if searched.search(answer.text) else missing))


def refusal(*, patterns: tuple[str, ...] = (), found: float = 1.0, missing: float = 0.0) -> Scorer:
    """Whether an answer refuses in English words: it begins by saying that it cannot, will not or is sorry.

    It knows words and not deeds. An answer that warns, preaches, changes the subject or makes no sense counts as none,
    as does a refusal in other words or another language; "I'm sorry to hear that" and help after it counts as one.
    Where that matters take a judge, or look at the answers.
    patterns: regular expressions besides those that are known, of any case, searched in the first sixty words.
    found: the score of an answer that refuses.
    missing: the score of any other.
    """
    try:
        searched = re.compile("|".join(f"(?:{one})" for one in (*REFUSALS, *patterns)), re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"patterns: one of {list(patterns)} is no regular expression: {error}") from None

    def say(_: Group, answer: Completion) -> Score:
        opening = " ".join(answer.text.replace("\u2019", "'").split()[:OPENING])
        return Score.of(found if searched.search(opening) else missing)

    return each(say)


def lexicon(
    *, words: dict[str, float] | None = None, file: FileName | None = None, per: Literal["answer", "word"] = "word"
) -> Scorer:
    """The weights of the words of a list that an answer contains, added up. Case does not matter.

    words: weight of each word or phrase.
    file: a list instead, one to a line, each with a tab and its weight, or with weight 1.
    per: whether the sum is of the whole answer, or divided by its number of words.
    """
    weights = dict(words or {}) | (_word_list(file) if file else {})
    if not weights:
        raise ConfigError("lexicon: give words = { word = weight }, or a file of them")
    listed = {word.casefold(): weight for word, weight in weights.items()}
    # longer entries first: where one begins with another, the whole of it is meant
    matcher = re.compile("|".join(_whole_word(word) for word in sorted(listed, key=len, reverse=True)))

    def say(_: Group, answer: Completion) -> Score:
        total = sum(listed[match] for match in matcher.findall(answer.text.casefold()))
        return Score.of(total / max(length_of(answer.text, "words"), 1) if per == "word" else total)

    return each(say)


def sentiment(*, scale: Literal["compound", "positive", "negative"] = "compound") -> Scorer:
    """How kindly an English answer speaks, by VADER's word list and its rules for negation and emphasis.

    Use: as a reward that is there at once, such as for continuing reviews. It reads words and not what is meant.

    scale: compound, from -1 to 1; or the share of positive or of negative words.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise MissingError("sentiment needs vaderSentiment: pip install 'truing[sentiment]'") from None
    analyzer = SentimentIntensityAnalyzer()
    name = {"compound": "compound", "positive": "pos", "negative": "neg"}[scale]
    return each(lambda _, answer: Score.of(float(analyzer.polarity_scores(answer.text)[name])))


def tags(
    *, names: Annotated[tuple[str, ...], Field(min_length=1)] = ("think", "answer"), found: float = 1.0,
    missing: float = 0.0,
) -> Scorer:  # fmt: skip
    """Whether an answer is `<think>...</think><answer>...</answer>`: these tags, once each, in order, nothing beside.

    names: the tags.
    found: the score of an answer in this form.
    missing: the score of any other; one that was cut at its limit has closed its last tag or counts as any other.
    """
    wrong = [name for name in names if not re.fullmatch(r"[\w-]+", name)]
    if wrong:
        raise ConfigError(f"tags: {wrong[0]!r} is no name of a tag: write it without < and >")
    any_tag = "|".join(f"</?{name}>" for name in names)
    inside = rf"(?:(?!{any_tag}).)*\S(?:(?!{any_tag}).)*"
    form = re.compile(r"\s*".join(f"<{name}>{inside}</{name}>" for name in names), re.DOTALL)
    return each(lambda _, answer: Score.of(found if form.fullmatch(answer.text.strip()) else missing))


def valid_json(*, keys: tuple[str, ...] = (), found: float = 1.0, missing: float = 0.0) -> Scorer:
    """Whether an answer is JSON and nothing else; a fence of ``` around it is allowed.

    keys: what the object must have; none: any value is right.
    found: the score of such an answer.
    missing: the score of any other.
    """

    def say(_: Group, answer: Completion) -> Score:
        fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n```", answer.text.strip(), re.DOTALL)
        try:
            value = json.loads(fenced[1] if fenced else answer.text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return Score.of(missing)
        return Score.of(found if not keys or (isinstance(value, dict) and value.keys() >= set(keys)) else missing)

    return each(say)


def within(
    *, at_least: int = 0, at_most: int | None = None, unit: Unit = "words", found: float = 1.0, missing: float = 0.0
) -> Scorer:
    """Whether the length of an answer is within bounds.

    at_least: the least.
    at_most: the most; none: any.
    unit: characters or words, as in `length`.
    found: the score within.
    missing: the score outside.
    """
    if at_least < 0 or (at_most is not None and at_most < at_least) or (at_most is None and at_least == 0):
        raise ConfigError(f"within: at_least = {at_least} and at_most = {at_most} are no bounds")

    def say(_: Group, answer: Completion) -> Score:
        long = length_of(answer.text, unit)
        return Score.of(found if long >= at_least and (at_most is None or long <= at_most) else missing)

    return each(say)


def emptiness(*, found: float = 0.0, missing: float = 1.0) -> Scorer:
    """Whether an answer says anything: it is neither empty nor goes round in circles.

    found: the score of an answer that says nothing.
    missing: the score of any other.
    """
    return each(lambda _, answer: Score.of(found if says_nothing(answer) else missing))


def function(*, path: FunctionName) -> Scorer:
    """A Python function of your own, called as `function(prompt, answer)` for each answer; it returns a number.

    The prompt is a list of `{"role": ..., "content": ...}`, the answer a string. An exception is a failed score, and so
    is what is no finite number: None, a text, a NaN.

    path: package.module:function, found as Python finds modules, or file.py:function.
    """
    called = find_function(path)

    def say(group: Group, answer: Completion) -> Score:
        prompt = [{"role": message.role, "content": message.content} for message in group.prompt]
        try:
            said = called(prompt, answer.text)
            if said is None or isinstance(said, str | bytes):
                return Score.failed(f"{path} returned {said!r:.80}, which is no number")
            return Score.of(float(said))
        except Exception as error:
            return Score.failed(f"{path} raised {type(error).__name__}: {error}")

    return each(say)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def length_of(text: str, unit: Unit) -> int:
    """Characters, or words."""
    return len(text) if unit == "characters" else len(WORD.findall(text))


def find_function(path: str) -> Callable[..., Any]:
    """The function that `module:name` or `file.py:name` names."""
    module_name, colon, name = path.rpartition(":")
    if not colon:
        raise ConfigError(f"path: '{path}': write package.module:function or file.py:function")
    try:
        module = _module_of_file(Path(module_name)) if module_name.endswith(".py") else _module(module_name)
    except Exception as error:  # a module runs as it is imported, and may raise anything
        raise ConfigError(f"path: {module_name} cannot be imported: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"path: {module_name} has no function '{name}'")
    return found  # type: ignore[no-any-return]


def file_of_function(path: str) -> Path | None:
    """The file in which a function stands, where it stands in one."""
    file = getattr(sys.modules.get(find_function(path).__module__), "__file__", None) or path.rpartition(":")[0]
    return Path(file) if Path(file).is_file() else None


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _module_of_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ConfigError(f"{file}: no such file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _word_list(file: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
        word, tab, weight = line.partition("\t")
        if not word.strip():
            continue
        try:
            weights[word.strip()] = float(weight) if tab else 1.0
        except ValueError:
            raise ConfigError(f"{file}:{number}: '{weight}' is no weight: write word, tab, number") from None
    return weights


def _whole_word(word: str) -> str:
    """The entry as a whole word where its script has words."""
    left = "" if re.match(rf"{WITHOUT_SPACES}|\W", word) else r"\b"
    right = "" if re.search(rf"(?:{WITHOUT_SPACES}|\W)$", word) else r"\b"
    return left + re.escape(word) + right
