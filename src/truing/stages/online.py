"""Online reinforcement learning: the policy answers, a scorer judges, and the policy learns from its own answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from truing import statistics
from truing.compute import Engine
from truing.compute.engine.local import LocalEngine
from truing.compute.generate.native import NativeGenerator
from truing.errors import GuardError
from truing.models import Loaded, add_lora, gives_scores, is_adapter, put_adapter, roles, weights_of
from truing.models.precision import compute_dtype
from truing.records import Group
from truing.report.rollouts import read_gain
from truing.scoring.scorers import make
from truing.stages.context import Context, Groups, Judges, Model
from truing.stages.merge import in_full
from truing.stages.mixture import mixture_of
from truing.stages.online_settings import Online
from truing.stages.play import Play
from truing.stages.rollouts import forget, prompts_of
from truing.stages.training import load_trainable, save_checkpoint, updates
from truing.store import disk


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
    if settings.strays:
        context.warn(settings.strays)
    prompts = prompts_of(data.read())
    watched = prompts_of(held_out.read())[: settings.held_out_prompts] if held_out is not None else []
    loaded = load_trainable(context, model, settings)
    base = roles.beneath(loaded) if settings.lora and settings.one_base else None
    first = context.ranks.rank == 0  # it draws and scores for all
    scorer = make(settings.scorer, context.tools(judges, settings.forest_tokens, base)) if first else _unasked
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
    play = Play(context, settings, algorithm, prompts, generator, scorer, policy, critic, mixture, memory)
    # of the start's weights, also when going on: checkpoints are read below
    before = context.ranks.tell(lambda: play.rewards(watched))
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
    about["chat_template"] = policy.renderer.template_hash
    if watched:
        about["held_out"] = compared(before, context.ranks.tell(lambda: play.rewards(watched)))
        context.event("held_out_reward", step=context.first_step + steps, **about["held_out"])
        gain = read_gain(about["held_out"])
        if gain is not None:
            about["verdict"] = gain.verdict
    name = save_checkpoint(context, policy, steps, settings, None)
    with context.output({"model": name, **about}):
        pass
    if first:
        forget(context)
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
        """Steps both, each clipped by itself, or neither. Returns the policy's gradient norm."""
        if self.critic is not None:
            self.policy.demand_finite_gradient()
            try:
                self.critic.step(self.rate * learning_rate, max_gradient_norm)
            except GuardError as error:
                raise GuardError(f"of the critic, {error}") from None
        return self.policy.step(learning_rate, max_gradient_norm)

    def discard(self) -> None:
        """Forgets the gradients of both."""
        self.policy.discard()
        if self.critic is not None:
            self.critic.discard()

    def save_model(self, folder: Path) -> None:
        """The policy alone."""
        self.policy.save_model(folder)

    def save_state(self, folder: Path) -> None:
        """Both."""
        self.policy.save_state(folder)
        if self.critic is not None:
            disk.make_folder(folder / "critic")
            self.critic.save_state(folder / "critic")

    def load_state(self, folder: Path) -> None:
        """Both."""
        self.policy.load_state(folder)
        if self.critic is not None:
            self.critic.load_state(folder / "critic")


def _engine(context: Context, loaded: Loaded, settings: Online) -> Engine:
    return LocalEngine(
        loaded,
        weight_decay=settings.weight_decay,
        checkpointing=settings.checkpointing,
        dtype=compute_dtype(context.precision, context.device),
        ranks=context.ranks,
    )


def _unasked(groups: Sequence[Group]) -> NoReturn:
    """The scorer of ranks that have nothing to score."""
    raise AssertionError("the first rank scores for all")


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
