"""Answers in steps: from characters to tokens, to what is said at their ends, and to one number for each answer."""

from __future__ import annotations

import math
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
from truing.errors import DataError
from truing.formats import FORMATS
from truing.objectives import bind
from truing.packing import forest, pack
from truing.records import AnswerStep, Completion, Group, Message, assistant, text, user
from truing.rendering import Renderer
from truing.scoring.learned import in_steps
from truing.scoring.score import Score, Tools, no_models
from truing.scoring.scorers import make, spelled_out
from truing.signatures import validated
from truing.stages.arranging import judge
from truing.stages.asking import weights
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
    tools = Tools(lambda name, members: [engine], no_models, budget=64)
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
    tools = Tools(lambda name, members: [LocalEngine(loaded, trainable=False)], no_models)
    two = tuple(Completion((assistant(words),)) for words in ("it is 4\nit is 2", "it is 4\nit is 3"))
    ((good, bad),) = make(spelled_out("process_reward"), tools)([Group((user("q 99"),), two)])
    assert good.value is not None
    assert bad.value is not None
    assert good.value > 0.5 > bad.value
    run.close()


def made_of(run: Run) -> Path:
    (artifact,) = run.artifacts()
    return run.path / str(artifact.meta["reward"])
