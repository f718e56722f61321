"""A judge behind an OpenAI-compatible endpoint, such as vLLM's, llama.cpp's or a provider's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from pydantic import Field

from truing.compute.generate.endpoint import Endpoint
from truing.errors import ConfigError
from truing.records import Completion, Group
from truing.scoring.score import Score, Scorer
from truing.signatures import Count, Positive

RATING = """You rate an assistant's answer.

<conversation>
{prompt}
</conversation>

<answer>
{answer}
</answer>

{criteria} Rate the answer from {low} (worst) to {high} (best). Say in one or two sentences why, then end with the \
rating in double brackets, for example [[{low}]]."""
CRITERIA = "Consider whether the answer is correct, helpful, clear and no longer than it needs to be."


def rating(
    *,
    url: str,
    model: str,
    criteria: str = CRITERIA,
    template: str = RATING,
    low: int = 1,
    high: int = 10,
    key: str = "OPENAI_API_KEY",
    max_tokens: Count = 512,
    retries: Annotated[int, Field(ge=0)] = 3,
    timeout: Positive = 60.0,
    at_once: Count = 8,
) -> Scorer:
    """A language model behind an OpenAI-compatible endpoint rates every answer. What it does not rate has failed.

    url: where `/chat/completions` stands, such as http://localhost:8000/v1.
    model: the model's name there.
    criteria: what to look at, put into the template.
    template: the whole request, with {prompt}, {answer}, {criteria}, {low} and {high}.
    low: the worst rating.
    high: the best rating.
    key: the environment variable that holds the key; none is sent where it is not set.
    max_tokens: limit of the judge's words.
    retries: how often a request is sent again that failed for the moment.
    timeout: seconds for one request.
    at_once: requests under way at one time.
    """
    if low >= high:
        raise ConfigError(f"rating: low = {low} is not below high = {high}")
    missing = [name for name in ("{prompt}", "{answer}") if name not in template]
    if missing:
        raise ConfigError(f"rating: the template has no {missing[0]}")
    endpoint = Endpoint(url=url, model=model, key=key, retries=retries, timeout=timeout, at_once=at_once)

    def say(asked: tuple[Group, Completion]) -> Score:
        group, answer = asked
        known = {"prompt": _transcript(group), "answer": answer.text, "criteria": criteria, "low": low, "high": high}
        request = re.sub(r"\{(\w+)\}", lambda match: str(known.get(match[1], match[0])), template)
        turns = [{"role": "user", "content": request}]
        try:
            choice = endpoint.ask({"messages": turns, "temperature": 0, "max_tokens": max_tokens})
            return rated(str(choice["message"]["content"]), low, high)
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            return Score.failed(f"{url}: {type(error).__name__}: {error}")

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        asked = [(group, answer) for group in groups for answer in group.completions]
        with ThreadPoolExecutor(endpoint.at_once) as pool:
            said = pool.map(say, asked)
            return [tuple(next(said) for _ in group.completions) for group in groups]

    return score


def rated(reply: str, low: int, high: int) -> Score:
    """The last number in double brackets; none, or one off the scale, is a failure."""
    found = re.findall(r"\[\[\s*(-?\d+(?:\.\d+)?)\s*\]\]", reply)
    if not found:
        return Score.failed(f"the judge gave no rating: {reply[:80]!r}")
    value = float(found[-1])
    return Score.of(value) if low <= value <= high else Score.failed(f"the judge rated {value:g}, off {low} to {high}")


def _transcript(group: Group) -> str:
    return "\n\n".join(f"{message.role}: {message.content}" for message in group.prompt)
