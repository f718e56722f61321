"""What a language model writes to requests: the run's own, one that is named, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
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
"""The reply to each request, under a name by which they are kept in the run; asked again it is another one."""
WriteSeveral = Callable[[Sequence[str], str], list[tuple[Reply, ...]]]
"""The replies to each request, of one that is not put a single failed one."""


def writer(context: Context, settings: Writing, model: Model | None) -> Write:
    """Whoever the settings ask: the endpoint, or else the model."""
    write = writer_of_several(context, settings, model, 1)
    return lambda requests, name: [reply for (reply,) in write(requests, name)]


def writer_of_several(context: Context, settings: Writing, model: Model | None, samples: int) -> WriteSeveral:
    """As `writer`, for so many replies to each request."""
    who, turns = _writer(context, settings, model), count()

    def write(requests: Sequence[str], name: str) -> list[tuple[Reply, ...]]:
        turn = next(turns)

        def drawn(prompts: Sequence[Group]) -> list[tuple[Completion, ...]]:
            return draw(context, who.generator, prompts, settings, samples, name=name, turn=turn)

        return replies_to(requests, who.renderer, settings.max_length, drawn)

    return write


def _writer(context: Context, settings: Writing, model: Model | None) -> Writer:
    if settings.endpoint:
        return Writer(EndpointGenerator(settings.endpoint), None)
    assert model is not None, "a plan gives a model where there is no endpoint"
    loaded = context.load(model)
    return Writer(NativeGenerator(loaded, policy=model.key, max_rows=settings.live_answers), loaded.renderer)
