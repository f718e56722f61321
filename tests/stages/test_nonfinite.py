"""NaN and infinity, put into every number that training rests on: it stops before the step, or leaves the step out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from truing import models
from truing.algorithms import BoundAlgorithm
from truing.compute.engine.local import LocalEngine
from truing.errors import GuardError
from truing.models.finite import demand_finite
from truing.records import Group
from truing.scoring import scorers
from truing.scoring.score import Score, Scorer
from truing.signatures import validated
from truing.stages import play as plays
from truing.stages import training
from truing.stages.context import Judges
from truing.stages.online import online
from truing.stages.online_settings import Online
from truing.stages.preference import Preference, preference
from truing.stages.reward_model import RewardModel, reward_model
from truing.stages.sft import Sft, sft
from truing.store import Run

NAN, INF = math.nan, math.inf
ONLINE = ("grpo", "ppo_max")
OFFLINE = ("sft", "dpo", "reward_model")
BAD = 2
"""The step into which a number is put."""
REWARDS = """
import math
calls = []

def vowels(prompt, answer):
    return sum(letter in "aeiou" for letter in answer) / max(len(answer), 1)

def odd(prompt, answer):
    calls.append(answer)
    return {3: math.nan, 9: None, 15: "0.5", 21: math.inf}.get(len(calls), vowels(prompt, answer))
"""


def train(run: Run, folder: Path, what: str, reward: str = "vowels", **settings: Any) -> None:
    """Four optimizer steps or more of a stage, each checkpoint kept."""
    every = {"save_every": 1, "keep_checkpoints": 9, "learning_rate": 1e-3, "warmup": 0.0, **settings}
    context, model = tiny_model.context(run, "s"), tiny_model.model_of(folder)
    if what == "sft":
        groups = placed(tiny_model.demonstrations(16))
        return sft(context, validated(Sft, {"batch_size": 4, **every}, "s"), model, tiny_model.given(groups))
    if what in ("dpo", "reward_model"):
        stage, schema = (preference, Preference) if what == "dpo" else (reward_model, RewardModel)
        groups = placed(tiny_model.pairs(16))
        return stage(context, validated(schema, {"batch_size": 4, **every}, "s"), model, tiny_model.given(groups))
    (folder.parent / "rewards.py").write_text(REWARDS)
    own = {
        "algorithm": {"name": what, "group_size": 2, "epochs": 1},
        "scorer": {"name": "function", "path": f"{folder.parent / 'rewards.py'}:{reward}"},
        "rollouts": 3, "prompts": 6, "max_new_tokens": 5, "forest_tokens": 4096,
    }  # fmt: skip
    if what == "ppo_max":
        own["critic_warmup"] = 0
    groups = placed(tiny_model.prompts(16))
    return online(context, validated(Online, own | every, "s"), model, tiny_model.given(groups), Judges("none", {}))


def placed(groups: list[Group]) -> list[Group]:
    """The rows as if they stood in a file."""
    return [replace(group, file="rows.jsonl", line=line) for line, group in enumerate(groups, start=1)]


def at_step(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether the optimizer step of this number is under way."""
    under_way = [0]
    wanted = training.learning_rate

    def counted(number: int, total: int, settings: Any) -> float:
        under_way[0] = number
        return wanted(number, total, settings)

    monkeypatch.setattr(training, "learning_rate", counted)
    return lambda: under_way[0] == number


def inject(what: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the value into one number of step BAD."""
    now = at_step(BAD, monkeypatch)
    if what == "learning rate":
        usual = training.learning_rate
        monkeypatch.setattr(training, "learning_rate", lambda *all: usual(*all) * (value if now_after(all) else 1.0))
    elif what == "loss":
        added = training.Step.add

        def add(step: training.Step, loss: Any, weights: Tensor, divisor: float) -> None:
            spoilt = loss.value * value if step.number == BAD else loss.value
            added(step, type(loss)(spoilt, loss.stats, loss.memory), weights, divisor)

        monkeypatch.setattr(training.Step, "add", add)
    else:
        step = LocalEngine.step

        def spoil(engine: LocalEngine, *settings: float) -> float:
            if now():
                next(iter(engine.gradients().values())).view(-1)[0] = value
            return step(engine, *settings)

        monkeypatch.setattr(LocalEngine, "step", spoil)
        checked = LocalEngine.demand_finite_gradient

        def spoil_first(engine: LocalEngine) -> Tensor:
            if now():
                next(iter(engine.gradients().values())).view(-1)[0] = value
            return checked(engine)

        monkeypatch.setattr(LocalEngine, "demand_finite_gradient", spoil_first)


def now_after(given: tuple[Any, ...]) -> bool:
    """Whether these arguments of `learning_rate` are of step BAD."""
    return bool(given[0] == BAD)


def saved(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in every file of the run."""
    for file in run.path.rglob("*.safetensors"):
        for name, tensor in load_file(file).items():
            yield f"{file.relative_to(run.path)}: {name}", tensor


def demand_all_saved_is_finite(run: Run) -> None:
    found = dict(saved(run))
    assert found
    assert [name for name, tensor in found.items() if not tensor.double().isfinite().all()] == []


def last_weights(run: Run) -> dict[str, list[float]]:
    return {n: t.flatten().tolist() for n, t in load_file(run.checkpoints()[-1].path / "model.safetensors").items()}


INJECTED = [
    *((stage, what, NAN) for stage in OFFLINE for what in ("loss", "gradient", "learning rate")),
    ("sft", "gradient", INF), ("sft", "loss", -INF), ("dpo", "learning rate", INF),
    ("grpo", "loss", NAN), ("grpo", "gradient", INF), ("grpo", "learning rate", NAN),
    ("ppo_max", "loss", INF), ("ppo_max", "gradient", NAN), ("ppo_max", "learning rate", NAN),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "what", "value"), INJECTED)
def test_training_stops_before_the_step_and_names_its_rows(
    stage: str, what: str, value: float, folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs()
    inject(what, value, monkeypatch)
    with pytest.raises(GuardError, match=rf"stage 's', step 2: .*{what}.* is -?(nan|inf).*rows\.jsonl:\d") as error:
        train(run, folder, stage)
    assert error.value.exit_code == 70
    assert 'on_nonfinite = "skip"' in str(error.value)
    assert [event["step"] for event in run.events("s", "step")] == [1], "the step that was not taken is no step"
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [1]
    demand_all_saved_is_finite(run)


@pytest.mark.parametrize(
    ("stage", "what"),
    [("sft", "loss"), ("sft", "gradient"), ("sft", "learning rate"), ("dpo", "gradient"), ("reward_model", "loss"),
     ("ppo_max", "gradient"), ("grpo", "loss")],
)  # fmt: skip
def test_a_step_that_is_left_out_is_told_and_changes_nothing(
    stage: str, what: str, folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the gradients of that step had been thrown away by hand."""
    run, other = runs(), runs()
    with monkeypatch.context() as patched:
        inject(what, NAN, patched)
        train(run, folder, stage, on_nonfinite="skip")
    steps = list(run.events("s", "step"))
    (skipped,) = run.events("s", "skipped")
    assert skipped["step"] == BAD
    assert "nan" in skipped["reason"]
    assert all(row.startswith("rows.jsonl:") for row in skipped["rows"])
    assert [event["step"] for event in steps] == list(range(1, len(steps) + 1))
    assert steps[BAD - 1]["metrics"]["gradient_norm"] == "NaN", "a number that is not finite is never hidden"
    assert (steps[BAD - 1]["metrics"]["loss"] == "NaN") == (what == "loss")
    warnings = [event["message"] for event in run.events("s", "warning")]
    assert any("step 2 is left out" in words for words in warnings)
    assert any(f"1 of {len(steps)} steps were left out" in words for words in warnings)
    demand_all_saved_is_finite(run)

    with monkeypatch.context() as patched:
        now = at_step(BAD, patched)
        step = LocalEngine.step

        def idle(engine: LocalEngine, *settings: float) -> float:
            if now():
                engine.discard()
                return 0.0
            return step(engine, *settings)

        patched.setattr(LocalEngine, "step", idle)
        train(other, folder, stage)
    assert last_weights(run) == last_weights(other)


def test_steps_are_left_out_only_so_often_in_a_row(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fine = runs(), runs()
    monkeypatch.setattr(training, "learning_rate", lambda number, total, settings: NAN if number % 3 else 1e-3)
    with pytest.raises(GuardError, match=r"step 2: .* and the 1 steps before it were left out already"):
        train(run, folder, "sft", on_nonfinite="skip", most_skipped=1)
    train(fine, folder, "sft", on_nonfinite="skip", most_skipped=2, epochs=2)
    assert len(list(fine.events("s", "skipped"))) == 6, "of eight steps, never more than two in a row"


def test_the_count_of_steps_left_out_goes_on_with_the_run(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs()
    monkeypatch.setattr(training, "learning_rate", lambda number, total, settings: NAN if number > 1 else 1e-3)
    for _ in range(2):  # the second time it goes on from the checkpoint after step 3
        with pytest.raises(GuardError, match=r"step 4: .* the 2 steps before it"):
            train(run, folder, "sft", on_nonfinite="skip", most_skipped=2)


READS = {"behaviour": "policy's log-prob", "reference": "reference's log-prob", "value": "critic's value"}


@pytest.mark.parametrize("what", READS)
@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_log_probabilities_and_values_of_a_rollout(
    what: str, choice: str, folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs()
    calls = [0]
    read = plays.per_token

    def spoilt(*given: Any) -> dict[str, Tensor]:
        found = read(*given)
        calls[0] += 1
        if calls[0] == BAD:
            found[what][3] = NAN
        return found

    monkeypatch.setattr(plays, "per_token", spoilt)
    settings = {"batch_size": 3, "on_nonfinite": choice}
    if choice == "stop":
        with pytest.raises(GuardError, match=rf"rollout 2: the {READS[what]}.* in 1 rows; the first: rows\.jsonl:\d"):
            train(run, folder, "ppo_max", **settings)
        assert max(event["step"] for event in run.events("s", "step")) == 2
    else:
        train(run, folder, "ppo_max", **settings)
        second = list(run.events("s", "rollout"))[1]
        assert sum(second["failed"].values()) == 1
        assert any("they are left out" in event["message"] for event in run.events("s", "warning"))
        assert not list(run.events("s", "skipped")), "what was left of the rollout was sound"
    demand_all_saved_is_finite(run)


@pytest.mark.parametrize("what", ["reward", "advantage", "kl", "returns"])
@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_rewards_advantages_and_kl_of_a_rollout(
    what: str, choice: str, folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs()
    calls = [0]
    judge = BoundAlgorithm.judge

    def spoilt(self: BoundAlgorithm, *given: Any) -> Any:
        judgement, after = judge(self, *given)
        calls[0] += 1
        if calls[0] == BAD:
            values = getattr(judgement, what)
            values.token[2] = INF
        return judgement, after

    monkeypatch.setattr(BoundAlgorithm, "judge", spoilt)
    settings = {"batch_size": 3, "on_nonfinite": choice}
    words = {"kl": "KL", "returns": "return"}.get(what, what)
    if choice == "stop":
        with pytest.raises(GuardError, match=rf"rollout 2: the {words} is NaN or infinite; rows: rows\.jsonl:\d"):
            train(run, folder, "ppo_max", **settings)
        assert max(event["step"] for event in run.events("s", "step")) == 2
    else:
        train(run, folder, "ppo_max", **settings)
        assert any(f"the {words} is NaN" in event["message"] for event in run.events("s", "warning"))
    demand_all_saved_is_finite(run)


def test_a_reward_that_is_no_number_is_a_failure_with_its_row(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    train(run, folder, "grpo", "odd", rollouts=2, prompts=16)
    told = {
        event["reason"].partition("odd ")[2] or event["reason"]: event["row"] for event in run.events("s", "unscored")
    }
    assert set(told) == {"the score is nan", "the score is inf", "returned None, which is no number",
                         "returned '0.5', which is no number"}  # fmt: skip
    assert all(row.startswith("rows.jsonl:") for row in told.values())
    assert sum(sum(event["failed"].values()) for event in run.events("s", "rollout")) == 4
    demand_all_saved_is_finite(run)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([(Score(NAN),) * 2], r"a\.jsonl:7: scorer 'length' gave nan"),
        ([(Score("9"),) * 2], r"a\.jsonl:7: scorer 'length' gave '9'"),
        ([(Score(1.0),)], r"a\.jsonl:7: scorer 'length' gave 1 scores for 2 answers"),
        ([], "gave scores of 0 rows for 1"),
    ],
)
def test_a_scorer_that_breaks_its_word_is_named_with_the_row(
    given: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def length() -> Scorer:
        return lambda groups: list(given)

    monkeypatch.setitem(scorers.SCORERS, "length", length)
    (pair,) = tiny_model.pairs(1)
    row = replace(pair, file="a.jsonl", line=7)
    with pytest.raises(GuardError, match=words):
        scorers.make({"name": "length"})([row])


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_model_with_a_weight_that_is_no_number_is_not_loaded(value: float, folder: Path, tmp_path: Path) -> None:
    broken = tiny_model.save(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = sorted(weights)[1]
    weights[name].view(-1)[-1] = value
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(GuardError, match=rf"broken: {name}: 1 of [\d,]+ values are NaN or infinite"):
        models.load(str(broken), dtype=torch.float32, device=torch.device("cpu"))


def test_state_that_is_not_finite_is_neither_saved_nor_read(folder: Path, tmp_path: Path) -> None:
    loaded = models.load(str(folder), dtype=torch.float32, device=torch.device("cpu"))
    engine = LocalEngine(loaded)
    sound = tmp_path / "sound"
    sound.mkdir()
    engine.save_state(sound)
    state = load_file(sound / "state.safetensors")
    name = next(name for name in state if name.startswith("master."))
    state[name].view(-1)[0] = NAN
    save_file(state, sound / "state.safetensors")
    with pytest.raises(GuardError, match=name):
        engine.load_state(sound)
    with torch.no_grad():
        next(iter(engine.model.parameters())).view(-1)[0] = NAN
    for save in (engine.save_state, engine.save_model):
        made = tmp_path / save.__name__
        made.mkdir()
        with pytest.raises(GuardError, match="to be saved"):
            save(made)
        assert not list(made.iterdir()), "nothing was written"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_place_of_a_tensor_is_looked_at(dtype: torch.dtype) -> None:
    for place in (0, 17, 34):
        for value in (NAN, INF, -INF):
            tensor = torch.arange(35, dtype=dtype).reshape(5, 7)
            demand_finite({"w": tensor, "none": tensor[:0], "counts": torch.tensor([1])}, "here")
            tensor.view(-1)[place] = value
            with pytest.raises(GuardError, match="here: w: 1 of 35"):
                demand_finite({"w": tensor}, "here")
