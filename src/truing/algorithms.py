"""Online algorithms, one row each: how answers are rewarded, compared, accepted, and made into one loss.

A row reads beside its paper. The parts are functions whose signatures say what they ask for and which settings they
have; the settings of all parts of a row are the settings of the algorithm, each by its own name. Losses are of tokens,
or of pairs where a row pairs answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, create_model
from torch import Tensor

from truing.advantages import (
    batch_baseline,
    clip_advantage,
    discounted,
    gae,
    greedy_baseline,
    group_centre,
    group_zscore,
    half_baseline,
    leave_one_out,
    whiten,
)
from truing.errors import ConfigError, did_you_mean
from truing.objectives.likelihood import nll
from truing.objectives.pairwise import dpo, xpo
from truing.objectives.policy import cispo, entropy_bonus, gspo, kl_penalty, ppo_clip, reinforce
from truing.objectives.value import value_clip
from truing.reductions import OnlineReduction
from truing.rivals import (
    Drawing,
    best_and_worst,
    geometric_mixture,
    greedy,
    reference_alone,
    share_of_reference,
    win_rate,
)
from truing.shaping import RunningScale, Shaping, ShapingState, kl_in_reward, shaped, terminal_reward
from truing.signatures import NonNegative, Settings, asks_for, settings_of, validated
from truing.tensors import Loss, PerToken

Function = Callable[..., Any]
Acceptance = Callable[[Tensor, Tensor], Tensor]

NEEDS: dict[str, str] = {
    "policy": "log-probabilities under the model that is trained",
    "behaviour": "log-probabilities under the model as it was when it wrote the answers, by the same engine",
    "advantage": "how much better than expected each token was",
    "reference": "log-probabilities under the model it must stay near",
    "entropy": "entropy of the policy's whole distribution where each token is chosen",
    "value": "what the critic expects before each token",
    "old_value": "what the critic expected at the rollout",
    "returns": "what the critic should have expected",
    "from_reference": "1 for answers that the reference wrote, else 0",
}
"""What terms may ask for."""


@dataclass(frozen=True, slots=True)
class Term:
    """A part of the loss. One of weight 0 is not computed, and what it asks for is not either."""

    function: Callable[..., Loss]
    weight: float = 1.0

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__


def every_group(score: Float[Tensor, " C"], group: Int[Tensor, " C"]) -> Bool[Tensor, " C"]:
    """All answers."""
    return torch.ones_like(group, dtype=torch.bool)


def mixed_groups(score: Float[Tensor, " C"], group: Int[Tensor, " C"]) -> Bool[Tensor, " C"]:
    """The answers of groups whose scores differ: dynamic sampling, Eq. 11 of arXiv:2503.14476 (DAPO).

    The scores are the scorer's own, before any shaping. A group of one is never mixed.
    """
    groups = int(group.max()) + 1 if len(group) else 0
    low = score.new_full((groups,), torch.inf).scatter_reduce(0, group, score, "amin")
    high = score.new_full((groups,), -torch.inf).scatter_reduce(0, group, score, "amax")
    return (low < high)[group]


def best_of_group(score: Float[Tensor, " C"], group: Int[Tensor, " C"]) -> Bool[Tensor, " C"]:
    """The best answer of each group whose scores differ, the first of equals: a group of equals has none to follow."""
    chosen = torch.zeros_like(group, dtype=torch.bool)
    chosen[best_and_worst(score, group)[:, 0]] = True
    return chosen


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A row of the table.

    terms: of the loss; the first is that of the policy and has weight 1. advantage: one of `truing.advantages`, where
    terms ask for it. reduction: how losses of tokens become one; losses of pairs all count alike.
    rival: how one more answer to each prompt is drawn, to compare the policy's own with. preference: what the reward of
    an answer becomes beside its rival's. pairing: which answers form a pair, of which the terms then are; the rival is
    one of them. normalisation: what is done to the advantages of all tokens of a step.
    acceptance: which answers are learnt from at all. shaping: what becomes of the scores. settings: what differs from
    the parts' own defaults. group_size: answers to each prompt. epochs: updates that each answer takes part in.
    """

    terms: tuple[Term, ...]
    advantage: Function | None = None
    reduction: OnlineReduction | None = None
    rival: Function | None = None
    preference: Function | None = None
    pairing: Function | None = None
    normalisation: tuple[Function, ...] = ()
    acceptance: Acceptance = every_group
    shaping: Shaping = field(default_factory=Shaping)
    settings: Mapping[str, Any] = field(default_factory=dict)
    group_size: int = 1
    epochs: int = 1

    def advantage_asks_for(self, name: str) -> bool:
        """Whether there are advantages that do."""
        return self.advantage is not None and name in asks_for(self.advantage)

    @property
    def needs_critic(self) -> bool:
        """Whether the advantages ask for values."""
        return self.advantage_asks_for("value")

    @property
    def is_duel(self) -> bool:
        """Whether one answer meets its rival, and a scorer sees these two side by side."""
        return self.rival is not None and (self.preference is not None or self.pairing is not None)

    @property
    def compares_groups(self) -> bool:
        """Whether answers to one prompt are compared with one another, so that one alone teaches nothing."""
        if self.rival is not None:
            return False
        return self.advantage_asks_for("group") or self.pairing is not None or self.acceptance is best_of_group

    @property
    def all_terms(self) -> tuple[Term, ...]:
        """With those that any algorithm whose losses are of tokens may be given by their weights."""
        own = {term.name for term in self.terms}
        return self.terms + tuple(term for term in ANY_TERM if self.pairing is None and term.name not in own)

    @property
    def parts(self) -> tuple[Function, ...]:
        """All functions with settings."""
        found = (self.advantage, *self.normalisation, self.rival, self.preference, self.pairing)
        return (*(part for part in found if part is not None), *(term.function for term in self.all_terms))

    @property
    def shaping_settings(self) -> tuple[str, ...]:
        """Those that count: without advantages none does, but for the length that orders the answers of a pair."""
        if self.advantage is not None:
            return tuple(Shaping.model_fields)
        return ("overlong_share",) if self.pairing is not None else ()


ANY_TERM = (Term(kl_penalty, weight=0.0), Term(entropy_bonus, weight=0.0))


# Policy gradient with the mean reward as the baseline: Williams (1992).
REINFORCE = Algorithm(
    advantage=batch_baseline,
    terms=(Term(reinforce),),
    reduction="sequence_sum",
    shaping=Shaping(reward_kl=0.05),
)

# Advantage actor-critic: the synchronous form of A3C, arXiv:1602.01783.
A2C = Algorithm(
    advantage=gae,
    terms=(Term(reinforce), Term(value_clip), Term(entropy_bonus, weight=0.01)),
    reduction="token_mean",
    shaping=Shaping(reward_kl=0.05),
    settings={"lam": 1.0, "value_range": None},
)

# Proximal policy optimisation, arXiv:1707.06347, with the KL of arXiv:1909.08593 in the reward.
PPO = Algorithm(
    advantage=gae,
    normalisation=(whiten,),
    terms=(Term(ppo_clip), Term(value_clip)),
    reduction="token_mean",
    shaping=Shaping(reward_kl=0.05),
    epochs=4,
)

# PPO-max: section 5.4 of arXiv:2307.04964. The critic's warm-up, the pre-training mixture, the mean of the policy and
# the clipping of gradients are the stage's.
PPO_MAX = Algorithm(
    advantage=gae,
    normalisation=(whiten, clip_advantage),
    terms=(Term(ppo_clip), Term(value_clip)),
    reduction="token_mean",
    shaping=Shaping(reward_scaling="standard", reward_clip=10.0, reward_kl=0.05),
    epochs=4,
)

# REINFORCE++, arXiv:2501.03262: PPO without a critic, advantages whitened over the whole step.
REINFORCE_PP = Algorithm(
    advantage=discounted,
    normalisation=(whiten,),
    terms=(Term(ppo_clip),),
    reduction="token_mean",
    shaping=Shaping(reward_kl=0.01),
)

# REINFORCE++ with baseline, arXiv:2501.03262: less the group's mean, then whitened; the KL is a term of the loss.
REINFORCE_PP_BASELINE = Algorithm(
    advantage=group_centre,
    normalisation=(whiten,),
    terms=(Term(ppo_clip), Term(kl_penalty, weight=0.01)),
    reduction="token_mean",
    settings={"estimator": "k2"},
    group_size=8,
)

# REINFORCE leave-one-out, arXiv:2402.14740: a whole answer is one action.
RLOO = Algorithm(
    advantage=leave_one_out,
    terms=(Term(reinforce),),
    reduction="sequence_sum",
    shaping=Shaping(reward_kl=0.05),
    group_size=4,
)

# ReMax, arXiv:2310.10505: the baseline is the reward of the greedy answer, which is sampled besides.
REMAX = Algorithm(
    rival=greedy,
    advantage=greedy_baseline,
    terms=(Term(reinforce),),
    reduction="sequence_sum",
    shaping=Shaping(reward_kl=0.05),
)

# Group relative policy optimisation, arXiv:2402.03300.
GRPO = Algorithm(
    advantage=group_zscore,
    terms=(Term(ppo_clip), Term(kl_penalty, weight=0.04)),
    reduction="sequence_mean",
    group_size=8,
)

# GRPO done right, arXiv:2503.20783: no division by the deviation, nor by an answer's own length.
DR_GRPO = Algorithm(
    advantage=group_centre,
    terms=(Term(ppo_clip),),
    reduction="constant",
    group_size=8,
)

# Decoupled clip and dynamic sampling policy optimisation, arXiv:2503.14476.
DAPO = Algorithm(
    advantage=group_zscore,
    terms=(Term(ppo_clip),),
    reduction="token_mean",
    acceptance=mixed_groups,
    shaping=Shaping(overlong_share=0.2),
    settings={"clip_high": 0.28},
    group_size=16,
)

# Group sequence policy optimisation, arXiv:2507.18071.
GSPO = Algorithm(
    advantage=group_zscore,
    terms=(Term(gspo),),
    reduction="sequence_mean",
    group_size=8,
)

# Clipped importance sampling policy optimisation, arXiv:2506.13585.
CISPO = Algorithm(
    advantage=group_zscore,
    terms=(Term(cispo),),
    reduction="token_mean",
    group_size=8,
)

# Online DPO: on-policy pairs that the scorer orders, arXiv:2402.04792 (OAIF); of more answers the best and the worst.
ONLINE_DPO = Algorithm(
    pairing=best_and_worst,
    terms=(Term(dpo),),
    group_size=2,
)

# Exploratory preference optimisation, arXiv:2405.21046: an answer of the policy against one of the reference.
XPO = Algorithm(
    rival=reference_alone,
    pairing=best_and_worst,
    terms=(Term(xpo),),
)

# Nash-MD by policy gradient, section 7 of arXiv:2312.00886: the reward is the chance to be preferred to the rival.
NASH_MD = Algorithm(
    rival=geometric_mixture,
    preference=win_rate,
    advantage=half_baseline,
    terms=(Term(reinforce),),
    reduction="sequence_sum",
    shaping=Shaping(reward_kl=0.008),
)

# Best-of-n distillation by likelihood: RAFT, arXiv:2304.06767.
BEST_OF_N = Algorithm(
    acceptance=best_of_group,
    terms=(Term(nll),),
    reduction="token_mean",
    group_size=8,
)

ALGORITHMS: dict[str, Algorithm] = {
    name.lower(): value for name, value in tuple(globals().items()) if isinstance(value, Algorithm)
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """What is known of the answers of one step before the first update, of N tokens, C answers and G prompts.

    score [C]: the scorer's own. completion [N], group [C]: whose they are. limit: most tokens an answer could have.
    behaviour [N]: log-probabilities at the temperature of sampling. reference [N], value [N], rival [G]: where the
    algorithm needs them; rival is the score of each prompt's rival, rival_length its number of tokens. A rival that is
    one of a pair stands among the answers instead.
    """

    score: Float[Tensor, " C"]
    completion: Int[Tensor, " N"]
    group: Int[Tensor, " C"]
    limit: int
    behaviour: Float[Tensor, " N"]
    reference: Float[Tensor, " N"] | None = None
    value: Float[Tensor, " N"] | None = None
    rival: Float[Tensor, " G"] | None = None
    rival_length: Int[Tensor, " G"] | None = None

    @property
    def length(self) -> Int[Tensor, " C"]:
        """Tokens of each answer."""
        return torch.bincount(self.completion, minlength=len(self.group))

    def per_token(self, token: Float[Tensor, " N"]) -> PerToken:
        """Numbers of the tokens with whose they are."""
        return PerToken(token, self.completion, len(self.group))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rollout comes to, for each token but where said otherwise.

    advantage: where terms ask for it. returns: where there is a critic. kl: where there is a reference.
    win_rate [C]: where answers are preferred to a rival. pairs [P, 2]: places of the chosen and the rejected answers,
    where they are paired. accepted [C]: which answers are learnt from.
    """

    reward: PerToken
    advantage: PerToken | None
    returns: PerToken | None
    kl: PerToken | None
    win_rate: Float[Tensor, " C"] | None
    pairs: Int[Tensor, "P 2"] | None
    accepted: Bool[Tensor, " C"]


@dataclass(frozen=True, slots=True)
class BoundAlgorithm:
    """An algorithm with its settings, those of the recipe in place of the row's.

    options: the settings of the functions by name. terms: with their weights, those of weight 0 left out.
    """

    name: str
    algorithm: Algorithm
    options: Mapping[str, Any]
    terms: tuple[Term, ...]
    shaping: Shaping
    reduction: OnlineReduction | None
    group_size: int
    epochs: int

    def needs(self, name: str) -> bool:
        """Whether the advantages, the shaping, the rival or a term ask for this."""
        if name == "reference" and (self.prices_kl or share_of_reference(self.rival) > 0):
            return True
        asked = any(name in asks_for(term.function) for term in self.terms)
        return asked or self.algorithm.advantage_asks_for(name)

    @property
    def needs_critic(self) -> bool:
        """Whether the advantages ask for values."""
        return self.algorithm.needs_critic

    @property
    def accepts_all(self) -> bool:
        """Whether every answer is learnt from, token by token."""
        return self.algorithm.acceptance is every_group and not self.pairs_answers

    @property
    def prices_kl(self) -> bool:
        """Whether the reward is lowered by the KL from the reference."""
        return self.shaping.reward_kl > 0

    @property
    def rival(self) -> Drawing | None:
        """In what the sampling of one more answer to each prompt differs, where there is one."""
        function = self.algorithm.rival
        return None if function is None else function(**self._options(function))

    @property
    def pairs_answers(self) -> bool:
        """Whether losses are of pairs."""
        return self.algorithm.pairing is not None

    @property
    def learnt(self) -> int:
        """Answers to each prompt that are learnt from, at most."""
        if self.pairs_answers:
            return 2
        return 1 if self.algorithm.acceptance is best_of_group else self.group_size

    def critic_alone(self) -> BoundAlgorithm:
        """With the critic's term and no other, for the rollouts in which only it learns."""
        return replace(self, terms=tuple(term for term in self.terms if term.function is value_clip))

    def judge(self, rollout: Rollout, state: ShapingState) -> tuple[Judgement, ShapingState]:
        """Rewards, advantages and pairs of a rollout, and what shaping remembers of it."""
        scale = state.scale.seen(rollout.score)
        answer = shaped(rollout.score, rollout.length, self.shaping, scale, limit=rollout.limit)
        rival = self._rival(rollout, scale)
        pairs = self._paired(answer, rollout)
        preferred = self._preferred(answer, rollout, rival)
        answer = answer if preferred is None else preferred
        token = terminal_reward(answer, rollout.completion).to(rollout.behaviour.dtype)
        kl, price = None, state.price
        if self.prices_kl:
            assert rollout.reference is not None, "an algorithm with a KL in the reward needs the reference"
            kl = kl_in_reward(rollout.behaviour, rollout.reference, estimator=self.shaping.reward_kl_estimator)
            token = token - price.coefficient * kl
            price = price.after(
                float(rollout.per_token(kl).sum.mean()),
                len(rollout.group),
                target=self.shaping.reward_kl_target,
                horizon=self.shaping.reward_kl_horizon,
            )
        elif rollout.reference is not None:
            kl = kl_in_reward(rollout.behaviour, rollout.reference)
        reward = rollout.per_token(token)
        advantage, returns = self._compared(rollout, reward, rival)
        judgement = Judgement(
            reward,
            None if advantage is None else rollout.per_token(advantage),
            None if returns is None else rollout.per_token(returns),
            None if kl is None else rollout.per_token(kl),
            preferred,
            pairs,
            self._accepted(rollout, pairs),
        )
        return judgement, ShapingState(scale, price)

    def loss(self, **offered: Any) -> Loss:
        """The weighted sum of the terms, one loss per token or pair, given of what is offered what they ask for."""
        first, *others = (
            term.weight * term.function(**{name: offered[name] for name in asks_for(term.function)},
                                        **self._options(term.function))
            for term in self.terms
        )  # fmt: skip
        return sum(others, first)

    def _rival(self, rollout: Rollout, scale: RunningScale) -> Tensor | None:
        """The reward of each prompt's rival that stands apart from the answers."""
        if self.algorithm.rival is None or self.pairs_answers:
            return None
        assert rollout.rival is not None, "this algorithm needs the score of each prompt's rival"
        assert rollout.rival_length is not None, "and its length, which is shaped as the others'"
        return shaped(rollout.rival, rollout.rival_length, self.shaping, scale, limit=rollout.limit)

    def _preferred(self, answer: Tensor, rollout: Rollout, rival: Tensor | None) -> Tensor | None:
        """The chance of each answer to be preferred to its rival, where that is its reward."""
        function = self.algorithm.preference
        return None if function is None else function(answer, rollout.group, rival, **self._options(function))

    def _paired(self, answer: Tensor, rollout: Rollout) -> Tensor | None:
        function = self.algorithm.pairing
        return None if function is None else function(answer, rollout.group, **self._options(function))

    def _accepted(self, rollout: Rollout, pairs: Tensor | None) -> Tensor:
        """Which answers are learnt from: those in pairs, where losses are of pairs."""
        if pairs is None:
            return self.algorithm.acceptance(rollout.score, rollout.group)
        return torch.isin(torch.arange(len(rollout.group), device=pairs.device), pairs)

    def _compared(
        self, rollout: Rollout, reward: PerToken, rival: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The advantage of each token, where there is one, and the returns where there is a critic."""
        function = self.algorithm.advantage
        if function is None:
            return None, None
        offered: dict[str, Any] = {
            "reward": reward.token if of_tokens(function) else reward.sum.to(reward.token.dtype),
            "completion": rollout.completion,
            "group": rollout.group,
            "value": rollout.value,
            "greedy": rival,
        }
        found = function(**{name: offered[name] for name in asks_for(function)}, **self._options(function))
        advantage, returns = found if self.needs_critic else (found, None)
        advantage = advantage if of_tokens(function) else advantage[rollout.completion]
        for normalise in self.algorithm.normalisation:
            advantage = normalise(advantage, **self._options(normalise))
        return advantage, returns

    def _options(self, function: Function) -> dict[str, Any]:
        return {name: self.options[name] for name in settings_of(function).model_fields}


def of_tokens(advantage: Function) -> bool:
    """Whether an advantage is of rewards of tokens, not of answers."""
    return " N" in asks_for(advantage)["reward"]


@lru_cache(maxsize=64)
def schema(name: str) -> type[Settings]:
    """All settings of the algorithm of this name, with its defaults: what a recipe may set."""
    algorithm = _named(name, "algorithm")
    fewest = 2 if algorithm.compares_groups else 1
    fields: dict[str, Any] = {
        "epochs": (int, Field(algorithm.epochs, ge=1, description="updates that each answer takes part in")),
    }
    if not algorithm.is_duel:
        words = "answers to each prompt"
        fields["group_size"] = (int, Field(algorithm.group_size, ge=fewest, description=words))
    if algorithm.reduction is not None:
        words = "how losses of tokens become one"
        fields["reduction"] = (OnlineReduction, Field(algorithm.reduction, description=words))
    for key in algorithm.shaping_settings:
        fields[key] = _with_default(Shaping.model_fields[key], algorithm.shaping.model_dump()[key])
    for function in algorithm.parts:
        for key, setting in settings_of(function).model_fields.items():
            fields[key] = _with_default(setting, algorithm.settings.get(key, setting.default))
    for term in algorithm.all_terms[1:]:
        words = f"weight of {term.name} in the loss; 0: it is not computed"
        fields[f"{term.name}_weight"] = (NonNegative, Field(term.weight, description=words))
    return create_model(name, __base__=Settings, **fields)


def bind(table: Mapping[str, Any], where: str = "algorithm") -> BoundAlgorithm:
    """The algorithm of a recipe's table: `name` and settings, which are checked and spelled out."""
    name = table.get("name")
    if not isinstance(name, str):
        raise ConfigError(
            f'{where}: say which one: {where} = "grpo", or {where} = {{ name = "grpo", clip_high = 0.28 }}'
        )
    algorithm = _named(name, where)
    given = {key: value for key, value in table.items() if key != "name"}
    settings = validated(schema(name), given, where)
    chosen = settings.model_dump()
    _refuse_idle(algorithm, given, chosen, where)
    if algorithm.needs_critic and not chosen["value_clip_weight"]:
        raise ConfigError(
            f"{where}.value_clip_weight: is 0, so that the critic that '{name}' needs never learns: set it above 0"
        )
    policy, *others = algorithm.all_terms
    weighted = (Term(term.function, chosen[f"{term.name}_weight"]) for term in others)
    return BoundAlgorithm(
        name=name,
        algorithm=algorithm,
        options={key: chosen[key] for function in algorithm.parts for key in settings_of(function).model_fields},
        terms=(policy, *(term for term in weighted if term.weight)),
        shaping=Shaping(**{key: chosen[key] for key in algorithm.shaping_settings}),
        reduction=chosen.get("reduction"),
        group_size=chosen.get("group_size", algorithm.group_size),
        epochs=chosen["epochs"],
    )


def _named(name: str, where: str) -> Algorithm:
    if name not in ALGORITHMS:
        raise ConfigError(f"{where}: algorithm '{name}' does not exist{did_you_mean(name, ALGORITHMS)}")
    return ALGORITHMS[name]


def _refuse_idle(algorithm: Algorithm, given: Mapping[str, Any], chosen: Mapping[str, Any], where: str) -> None:
    """A setting that would change nothing is a mistake."""
    needed = {
        "reward_kl_estimator": "reward_kl",
        "reward_kl_target": "reward_kl",
        "reward_kl_horizon": "reward_kl_target",
    }
    for term in algorithm.all_terms[1:]:
        needed |= dict.fromkeys(settings_of(term.function).model_fields, f"{term.name}_weight")
    if whiten in algorithm.normalisation:
        needed["epsilon"] = "advantage_scaling"
    for name in given:
        switch = needed.get(name)
        if switch is not None and chosen[switch] in (None, 0, "none"):
            raise ConfigError(f"{where}.{name}: changes nothing while {switch} is {chosen[switch]}: set that too")


def _with_default(info: Any, default: Any) -> tuple[Any, Any]:
    """The same setting with another default."""
    changed = copy(info)
    changed.default = default
    return info.annotation, changed
