"""A language model that writes what a function says, and what it takes to judge with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truing.compute import Sampling
from truing.records import Completion, FinishReason, Group, Sampled, assistant, user
from truing.scoring.score import Score, Tools, Writer, no_models
from truing.scoring.scorers import make, spelled_out

Script = Callable[[str, int], str | tuple[str, FinishReason]]
"""The words that answer a request, of the sample with this number, and why they end unless they came to their end."""

LENIENT = {"most": 1.0}
"""Controls under which no judge is refused."""


class Scripted:
    """The generator; `calls` says how it was asked, `requests` what."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[str] = []
        self.calls: list[tuple[Sampling, int, int]] = []

    def generate(
        self,
        prompts: Sequence[Group],
        sampling: Sampling,
        *,
        answers: int = 1,
        seed: int = 0,
        on_finished: Callable[[int], None] = lambda _: None,
    ) -> list[tuple[Completion, ...]]:
        self.calls.append((sampling, answers, seed))
        found = []
        for group in prompts:
            request = group.prompt[0].content
            self.requests.append(request)
            found.append(tuple(self._said(self.script(request, number)) for number in range(answers)))
            on_finished(len(found))
        return found

    def _said(self, said: str | tuple[str, FinishReason]) -> Completion:
        words, reason = (said, "stop") if isinstance(said, str) else said
        return Completion((assistant(words),), sampled=Sampled((), (), reason, "", "scripted"))


class Listening:
    """Tools with a scripted writer; `told` is what scorers said on the way."""

    def __init__(self, script: Script, *, seed: int = 0) -> None:
        self.writer = Scripted(script)
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.tools = Tools(
            no_models,
            no_models,
            writer=lambda _: Writer(self.writer, None),
            seed=seed,
            tell=lambda kind, values: self.told.append((kind, values)),
        )

    def scores(self, spec: dict[str, Any], *groups: Group) -> list[tuple[Score, ...]]:
        return make(spelled_out(spec), self.tools)(groups)


def row(*answers: str, prompt: str = "Why?", **more: Any) -> Group:
    return Group((user(prompt),), tuple(Completion((assistant(text),)) for text in answers), **more)


def answer_in(request: str) -> str:
    """The answer that a request shows to a judge of single answers."""
    found = re.search(r"\nAnswer:\n<{3,}\n(.*)\n>{3,}\n\nWhat stands", request, re.DOTALL)
    assert found, request
    return found[1]


def answers_in(request: str) -> tuple[str, str]:
    """The two answers that a request shows, the first one first."""
    found = re.search(r"\nAnswer A:\n<{3,}\n(.*)\n>{3,}\n\nAnswer B:\n<{3,}\n(.*)\n>{3,}\n\nWhat", request, re.DOTALL)
    assert found, request
    return found[1], found[2]
