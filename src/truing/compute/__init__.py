"""The seam between methods and machines: an Engine scores and trains, a Generator samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from truing.records import Completion, Group
from truing.rendering import Renderer
from truing.tensors import Forest, Logprobs, PerToken, Scores

Role = Literal["policy", "reference"]


class ForestStatistics(NamedTuple):
    """Log-probabilities of a forest's scored tokens and, where asked for, statistics of the whole distribution.

    reference, divergence: its log-probabilities, and KL(reference || policy) in nats. concentration: log of the sum of
    squared probabilities. entropy: in nats.
    """

    logprobs: Logprobs
    reference: Logprobs | None
    divergence: PerToken | None
    concentration: PerToken | None
    entropy: PerToken | None


class Engine(Protocol):
    """One trainable policy and the roles that share its weights."""

    @property
    def renderer(self) -> Renderer:
        """What turns text into this model's token ids."""

    @property
    def arithmetic(self) -> str:
        """Dtype and device of the computation, and the bits of its base, on which its results depend."""

    def logprobs(self, forest: Forest, of: Role = "policy", temperature: float = 1.0) -> Logprobs:
        """Log-probabilities of the scored tokens; with gradient only for the policy and outside `torch.no_grad`."""

    def scores(self, forest: Forest) -> tuple[Scores, ...]:
        """What a reward model's head says after each scored token, one for each of its outputs."""

    def values(self, forest: Forest) -> PerToken:
        """What the model's head expects before each scored token is chosen, as a critic."""

    def scores_and_logprobs(self, forest: Forest) -> tuple[tuple[Scores, ...], Logprobs]:
        """The scores with the log-probabilities of a reward model that keeps the head it wrote with, in one pass."""

    def scores_and_features(self, forest: Forest) -> tuple[tuple[Scores, ...], Tensor]:
        """The scores with what a reward model's head reads at the end of each answer, [C, width], in one pass."""

    def head(self) -> Tensor:
        """The weights of a reward model's head, [outputs, width], with gradient."""

    def prototypes(self) -> Tensor:
        """The directions that are trained beside the head, [K, width], with gradient; no model is saved with them."""

    def hidden(self, forest: Forest) -> Tensor:
        """The last layer's hidden state of each token, [S, width], without gradient."""

    def statistics(
        self,
        forest: Forest,
        *,
        temperature: float = 1.0,
        divergence: bool = False,
        concentration: bool = False,
        entropy: bool = False,
    ) -> ForestStatistics:
        """Log-probabilities of the policy with what else is asked for, from the same logits."""

    def keep_reference(self) -> None:
        """Keeps the policy as it is now as the reference, beside the policy."""

    def move_reference(self, mix: float) -> None:
        """Moves the kept reference: mix * policy + (1 - mix) * reference."""

    def as_role(self, of: Role) -> AbstractContextManager[Any]:
        """Within it the model computes as this role, also for a generator that shares it."""

    def keep_average(self, decay: float) -> None:
        """Keeps a running mean of the policy beside it: decay * mean + (1 - decay) * policy after each step."""

    def take_average(self) -> None:
        """Puts the running mean in the place of the policy, where one is kept."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar to what has been gathered for the next step."""

    def moved(self, rate: float) -> AbstractContextManager[None]:
        """Within it the weights stand `rate` times the gathered gradient further on, and gathering begins anew.

        The gradients gathered within stay, as those of the weights where they were.
        """

    def step(self, learning_rate: float, max_gradient_norm: float) -> float:
        """One optimizer step. Returns the gradient norm before clipping; raises GuardError where it is not finite."""

    def demand_finite_gradient(self) -> Tensor:
        """The norm of the gathered gradient. Raises GuardError, and forgets the gradient, where it is not finite."""

    def discard(self) -> None:
        """Forgets all gradients gathered since the last step."""

    def save_model(self, folder: Path) -> None:
        """Writes what transformers or PEFT load as it is: the policy, or its running mean where one is kept."""

    def save_state(self, folder: Path) -> None:
        """Writes all that is needed to go on to the same bits."""

    def load_state(self, folder: Path) -> None:
        """Reads what `save_model` and `save_state` wrote into one checkpoint."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn.

    temperature: divides the logits; 0 is greedy.
    top_k: draw from the k likeliest tokens only; 0 is all.
    top_p: draw from the smallest set of likeliest tokens that holds this much probability; 1 is all.
    max_new_tokens: length limit of an answer, its end-of-turn token included.
    reference: share of the reference in the geometric mixture that each token is drawn from,
        policy^(1 - share) reference^share / Z with a Z of its own; 0 is the policy, 1 the reference alone.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 256
    reference: float = 0.0


class Generator(Protocol):
    """Draws answers to prompts."""

    def generate(
        self,
        prompts: Sequence[Group],
        sampling: Sampling,
        *,
        answers: int,
        seed: int,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[tuple[Completion, ...]]:
        """`answers` answers to each prompt, with log-probabilities from the very distribution that was drawn from.

        on_finished: is told now and then how many answers are done, and may raise to stop.
        """


def seed_everything(seed: int) -> None:
    """Seeds torch, on which all that is random here draws."""
    torch.manual_seed(seed)
