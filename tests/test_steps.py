"""Answers in steps: from characters to tokens, to what is said at their ends, and to one number for each answer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_model
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing import models
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError
from truing.formats import FORMATS
from truing.objectives import bind
from truing.packing import forest, pack
from truing.planning import plan
from truing.recipe import read_recipe
from truing.records import AnswerStep, Completion, Group, Message, assistant, text, user
from truing.rendering import Renderer
from truing.scoring.learned import in_steps
from truing.scoring.score import Score, Tools, no_models
from truing.scoring.scorers import make, spelled_out
from truing.signatures import validated
from truing.stages.arranging import judge
from truing.stages.asking import weights
from truing.stages.context import Judges
from truing.stages.evaluate_reward import EvaluateReward, evaluate_reward
from truing.stages.reward_model import RewardModel, reward_model
from truing.store import Run

lines = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=5).filter(str.strip)
WORDS = ("3 * 4 = 12", "so 2 + 12 = 15", "the answer is 15")
LABELS = (True, False, False)


def in_words(steps: Sequence[str], labels: Sequence[bool], prompt: Message) -> Group:
    """The row as the reader of steps makes it."""
    told = prompt.content if prompt.role == "text" else [{"role": prompt.role, "content": prompt.content}]
    return FORMATS["stepwise"].read({"prompt": told, "completions": list(steps), "labels": list(labels)})


@pytest.mark.parametrize("prompt", [text("2 + 3 * 4?\n"), user("2 + 3 * 4?")], ids=["text", "turns"])
@pytest.mark.parametrize("template", [tiny.PLAIN_TEMPLATE, tiny.NEWLINE_TEMPLATE, tiny.SYSTEM_TEMPLATE])
@given(steps=st.lists(lines, min_size=1, max_size=4))
def test_a_step_ends_in_the_token_of_its_last_character(prompt: Message, template: str, steps: list[str]) -> None:
    """Whatever the text: what is read up to that token is the answer up to the step's end. No merge crosses a line."""
    renderer = Renderer(tiny.tokenizer(template))
    (answer,) = renderer.render(in_words(steps, [True] * len(steps), prompt)).answers
    lines = [step + "\n" for step in steps[:-1]] + steps[-1:]
    for number, end in enumerate(answer.steps):
        assert renderer.tokenizer.decode(answer.tokens[: end + 1]) == "".join(lines[: number + 1])
    assert len(answer.steps) == len(steps)


def test_a_token_that_goes_on_into_the_next_step_ends_the_first() -> None:
    """`the` is one token here, so a step that ends after its first letter ends in it."""
    renderer = Renderer(tiny.tokenizer())
    answer = Completion((text("a the b"),), steps=(AnswerStep(3, True), AnswerStep(7, True)))
    (made,) = renderer.render(Group((text("Say: "),), (answer,))).answers
    assert [renderer.tokenizer.decode(made.tokens[: end + 1]) for end in made.steps] == ["a the", "a the b"]
    ends = (AnswerStep(3, True), AnswerStep(4, True))
    with pytest.raises(DataError, match="step 2 ends outside of the answer, or in the token of another"):
        renderer.render(Group((text("Say: "),), (replace(answer, steps=ends),)))
    for end in (0, 8):
        with pytest.raises(DataError, match="step 1 ends outside"):
            renderer.render(Group((text("Say: "),), (replace(answer, steps=(AnswerStep(end),)),)))


def test_steps_of_several_turns_are_refused() -> None:
    turns = Completion((assistant("a"), user("b"), assistant("c")), steps=(AnswerStep(1, True),))
    with pytest.raises(DataError, match="an answer in steps must be one turn, this one has 3"):
        Renderer(tiny.tokenizer()).render(Group((user("Hi"),), (turns,)))


def test_an_answer_that_the_template_changes_is_refused() -> None:
    trimming = tiny.PLAIN_TEMPLATE.replace("m['content']", "m['content'] | trim")
    told = Completion((assistant(" a\nb"),), steps=(AnswerStep(3, True),))
    with pytest.raises(DataError, match="the chat template changes the answer's text"):
        Renderer(tiny.tokenizer(trimming)).render(Group((user("Hi"),), (told,)))


def rows() -> list[Group]:
    return [
        in_words(WORDS, LABELS, user("2 + 3 * 4?")),
        in_words(WORDS[:1], [True], user("3 * 4?")),
        in_words(WORDS[:2], [False, True], user("2 + 12?")),
    ]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    folder = tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")
    torch.manual_seed(0)
    loaded = models.load(str(folder), dtype=torch.float64, device=torch.device("cpu"), outputs=1)
    return LocalEngine(loaded, trainable=False)


def plain(engine: LocalEngine, words: str, prompt: str) -> float:
    """The score after these words, of a forward pass of them alone."""
    row = engine.renderer.render(Group((user(prompt),), (Completion((assistant(words),)),)))
    place = len(row.answers[0].tokens) - 2  # before the token that ends the turn
    with torch.no_grad():
        return float(engine.scores(forest([row]))[0].token[place])


@pytest.mark.parametrize("budget", [1, 10_000])
def test_scores_at_steps_are_those_of_the_answers_so_far(engine: LocalEngine, budget: int) -> None:
    """Of each step by a pass of its own, whatever else is in the forest."""
    found = {}
    for made in pack([engine.renderer.render(group, place) for place, group in enumerate(rows())], budget):
        with torch.no_grad():
            said = engine.scores(made)[0].at(made.step)
        for answer, value in zip(said.completion.tolist(), said.token.tolist(), strict=True):
            found.setdefault(made.rows[answer], []).append(value)
    for place, group in enumerate(rows()):
        (answer,) = group.completions
        prompt = group.prompt[0].content
        assert found[place] == pytest.approx(
            [plain(engine, answer.text[: step.end], prompt) for step in answer.steps], abs=1e-8
        )


@pytest.mark.parametrize(
    ("by", "join"), [("minimum", min), ("product", math.prod), ("last", lambda chances: chances[-1])]
)
def test_an_answer_is_judged_by_its_steps(
    engine: LocalEngine, by: str, join: Callable[[Sequence[float]], float]
) -> None:
    """Those that it names, or its lines; blank lines are no steps."""
    tools = Tools(no_models, no_models, budget=64, process=lambda name: engine)
    said = make(spelled_out({"name": "process_reward", "by": by}), tools)(
        [
            replace(rows()[0], completions=(rows()[0].completions[0], Completion((assistant("1\n\n2 \n"),)))),
            Group((user("Hi"),), tuple(Completion((assistant(words),)) for words in ("", "a", " \n", "b"))),
            Group((user("Hi"),)),
            Group((user("Hi"),), (Completion((assistant("a"), user("b"), assistant("c"))),)),
        ]
    )
    asked = "2 + 3 * 4?"
    answer = rows()[0].completions[0]
    known = [plain(engine, answer.text[: step.end], asked) for step in answer.steps]
    lines = [plain(engine, "1\n", asked), plain(engine, "1\n\n2 \n", asked)]
    expected = [join([1 / (1 + math.exp(-r)) for r in some]) for some in (known, lines)]
    assert [score.value for score in said[0]] == pytest.approx(expected, abs=1e-8)
    assert said[1][::2] == (Score.failed("an answer without a step"),) * 2
    expected = [1 / (1 + math.exp(-plain(engine, words, "Hi"))) for words in "ab"]
    assert [score.value for score in said[1][1::2]] == pytest.approx(expected, abs=1e-8)
    assert said[2] == ()
    assert said[3][0].value is None
    assert "must be one turn" in said[3][0].reason


def test_steps_are_found_by_what_ends_them() -> None:
    def found(words: str, separator: str) -> list[str]:
        steps = in_steps(Completion((assistant(words),)), separator).steps
        return [words[: step.end] for step in steps]

    assert found("a\nb", "\n") == ["a\n", "a\nb"]
    assert found("a\n\n b\n", "\n") == ["a\n", "a\n\n b\n"]
    assert found("a\nb\n\nc", "\n\n") == ["a\nb\n\n", "a\nb\n\nc"]
    assert found(" \n", "\n") == []
    kept = Completion((assistant("a\nb"),), steps=(AnswerStep(3),))
    assert in_steps(kept, "\n") == kept


def test_the_steps_of_an_answer_share_its_weight() -> None:
    judged = [judge(replace(group, weight=2.0), "step") for group in rows()]
    assert judged[0].right == (LABELS,)
    assert weights(bind({"name": "process"}), judged) == pytest.approx([2 / 3] * 3 + [2.0] + [1.0] * 2)


@pytest.mark.parametrize("steps", [(), (AnswerStep(3), AnswerStep(4, True))])
def test_answers_whose_steps_nobody_judged_are_refused(steps: tuple[AnswerStep, ...]) -> None:
    with pytest.raises(DataError, match="an answer without judged steps: put `completions` and `labels`"):
        judge(Group((user("Hi"),), (Completion((assistant("a\nb"),), steps=steps),)), "step")


def test_the_stage_learns_which_steps_are_right(tmp_path: Path) -> None:
    """Steps with an even number are right; on questions it never saw it finds them."""

    def some(start: int, count: int) -> list[Group]:
        numbers = [[(7 * i + 3 * k) % 8 for k in range(3)] for i in range(start, start + count)]
        return [
            in_words([f"it is {n}" for n in three], [n % 2 == 0 for n in three], user(f"q {i}"))
            for i, three in enumerate(numbers, start)
        ]

    folder = tiny_model.save(tmp_path / "tiny")
    run = tiny_model.open_run(tmp_path / "run")
    settings = {"objective": "process", "batch_size": 4, "learning_rate": 5e-3, "epochs": 8, "warmup": 0.0}
    reward_model(
        tiny_model.context(run, "rm"),
        validated(RewardModel, settings, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(some(0, 16)),
        tiny_model.given(some(16, 8)),
    )
    before, after = run.events("rm", "held_out")
    right = [step.right for group in some(16, 8) for step in group.completions[0].steps]
    assert right.count(True) == 12
    assert after["accuracy"]["n"] == 24
    assert after["accuracy"]["value"] > 0.9
    assert after["loss"] < 0.5 * before["loss"]
    made = made_of(run)
    loaded = models.load(str(made), dtype=torch.float32, device=torch.device("cpu"), outputs=1)
    tools = Tools(no_models, no_models, process=lambda name: LocalEngine(loaded, trainable=False))
    two = tuple(Completion((assistant(words),)) for words in ("it is 4\nit is 2", "it is 4\nit is 3"))
    ((good, bad),) = make(spelled_out("process_reward"), tools)([Group((user("q 99"),), two)])
    assert good.value is not None
    assert bad.value is not None
    assert good.value > 0.5 > bad.value
    run.close()


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_reward_model_is_read_where_it_was_trained_alone(tmp_path: Path, lora: dict[str, int] | None) -> None:
    """Its folder says whether that is at the ends of answers or of steps; a copy of it says the same."""
    folder = tiny_model.save(tmp_path / "tiny")
    found = {}
    for objective, data in (("process", rows()), ("bradley_terry", tiny_model.pairs(4))):
        run = tiny_model.open_run(tmp_path / objective)
        settings = validated(RewardModel, {"objective": objective, "max_steps": 1, "lora": lora}, "test")
        reward_model(tiny_model.context(run, "rm"), settings, tiny_model.model_of(folder), tiny_model.given(data))
        found[objective] = Path(shutil.copytree(made_of(run), tmp_path / f"copy of {objective}"))
        run.close()
    by_steps, by_answers = (tiny_model.model_of(found[name]) for name in ("process", "bradley_terry"))
    run = tiny_model.open_run(tmp_path / "run")
    context = tiny_model.context(run, "s")
    right = context.tools(Judges("k", {"s": by_steps, "a": by_answers}), 64)
    wrong = context.tools(Judges("k", {"s": by_answers, "a": by_steps}), 64)
    asked = [Group((user("2 + 3?"),), (Completion((assistant("5"),)),))]
    for name, model in (("process_reward", "s"), ("reward_model", "a")):
        ((score,),) = make(spelled_out({"name": name, "model": model}), right)(asked)
        assert score.value is not None
    with pytest.raises(ConfigError, match=r"is a process reward model.*use the scorer 'process_reward'"):
        make(spelled_out({"name": "reward_model", "model": "a"}), wrong)
    with pytest.raises(ConfigError, match=r"scores whole answers.*use the scorer 'reward_model'"):
        make(spelled_out({"name": "process_reward", "model": "s"}), wrong)
    held_out, nobody = tiny_model.given(tiny_model.pairs(2)), Judges("k", {})
    with pytest.raises(ConfigError, match="use the scorer 'process_reward'"):
        evaluate_reward(context, validated(EvaluateReward, {}, "test"), held_out, nobody, by_steps)
    for file in found.values():
        (file / "manifest.json").write_text("{}")  # as somebody else's, which says nothing
        assert models.scored_by(str(file)) is None
    run.close()


@pytest.mark.parametrize(
    ("objective", "last", "told"),
    [
        ("process", 'use = "score"\nscorer = "reward_model"', "use the scorer 'process_reward'"),
        ("process", 'use = "evaluate_reward"', "use the scorer 'process_reward'"),
        ("bradley_terry", 'use = "score"\nscorer = "process_reward"', "use the scorer 'reward_model'"),
        ("process", 'use = "score"\nscorer = "process_reward"', None),
        ("bradley_terry", 'use = "evaluate_reward"', None),
    ],
)
def test_a_plan_knows_what_a_reward_model_will_score(
    tmp_path: Path, objective: str, last: str, told: str | None
) -> None:
    """Before it is trained."""
    folder = tiny_model.save(tmp_path / "tiny")
    file = tiny_model.write_pairs(tmp_path / "rows.jsonl")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = "{folder}"\ndata = {{ path = "{file}", held_out = 0.25 }}\n'
        f'[[stage]]\nuse = "reward_model"\nobjective = "{objective}"\n[[stage]]\n{last}\n'
    )
    if told is None:
        assert len(plan(read_recipe(recipe))) == 2
        return
    with pytest.raises(ConfigError, match=rf"the model made by stage 'reward_model': .*{told}"):
        plan(read_recipe(recipe))


def made_of(run: Run) -> Path:
    (artifact,) = run.artifacts()
    return run.path / str(artifact.meta["reward"])
