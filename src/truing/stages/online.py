"""Online reinforcement learning: the policy answers, a scorer judges, and the policy learns from its own answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from truing import algorithms, statistics
from truing.algorithms import BoundAlgorithm, Judgement
from truing.blending import prompt_hash
from truing.compute import Engine, Generator, Sampling
from truing.compute.engine.local import LocalEngine
from truing.compute.generate.native import NativeGenerator
from truing.errors import ConfigError, DataError, by_reason
from truing.models import Loaded, add_lora, gives_scores, is_adapter, put_adapter, roles, weights_of
from truing.models.precision import compute_dtype
from truing.objectives.policy import masked_importance, truncated_importance
from truing.objectives.value import explained_variance
from truing.records import Completion, Group
from truing.reductions import step_weights
from truing.rendering import Row
from truing.report.rollouts import read_gain
from truing.rivals import Drawing, paired, share_of_reference
from truing.scoring.score import Scorer
from truing.scoring.scorers import Spec, is_ensemble, make
from truing.shaping import ShapingState
from truing.signatures import Count, Fraction, Positive
from truing.stages import showing, watchdogs
from truing.stages.arranging import FROM_REFERENCE
from truing.stages.context import Context, Groups, Judges, Model
from truing.stages.curriculum import Curriculum, chances, draw, nothing_seen, seen
from truing.stages.merge import in_full
from truing.stages.mixture import ROWS, WEIGHT, Mixture, mixture_of
from truing.stages.rollouts import Rollout, forget, in_turn, kept, note, oldest_step, per_token, prompts_of
from truing.stages.training import Step, Updates, load_trainable, save_checkpoint, updates
from truing.stages.warmup import Warmup
from truing.stages.watchdogs import Alarm, Limit, Watchdogs, beside_the_start, disagreement
from truing.tensors import Forest, Logprobs, PerToken

Correction = Literal["none", "truncate", "mask"]
Decay = Annotated[float, Field(gt=0, lt=1)]
KNOWN = "curriculum"
"""What is known of each prompt, as a checkpoint keeps it."""
READ_LATER = ("behaviour", "entropy")
"""What the policy says of a rollout, which one that is learnt from in one step need not say before."""


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
    correction: Correction = Field(
        "none", description="where generator and engine differ: truncate or mask the weight of a token"
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
        if self.critic_settled is None and self.critic_window != usual["critic_window"]:
            raise ConfigError("critic_window: changes nothing while critic_settled is none: set that too")
        if self.critic_settled is not None and self.critic_warmup < 2 * self.critic_window:
            raise ConfigError(
                f"critic_settled: two windows of {self.critic_window} rollouts are compared, and critic_warmup is "
                f"{self.critic_warmup}: raise it to {2 * self.critic_window} or more"
            )
        if not self.stop and self.stop_after != usual["stop_after"]:
            raise ConfigError("stop_after: changes nothing while stop names no number: set that too")
        if self.correction != "none" and algorithm.algorithm.advantage is None:
            raise ConfigError(f"correction: algorithm '{algorithm.name}' has no advantages to weigh: take it out")
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
    def reads_while_learning(self) -> bool:
        """Whether the policy reads a rollout in the very pass that learns from it, and in none before.

        With one step for a rollout the two passes would say the same. Every answer must be in the step, and nothing
        may ask for the numbers before it: neither rewards, nor weights of tokens, nor a limit at which training ends.
        """
        algorithm = self.bound()
        asked_before = algorithm.prices_kl or self.correction != "none" or bool(self.stop)
        return algorithm.epochs * self.parts == 1 and algorithm.accepts_all and not asked_before

    def sampling(self) -> Sampling:
        """How answers are drawn: from the whole distribution, so that it is the one that is learnt."""
        return Sampling(self.temperature, max_new_tokens=self.max_new_tokens)


def online(
    context: Context,
    settings: Online,
    model: Model,
    data: Groups,
    judges: Judges,
    held_out: Groups | None = None,
    reward: Model | None = None,
    pretrain: Groups | None = None,
) -> None:
    """Trains on the policy's own answers to the prompts of the data, rewarded by any scorer.

    Every rollout is kept in the run until a checkpoint has passed it, so that a run goes on in the middle of one.
    reward: what a critic begins as; without one it begins as the policy with a fresh head.
    pretrain: text or demonstrations that stay likely while the policy learns; some are part of each of its steps.

    With `ema_decay` checkpoints and the result are the running mean of the policy, which also answers the held-out
    prompts in the end; the policy itself draws the answers that are learnt from.
    """
    algorithm = settings.bound()
    prompts = prompts_of(data.read())
    loaded = load_trainable(context, model, settings)
    base = roles.beneath(loaded) if settings.lora and settings.one_base else None
    scorer = make(settings.scorer, context.tools(judges, settings.forest_tokens, base))
    policy = _engine(context, loaded, settings)
    if settings.keeps_reference:
        policy.keep_reference()
    if settings.ema_decay is not None:
        policy.keep_average(settings.ema_decay)
    critic = _critic(context, settings, reward or model, base) if algorithm.needs_critic else None
    generator = NativeGenerator(
        loaded, policy=context.key, max_rows=settings.live_answers, reference=lambda: policy.as_role("reference")
    )
    memory: dict[str, Tensor] = {}
    mixture = mixture_of(context, settings, pretrain, policy, memory)
    play = _Play(context, settings, algorithm, prompts, generator, scorer, policy, critic, mixture, memory)
    watched = prompts_of(held_out.read())[: settings.held_out_prompts] if held_out is not None else []
    before = play.rewards(watched)  # of the start's weights, also when going on: checkpoints are read below
    steps = play.total
    for step in updates(context, Learnt(policy, critic, settings.critic_rate), play.rows, play.total, settings,
                        memory):  # fmt: skip
        alarm = play.alarm()
        if alarm is not None:
            context.event("stopped", **alarm.facts)
            context.warn(alarm.words)
            steps = step.number - 1
            break
        play.learn(step)
    policy.take_average()
    about: dict[str, Any] = {"steps": steps, "base": model.source, "rows": len(prompts)}
    if watched:
        about["held_out"] = compared(before, play.rewards(watched))
        context.event("held_out_reward", step=context.first_step + steps, **about["held_out"])
        gain = read_gain(about["held_out"])
        if gain is not None:
            about["verdict"] = gain.verdict
    name = save_checkpoint(context, policy, steps, settings, None)
    with context.output({"model": name, **about}):
        pass
    forget(context, settings.rollouts)
    context.run.prune(context.key, 1)


def compared(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """Mean rewards of the same prompts before and after, and their paired difference, each with its interval."""
    both = sorted(before.keys() & after.keys())
    if not both:
        return {}
    sides = {"before": [before[one] for one in both], "after": [after[one] for one in both]}
    sides["gain"] = [late - early for early, late in zip(sides["before"], sides["after"], strict=True)]
    return {name: statistics.mean(values).plain for name, values in sides.items()}


@dataclass(frozen=True, slots=True)
class Learnt:
    """The policy and its critic, which step together and are saved together. rate: the critic's, in the policy's."""

    policy: Engine
    critic: Engine | None
    rate: float

    def backward(self, loss: Tensor) -> None:
        """One backward pass reaches both."""
        self.policy.backward(loss)

    def step(self, learning_rate: float, max_gradient_norm: float) -> float:
        """Steps both, each clipped by itself. Returns the policy's gradient norm."""
        if self.critic is not None:
            self.critic.step(self.rate * learning_rate, max_gradient_norm)
        return self.policy.step(learning_rate, max_gradient_norm)

    def save_model(self, folder: Path) -> None:
        """The policy alone."""
        self.policy.save_model(folder)

    def save_state(self, folder: Path) -> None:
        """Both."""
        self.policy.save_state(folder)
        if self.critic is not None:
            (folder / "critic").mkdir()
            self.critic.save_state(folder / "critic")

    def load_state(self, folder: Path) -> None:
        """Both."""
        self.policy.load_state(folder)
        if self.critic is not None:
            self.critic.load_state(folder / "critic")


@dataclass(frozen=True, slots=True)
class Judged:
    """A rollout with what it comes to. about: its means, for the log.

    advantage: as it is learnt from, that is corrected for the generator; the judgement's own is not.
    rows: with the answers alone that are learnt from.
    """

    rollout: Rollout
    judgement: Judgement
    advantage: Tensor | None
    rows: Sequence[Row]
    about: dict[str, float]

    def weights(self, rows: Sequence[int], algorithm: BoundAlgorithm, limit: int) -> tuple[Tensor, float]:
        """The weight of each token, [N], or pair, [P], in a step of these rows, and the divisor of the step."""
        taken = torch.isin(self.rollout.group, torch.tensor(list(rows))) & self.judgement.accepted
        if self.judgement.pairs is not None:
            each = taken[self.judgement.pairs[:, 0]].double()
            return each, float(each.sum())
        assert algorithm.reduction is not None, "losses of tokens become one somehow"
        found, divisor = step_weights(
            self.rollout.completion, self.rollout.group, taken.double(), algorithm.reduction, limit=limit
        )
        return found.token, divisor

    def part(self, token: Tensor, forest: Forest) -> PerToken:
        """What belongs to a forest, of numbers of all tokens, [N]."""
        return self.rollout.part(token, forest, self.judgement.accepted[self.rollout.completion])

    def share(self, weights: Tensor, forest: Forest) -> Tensor:
        """Of the weights of a step those of a forest's losses."""
        return self.part(weights, forest).token if self.judgement.pairs is None else weights[self._paired_in(forest)]

    def pairs(self, forest: Forest) -> Tensor:
        """The pairs of a forest as places among its answers, [P, 2]."""
        assert self.judgement.pairs is not None, "answers are paired"
        return torch.searchsorted(self._answers(forest), self.judgement.pairs[self._paired_in(forest)])

    def by_reference(self, forest: Forest) -> Tensor:
        """1 for the answers of a forest that the reference wrote, else 0."""
        return self.rollout.by_reference[self._answers(forest)].double()

    def _answers(self, forest: Forest) -> Tensor:
        """Which answers of the rollout those of a forest are, ascending."""
        return (torch.isin(self.rollout.group, torch.tensor(forest.rows)) & self.judgement.accepted).nonzero().flatten()

    def _paired_in(self, forest: Forest) -> Tensor:
        """Which pairs are of a forest."""
        assert self.judgement.pairs is not None, "answers are paired"
        return torch.isin(self.judgement.pairs[:, 0], self._answers(forest))


class _Play:
    """The rollouts of a run, one after the other, and what is learnt from each.

    memory: what must be known to go on, and checkpoints keep: what shaping remembers before and after the rollout
    under way, the critic's errors while it warms up, what watchdogs have seen, length and perplexity of the first
    rollout, and what a curriculum knows.
    """

    def __init__(
        self,
        context: Context,
        settings: Online,
        algorithm: BoundAlgorithm,
        prompts: Sequence[Group],
        generator: Generator,
        scorer: Scorer,
        policy: Engine,
        critic: Engine | None,
        mixture: Mixture | None,
        memory: dict[str, Tensor],
    ) -> None:
        self._context, self._settings, self._algorithm = context, settings, algorithm
        self._prompts, self._generator, self._scorer = prompts, generator, scorer
        self._policy, self._critic, self._mixture = policy, critic, mixture
        self._awake = False
        self._parts = settings.parts
        self._reads_later = settings.reads_while_learning
        self._current: tuple[int, Judged] | None = None
        first = _as_tensor(ShapingState.of(algorithm.shaping))
        memory |= {"rollout": torch.tensor(-1), "before": first, "after": first.clone()}
        self._memory = memory
        self._warmup = Warmup(settings.critic_warmup, settings.critic_settled, settings.critic_window, memory)
        self._watchdogs = Watchdogs(settings.stop, settings.stop_after, memory)
        self._place: dict[bytes, int] = {}
        if settings.curriculum is not None:
            memory[KNOWN] = nothing_seen(len(prompts))
            self._place = {prompt_hash(prompt): place for place, prompt in enumerate(prompts)}
        self.total = settings.steps

    def rows(self, step: int) -> list[Row]:
        """Those of an optimizer step, counted from 1. A new rollout is made where the last one is used up."""
        number, place = divmod(step - 1, self._algorithm.epochs * self._parts)
        epoch, part = divmod(place, self._parts)
        judged = self._judged(number)
        order = torch.randperm(len(judged.rollout.rows), generator=_stream(self._context.seed, number, epoch)).tolist()
        taken = set(judged.rollout.group[judged.judgement.accepted].tolist())
        return [judged.rows[row] for row in sorted(order[part :: self._parts]) if row in taken]

    def learn(self, step: Step) -> None:
        """Gathers the gradient of one optimizer step."""
        assert self._current is not None, "the step's rows were asked for before"
        number, judged = self._current
        algorithm = self._algorithm if self._awake else self._algorithm.critic_alone()
        weights, divisor = judged.weights([row.index for row in step.rows], algorithm, self._settings.max_new_tokens)
        read: dict[str, Tensor] = {}
        for forest in step.forests:
            offered = self._offered(judged, forest)
            step.add(algorithm.loss(**offered), judged.share(weights, forest), divisor)
            if self._reads_later:
                note(read, judged.rollout.start, forest, {name: offered[name] for name in READ_LATER})
        if self._mixture is not None and self._awake:
            self._mixture.add(step, self._policy)
        self._watchdogs.learnt(step.means())
        if self._reads_later:
            judged = self._known(number, judged, read)
        for name, value in judged.about.items():
            step.count(name, value, 1.0)

    def alarm(self) -> Alarm | None:
        """What has gone too far for the training to go on, if anything has. Looked at as a rollout begins."""
        assert self._current is not None, "the step's rows were asked for before"
        number, judged = self._current
        return self._watchdogs.alarm(number, judged.about, awake=self._awake)

    def rewards(self, prompts: Sequence[Group]) -> dict[str, float]:
        """The score of one answer to each prompt by the policy as it is, by the prompt's id, where there is one.

        The random numbers are always the same.
        """
        answered = self._answered(prompts, self._settings.sampling(), 1, self._context.seed) if prompts else []
        groups, _, failed = self._scored(answered)
        for reason, count in failed.items():
            self._context.warn(f"{count} answers to held-out prompts have no score: {reason}")
        return {replace(group, completions=()).id: _score(group.completions[0]) for group in groups}

    def _offered(self, judged: Judged, forest: Forest) -> dict[str, Any]:
        """What terms may ask for, of the tokens of a forest, or of the pairs of its answers."""
        read, judgement = judged.rollout.read, judged.judgement
        entropy = self._reads_later or self._algorithm.needs("entropy")
        now = self._policy.statistics(forest, temperature=self._settings.temperature, entropy=entropy)
        offered: dict[str, Any] = {"policy": now.logprobs}
        if judged.advantage is not None:
            offered["advantage"] = judged.part(judged.advantage, forest)
        if now.entropy is not None:
            offered["entropy"] = now.entropy
        for name in {"behaviour", "reference"} & read.keys():
            found = judged.part(read[name], forest)
            offered[name] = Logprobs(found.token, found.completion, found.count)
        if self._reads_later:
            offered["behaviour"] = now.logprobs.with_token(now.logprobs.token.detach())
        if self._critic is not None:
            assert judgement.returns is not None
            offered["value"] = self._critic.values(forest)
            offered["old_value"] = judged.part(read["value"], forest)
            offered["returns"] = judged.part(judgement.returns.token, forest)
        if judgement.pairs is not None:
            return paired({**offered, "from_reference": judged.by_reference(forest)}, judged.pairs(forest))
        return offered

    def _judged(self, number: int) -> Judged:
        if self._current is None or self._current[0] != number:
            rollout = kept(self._context, number, self._policy.renderer, lambda: self._drawn(number))
            again = int(self._memory["rollout"]) == number  # going on in the middle of it
            state = _as_state(self._memory["before" if again else "after"])
            if self._reads_later:  # the advantages do not depend on it; where something did, there would be no loss
                unknown = torch.full((int(rollout.start[-1]),), torch.nan)
                rollout = replace(rollout, read=rollout.read | dict.fromkeys(READ_LATER, unknown))
            judged, after = judge(self._algorithm, rollout, state, self._settings)
            self._awake = self._warmup.is_over(number, judged.about.get("critic_error"))
            if not self._awake:  # a policy that stands still has no KL, whatever its price
                after = replace(after, price=state.price)
            self._memory |= {"rollout": torch.tensor(number), "before": _as_tensor(state), "after": _as_tensor(after)}
            judged.about.update(beside_the_start(number, judged.about, self._memory))
            self._current = (number, judged)
            if not again:  # or it was told before
                if not self._reads_later:  # or it will be told once it is read
                    self._tell(number, judged)
                self._warmup.tell(self._context, number)
                self._see(rollout)
            forget(self._context, oldest_step(self._context) // (self._algorithm.epochs * self._parts))
        return self._current[1]

    def _known(self, number: int, judged: Judged, read: Mapping[str, Tensor]) -> Judged:
        """The same rollout with what the policy said of it while it learnt, which is then told."""
        rollout = replace(judged.rollout, read={**judged.rollout.read, **read})
        found, _ = judge(self._algorithm, rollout, _as_state(self._memory["before"]), self._settings)
        found.about.update(beside_the_start(number, found.about, self._memory))
        self._current = (number, found)
        self._tell(number, found)
        return found

    def _drawn(self, number: int) -> Rollout:
        """Answers to the next prompts, scored, and read by policy, reference and critic as they are now.

        A rival is scored with the others, as the last one, and then kept apart from them, if it is no part of a pair.
        """
        asked = [self._prompts[place] for place in self._next(number)]
        seed = self._context.seed * 1_000_003 + number
        groups = self._answered(asked, self._settings.sampling(), self._algorithm.group_size, seed)
        if self._algorithm.rival is not None:
            rivals = self._rivals(asked, self._algorithm.rival, ~seed)  # numbers of their own, or they would be alike
            groups = [_with(group, (*group.completions, one)) for group, one in zip(groups, rivals, strict=True)]
        groups, deviations, failed = self._scored(groups)
        if not groups:
            raise DataError(
                f"stage '{self._context.stage}', rollout {number + 1}: no answer has a score: {by_reason(failed)}"
            )
        apart = self._algorithm.rival is not None and not self._algorithm.pairs_answers
        rivals = [group.completions[-1] for group in groups] if apart else []
        drawn = [_with(group, group.completions[:-1]) for group in groups] if apart else groups
        rollout = Rollout.of(self._policy.renderer, drawn, rivals, {}, dict(failed))
        deviation = [one for row in deviations for one in (row[:-1] if apart else row)]
        return replace(
            rollout,
            read=per_token(rollout.rows, self._said, self._settings.forest_tokens),
            deviation=torch.tensor(deviation, dtype=torch.float64) if is_ensemble(self._settings.scorer) else None,
        )

    def _next(self, number: int) -> list[int]:
        """The prompts of a rollout."""
        count, seed, curriculum = self._settings.prompts, self._context.seed, self._settings.curriculum
        if curriculum is None:
            return in_turn(len(self._prompts), count, number, seed)
        return draw(chances(self._memory[KNOWN], curriculum.floor), count, hash_seed(seed, number, 0))

    def _see(self, rollout: Rollout) -> None:
        """Remembers how a rollout's prompts were rewarded, where it matters to which come next."""
        if self._settings.curriculum is not None:
            places = torch.tensor([self._place[prompt_hash(group)] for group in rollout.groups])
            self._memory[KNOWN] = seen(
                self._memory[KNOWN], places[rollout.group], rollout.score, self._settings.curriculum.memory
            )

    def _said(self, forest: Forest) -> dict[str, PerToken]:
        """What policy, reference and critic say as they are now; the policy only where it is asked before it learns."""
        heat = self._settings.temperature
        said: dict[str, PerToken] = {}
        if not self._reads_later:
            policy = self._policy.statistics(forest, temperature=heat, entropy=True)
            assert policy.entropy is not None
            said = {"behaviour": policy.logprobs, "entropy": policy.entropy}
        if self._settings.reads_reference:
            said["reference"] = self._policy.logprobs(forest, of="reference", temperature=heat)
        if self._critic is not None:
            said["value"] = self._critic.values(forest)
        return said

    def _answered(self, asked: Sequence[Group], sampling: Sampling, answers: int, seed: int) -> list[Group]:
        """The prompts with the policy's answers."""
        drawn = self._generator.generate(asked, sampling, answers=answers, seed=seed)
        return [_with(group, found) for group, found in zip(asked, drawn, strict=True)]

    def _rivals(self, asked: Sequence[Group], drawing: Drawing, seed: int) -> list[Completion]:
        """One answer to each prompt that the policy's own are compared with."""
        groups = self._answered(asked, replace(self._settings.sampling(), **drawing), 1, seed)
        source = FROM_REFERENCE if share_of_reference(drawing) == 1 else None
        return [replace(group.completions[0], source=source) for group in groups]

    def _scored(self, groups: Sequence[Group]) -> tuple[list[Group], list[list[float]], Counter[str]]:
        """The prompts with scored answers; those on which the scorer fails are left out and counted by reason.

        Between them, how far the parts of an ensemble are apart on each answer; NaN where nobody knows.
        """
        kept_groups: list[Group] = []
        deviations: list[list[float]] = []
        failed: Counter[str] = Counter()
        for group, scores in zip(groups, self._scorer(groups), strict=True):
            reasons = [score.reason for score in scores if score.value is None]
            if reasons:
                failed[reasons[0]] += 1
                continue
            scored = [replace(a, score=one.value) for a, one in zip(group.completions, scores, strict=True)]
            kept_groups.append(_with(group, scored))
            deviations.append([math.nan if one.deviation is None else one.deviation for one in scores])
        return kept_groups, deviations, failed

    def _tell(self, number: int, judged: Judged) -> None:
        """The answers that did best and worst, whole, for people to read; of some rollouts also token by token."""
        rollout, judgement = judged.rollout, judged.judgement
        extremes = showing.extremes(rollout)
        shown = [showing.whole(rollout, answer) for answer in extremes]
        # The first step that learns from it: going on from a checkpoint before that step makes and tells it again.
        step = self._context.first_step + number * self._algorithm.epochs * self._parts + 1
        place = {"rollout": number + 1, "step": step}
        self._context.event("rollout", **place, failed=rollout.failed, shown=shown, **judged.about)
        if not showing.is_sampled(number, self._settings.rollouts):
            return
        numbers = {"reward": judgement.reward.token}
        if judged.advantage is not None:
            numbers["advantage"] = judged.advantage
        if judgement.kl is not None:
            numbers["kl"] = judgement.kl.token
        if self._critic is not None:
            numbers["value"] = rollout.read["value"]
        answers = [
            one | showing.by_token(rollout, answer, numbers, self._policy.renderer)
            for one, answer in zip(shown, extremes, strict=True)
        ]
        self._context.run.sample({"stage": self._context.stage, **place, "answers": answers})


def judge(
    algorithm: BoundAlgorithm, rollout: Rollout, state: ShapingState, settings: Online
) -> tuple[Judged, ShapingState]:
    """Rewards and advantages of a rollout, and what shaping remembers of it."""
    found = algorithms.Rollout(
        score=rollout.score,
        completion=rollout.completion,
        group=rollout.group,
        limit=settings.max_new_tokens,
        behaviour=rollout.read["behaviour"],
        reference=rollout.read.get("reference"),
        value=rollout.read.get("value"),
        rival=torch.tensor([_score(answer) for answer in rollout.rival]) if rollout.rival else None,
        rival_length=torch.tensor([_tokens(answer) for answer in rollout.rival]) if rollout.rival else None,
    )
    judgement, after = algorithm.judge(found, state)
    advantage = None
    if judgement.advantage is not None:
        advantage = judgement.advantage.token * _corrected(rollout, settings.correction)
    kept_answers = iter(judgement.accepted.tolist())
    rows = [replace(row, answers=tuple(one for one in row.answers if next(kept_answers))) for row in rollout.rows]
    about = _means(rollout, found, judgement)
    if algorithm.prices_kl and algorithm.shaping.reward_kl_target is not None:
        about["kl/price"] = state.price.coefficient
    return Judged(rollout, judgement, advantage, rows, about), after


def _means(rollout: Rollout, found: algorithms.Rollout, judgement: Judgement) -> dict[str, float]:
    """What is told of a rollout: means over the answers that the policy wrote."""
    own = ~rollout.by_reference
    token = own[rollout.completion]
    score, length = rollout.score[own].double(), found.length[own].double()
    answers = [answer for group in rollout.groups for answer in group.completions if answer.source != FROM_REFERENCE]
    gap = (rollout.read["behaviour"] - rollout.sampled)[token]
    about = {
        "reward": float(score.mean()),
        "reward/deviation": float(score.std(correction=0)),
        "length": float(length.mean()),
        "finished": sum(answer.finished for answer in answers) / len(answers),
        "accepted": len(set(rollout.group[judgement.accepted].tolist())) / len(rollout.rows),
        "generator_gap": float(gap.abs().mean()),
        "entropy": float(rollout.read["entropy"][token].double().mean()),
    }
    if found.rival is not None:
        about["reward/rival"] = float(found.rival.double().mean())
    if judgement.win_rate is not None:
        about["win_rate"] = float(judgement.win_rate.double().mean())
    if judgement.kl is not None:
        about["kl"] = float(judgement.kl.sum[own].mean())
    if found.reference is not None:
        about["perplexity"] = float(found.reference[token].double().mean().neg().exp())
    if rollout.deviation is not None:
        about |= disagreement(rollout.score[own], rollout.deviation[own])
    if judgement.returns is not None:
        missed = judgement.returns.token.double() - rollout.read["value"].double()
        about["critic_error"] = float(missed.square().mean())
        about["explained_variance"] = explained_variance(rollout.read["value"], judgement.returns.token)
    return about


def _corrected(rollout: Rollout, correction: Correction) -> Tensor:
    """Weights of tokens for the difference of generator and engine, [N]."""
    if correction == "none":
        return torch.ones(1)
    count = len(rollout.group)
    behaviour, sampled = (
        Logprobs(token, rollout.completion, count) for token in (rollout.read["behaviour"], rollout.sampled)
    )
    weigh = truncated_importance if correction == "truncate" else masked_importance
    return weigh(behaviour, sampled).token


def _engine(context: Context, loaded: Loaded, settings: Online) -> Engine:
    return LocalEngine(
        loaded,
        weight_decay=settings.weight_decay,
        checkpointing=settings.checkpointing,
        dtype=compute_dtype(context.precision, context.device),
    )


def _critic(context: Context, settings: Online, start: Model, base: Loaded | None) -> Engine:
    """A model whose head says what reward is to come; where the policy is an adapter, so is the critic.

    base: that of the policy, which the critic uses too if it lies on it. A reward model's adapter is trained on as it
    is: merged, it would need weights of its own.
    """
    torch.manual_seed(context.seed)  # a head or an adapter may be drawn
    if settings.lora is None:
        return _engine(context, context.load(start, full_width=True, outputs=1), settings)
    source = start.source if gives_scores(start.source) else in_full(context, start).source
    below = Model(start.key, weights_of(source))
    if base is not None and context.shares(source, base, "critic"):
        loaded = roles.with_head(base)
    elif gives_scores(below.source):
        loaded = context.load(below, outputs=1, bits=settings.base_bits)
    else:
        loaded = roles.with_head(context.load(below, bits=settings.base_bits))
    if is_adapter(source):
        model = put_adapter(loaded.model, source, trainable=True)
    else:
        model = add_lora(
            loaded.model, rank=settings.lora.rank, alpha=settings.lora.alpha, targets=settings.lora.targets
        )
    return _engine(context, replace(loaded, model=model), settings)


def _score(answer: Completion) -> float:
    assert answer.score is not None, "answers of a rollout are scored"
    return answer.score


def _tokens(answer: Completion) -> int:
    assert answer.sampled is not None, "answers of a rollout are sampled"
    return len(answer.sampled.tokens)


def _with(group: Group, answers: Sequence[Completion]) -> Group:
    """The prompt with these answers."""
    return replace(group, completions=tuple(answers))


def _stream(*name: int) -> torch.Generator:
    """Random numbers of this name."""
    return torch.Generator().manual_seed(hash_seed(*name))


def hash_seed(seed: int, rollout: int, epoch: int) -> int:
    """A seed for each epoch of each rollout."""
    return (seed * 1_000_003 + rollout) * 1_009 + epoch


def _as_tensor(state: ShapingState) -> Tensor:
    """Its numbers, in float64, which holds them to the bit."""
    return torch.tensor([value for part in state.numbers().values() for value in part.values()], dtype=torch.float64)


def _as_state(numbers: Tensor) -> ShapingState:
    count, mean, square, coefficient = numbers.tolist()
    return ShapingState.restored(
        {"scale": {"count": count, "mean": mean, "square": square}, "price": {"coefficient": coefficient}}
    )
