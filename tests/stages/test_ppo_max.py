"""What PPO-max adds to online learning, on a tiny model: each measure has its effect, and all of them go on exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from truing import models
from truing.algorithms import ALGORITHMS
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError, Interrupted
from truing.records import Group
from truing.report.health import HEALTHY
from truing.signatures import validated
from truing.stages.context import Judges, Stop
from truing.stages.mixture import Mixture
from truing.stages.online import online
from truing.stages.online_settings import Online
from truing.stages.training import Step
from truing.store import Run
from truing.tensors import Forest, Logprobs

REWARDS = """
def vowels(prompt, answer):
    return sum(letter in "aeiou" for letter in answer) / max(len(answer), 1)

def early(prompt, answer):
    return sum(letter in "abcde" for letter in answer) / max(len(answer), 1)

def same(prompt, answer):
    return 1.0
"""
SETTINGS: dict[str, Any] = {
    "rollouts": 2, "prompts": 8, "max_new_tokens": 6, "learning_rate": 3e-3, "warmup": 0.0, "forest_tokens": 4096,
    "held_out_prompts": 4,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS)
    return tiny_model.save(tmp_path / "model")


def function(folder: Path, name: str) -> dict[str, Any]:
    return {"name": "function", "path": f"{folder.parent / 'rewards.py'}:{name}"}


def both(folder: Path) -> dict[str, Any]:
    return {"name": "ensemble", "of": [function(folder, "vowels"), function(folder, "early")]}


def play(
    run: Run,
    folder: Path,
    name: str = "ppo_max",
    scorer: dict[str, Any] | None = None,
    *,
    options: dict[str, Any] | None = None,
    pretrain: Sequence[Group] | None = None,
    stop_asked: Stop | None = None,
    **settings: Any,
) -> None:
    own = {**SETTINGS, **settings, "algorithm": {"name": name, **(options or {})}}
    if ALGORITHMS[name].needs_critic:
        own.setdefault("critic_rate", 1.0)
    context = tiny_model.context(run, "online")
    online(
        context if stop_asked is None else replace(context, stop=stop_asked),
        validated(Online, {**own, "scorer": scorer or function(folder, "vowels")}, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(tiny_model.prompts(16)),
        Judges("none", {}),
        tiny_model.given(tiny_model.prompts(12, start=50)),
        pretrain=None if pretrain is None else tiny_model.given(pretrain, "texts"),
    )


def metrics(run: Run) -> list[dict[str, float]]:
    return [event["metrics"] for event in run.events("online", "step")]


def told(run: Run, kind: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k != "time"} for event in run.events("online", kind)]


def result_of(run: Run) -> Path:
    (made,) = [artifact for artifact in run.artifacts() if "model" in artifact.meta]
    return run.path / str(made.meta["model"])


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain_loss(folder: Path, groups: Sequence[Group], model: Any = None) -> tuple[Any, Tensor]:
    """An ordinary model, and the mean of -log p over all tokens that are learnt, row by row and token by token."""
    renderer, model = models.read_renderer(str(folder)), model or AutoModelForCausalLM.from_pretrained(folder)
    lost, count = torch.zeros(()), 0
    for group in groups:
        row = renderer.render(group)
        ids = torch.tensor([[*row.prompt, *row.answers[0].tokens]])
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        for place in range(max(len(row.prompt), 1), ids.shape[1]):
            lost = lost - logprobs[place - 1, ids[0, place]]
            count += 1
    return model, lost / count


class TestMixture:
    NOTHING_ELSE: dict[str, Any] = {"options": {"kl_penalty_weight": 0.0}, "rollouts": 1}  # noqa: RUF012

    @pytest.mark.parametrize("budget", [4096, 20])
    @pytest.mark.parametrize("weight", [1.0, 0.25])
    @pytest.mark.parametrize("rows", [tiny_model.texts(6), tiny_model.demonstrations(6)])
    def test_its_gradient_is_that_of_a_plain_loop_however_it_is_cut(
        self, rows: list[Group], weight: float, budget: int, folder: Path, runs: Callable[[], Run]
    ) -> None:
        """All answers have one reward, so that nothing else is learnt."""
        run = runs()
        cut = {"pretrain_weight": weight, "pretrain_rows": 6, "forest_tokens": budget}
        play(run, folder, "grpo", function(folder, "same"), pretrain=rows, **cut, **self.NOTHING_ELSE)
        (step,) = metrics(run)
        model, loss = plain_loss(folder, rows)
        (weight * loss).backward()
        norm = torch.stack([one.grad.norm() for one in model.parameters() if one.grad is not None]).norm()
        assert step["pretrain/nll"] == pytest.approx(loss.item(), rel=1e-5)
        assert step["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert step["loss"] == 0.0

    def test_without_it_the_same_run_learns_nothing(self, folder: Path, runs: Callable[[], Run]) -> None:
        run = runs()
        play(run, folder, "grpo", function(folder, "same"), **self.NOTHING_ELSE)
        assert metrics(run)[0]["gradient_norm"] == 0.0

    def test_it_keeps_text_likely_that_reward_alone_forgets(self, folder: Path, runs: Callable[[], Run]) -> None:
        """The model has read the text before; then reward is all that counts, or the text counts beside it."""
        rows = tiny_model.texts(6)
        model, _ = plain_loss(folder, rows)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(40):
            plain_loss(folder, rows, model)[1].backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
        before = plain_loss(folder, rows)[1].item()
        lost = {}
        for mixed in (None, rows):
            run = runs()
            play(run, folder, "reinforce", options={"reward_kl": 0.0}, rollouts=12, pretrain=mixed)
            lost[mixed is None] = plain_loss(result_of(run), rows)[1].item()
            assert metrics(run)[-1]["reward"] > metrics(run)[0]["reward"] + 0.05
        assert lost[False] < 1.1 * before
        assert lost[True] > 2 * before

    def test_every_pass_takes_each_row_once_and_goes_on_where_a_checkpoint_was(self, folder: Path) -> None:
        renderer = models.read_renderer(str(folder))
        rows = [renderer.render(group, index) for index, group in enumerate(tiny_model.texts(6))]
        settings = validated(Online, {"pretrain_rows": 2, "scorer": "length"}, "test")
        policy = Reader()

        def passes(mixture: Mixture, count: int) -> list[int]:
            policy.seen = []
            for number in range(count):
                mixture.add(Step("online", number + 1, [], [], policy), policy)  # type: ignore[arg-type]
            return policy.seen

        memory: dict[str, Tensor] = {}
        whole = passes(Mixture(rows, settings, 3, memory), 9)
        assert sorted(whole[:6]) == sorted(whole[6:12]) == sorted(whole[12:]) == list(range(6))
        assert whole[:6] != whole[6:12]
        early: dict[str, Tensor] = {}
        first = passes(Mixture(rows, settings, 3, early), 4)
        going_on: dict[str, Tensor] = {}
        later = Mixture(rows, settings, 3, going_on)
        going_on |= early
        assert first + passes(later, 5) == whole

    def test_what_would_change_nothing_or_teach_nothing_is_refused(self, folder: Path, runs: Callable[[], Run]) -> None:
        for setting in ({"pretrain_weight": 2.0}, {"pretrain_rows": 3}):
            with pytest.raises(ConfigError, match="change nothing without `pretrain`"):
                play(runs(), folder, "grpo", **setting)
        with pytest.raises(DataError, match="no answer to train on"):
            play(runs(), folder, "grpo", pretrain=tiny_model.prompts(2))

    def test_it_waits_for_the_critic(self, folder: Path, runs: Callable[[], Run]) -> None:
        run = runs()
        play(run, folder, critic_warmup=1, pretrain=tiny_model.texts(6), options={"epochs": 1})
        alone, together = metrics(run)
        assert "pretrain/nll" not in alone
        assert alone["gradient_norm"] == 0.0
        assert together["pretrain/nll"] == pytest.approx(plain_loss(folder, tiny_model.texts(6))[1].item(), rel=0.2)


class Reader:
    """A policy that writes down which rows it was given."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def logprobs(self, forest: Forest) -> Logprobs:
        self.seen += forest.rows
        return Logprobs(torch.zeros(len(forest.target), requires_grad=True), forest.completion, len(forest.group))

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]


class TestMeanOfThePolicy:
    def test_the_result_is_the_recursion_over_the_policies_of_all_steps(
        self, folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policies: list[dict[str, Tensor]] = []
        real = LocalEngine.step

        def step(self: LocalEngine, learning_rate: float, max_gradient_norm: float) -> float:
            norm = real(self, learning_rate, max_gradient_norm)
            policies.append({name: one.detach().clone() for name, one in self.model.named_parameters()})
            return norm

        monkeypatch.setattr(LocalEngine, "step", step)
        run = runs()
        play(run, folder, "grpo", ema_decay=0.7, rollouts=4)
        assert len(policies) == 4
        start, found = weights_of(folder), weights_of(result_of(run))
        for name in policies[0]:
            mean = start[name].double()
            for policy in policies:
                mean = 0.7 * mean + 0.3 * policy[name].double()
            torch.testing.assert_close(found[name].double(), mean, rtol=0, atol=1e-6)
            assert not torch.equal(found[name], policies[-1][name])

    def test_the_mean_answers_the_held_out_prompts_and_the_policy_all_others(
        self, folder: Path, runs: Callable[[], Run]
    ) -> None:
        """A mean that hardly moves answers as the start does, while the policy learns as it would without one."""
        slow, none = runs(), runs()
        for run, more in ((slow, {"ema_decay": 1 - 1e-9}), (none, {})):
            play(run, folder, "grpo", rollouts=8, held_out_prompts=12, **more)
        assert [one["reward"] for one in metrics(slow)] == [one["reward"] for one in metrics(none)]
        assert metrics(slow)[-1]["reward"] > metrics(slow)[0]["reward"]
        (still,), (moved,) = told(slow, "held_out_reward"), told(none, "held_out_reward")
        assert still["gain"]["value"] == 0.0
        assert moved["gain"]["value"] != 0.0

    def test_an_unfinished_checkpoint_is_the_mean_and_keeps_the_policy_beside_it(
        self, folder: Path, runs: Callable[[], Run]
    ) -> None:
        for decay in (0.5, None):
            run = runs()
            with pytest.raises(Interrupted):
                play(run, folder, "grpo", ema_decay=decay, stop_asked=Asked(run, 1))
            (checkpoint,) = run.checkpoints()
            state, saved = load_file(checkpoint.path / "trainer" / "state.safetensors"), weights_of(checkpoint.path)
            start = weights_of(folder)
            assert any(name.startswith("average.") for name in state) is (decay is not None)
            for name, weight in saved.items():
                policy = state[f"master.{name}"]
                expected = policy if decay is None else (start[name] + policy) / 2
                torch.testing.assert_close(weight, expected, rtol=0, atol=1e-7)


class TestWarmup:
    def test_the_policy_waits_until_the_error_of_the_critic_has_settled(
        self, folder: Path, runs: Callable[[], Run]
    ) -> None:
        run = runs()
        settling = {"critic_warmup": 8, "critic_settled": 0.5, "critic_window": 1}
        play(run, folder, rollouts=9, options={"epochs": 1}, **settling)
        errors = [one["critic_error"] for one in told(run, "rollout")]
        first = next(n for n in range(1, 9) if n == 8 or errors[n] > 0.5 * errors[n - 1])
        (said,) = told(run, "critic_warmed_up")
        assert (said["rollout"], said["settled"]) == (first + 1, True)
        assert said["errors"] == errors[: first + 1]
        norms = [one["gradient_norm"] for one in metrics(run)]
        assert [norm > 0 for norm in norms] == [number >= first for number in range(9)]

    def test_the_error_is_that_of_new_rollouts_and_falls(self, folder: Path, runs: Callable[[], Run]) -> None:
        run = runs()
        play(run, folder, "ppo", rollouts=10, critic_warmup=10, options={"epochs": 2, "reward_kl": 0.0})
        errors = [one["critic_error"] for one in told(run, "rollout")]
        assert errors[-1] < errors[0]
        first = metrics(run)[0]
        assert first["value/error"] == pytest.approx(errors[0], rel=1e-4), "of the same critic on the same tokens"


def test_the_price_of_kl_follows_its_controller_and_changes_what_is_learnt(
    folder: Path, runs: Callable[[], Run]
) -> None:
    """Section 2.2 of arXiv:1909.08593 from the logged KL alone."""
    steered, fixed = runs(), runs()
    horizon = {"reward_kl": 0.1, "reward_kl_target": 0.02, "reward_kl_horizon": 40.0}
    play(steered, folder, rollouts=5, options=horizon)
    play(fixed, folder, rollouts=5, options={"reward_kl": 0.1})
    found = told(steered, "rollout")
    price = 0.1
    for one in found:
        assert one["kl/price"] == pytest.approx(price, rel=1e-12)
        price *= 1 + min(0.2, max(-0.2, one["kl"] / 0.02 - 1)) * 8 / 40
    assert found[-1]["kl/price"] > 0.1
    assert "kl/price" not in told(fixed, "rollout")[0]
    waiting = runs()
    play(waiting, folder, rollouts=4, critic_warmup=3, options={"epochs": 1, **horizon})
    assert [one["kl/price"] for one in told(waiting, "rollout")] == [0.1] * 4, (
        "nor does it fall while the policy stands"
    )
    assert not equal(weights_of(result_of(steered)), weights_of(result_of(fixed)))


FREE: dict[str, Any] = {"rollouts": 4, "options": {"epochs": 2}, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Path]]:
    """A run without watchdogs, and its model."""
    place = tmp_path_factory.mktemp("free")
    (place / "rewards.py").write_text(REWARDS)
    folder = tiny_model.save(place / "model")
    run = tiny_model.open_run(place / "run")
    play(run, folder, scorer=both(folder), **FREE)
    yield run, folder
    run.close()


class TestWatchdogs:
    def test_every_number_of_the_table_is_measured(self, folder: Path, runs: Callable[[], Run]) -> None:
        run = runs()
        play(run, folder, scorer=both(folder))
        assert set(HEALTHY) <= set(metrics(run)[-1])
        first = told(run, "rollout")[0]
        assert first["length/start"] == first["perplexity/start"] == 1.0
        assert 0 < first["reward/disagreement"] < 1

    def test_the_perplexity_is_that_of_a_plain_model_on_the_answers(
        self, folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[Any] = []
        import truing.stages.play as stage

        real = stage.judge
        monkeypatch.setattr(stage, "judge", lambda *given: (drawn.append(given[1]), real(*given))[1])
        run = runs()
        play(run, folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        for rollout, one in zip(drawn, told(run, "rollout"), strict=True):
            total, count = 0.0, 0
            for row in rollout.rows:
                for answer in row.answers:
                    ids = torch.tensor([[*row.prompt, *answer.tokens]])
                    with torch.no_grad():
                        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
                    for place in range(len(row.prompt), ids.shape[1]):
                        total -= logprobs[place - 1, ids[0, place]].item()
                        count += 1
            assert one["perplexity"] == pytest.approx(2.718281828459045 ** (total / count), rel=1e-4)
        assert told(run, "rollout")[1]["perplexity/start"] != 1.0

    @pytest.mark.parametrize(
        ("name", "limit"),
        [
            ("kl", 1e-6),
            ("entropy", 1e3),
            ("ratio", [1 - 1e-9, 1 + 1e-9]),
            ("ratio/clipped", 1e-9),
            ("kl/behaviour", 1e-9),
            ("length/start", [2, 3]),
            ("perplexity/start", [0.99999, 1.00001]),
            ("explained_variance", 1.0),
            ("reward/disagreement", 1e-9),
            ("finished", 1.0),
            ("reward/deviation", 1e3),
            ("generator_gap", 1e-12),
        ],
    )
    def test_each_ends_the_training_where_its_number_leaves_the_limit(
        self, name: str, limit: Any, free: tuple[Run, Path], runs: Callable[[], Run]
    ) -> None:
        unbound, folder = free
        bound = runs()
        play(bound, folder, stop={name: limit}, stop_after=2, scorer=both(folder), **FREE)
        (said,) = told(bound, "stopped")
        assert said["reason"] == name
        (warned,) = told(bound, "warning")
        for words in (f"{name} (", "the limit", HEALTHY[name].outside, "training ends here"):
            assert words in warned["message"]
        by_update = name not in told(unbound, "rollout")[0]
        began = said["rollout"] + by_update  # updates are looked at as the next rollout begins
        learnt = 2 * (began - 1)
        assert [one["loss"] for one in metrics(bound)] == [one["loss"] for one in metrics(unbound)][:learnt]
        assert result_of(bound).name == f"checkpoint-{learnt}"
        assert said["rollout"] >= 2
        if not by_update:
            course = [one[name] for one in told(unbound, "rollout")]
        else:  # of updates: what is known as a rollout begins is the mean of the rollout before
            each = [one[name] for one in metrics(unbound)]
            course = [float("nan"), *((a + b) / 2 for a, b in zip(each[::2], each[1::2], strict=True))]
        low, high = said["low"], said["high"]
        out = [(low is not None and one < low) or (high is not None and one > high) for one in course]
        first = next(n for n in range(1, len(out)) if out[n] and out[n - 1])
        assert began == first + 1
        assert said["value"] == pytest.approx(course[first], rel=1e-9)

    def test_the_mean_of_the_policy_is_the_result_also_then(self, folder: Path, runs: Callable[[], Run]) -> None:
        run = runs()
        play(run, folder, stop={"entropy": 1e3}, stop_after=1, ema_decay=0.5)
        assert equal(weights_of(result_of(run)), weights_of(folder)), "nothing was learnt before the first rollout"


class Asked(Stop):
    """Somebody asks to stop once so many steps are taken."""

    def __init__(self, run: Run, after: int) -> None:
        self.run, self.after = run, after

    @property  # type: ignore[override]
    def requested(self) -> bool:
        return len(metrics(self.run)) >= self.after


ALL: dict[str, Any] = {
    "rollouts": 4,
    "batch_size": 4,
    "options": {"epochs": 2, "reward_kl_target": 0.05, "reward_kl_horizon": 40.0, "entropy_bonus_weight": 0.01},
    "pretrain": tiny_model.texts(6),
    "pretrain_rows": 4,
    "ema_decay": 0.8,
    "critic_warmup": 4,
    "critic_settled": 0.9,
    "critic_window": 1,
}


@pytest.mark.parametrize(
    ("limits", "after"),
    [({"entropy": 1e3, "ratio/clipped": 0.999}, after) for after in (2, 6, 8)]
    + [({"kl": 1e3, "ratio/clipped": 0.999}, after) for after in (10, 12)],
)
def test_all_of_it_goes_on_to_the_same_bits(
    limits: dict[str, float], after: int, folder: Path, runs: Callable[[], Run]
) -> None:
    """Four updates a rollout: in the warm-up, in the midst of a rollout and between two, up to the end or an alarm."""
    whole = {**ALL, "scorer": both(folder), "stop": limits}
    unbroken, broken = runs(), runs()
    play(unbroken, folder, **whole)
    with pytest.raises(Interrupted):
        play(broken, folder, stop_asked=Asked(broken, after), **whole)
    play(broken, folder, **whole)
    ended, (began,) = told(unbroken, "stopped"), told(unbroken, "critic_warmed_up")
    assert began["rollout"] == 2
    assert [one["rollout"] for one in ended] == ([4] if "entropy" in limits else [])
    assert len(metrics(unbroken)) == (12 if ended else 16)
    for kind in ("rollout", "stopped", "critic_warmed_up", "held_out_reward"):
        assert told(broken, kind) == told(unbroken, kind)
    kept = [{k: v for k, v in one.items() if k != "tokens_per_second"} for one in metrics(broken)]
    assert kept == [{k: v for k, v in one.items() if k != "tokens_per_second"} for one in metrics(unbroken)]
    assert equal(weights_of(result_of(broken)), weights_of(result_of(unbroken)))
    assert list(broken.samples()) == list(unbroken.samples())
