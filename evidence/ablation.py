"""PPO with four epochs on each rollout, with the measures of PPO-max and without: each taken out alone, and all.

The reward is that of a reward model, as in learning from people, ten times as large, with noise whose variance is
infinite. What counts as stable is fixed here, before anything runs; so is the learning rate, by a rule that looks at no
measure alone.
"""

from __future__ import annotations

import math
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from evidence import running
from evidence.found import Found, short
from evidence.reviews import Trial
from truing.errors import GuardError
from truing.report.health import HEALTHY
from truing.store import Run

RECIPE = "frontier-ablation"
LAST = 0.25
"""Share of the rollouts, the last ones, whose means are looked at."""
WATCHED = ("kl", "entropy", "ratio/clipped", "kl/behaviour")
"""What is kept of each rollout and must end up in its healthy range."""
FREE = 1e9
"""A bound that nothing meets."""
DECAY = 0.95
"""Of the mean of the policy at each of some hundred optimizer steps."""


@dataclass(frozen=True, slots=True)
class Arm:
    """PPO without some measures.

    algorithm, stage: settings that differ from the recipe's; None: not set. buffer: rollouts that are one, and learnt
    from a part at a time. without: which of `reward` (as which the critic begins), `pretrain` (rows that stay likely)
    and `ema_decay` (the result is a mean of the policy) is not given.
    """

    name: str
    algorithm: Mapping[str, Any] = field(default_factory=dict)
    stage: Mapping[str, Any] = field(default_factory=dict)
    buffer: int = 1
    without: tuple[str, ...] = ()


ALL = Arm("all measures")
MIXTURE = Arm("pre-training mixture", without=("pretrain",))
_STEERING: Mapping[str, Any] = {"reward_kl_target": None, "reward_kl_horizon": None}
ALONE = (
    Arm("reward scaling", {"reward_scaling": "none"}),
    Arm("reward clipping", {"reward_clip": FREE}),
    Arm("KL in the reward", {"reward_kl": 0.0, **_STEERING}),
    Arm("steering of the KL", _STEERING),
    Arm("critic from the reward model", without=("reward",)),
    Arm("critic warm-up", stage={"critic_warmup": 0}),
    Arm("value clipping", {"value_range": FREE}),
    Arm("policy clipping", {"clip_low": FREE, "clip_high": FREE}),
    Arm("advantage scaling", {"advantage_scaling": "none"}),
    Arm("advantage clipping", {"advantage_clip": FREE}),
    Arm("entropy bonus", {"entropy_bonus_weight": 0.0}),
    MIXTURE,
    Arm("mean of the policy", without=("ema_decay",)),
    Arm("gradient clipping", stage={"max_gradient_norm": FREE}),
    Arm("small buffer", buffer=4),
)
"""Each without the one measure that it is named after."""


def together(name: str, arms: Sequence[Arm]) -> Arm:
    """Without the measures of all these."""
    return Arm(
        name,
        algorithm={key: value for arm in arms for key, value in arm.algorithm.items()},
        stage={key: value for arm in arms for key, value in arm.stage.items()},
        buffer=max(arm.buffer for arm in arms),
        without=tuple(name for arm in arms for name in arm.without),
    )


PLAIN = together("plain", ALONE)
BESIDE = tuple(together(f"mixture and {arm.name}", (MIXTURE, arm)) for arm in ALONE if arm is not MIXTURE)
"""Each without one measure and the mixture, which holds a policy so near the reference that little else shows."""


def ablation(trial: Trial) -> None:
    """All measures and none at several learning rates; then without each alone, and without it and the mixture."""
    trial.found.piece("ablation/reference", lambda: reference(trial))
    for seed in range(trial.size.seeds):
        for rate in trial.size.rates:
            for arm in (ALL, PLAIN):
                played(trial, arm, rate, seed)
    rate = breaking_rate(trial.found)
    for seed in range(trial.size.seeds):
        for arm in (*ALONE, *BESIDE):
            played(trial, arm, rate, seed)


def reference(trial: Trial) -> dict[str, Any]:
    """The model that all begin with, on the same openings."""
    settings = {"model": trial.reference, "data.path": trial.held_out, "score.scorer": trial.truth}
    with running.passing_run("frontier-pairs", trial.folder / "start", settings) as finished:
        return {"reward": fmean(trial.measured(finished)["reward"])}


def played(trial: Trial, arm: Arm, rate: float, seed: int) -> None:
    """One training: what its rollouts and the answers of its end were like."""

    def find() -> dict[str, Any]:
        folder = trial.folder / "played"
        settings = {"model": trial.reference, "seed": seed, **settings_of(trial, arm, rate), **trial.measuring()}
        steps = int(settings["online.algorithm"]["epochs"]) * arm.buffer
        try:
            with running.passing_run(RECIPE, folder, settings) as finished:
                measured = trial.measured(finished)
                means = {name: short([fmean(measured[name])])[0] for name in ("reward", "kl")}
                return {**means, "course": course(finished, steps)}
        except GuardError as error:
            broken = course(Run.read(folder), steps)
            shutil.rmtree(folder)
            return {"broke": str(error), "course": broken}

    trial.found.piece(f"ablation/{rate:g}/{arm.name}/{seed}", find)


def settings_of(trial: Trial, arm: Arm, rate: float) -> dict[str, Any]:
    """The recipe's settings with the arm's in their place. All arms see as many answers, in as many steps."""
    (stage, *_) = tomllib.loads((running.RECIPES / f"{RECIPE}.toml").read_text())["stage"]
    algorithm = {**stage["algorithm"], **arm.algorithm}
    judge, noise = stage["scorer"]["of"]
    given: dict[str, Any] = {
        "data.path": trial.openings,
        "online.algorithm": {key: value for key, value in algorithm.items() if value is not None},
        "online.scorer": {**stage["scorer"], "of": [{**judge, "model": trial.reward}, noise]},
        "online.learning_rate": rate,
        "online.rollouts": trial.size.rough // arm.buffer,
        "online.prompts": stage["prompts"] * arm.buffer,
        "online.critic_warmup": stage["critic_warmup"] // arm.buffer,
    }
    given |= {f"online.{key}": value for key, value in arm.stage.items()}
    beside = {"reward": trial.reward, "pretrain": trial.demonstrations, "ema_decay": DECAY}
    return given | {f"online.{key}": value for key, value in beside.items() if key not in arm.without}


def course(run: Run, steps: int) -> list[dict[str, float]]:
    """The means of each rollout over its optimizer steps. steps: of a rollout."""
    every = [event["metrics"] for event in run.events("online", "step")]
    rollouts = [every[first : first + steps] for first in range(0, len(every), steps)]
    return [dict(_means(some)) for some in rollouts]


def breaking_rate(found: Found) -> float:
    """The lowest learning rate at which PPO without measures is stable in less than half of its seeds; or the last."""
    rates = sorted({float(rate) for (rate, *rest), _ in found.under("ablation") if rest})
    for rate in rates:
        plain = runs(found, rate, PLAIN)
        if 2 * sum(not faults(run, start(found)) for run in plain) < len(plain):
            return rate
    return rates[-1]


def start(found: Found) -> float:
    """The true reward of the model that all begin with."""
    return float(found.pieces["ablation/reference"]["reward"])


def runs(found: Found, rate: float, arm: Arm) -> list[Mapping[str, Any]]:
    """The trainings of an arm, by seed."""
    return [run for _, run in found.under("ablation", f"{rate:g}", arm.name)]


def faults(run: Mapping[str, Any], began: float) -> list[str]:
    """Why a training was not stable; nothing where it was.

    It is stable if it came to its end, and if over its last quarter of rollouts each of `WATCHED` lies in the range
    that docs/health.md gives it: KL from the reference, entropy, share of clipped tokens, KL of one rollout's updates.
    And the answers of its end must be better than those it began with, by the true reward.

    began: the true reward there.
    """
    if "broke" in run:
        return ["broke off"]
    found = []
    for name in WATCHED:
        value = late(run, name)
        if value is not None and not HEALTHY[name].healthy.holds(value):
            found.append(name)
    return found if run["reward"] > began else [*found, "reward"]


def late(run: Mapping[str, Any], name: str) -> float | None:
    """The mean of a number over the last quarter of the rollouts; None where no rollout has it."""
    rollouts = run["course"]
    last = rollouts[-max(1, math.ceil(LAST * len(rollouts))) :]
    values = [one[name] for one in last if name in one]
    return fmean(values) if values else None


def common_faults(some: Sequence[Mapping[str, Any]], began: float) -> list[str]:
    """Why trainings were not stable, the commonest reason first."""
    return [name for name, _ in Counter(name for run in some for name in faults(run, began)).most_common()]


def _means(steps: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    for name in WATCHED:
        values = [step[name] for step in steps if name in step]
        if values:
            yield name, short([fmean(values)])[0]
