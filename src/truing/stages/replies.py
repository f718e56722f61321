"""What a language model writes to requests: the run's own, one that is named, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from pydantic import Field, model_validator

from truing.compute.generate.endpoint import Endpoint, EndpointGenerator
from truing.compute.generate.native import NativeGenerator
from truing.errors import ConfigError
from truing.records import Completion, Group
from truing.scoring.replies import MAX_LENGTH, Reply, replies_to
from truing.scoring.score import Writer
from truing.signatures import Count
from truing.stages.context import Context, Model
from truing.stages.sample import SamplingSettings, draw


class Writing(SamplingSettings):
    """How a model is asked to write."""

    endpoint: Endpoint | None = Field(
        None, description="url and model of an OpenAI-compatible endpoint to ask instead of a model here"
    )
    max_length: Count = Field(
        MAX_LENGTH, description="limit in tokens of a request to a model here; longer ones are not put"
    )

    @model_validator(mode="after")
    def _heard(self) -> Self:
        """Settings that an endpoint would not hear of are refused."""
        here = {"top_k": self.top_k, "max_length": self.max_length, "live_answers": self.live_answers}
        for name, value in here.items() if self.endpoint else ():
            # a recipe with its defaults spelled out means the same, so what counts is the value, not that it was given
            if value != Writing.model_fields[name].default:
                raise ConfigError(f"{name} changes nothing where an endpoint writes: take it out")
        return self


Write = Callable[[Sequence[str], str], list[Reply]]
"""The replies to requests, under a name by which they are kept in the run."""


def writer(context: Context, settings: Writing, model: Model | None) -> Write:
    """Whoever the settings ask: the endpoint, or else the model."""
    who = _writer(context, settings, model)

    def write(requests: Sequence[str], name: str) -> list[Reply]:
        def drawn(prompts: Sequence[Group]) -> list[tuple[Completion, ...]]:
            return draw(context, who.generator, prompts, settings, 1, name=name)

        return [reply for (reply,) in replies_to(requests, who.renderer, settings.max_length, drawn)]

    return write


def _writer(context: Context, settings: Writing, model: Model | None) -> Writer:
    if settings.endpoint:
        return Writer(EndpointGenerator(settings.endpoint), None)
    assert model is not None, "a plan gives a model where there is no endpoint"
    loaded = context.load(model)
    return Writer(NativeGenerator(loaded, policy=model.key, max_rows=settings.live_answers), loaded.renderer)
