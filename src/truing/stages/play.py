"""The rollouts of online learning: drawn, scored, read, judged, and learnt from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from truing.algorithms import BoundAlgorithm
from truing.blending import prompt_hash
from truing.compute import Engine, Generator, Sampling
from truing.compute.ranks import Ranks
from truing.errors import DataError, GuardError, by_reason
from truing.records import Completion, Group
from truing.rendering import Row
from truing.rivals import Drawing, paired, share_of_reference
from truing.scoring.score import Scorer
from truing.scoring.scorers import is_ensemble
from truing.shaping import ShapingState
from truing.stages import showing
from truing.stages.arranging import FROM_REFERENCE
from truing.stages.context import Context
from truing.stages.curriculum import chances, draw, nothing_seen, seen
from truing.stages.judged import Judged, judge, score_of
from truing.stages.mixture import Mixture
from truing.stages.online_settings import Online
from truing.stages.rollouts import Rollout, forget, in_turn, kept, note, oldest_step, per_token
from truing.stages.training import Step
from truing.stages.warmup import Warmup
from truing.stages.watchdogs import Alarm, Watchdogs, beside_the_start
from truing.tensors import Forest, Logprobs, PerToken

KNOWN = "curriculum"
"""What is known of each prompt, as a checkpoint keeps it."""
READ_LATER = ("behaviour", "entropy")
"""What the policy says of a rollout, which one that is learnt from in one step need not say before."""

READ = {
    "behaviour": "the policy's log-probability",
    "entropy": "the policy's entropy",
    "reference": "the reference's log-probability",
    "value": "the critic's value",
    "generator": "the generator's log-probability",
}
"""What is read of a rollout's tokens, in words."""


class Play:
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
        self._rules = settings.max_new_tokens, settings.correction
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
        if self._reads_later:
            read = _of_all_ranks(read, step.ranks)
        if self._mixture is not None and self._awake:
            self._mixture.add(step, self._policy)
        self._watchdogs.learnt(step.means(), awake=self._awake)
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
        return {replace(group, completions=()).id: score_of(group.completions[0]) for group in groups}

    def _offered(self, judged: Judged, forest: Forest) -> dict[str, Any]:
        """What terms may ask for, of the tokens of a forest, or of the pairs of its answers."""
        read, judgement = judged.rollout.read, judged.judgement
        offered: dict[str, Any] = {}
        if self._awake or self._reads_later:
            offered |= self._policy_says(forest)
        if judged.advantage is not None:
            offered["advantage"] = judged.part(judged.advantage, forest)
        for name in {"behaviour", "reference"} & read.keys():
            found = judged.part(read[name], forest)
            offered[name] = Logprobs(found.token, found.completion, found.count)
        if self._reads_later:
            policy = offered["policy"]
            offered["behaviour"] = policy.with_token(policy.token.detach())
        if self._critic is not None:
            assert judgement.returns is not None
            offered["value"] = self._critic.values(forest)
            offered["old_value"] = judged.part(read["value"], forest)
            offered["returns"] = judged.part(judgement.returns.token, forest)
        if judgement.pairs is not None:
            return paired({**offered, "from_reference": judged.by_reference(forest)}, judged.pairs(forest))
        return offered

    def _policy_says(self, forest: Forest) -> dict[str, PerToken]:
        """Log-probabilities of the policy that learns and, where something asks for it, its entropy."""
        entropy = self._reads_later or self._algorithm.needs("entropy")
        now = self._policy.statistics(forest, temperature=self._settings.temperature, entropy=entropy)
        return {"policy": now.logprobs} | ({} if now.entropy is None else {"entropy": now.entropy})

    def _judged(self, number: int) -> Judged:
        if self._current is None or self._current[0] != number:
            rollout = kept(self._context, number, self._policy.renderer, lambda: self._drawn(number))
            again = int(self._memory["rollout"]) == number  # going on in the middle of it
            state = _as_state(self._memory["before" if again else "after"])
            if self._reads_later:  # the advantages do not depend on it; where something did, there would be no loss
                unknown = torch.full((int(rollout.start[-1]),), torch.nan)
                rollout = replace(rollout, read=rollout.read | dict.fromkeys(READ_LATER, unknown))
            judged, after = judge(self._algorithm, rollout, state, *self._rules)
            if not self._demand_finite(number, judged):
                after = state
            self._awake = self._warmup.is_over(number, judged.about.get("critic_error"))
            if not self._awake:  # a policy that stands still has no KL, whatever its price
                after = replace(after, price=state.price)
            self._memory |= {"rollout": torch.tensor(number), "before": _as_tensor(state), "after": _as_tensor(after)}
            judged.about.update(beside_the_start(number, judged.about, self._memory))
            self._current = (number, judged)
            if not again:  # or it was told before
                if not self._reads_later:  # or it will be told once it is read
                    self._tell(number, judged)
                self._warmup.tell(self._context, number, self._first_step(number))
                self._see(number, rollout)
            if self._context.ranks.rank == 0:
                forget(self._context, oldest_step(self._context) // (self._algorithm.epochs * self._parts))
        return self._current[1]

    def _known(self, number: int, judged: Judged, read: Mapping[str, Tensor]) -> Judged:
        """The same rollout with what the policy said of it while it learnt, which is then told."""
        rollout = replace(judged.rollout, read={**judged.rollout.read, **read})
        found, _ = judge(self._algorithm, rollout, _as_state(self._memory["before"]), *self._rules)
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
        return self._sound(
            number,
            replace(
                rollout,
                read=per_token(rollout.rows, self._said, self._settings.forest_tokens),
                deviation=torch.tensor(deviation, dtype=torch.float64) if is_ensemble(self._settings.scorer) else None,
            ),
        )

    def _sound(self, number: int, rollout: Rollout) -> Rollout:
        """The rollout if all that was read of it is finite; else without those rows, or not at all, as is set."""
        broken = rollout.broken()
        if not broken:
            return rollout
        place, what = next((rollout.rows[row].place or str(row), READ[name]) for row, name in broken.items())
        words = f"rollout {number + 1}: {what} is NaN or infinite in {len(broken)} rows; the first: {place}"
        if self._settings.on_nonfinite == "stop" or len(broken) == len(rollout.rows):
            raise GuardError(
                f"stage '{self._context.stage}', {words}; nothing was changed. Lower learning_rate, look at these "
                'rows, or set on_nonfinite = "skip" to leave them out'
            )
        self._context.warn(f"{words}: they are left out")
        return rollout.without(self._policy.renderer, broken, f"{what} is not finite")

    def _demand_finite(self, number: int, judged: Judged) -> bool:
        """Whether all that is learnt from is finite. Raises GuardError where it is not and no step may be left out."""
        judgement, rollout = judged.judgement, judged.rollout
        offered = {
            "the reward": judgement.reward.token,
            "the advantage": judged.advantage,
            "the return": None if judgement.returns is None else judgement.returns.token,
            "the KL": None if judgement.kl is None or self._reads_later else judgement.kl.token,
        }
        for what, values in offered.items():
            if values is None or values.isfinite().all():
                continue
            answers = rollout.completion[~values.isfinite()]
            rows = [rollout.rows[row] for row in sorted(set(rollout.group[answers].tolist()))]
            words = (
                f"rollout {number + 1}: {what} is NaN or infinite; rows: "
                f"{', '.join(row.place or str(row.index) for row in rows)}"
            )
            if self._settings.on_nonfinite == "stop":
                raise GuardError(f"stage '{self._context.stage}', {words}; nothing was changed: look at these rows")
            self._context.warn(f"{words}: what shaping remembers of it is not kept")
            return False
        return True

    def _next(self, number: int) -> list[int]:
        """The prompts of a rollout."""
        count, seed, curriculum = self._settings.prompts, self._context.seed, self._settings.curriculum
        if curriculum is None:
            return in_turn(len(self._prompts), count, number, seed)
        return draw(chances(self._memory[KNOWN], curriculum.floor), count, hash_seed(seed, number, 0))

    def _see(self, number: int, rollout: Rollout) -> None:
        """Remembers how a rollout's prompts were rewarded, if at all, where it matters to which come next."""
        if self._settings.curriculum is not None:
            asked = self._places([self._prompts[place] for place in self._next(number)])
            place = self._places(rollout.groups)[rollout.group]
            memory = self._settings.curriculum.memory
            self._memory[KNOWN] = seen(self._memory[KNOWN], asked, place, rollout.score, memory)

    def _places(self, groups: Sequence[Group]) -> Tensor:
        """Where the prompts of these groups stand."""
        return torch.tensor([self._place[prompt_hash(group)] for group in groups])

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
                if failed[reasons[0]] == 1:
                    self._context.event("unscored", row=group.place, reason=reasons[0])
                continue
            scored = [replace(a, score=one.value) for a, one in zip(group.completions, scores, strict=True)]
            kept_groups.append(_with(group, scored))
            deviations.append([math.nan if one.deviation is None else one.deviation for one in scores])
        return kept_groups, deviations, failed

    def _first_step(self, number: int) -> int:
        """The first that learns from a rollout: going on from a checkpoint before it makes and tells that again."""
        return self._context.first_step + number * self._algorithm.epochs * self._parts + 1

    def _tell(self, number: int, judged: Judged) -> None:
        """The answers that did best and worst, whole, for people to read; of some rollouts also token by token."""
        rollout, judgement = judged.rollout, judged.judgement
        extremes = showing.extremes(rollout)
        shown = [showing.whole(rollout, answer) for answer in extremes]
        place = {"rollout": number + 1, "step": self._first_step(number)}
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


def _with(group: Group, answers: Sequence[Completion]) -> Group:
    """The prompt with these answers."""
    return replace(group, completions=tuple(answers))


def _of_all_ranks(read: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """What all ranks have read: of each token one of them says a number and the others 0."""
    told = ranks.gather_tensors(read)
    names = dict.fromkeys(name for one in told for name in one)
    return {name: torch.stack([one[name] for one in told if name in one]).sum(0) for name in names}


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
