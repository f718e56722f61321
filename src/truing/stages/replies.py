"""What a language model writes to requests: the run's own, one that is named, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from truing.compute import Generator
from truing.compute.generate.endpoint import Endpoint, EndpointGenerator
from truing.compute.generate.native import NativeGenerator
from truing.errors import ConfigError
from truing.records import Completion, Group, user
from truing.rendering import Renderer
from truing.scoring.choices import asked
from truing.signatures import Count
from truing.stages.context import Context, Model
from truing.stages.sample import SamplingSettings, draw

TOO_LONG = "the request was longer than max_length"
REFUSED = "the endpoint would not answer"
CUT = "cut off at max_new_tokens"


class Writing(SamplingSettings):
    """How a model is asked to write."""

    endpoint: Endpoint | None = Field(
        None, description="url and model of an OpenAI-compatible endpoint to ask instead of a model here"
    )
    max_length: Count = Field(4096, description="limit in tokens of a request to a model here; longer ones are not put")

    @model_validator(mode="after")
    def _heard(self) -> Self:
        """Settings that an endpoint would not hear of are refused."""
        here = {"top_k": self.top_k, "max_length": self.max_length, "live_answers": self.live_answers}
        for name, value in here.items() if self.endpoint else ():
            # a recipe with its defaults spelled out means the same, so what counts is the value, not that it was given
            if value != Writing.model_fields[name].default:
                raise ConfigError(f"{name} changes nothing where an endpoint writes: take it out")
        return self


class Reply(NamedTuple):
    """What a model wrote. failure: why it is of no use, whatever it says; "" where it came to its end."""

    text: str
    failure: str = ""


Write = Callable[[Sequence[str], str], list[Reply]]
"""The replies to requests, under a name by which they are kept in the run."""


def writer(context: Context, settings: Writing, model: Model | None) -> Write:
    """Whoever the settings ask: the endpoint, or else the model."""
    if settings.endpoint:
        return _asking(context, settings, EndpointGenerator(settings.endpoint), None)
    assert model is not None, "a plan gives a model where there is no endpoint"
    loaded = context.load(model)
    generator = NativeGenerator(loaded, policy=model.key, max_rows=settings.live_answers)
    return _asking(context, settings, generator, loaded.renderer)


def _asking(context: Context, settings: Writing, generator: Generator, renderer: Renderer | None) -> Write:
    """renderer: of a model that runs here."""

    def group_of(request: str) -> Group:
        return asked(renderer, request) if renderer else Group((user(request),))

    def fits(group: Group) -> bool:
        return renderer is None or len(renderer.prompt(group.prompt)) <= settings.max_length

    def write(requests: Sequence[str], name: str) -> list[Reply]:
        groups = [group_of(request) for request in requests]
        fitting = [fits(group) for group in groups]
        put = [group for group, fit in zip(groups, fitting, strict=True) if fit]
        said = iter(draw(context, generator, put, settings, 1, name=name))
        return [_reply(*next(said)) if fit else Reply("", TOO_LONG) for fit in fitting]

    return write


def _reply(answer: Completion) -> Reply:
    if answer.sampled is not None and answer.sampled.finish_reason == "refused":
        return Reply("", REFUSED)
    return Reply(answer.text, "" if answer.finished else CUT)
