"""What a language model writes to requests, here or behind an endpoint, and what is made of several such replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from truing.compute import Sampling
from truing.compute.generate.endpoint import Endpoint, EndpointGenerator
from truing.errors import ConfigError
from truing.records import Completion, Group, user
from truing.rendering import Renderer
from truing.scoring.choices import asked
from truing.scoring.score import Score, Tools, Writer, pooled

TOO_LONG = "the request was longer than max_length"
REFUSED = "the endpoint would not answer"
CUT = "cut off at max_new_tokens"

REPLIES = "replies"
UNREAD = "unread: "
"""What `counts` of a score are named by: replies asked for, and before the reason those that could not be read."""

MAX_LENGTH = 4096
"""Tokens of a request unless a recipe says otherwise."""


class Reply(NamedTuple):
    """What a model wrote. failure: why it is of no use, whatever it says; "" where it came to its end."""

    text: str
    failure: str = ""


Draw = Callable[[Sequence[Group]], Sequence[Sequence[Completion]]]
"""Draws answers to prompts, of each as many."""
Ask = Callable[[Sequence[str]], list[tuple[Reply, ...]]]
"""The replies to each request."""


def replies_to(
    requests: Sequence[str], renderer: Renderer | None, max_length: int, draw: Draw
) -> list[tuple[Reply, ...]]:
    """What was drawn to each request. One that is too long is not put, and has one failed reply.

    renderer: of a model that runs here; none: it is elsewhere, and limits its requests itself.
    """
    groups = [asked(renderer, request) if renderer else Group((user(request),)) for request in requests]
    fitting = [renderer is None or len(renderer.prompt(group.prompt)) <= max_length for group in groups]
    said = iter(draw([group for group, fits in zip(groups, fitting, strict=True) if fits]))
    return [tuple(map(_reply, next(said))) if fits else (Reply("", TOO_LONG),) for fits in fitting]


def asking(tools: Tools, model: str | Endpoint, *, samples: int, sampling: Sampling, max_length: int) -> Ask:
    """Asks a judge for some replies to each request. Equal requests are put once, and share their replies."""
    if samples > 1 and sampling.temperature == 0:
        raise ConfigError(f"samples = {samples} are all alike at temperature = 0: set temperature, such as 0.7")
    if isinstance(model, Endpoint):
        if max_length != MAX_LENGTH:
            raise ConfigError("max_length changes nothing where an endpoint judges: take it out")
        writer = Writer(EndpointGenerator(model), None)
    else:
        writer = tools.writer(model)

    def draw(prompts: Sequence[Group]) -> list[tuple[Completion, ...]]:
        return writer.generator.generate(
            prompts, sampling, answers=samples, seed=tools.seed, on_finished=tools.on_finished
        )

    def ask(requests: Sequence[str]) -> list[tuple[Reply, ...]]:
        different = list(dict.fromkeys(requests))
        found = dict(zip(different, replies_to(different, writer.renderer, max_length, draw), strict=True))
        return [found[request] for request in requests]

    return ask


def averaged(replies: Sequence[Reply] | Score, read: Callable[[str], Score]) -> Score:
    """The mean of what is read in several replies. Those in which nothing can be read are counted by reason."""
    if isinstance(replies, Score):
        return replies
    said = [Score.failed(reply.failure) if reply.failure else read(reply.text) for reply in replies]
    values = [score.value for score in said if score.value is not None]
    reasons = [score.reason for score in said if score.value is None]
    counts = {REPLIES: len(replies), **Counter(f"{UNREAD}{reason}" for reason in reasons)}
    if not values:
        return Score.failed("; ".join(dict.fromkeys(reasons)))._replace(counts=counts)
    score = pooled(values, "mean", 1.0)
    return score._replace(deviation=score.deviation if len(values) > 1 else None, counts=counts)


def _reply(answer: Completion) -> Reply:
    if answer.sampled is not None and answer.sampled.finish_reason == "refused":
        return Reply("", REFUSED)
    return Reply(answer.text, "" if answer.finished else CUT)
