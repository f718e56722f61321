"""Settings of online learning, and what follows from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from truing import algorithms
from truing.algorithms import BoundAlgorithm
from truing.compute import Sampling
from truing.errors import ConfigError
from truing.scoring.scorers import Spec
from truing.shaping import ERROR
from truing.signatures import Count, Fraction, Positive
from truing.stages import correction, watchdogs
from truing.stages.curriculum import Curriculum
from truing.stages.mixture import ROWS, WEIGHT
from truing.stages.training import Updates
from truing.stages.watchdogs import Limit

Decay = Annotated[float, Field(gt=0, lt=1)]


class Online(Updates):
    """Settings of `online`."""

    algorithm: dict[str, Any] = Field(
        {"name": "grpo"}, description="name of the algorithm, or a table with settings", validate_default=True
    )
    scorer: Spec = Field(
        "reward_model", description="what rewards answers: its name, or a table with settings", validate_default=True
    )
    rollouts: Count = Field(100, description="times that answers are drawn and learnt from")
    prompts: Count = Field(8, description="prompts of one rollout")
    batch_size: Count = Field(8, description="prompts of one optimizer step")
    learning_rate: float = Field(1e-6, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="how it falls after the warm-up")
    temperature: Positive = Field(1.0, description="divides the logits, in sampling and in learning alike")
    max_new_tokens: Count = Field(256, description="length limit of an answer in tokens")
    live_answers: Count = Field(64, description="answers written at one time; changes time and memory")
    correction: dict[str, Any] | None = Field(
        None,
        description='where generator and engine differ: "truncate" or "mask" the weight of a token, or a table with '
        "its bounds too, limit of the one, low and high of the other; none: every weight is 1",
    )
    critic_rate: Positive = Field(10.0, description="learning rate of the critic, in units of the policy's")
    one_base: bool = Field(
        True,
        description="with lora: a critic and scorers that lie on the policy's base use its weights in memory, in the "
        "bits that base_bits gives them; without these it changes memory, never the result",
    )
    critic_warmup: int = Field(
        0, ge=0, description="rollouts in which the critic alone learns; with critic_settled the most of them"
    )
    curriculum: Curriculum | None = Field(
        None, description="how often each prompt comes, by how differently its answers were rewarded; none: all in turn"
    )
    critic_settled: Fraction | None = Field(
        None,
        description="the warm-up ends earlier once the critic's squared error falls by less than this share from one "
        "critic_window to the next; none: it does not",
    )
    critic_window: Count = Field(4, description="rollouts over which this error is averaged")
    pretrain_weight: Positive = Field(
        WEIGHT, description="weight in the loss of the negative log-likelihood of the rows of `pretrain`, a token"
    )
    pretrain_rows: Count = Field(ROWS, description="rows of `pretrain` that are mixed into each optimizer step")
    ema_decay: Decay | None = Field(
        None,
        description="share of a running mean of the policy that stays at each optimizer step; the mean is then the "
        "result; none: there is no mean, and the last policy is the result",
    )
    stop: dict[str, Limit] = Field(
        {},
        description="limits at which training ends, by number: kl = 50, ratio = [0.5, 2], or true for the limit of "
        "docs/health.md, which lists all numbers",
    )
    stop_after: Count = Field(3, description="rollouts in a row in which a number must be out of its limit for that")
    held_out_prompts: Count = Field(64, description="held-out prompts that are answered before and after")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    @field_validator("algorithm", mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> dict[str, Any]:
        """`algorithm = "grpo"` is short for `algorithm = { name = "grpo" }`; every setting is checked."""
        table = {"name": value} if isinstance(value, str) else value
        if not isinstance(table, dict):
            raise ConfigError(f'algorithm is a name such as "grpo", or a table with name and settings; found {value!r}')
        algorithms.bind(table)
        return table

    @field_validator("correction", mode="before")
    @classmethod
    def _corrected(cls, value: Any) -> dict[str, Any] | None:
        """Its name is short for a table; every bound is checked."""
        return None if value is None else correction.spelled_out(value)

    @field_validator("stop", mode="before")
    @classmethod
    def _limits(cls, value: Any) -> dict[str, Limit]:
        """Every limit is a number that is known, and spelled out."""
        return watchdogs.spelled_out(value)

    @model_validator(mode="after")
    def _alive(self) -> Self:
        """Settings that would change nothing are refused."""
        algorithm, usual = self.bound(), {name: field.default for name, field in type(self).model_fields.items()}
        if self.critic_warmup and not algorithm.needs_critic:
            raise ConfigError(f"critic_warmup: algorithm '{algorithm.name}' has no critic: take it out")
        if self.critic_rate != usual["critic_rate"] and not algorithm.needs_critic:
            raise ConfigError(f"critic_rate: algorithm '{algorithm.name}' has no critic: take it out")
        if self.critic_settled is None and self.critic_window != usual["critic_window"]:
            raise ConfigError("critic_window: changes nothing while critic_settled is none: set that too")
        if self.critic_settled is not None and self.critic_warmup < 2 * self.critic_window:
            raise ConfigError(
                f"critic_settled: two windows of {self.critic_window} rollouts are compared, and critic_warmup is "
                f"{self.critic_warmup}: raise it to {2 * self.critic_window} or more"
            )
        if not self.stop and self.stop_after != usual["stop_after"]:
            raise ConfigError("stop_after: changes nothing while stop names no number: set that too")
        if self.correction is not None and algorithm.algorithm.advantage is None:
            raise ConfigError(f"correction: algorithm '{algorithm.name}' has no advantages to weigh: take it out")
        shaping, answers = algorithm.shaping, self.prompts * algorithm.group_size
        if shaping.reward_kl_target is not None and shaping.reward_kl_horizon <= ERROR * answers:
            raise ConfigError(
                f"algorithm.reward_kl_horizon: is {shaping.reward_kl_horizon:g}, and a rollout has {answers} answers: "
                f"the price of KL could fall below 0 in one: set it above {ERROR * answers:g}, or cut prompts"
            )
        watchdogs.demand_measured(self.stop, algorithm, algorithm.epochs * self.parts, self.scorer)
        return self

    def bound(self) -> BoundAlgorithm:
        """The algorithm with its settings filled in."""
        return algorithms.bind(self.algorithm)

    @property
    def reads_reference(self) -> bool:
        """Whether the model as it began also reads the answers."""
        return self.bound().needs("reference") or not self.stop.keys().isdisjoint(watchdogs.OF_REFERENCE)

    @property
    def keeps_reference(self) -> bool:
        """Whether a second set of the trained weights stands beside the first; without an adapter there is none."""
        return self.reads_reference and self.lora is None

    @property
    def parts(self) -> int:
        """Optimizer steps of one epoch over a rollout."""
        return -(-self.prompts // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.rollouts * self.bound().epochs * self.parts

    @property
    def strays(self) -> str:
        """What to say where a gradient without ratios is taken of answers that an older policy wrote; else nothing."""
        algorithm, updates = self.bound(), self.bound().epochs * self.parts
        if algorithm.algorithm.advantage is None or algorithm.needs("behaviour") or updates == 1:
            return ""
        return (
            f"algorithm '{algorithm.name}' has no ratio, and learns in {updates} steps from each rollout: after the "
            "first of them the policy is no longer the one that wrote the answers, and nothing corrects for it. Set "
            "epochs = 1 and batch_size to prompts, or take an algorithm with a ratio, such as ppo"
        )

    @property
    def reads_while_learning(self) -> bool:
        """Whether the policy reads a rollout in the very pass that learns from it, and in none before.

        With one step for a rollout the two passes would say the same. Every answer must be in the step, and nothing
        may ask for the numbers before it: neither rewards, nor weights of tokens, nor a limit at which training ends.
        """
        algorithm = self.bound()
        asked_before = algorithm.prices_kl or self.correction is not None or bool(self.stop)
        return algorithm.epochs * self.parts == 1 and algorithm.accepts_all and not asked_before

    def sampling(self) -> Sampling:
        """How answers are drawn: from the whole distribution, so that it is the one that is learnt."""
        return Sampling(self.temperature, max_new_tokens=self.max_new_tokens)
