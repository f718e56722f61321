"""The rows on which both are run."""

from __future__ import annotations

from dataclasses import replace

from truing.records import Completion, Group, Sampled, assistant, comparison, text, user

CONVERSATIONS = [
    # asked, good answer, bad answer, gold answer; short, as fp32 keeps seven digits of a sum of log-probabilities
    ("What is the sea?", "Much water.", "No.", "Water"),
    ("Hi", "Hello", "Go away, then", "Hello!"),
    ("中文？", "好。", "the inner", "好"),
    ("Is tea hot?", "Mostly", "No idea.", "It is"),
    ("7 + 5", "12", "13 or so", "It is 12"),
]
EQUAL = 4
"""Tokens of every answer of `equal_lengths`: three letters that do not merge, and the end-of-turn token."""
_CUT = Sampled((), (), "length", "none", "another tokenizer")


def comparisons() -> list[Group]:
    """Conversations whose answers differ in length."""
    return [comparison((user(asked),), _said(good), _said(bad)) for asked, good, bad, _ in CONVERSATIONS]


def margins() -> list[Group]:
    """The same, each with how much better the good answer is."""
    return [replace(group, strength=0.5 + place) for place, group in enumerate(comparisons())]


def unfinished() -> list[Group]:
    """The same, as if each answer had been cut before its end-of-turn token."""
    return _cut(comparisons())


def overlong() -> list[Group]:
    """The same as text, with the newline that some chat templates write after a turn as the answers' last token."""
    asking = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    said = "{}<|im_end|>\n"
    return _cut(
        [_written(asking.format(asked), said.format(good), said.format(bad)) for asked, good, bad, _ in CONVERSATIONS]
    )


def texts() -> list[Group]:
    """The same as verbatim text, without a chat template."""
    return [_written(f"{asked} ", good, bad) for asked, good, bad, _ in CONVERSATIONS]


def equal_lengths() -> list[Group]:
    """Texts whose answers are equally long, and so short that squares of log-ratios keep their digits."""
    short = [
        ("Q", "yes", "nah"),
        ("Who", "you", "sun"),
        ("Go", "fog", "USA"),
        ("So", "oak", "zzz"),
        ("A", "tap", "up!"),
    ]
    return [_written(f"{asked}: ", good, bad) for asked, good, bad in short]


def certain_scores() -> list[Group]:
    """The same with scores 1 and 0 instead of ranks."""
    return [
        replace(
            group,
            completions=tuple(
                replace(answer, rank=None, score=1.0 - place) for place, answer in enumerate(group.completions)
            ),
        )
        for group in equal_lengths()
    ]


def one_token_prompts() -> list[Group]:
    """Texts with a prompt of one token, which nothing predicts, so that a loss over prompts adds nothing."""
    return [_written(asked[0], f" {good}", f" {bad}") for asked, good, bad, _ in CONVERSATIONS if asked.isascii()]


def triples() -> list[Group]:
    """A gold answer, a preferred and a rejected one."""
    return [
        Group(
            (user(asked),),
            tuple(Completion(_said(words).messages, rank=rank) for rank, words in enumerate((gold, good, bad))),
        )
        for asked, good, bad, gold in CONVERSATIONS
    ]


def thumbs() -> list[Group]:
    """Answers with a thumb each, three up and two down."""
    return [
        Group((user(asked),), (Completion(_said(bad if place % 2 else good).messages, label=place % 2 == 0),))
        for place, (asked, good, bad, _) in enumerate(CONVERSATIONS)
    ]


def demonstrations() -> list[Group]:
    """The good answers alone."""
    return [Group((user(asked),), (_said(good),)) for asked, good, *_ in CONVERSATIONS]


def demonstration_texts() -> list[Group]:
    """The same as verbatim text."""
    return [Group((text(f"{asked} "),), (Completion((text(good),)),)) for asked, good, *_ in CONVERSATIONS]


def _said(words: str) -> Completion:
    return Completion((assistant(words),))


def _written(prompt: str, good: str, bad: str) -> Group:
    return comparison((text(prompt),), Completion((text(good),)), Completion((text(bad),)))


def _cut(groups: list[Group]) -> list[Group]:
    """Without the token that ends an answer."""
    return [
        replace(group, completions=tuple(replace(answer, sampled=_CUT) for answer in group.completions))
        for group in groups
    ]
