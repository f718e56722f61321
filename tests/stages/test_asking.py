"""Objectives asked through the stage's own code: shared answers, coupled steps, references, interruptions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_model
import torch
from torch import Tensor

from truing import models
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError, Interrupted
from truing.models.reward import add_prototypes
from truing.objectives import OBJECTIVES, Bound, bind, kind_of, stage_of
from truing.packing import forest, pack
from truing.records import Completion, Group, assistant, text, user
from truing.rendering import Answer, Row
from truing.signatures import validated
from truing.stages.arranging import Judged, Pairs, judge
from truing.stages.asking import Case, ask, join, weights
from truing.stages.context import Model
from truing.stages.material import Material
from truing.stages.preference import Preference, _add, preference
from truing.stages.reference import Live, Nothing, Reference
from truing.stages.reward_model import RewardModel
from truing.stages.training import Step
from truing.store import Run
from truing.tensors import Pair, Scores

TIGHT: dict[str, float] = {"rtol": 0, "atol": 1e-8}
SHAPES = [(5, (4, 2, 3)), (3, (1, 6, 2)), (4, (2, 2, 5)), (2, (3, 1, 1)), (6, (2, 4, 1)), (3, (1, 2, 2))]
PAIRED = [name for name, function in OBJECTIVES.items() if kind_of(function) == "pair"]
COUPLED = [name for name, function in OBJECTIVES.items() if Bound("", function, {}).is_coupled]
ROWS = [replace(row, weight=1.0 + row.index / 4) for row in tiny.random_rows(0, SHAPES)]


def said(row: Row, kind: str, which: Pairs = "all") -> Judged:
    """Scores 0.9, 0.6, 0.1 of the answers, and who wrote them."""
    sources = ("policy", "reference", "reference")
    answers = tuple(
        Completion((assistant(str(i)),), score=score, source=source, label=i != 1)
        for i, (score, source) in enumerate(zip((0.9, 0.6, 0.1), sources, strict=True))
    )
    group = Group((user(str(row.index)),), answers, row.weight)
    return replace(judge(group, kind, which), group=group)  # type: ignore[arg-type]


def engine_of() -> LocalEngine:
    """A policy that has moved away from the reference that is kept beside it."""
    engine = LocalEngine(tiny.loaded_model(torch.float64))
    tiny.widen_norms(engine.model)
    engine.keep_reference()
    engine.backward(-engine.logprobs(forest(tiny.random_rows(5, SHAPES[:2]))).token.mean())
    engine.step(0.02, 1.0)
    return engine


def rewarding_engine(folder: Path, name: str) -> LocalEngine:
    """A reward model with the outputs and prototypes that the objective asks for."""
    objective = RewardModel(objective={"name": name})
    torch.manual_seed(0)
    loaded = models.load(str(folder), dtype=torch.float64, device=torch.device("cpu"), outputs=objective.outputs)
    if objective.prototypes:
        add_prototypes(loaded.model, objective.prototypes)
    engine = LocalEngine(loaded)
    tiny.widen_norms(engine.model)
    return engine


def added(
    engine: LocalEngine,
    name: str,
    rows: Sequence[Row],
    judged: Sequence[Judged],
    budget: int = 10_000,
    memory: Mapping[str, Tensor] | None = None,
    reference: Reference | None = None,
) -> tuple[dict[str, Tensor], dict[str, float], Mapping[str, Tensor]]:
    """Gradients, means and memory of one step as the stage takes it."""
    material = Material(rows, judged, reference or Live(engine), [], Nothing(), budget)
    step = Step("s", 3, rows, pack(rows, budget), engine)
    kept = _add(step, engine, bind({"name": name}), material, memory or {}, seed=1)
    gradients = {name: g.clone() for name, g in engine.gradients().items()}
    engine.discard()
    return gradients, step.means(), kept


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert one
    for name in one:
        torch.testing.assert_close(one[name], other[name], **TIGHT, msg=lambda words, name=name: f"{name}: {words}")


def largest(gradients: Mapping[str, Tensor]) -> float:
    return max(float(g.abs().max()) for g in gradients.values())


class TestSides:
    def test_by_hand(self) -> None:
        judged = [said(row, "pair", "adjacent") for row in ROWS[:2]]
        policy = LocalEngine(tiny.loaded_model(torch.float64)).logprobs(forest(ROWS[:2]))
        case = Case(judged, policy)
        sides = case.sides()
        assert case.starts() == [0, 3]
        assert (sides.chosen.tolist(), sides.rejected.tolist()) == ([0, 1, 3, 4], [1, 2, 4, 5])
        assert policy.select(sides.rejected).sum.tolist() == policy.sum[[1, 2, 4, 5]].tolist()

    def test_join_is_one_forest(self) -> None:
        engine = LocalEngine(tiny.loaded_model(torch.float64))
        judged = [said(row, "pair") for row in ROWS]
        reference = tiny.OtherReference()

        def case(rows: Sequence[Row]) -> Case:
            made = forest(rows)
            drawn = [[0.1 * row.index] * 3 for row in rows]
            return Case([judged[r.index] for r in rows], engine.logprobs(made), reference.logprobs(made), uniform=drawn)

        joined, whole = join([case(ROWS[:2]), case(ROWS[2:3]), case(ROWS[3:])]), case(ROWS)
        assert (joined.judged, joined.uniform, joined.starts()) == (whole.judged, whole.uniform, whole.starts())
        for one, other in ((joined.policy, whole.policy), (joined.reference, whole.reference)):
            assert one is not None
            assert other is not None
            torch.testing.assert_close(one.sum, other.sum, **TIGHT)
            assert one.completion.tolist() == other.completion.tolist()

    def test_every_prompt_counts_once(self) -> None:
        judged = [said(ROWS[1], "pair"), said(ROWS[2], "pair", "best_worst")]
        assert weights(bind({"name": "dpo"}), judged) == pytest.approx([1.25 / 3] * 3 + [1.5])
        assert weights(bind({"name": "lipo"}), judged) == [1.25, 1.5]
        assert weights(bind({"name": "kto"}), judged) == [1.25] * 3 + [1.5] * 3


class TestSharedAnswers:
    """K answers in one tree, and their pairs written out as rows of their own, each with its share of the weight."""

    @pytest.mark.parametrize("which", ["all", "adjacent", "best_worst"])
    @pytest.mark.parametrize("name", ["dpo", "ipo", "orpo", "tdpo2", "wpo", "sppo", "odpo", "xpo", "ld_dpo"])
    def test_give_the_pairs_own_loss_and_gradients(self, name: str, which: Pairs) -> None:
        judged = [said(row, "pair", which) for row in ROWS]
        apart: list[Row] = []
        apart_judged: list[Judged] = []
        for row, j in zip(ROWS, judged, strict=True):
            for place, (chosen, rejected) in enumerate(j.pairs):
                share = row.weight / len(j.pairs)
                index = len(apart)
                apart.append(Row(row.prompt, (row.answers[chosen], row.answers[rejected]), index, share))
                two = (chosen, rejected)
                apart_judged.append(
                    Judged(
                        Group((user(str(index)),), (), share),
                        ((0, 1),),
                        (j.strength[place],),
                        tuple(j.label[i] for i in two),
                        tuple(j.reward[i] for i in two),
                        tuple(j.by_reference[i] for i in two),
                    )
                )
        shared, shared_means, _ = added(engine_of(), name, ROWS, judged)
        written, written_means, _ = added(engine_of(), name, apart, apart_judged)
        assert largest(shared) > 1e-3
        assert_same(shared, written)
        assert shared_means == pytest.approx(written_means, rel=1e-6)  # weights such as 1/3 are fp32

    def test_which_pairs_are_compared_matters(self) -> None:
        found = [added(engine_of(), "dpo", ROWS, [said(row, "pair", which) for row in ROWS])[1]["loss"]
                 for which in ("all", "adjacent", "best_worst")]  # fmt: skip
        assert len({round(loss, 6) for loss in found}) == 3


class TestCuts:
    @pytest.mark.parametrize("budget", [1, 30])
    @pytest.mark.parametrize("name", COUPLED)
    def test_of_a_coupled_step_change_nothing(self, folder: Path, name: str, budget: int) -> None:
        """Nor does the memory, which is the same whatever the cut."""
        rewards = stage_of(OBJECTIVES[name]) == "reward_model"
        engine, other = rewarding_engine(folder, name) if rewards else engine_of(), tiny.OtherReference()
        judged = [said(row, kind_of(OBJECTIVES[name])) for row in ROWS]
        memory: Mapping[str, Tensor] = {}
        for _ in range(2):
            whole, whole_means, whole_memory = added(engine, name, ROWS, judged, 10_000, memory, other)
            parts, parts_means, parts_memory = added(engine, name, ROWS, judged, budget, memory, other)
            assert len(pack(ROWS, budget)) > 1
            assert largest(whole) > 1e-4
            assert_same(whole, parts)
            assert all(float(slope.abs().max()) > 1e-6 for slope in whole.values()), "all weights learn"
            assert parts_means == pytest.approx(whole_means, rel=1e-6)
            assert {k: v.item() for k, v in parts_memory.items()} == pytest.approx(
                {k: v.item() for k, v in whole_memory.items()}
            )
            memory = whole_memory

    @pytest.mark.parametrize("name", ["tdpo1", "wpo", "plackett_luce", "pro", "weighted_nll"])
    def test_of_other_steps_change_nothing(self, name: str) -> None:
        engine = engine_of()
        judged = [said(row, kind_of(OBJECTIVES[name])) for row in ROWS]
        whole, whole_means, _ = added(engine, name, ROWS, judged)
        parts, parts_means, _ = added(engine, name, ROWS, judged, 30)
        assert_same(whole, parts)
        assert parts_means == pytest.approx(whole_means, rel=1e-6)

    def test_memory_matters(self) -> None:
        engine = engine_of()
        judged = [said(row, "answer") for row in ROWS]
        first, _, memory = added(engine, "bco", ROWS, judged)
        again, _, _ = added(engine, "bco", ROWS, judged, memory={"shift": memory["shift"] + 1})
        assert not all(torch.allclose(first[name], again[name], atol=1e-6) for name in first)

    @pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
    def test_a_coupled_step_is_not_the_sum_of_its_rows(self, name: str) -> None:
        engine, other = engine_of(), tiny.OtherReference()
        judged = [said(row, "pair", "best_worst") for row in ROWS]
        _, whole, _ = added(engine, name, ROWS, judged, reference=other)
        _, plain, _ = added(engine, "dpo", ROWS, judged, reference=other)
        assert whole["loss"] != pytest.approx(plain["loss"], rel=1e-4)


SHORT: dict[str, Any] = {"batch_size": 4, "learning_rate": 3e-3, "epochs": 2, "warmup": 0.0}


def trained(run: Run, folder: Path, data: Sequence[Group], stop_after: int = 0, **settings: Any) -> list[Any]:
    """The stage's step events. stop_after: asks to stop after so many steps, as Ctrl-C does."""
    context = tiny_model.context(run, "s")
    checked = validated(Preference, SHORT | settings, "test")
    inputs = (context, checked, tiny_model.model_of(folder), tiny_model.given(data))
    if stop_after:
        with pytest.MonkeyPatch.context() as patch:
            event = Run.event

            def watched(self: Run, stage: str, kind: str, **values: Any) -> None:
                event(self, stage, kind, **values)
                if kind == "step" and values["step"] == stop_after:
                    context.stop.requested = True

            patch.setattr(Run, "event", watched)
            with pytest.raises(Interrupted):
                preference(*inputs)
    else:
        preference(*inputs)
    return tiny_model.step_events(run)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "bco"},
        {"objective": "beta_dpo"},
        {"objective": "kto"},
        {"objective": "dpo", "reference": {"mix": 0.5, "every": 2}},
        {"objective": "tdpo2"},
        {"objective": "tdpo1", "lora": {"rank": 2}},
    ],
    ids=["bco", "beta_dpo", "kto", "moving", "tdpo2", "tdpo1-lora"],
)
def test_interrupted_and_gone_on_with_equals_uninterrupted_to_the_bit(
    folder: Path, runs: Callable[[], Run], settings: dict[str, Any]
) -> None:
    """What objectives remember, and a reference that is kept or moves, are part of the checkpoint."""
    data = tiny_model.pairs()
    whole, parts = runs(), runs()
    events = trained(whole, folder, data, **settings)
    assert len(events) == 6
    for step in (1, 4):
        assert len(trained(parts, folder, data, stop_after=step, **settings)) == step
    assert trained(parts, folder, data, **settings) == events
    hashes = [tiny_model.weights_hash(run.checkpoints()[-1].path) for run in (whole, parts)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("name", ["bco", "beta_dpo"])
def test_memory_is_carried_from_step_to_step(folder: Path, runs: Callable[[], Run], name: str) -> None:
    """With decay 1 nothing new is learnt of the middle, with decay 0 nothing is kept: the steps differ."""
    kept, lost = (
        trained(runs(), folder, tiny_model.pairs(), objective={"name": name, "decay": decay}) for decay in (1.0, 0.0)
    )
    assert kept[0]["metrics"]["loss"] == lost[0]["metrics"]["loss"]
    assert kept[-1]["metrics"]["loss"] != lost[-1]["metrics"]["loss"]


@pytest.mark.parametrize("name", ["aot", "beta_dpo", "bco", "kto", "tdpo2"])
def test_the_token_budget_changes_no_run(folder: Path, runs: Callable[[], Run], name: str) -> None:
    one, other = (
        trained(runs(), folder, tiny_model.pairs(), objective=name, forest_tokens=budget) for budget in (4096, 1)
    )
    losses = [[event["metrics"]["loss"] for event in events] for events in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


class TestReferences:
    def test_a_moving_one_moves_when_it_is_told(self, folder: Path, runs: Callable[[], Run]) -> None:
        """With mix 1 it is the policy of the step, so its loss starts again at ln 2: in steps 3 and 5."""
        events = trained(runs(), folder, tiny_model.pairs(), reference={"mix": 1.0, "every": 2})
        at_ln_2 = [event["metrics"]["loss"] == pytest.approx(math.log(2), abs=1e-6) for event in events]
        assert at_ln_2 == [True, False, True, False, True, False]

    def test_mix_0_stays(self, folder: Path, runs: Callable[[], Run]) -> None:
        stays = trained(runs(), folder, tiny_model.pairs(), reference={"mix": 0.0, "every": 1})
        usual = trained(runs(), folder, tiny_model.pairs())
        for one, other in zip(stays, usual, strict=True):
            assert one["metrics"]["loss"] == pytest.approx(other["metrics"]["loss"], rel=1e-5)

    def test_adapters_off_is_the_start(self, folder: Path, runs: Callable[[], Run]) -> None:
        off, start = (
            trained(runs(), folder, tiny_model.pairs(), lora={"rank": 2}, reference=kind)
            for kind in ("adapters_off", "start")
        )
        for one, other in zip(off, start, strict=True):
            assert one["metrics"]["loss"] == pytest.approx(other["metrics"]["loss"], rel=1e-5)
        with pytest.raises(ConfigError, match='adapters_off" needs an adapter: set lora, or use "start"'):
            trained(runs(), folder, tiny_model.pairs(), reference="adapters_off")

    def test_none_says_all_answers_are_equally_likely(self, folder: Path, runs: Callable[[], Run]) -> None:
        events = trained(runs(), folder, tiny_model.pairs(), reference="none", epochs=1)
        free = trained(
            runs(), folder, tiny_model.pairs(), objective={"name": "cpo", "nll_weight": 0.0}, epochs=1
        )  # its loss is dpo without a reference
        assert [e["metrics"]["loss"] for e in events] == [e["metrics"]["loss"] for e in free]
        with pytest.raises(ConfigError, match=r"'tdpo1' measures the KL from a reference: reference = \"none\" has"):
            trained(runs(), folder, tiny_model.pairs(), objective="tdpo1", reference="none")

    def test_base_is_the_runs_own(self, folder: Path, runs: Callable[[], Run], tmp_path: Path) -> None:
        """Of a stage that starts from another model: the loss does not start at ln 2."""
        start = tiny_model.model_of(tiny_model.save(tmp_path / "other", seed=5))

        def first(**settings: Any) -> float:
            run = runs()
            preference(
                tiny_model.context(run, "s"),
                validated(Preference, SHORT | {"max_steps": 1} | settings, "test"),
                start,
                tiny_model.given(tiny_model.pairs()),
                base=tiny_model.model_of(folder),
            )
            return float(tiny_model.step_events(run)[0]["metrics"]["loss"])

        assert first() == pytest.approx(math.log(2), abs=1e-6)
        assert first(reference="base") != pytest.approx(math.log(2), abs=1e-3)
        with pytest.raises(ConfigError, match=r"'tdpo1' runs its reference beside the policy.*use reference = .start"):
            first(reference="base", objective="tdpo1")

    def test_base_is_the_start_of_the_first_stage(self, folder: Path, runs: Callable[[], Run]) -> None:
        for name in ("dpo", "tdpo1"):
            events = trained(runs(), folder, tiny_model.pairs(4), reference="base", objective=name, max_steps=1)
            assert events[0]["metrics"]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "simpo", "reference": "base"}, "'simpo' has no reference"),
        ({"objective": "kto", "pairs": "adjacent"}, "'kto' makes no comparisons"),
        ({"objective": "dpo", "reference": "adapters_off"}, "needs an adapter"),
        ({"objective": 5}, "objective is a name"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validated(Preference, settings, "test")


def test_plain_text_prompts_for_a_chat_model_are_told(folder: Path, runs: Callable[[], Run]) -> None:
    plain = [
        replace(g, prompt=(text("Q "),), completions=tuple(replace(a, messages=(text(a.text),)) for a in g.completions))
        for g in tiny_model.pairs(2)
    ]
    for data, told in ((plain, True), (tiny_model.pairs(2), False)):
        run = runs()
        trained(run, folder, data, max_steps=1)
        assert any("plain text" in e["message"] for e in run.events(kind="warning")) == told


def test_rows_without_weight_teach_nothing_and_negative_ones_are_refused(folder: Path, runs: Callable[[], Run]) -> None:
    light = [replace(group, weight=0.0) for group in tiny_model.pairs(3)]
    assert trained(runs(), folder, light, objective="dpo", batch_size=3)[0]["metrics"]["gradient_norm"] == 0.0
    with pytest.raises(DataError, match="a row counts 0 or more"):
        trained(runs(), folder, [replace(light[0], weight=-1.0)], objective="dpo")


def test_refusals(folder: Path, runs: Callable[[], Run]) -> None:
    with pytest.raises(DataError, match="the KL is measured on other prompts' answers, and there is no other prompt"):
        trained(runs(), folder, tiny_model.pairs(1), objective="kto")
    with pytest.raises(ConfigError, match="'nll' belongs to stage 'sft'"):
        validated(Preference, {"objective": "nll"}, "test")
    for share in (0.0, 0.5):
        with pytest.raises(ConfigError, match="label_smoothing"):
            validated(Preference, {"objective": {"name": "exo", "label_smoothing": share}}, "test")


def shared(one: Answer, other: Answer) -> int:
    """How many tokens two answers begin with alike."""
    same = itertools.takewhile(lambda both: both[0] == both[1], zip(one.tokens, other.tokens, strict=False))
    return len(list(same))


@pytest.mark.parametrize("name", PAIRED)
def test_a_pair_is_asked_with_its_own_rows_numbers(name: str) -> None:
    """Scores, strengths and sources of a tree of three answers reach the pair that they belong to."""
    engine, objective = engine_of(), bind({"name": name})
    judged = [replace(said(row, "pair"), drawn=(0.0, 1.0, 1.0)) for row in ROWS[:2]]
    made = forest(ROWS[:2])
    with torch.no_grad():
        found = engine.statistics(made, divergence=True, concentration=True)
    case = Case(
        judged, found.logprobs, found.reference, found.divergence, found.concentration, uniform=[[0.3, 0.6, 0.9]] * 2
    )
    score = Scores(found.logprobs.token, found.logprobs.completion, 6)
    if objective.needs("score"):
        own = {"length_score": score, "writing": found.logprobs, "head": torch.eye(2, 4), "prototype": torch.eye(50, 4)}
        own |= {"feature": torch.rand(6, 4), "dropped": torch.rand(6, 2, 4)}
        case = replace(case, policy=None, score=score, target=made.target, **own)
    every = ask(objective, case)
    scores, writer = (0.9, 0.6, 0.1), (0.0, 1.0, 1.0)
    if objective.is_coupled:
        assert every.value.shape == (6,)
        return
    for tree in range(2):
        for place, (c, r) in enumerate(((0, 1), (0, 2), (1, 2))):
            which = [torch.tensor([3 * tree + i]) for i in (c, r)]

            def both(values: Any, which: Any = which) -> Any:
                return Pair(values.select(which[0]), values.select(which[1]))

            def given(numbers: Sequence[float], c: int = c, r: int = r) -> Any:
                return Pair(*(torch.tensor([numbers[i]], dtype=torch.float64) for i in (c, r)))

            alone = objective(
                policy=both(found.logprobs),
                score=both(score),
                writing=both(found.logprobs),
                length_score=both(score),
                reference=both(found.reference),
                divergence=both(found.divergence),
                concentration=both(found.concentration),
                strength=torch.tensor([scores[c] - scores[r]], dtype=torch.float64),
                margin=torch.tensor([scores[c] - scores[r]], dtype=torch.float64),
                parted=torch.tensor([shared(ROWS[tree].answers[c], ROWS[tree].answers[r])]),
                reward=given(scores),
                from_reference=given(writer),
                drawn=given((0.0, 1.0, 1.0)),
            )
            torch.testing.assert_close(every.value[3 * tree + place], alone.value[0], **TIGHT)


def test_a_reference_by_another_run_of_the_stage_is_the_first_ones_start(folder: Path, runs: Callable[[], Run]) -> None:
    """In a loop the last round's model is the start, and so the reference."""
    run = runs()
    trained(run, folder, tiny_model.pairs())
    context = tiny_model.context(run, "second", first_step=6, key="other")
    last = Model("key of round one", str(run.checkpoints()[-1].path))
    settings = validated(Preference, SHORT | {"max_steps": 1}, "test")
    preference(context, settings, last, tiny_model.given(tiny_model.pairs()), base=tiny_model.model_of(folder))
    (event,) = tiny_model.step_events(run, "second")
    assert event["metrics"]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "passes", "kept"),
    [
        ({}, (3, 1), False),
        ({"reference": "none"}, (3, 0), False),
        ({"reference": {"mix": 0.5, "every": 2}}, (4, 0), True),
        ({"reference": "adapters_off", "lora": {}}, (4, 0), False),
        ({"objective": "simpo"}, (3, 0), False),
        ({"objective": "tdpo1"}, (4, 0), True),
        ({"objective": "tdpo1", "lora": {}}, (4, 0), False),
        ({"objective": "kto"}, (4, 2), False),
        ({"objective": "kto", "reference": {}}, (6, 0), True),
    ],
)
def test_what_a_reference_costs(settings: dict[str, Any], passes: tuple[int, int], kept: bool) -> None:
    checked = validated(Preference, settings, "test")
    assert checked.passes == passes
    assert checked.keeps_reference == kept
