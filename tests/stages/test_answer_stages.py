"""sample, contrast, evaluate and merge on a tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from transformers import AutoModelForCausalLM

from truing import formats, models
from truing.errors import ConfigError, DataError, Interrupted
from truing.objectives import bind
from truing.records import Completion, Group, assistant, text, user
from truing.scoring.principle import Principle
from truing.signatures import Settings, validated
from truing.stages import evaluate as evaluation
from truing.stages import sample as sampling
from truing.stages.arranging import judged_rows
from truing.stages.context import Model
from truing.stages.evaluate import Evaluate, evaluate, summarise
from truing.stages.merge import Merge, merge
from truing.stages.sample import Contrast, Sample, contrast, sample
from truing.store import Artifact, Run

PRINCIPLE = Principle(text="brief", positive=("Be brief.", "Few words."), negative=("Be long.", "Many words."))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model") / "other", seed=5)


def checked(schema: type[Settings], settings: dict[str, Any]) -> Any:
    return validated(schema, {"max_new_tokens": 8} | settings, "test")


def result(run: Run) -> Artifact:
    artifact = run.artifact("key")
    assert artifact is not None
    return artifact


def groups_of(run: Run) -> list[Group]:
    made = result(run)
    return formats.read_groups(made.path / str(made.meta["groups"]), format="group")


def drawn(run: Run, folder: Path, seed: int = 0, count: int = 5, **settings: Any) -> list[Group]:
    context = tiny_model.context(run, "sample", seed=seed)
    data = tiny_model.given(tiny_model.pairs(count))
    sample(context, checked(Sample, settings), tiny_model.model_of(folder), data)
    return groups_of(run)


def words(groups: Sequence[Group]) -> list[list[tuple[int, ...]]]:
    return [[c.sampled.tokens for c in group.completions if c.sampled] for group in groups]


def test_sample_answers_the_prompts_and_leaves_given_answers_out(folder: Path, runs: Callable[[], Run]) -> None:
    made = drawn(runs(), folder, answers=2)
    assert [group.prompt for group in made] == [group.prompt for group in tiny_model.pairs(5)]
    assert all(len(tokens) == 2 for tokens in words(made))
    assert all(0 < len(tokens) <= 8 for group in words(made) for tokens in group)
    assert all(c.sampled.policy == tiny_model.model_of(folder).key for g in made for c in g.completions if c.sampled)


def test_the_answer_of_a_demonstration_stays_as_a_column(folder: Path, runs: Callable[[], Run]) -> None:
    shown = Completion((assistant("4"),))
    (prompt, *_) = tiny_model.pairs(1)
    rows = [
        replace(prompt, completions=(shown,)),
        replace(prompt, completions=(shown,), extra={"answer": "5", "id": 1}),
        replace(prompt, completions=(replace(shown, label=False),)),
        replace(prompt, completions=(shown, shown)),
        replace(prompt, completions=()),
    ]
    run = runs()
    sample(tiny_model.context(run, "sample"), checked(Sample, {}), tiny_model.model_of(folder), tiny_model.given(rows))
    assert [group.extra for group in groups_of(run)] == [{"answer": "4"}, {"answer": "5", "id": 1}, {}, {}, {}]


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.0}, {"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.3}, {"max_new_tokens": 3}, {"answers": 2}],
)
def test_every_setting_of_sample_changes_what_is_drawn(
    folder: Path, runs: Callable[[], Run], change: dict[str, Any]
) -> None:
    assert words(drawn(runs(), folder, **change)) != words(drawn(runs(), folder))


def test_sampling_is_decided_by_the_seed_and_not_by_how_many_run_at_once(folder: Path, runs: Callable[[], Run]) -> None:
    base = words(drawn(runs(), folder))
    assert words(drawn(runs(), folder)) == base
    assert words(drawn(runs(), folder, live_answers=1)) == base
    assert words(drawn(runs(), folder, seed=1)) != base


def test_greedy_sampling_is_the_likeliest_token_of_an_ordinary_model(folder: Path, runs: Callable[[], Run]) -> None:
    made = drawn(runs(), folder, temperature=0.0, count=3)
    plain, renderer = AutoModelForCausalLM.from_pretrained(folder), models.read_renderer(str(folder))
    for group, (tokens,) in zip(made, words(made), strict=True):
        ids = list(renderer.prompt(group.prompt))
        for token in tokens:
            likeliest = plain(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()
            assert token == likeliest
            ids.append(token)


def test_a_stop_while_sampling_keeps_finished_parts_and_draws_the_same(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "PART", 2)
    whole = words(drawn(runs(), folder))
    run = runs()
    context = tiny_model.context(run, "sample")
    real = sampling._drawn
    parts: list[str | None] = []

    def stopped(generator: Any, prompts: Sequence[Group], *given: Any) -> Any:
        parts.append(prompts[0].id)
        context.stop.requested = len(parts) == 3
        return real(generator, prompts, *given)

    monkeypatch.setattr(sampling, "_drawn", stopped)
    data = tiny_model.given(tiny_model.pairs(5))
    with pytest.raises(Interrupted, match="run the same command again"):
        sample(context, checked(Sample, {}), tiny_model.model_of(folder), data)
    assert run.artifact("key") is None
    assert words(drawn(run, folder)) == whole
    first = [group.id for group in map(sampling.bare, data.read())][::2]
    assert parts == [*first, first[-1]], "finished parts are not drawn again"


class Scripted:
    """Stands for the generator: what it answers is written down."""

    def __init__(self, answers: Callable[[int, int], Completion]) -> None:
        self.answers = answers
        self.asked: list[list[Group]] = []

    def generate(self, prompts: Sequence[Group], *_: Any, **named: Any) -> list[tuple[Completion, ...]]:
        self.asked.append(list(prompts))
        return [(self.answers(len(self.asked), place),) for place in range(len(prompts))]


def contrasted(
    run: Run, monkeypatch: pytest.MonkeyPatch, answers: Callable[[int, int], Completion], **settings: Any
) -> Scripted:
    generator = Scripted(answers)
    monkeypatch.setattr(sampling, "make_generator", lambda *_: generator)
    principle = settings.pop("principle", PRINCIPLE)
    context = tiny_model.context(run, "contrast")
    prompts = tiny_model.given(tiny_model.pairs(3))
    contrast(context, checked(Contrast, settings), Model("k", "none"), prompts, principle)
    return generator


def test_contrast_asks_for_both_sides_and_keeps_the_plain_prompt(
    runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs()
    generator = contrasted(run, monkeypatch, lambda _, place: tiny_model.sampled(f"answer {place}"))
    (asked,) = generator.asked
    opposite = dict(zip(PRINCIPLE.positive, PRINCIPLE.negative, strict=True))
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        assert opposite[first.prompt[0].content] == second.prompt[0].content
        assert first.prompt[1:] == second.prompt[1:]
    made = groups_of(run)
    assert [group.prompt for group in made] == [group.prompt for group in tiny_model.pairs(3)]
    assert [[c.text for c in group.completions] for group in made] == [
        ["answer 0", "answer 1"],
        ["answer 2", "answer 3"],
        ["answer 4", "answer 5"],
    ]
    assert [[c.rank for c in group.completions] for group in made] == [[0, 1]] * 3


def test_contrast_draws_useless_pairs_again_and_says_why_it_gave_up(
    runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts: one has equal answers at first, one empty ones always, one an unfinished preferred answer."""

    def answer(attempt: int, place: int) -> Completion:
        if attempt == 1:
            return [
                *(tiny_model.sampled("same "), tiny_model.sampled(" same")),
                *(tiny_model.sampled(" "), tiny_model.sampled("x")),
                *(tiny_model.sampled("half", stop=False), tiny_model.sampled("x")),
            ][place]
        rest = ["c", ""] if attempt == 3 else ["a", "b", "c", "", "d", "e"]
        return tiny_model.sampled(rest[place], stop=place != 5)  # the rejected answer may be unfinished

    run = runs()
    generator = contrasted(run, monkeypatch, answer, retries=3, max_new_tokens=9)
    assert [len(asked) for asked in generator.asked] == [6, 6, 2]
    made = groups_of(run)
    assert [[c.text for c in group.completions] for group in made] == [["a", "b"], ["d", "e"]]
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"]) == (3, 2)
    assert list(event["refused"].values()) == [1]
    assert "empty" in next(iter(event["refused"]))


def test_contrast_settings_limit_retries_and_chosen_finished(
    runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfinished(_: int, place: int) -> Completion:
        return tiny_model.sampled(f"{place}", stop=False)

    with pytest.raises(DataError, match=r"no usable pair in 2 attempts.*length limit.*3"):
        contrasted(runs(), monkeypatch, unfinished, retries=2)
    run = runs()
    generator = contrasted(run, monkeypatch, unfinished, chosen_finished=False, limit=2)
    assert len(groups_of(run)) == 2
    assert len(generator.asked[0]) == 4


def test_contrast_end_to_end_on_the_tiny_model(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    context = tiny_model.context(run, "contrast")
    settings = checked(Contrast, {"chosen_finished": False, "temperature": 1.0})
    contrast(context, settings, tiny_model.model_of(folder), tiny_model.given(tiny_model.prompts(4)), PRINCIPLE)
    for group in groups_of(run):
        chosen, rejected = group.comparison()
        assert chosen.text.strip() != rejected.text.strip()


def test_contrast_draws_other_answers_at_each_attempt(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one pair of instructions the requests are the same again, and what was of no use must not come again."""
    monkeypatch.setattr(sampling, "_refusal", lambda *_: "of no use")
    alone = Principle(text="brief", positive=("Be brief.",), negative=("Be long.",))
    settings, run = checked(Contrast, {"retries": 3, "temperature": 1.5}), runs()
    data = tiny_model.given(tiny_model.prompts(2))
    with pytest.raises(DataError, match="no usable pair in 3 attempts"):
        contrast(tiny_model.context(run, "contrast"), settings, tiny_model.model_of(folder), data, alone)
    kept = [run.artifact(f"key-attempt-{number}-0") for number in (1, 2, 3)]
    drawn = [words(formats.read_groups(part.path / "groups.jsonl", format="group")) for part in kept if part]
    assert [len(answers) for answers in drawn] == [4, 4, 4]
    assert all(len({answers[place][0] for answers in drawn}) == 3 for place in range(4))


def judged(run: Run, model: Path, base: Path, principle: Principle | None = None, **settings: Any) -> dict[str, Any]:
    held_out = tiny_model.given(tiny_model.pairs(6))
    context = tiny_model.context(run, "evaluate")
    evaluate(
        context, checked(Evaluate, settings), tiny_model.model_of(model), tiny_model.model_of(base), held_out, principle
    )
    found: dict[str, Any] = json.loads((result(run).path / "evaluation.json").read_text())
    return found


@pytest.mark.parametrize("principle", [None, PRINCIPLE])
def test_a_model_against_itself_ties_everywhere_and_has_no_divergence(
    folder: Path, runs: Callable[[], Run], principle: Principle | None
) -> None:
    run = runs()
    found = judged(run, folder, folder, principle, answers=2)
    assert (found["wins"], found["ties"], found["losses"]) == (0, 12, 0)
    assert found["win_rate"]["value"] == 0.5
    assert (found["kl"]["value"], found["kl"]["low"], found["kl"]["high"]) == (0.0, 0.0, 0.0)
    assert found["length_ratio"]["value"] == 1.0
    assert found["judge"] == ("principle" if principle else "likelihood")
    assert all(example["winner"] == "tie" for example in found["examples"])
    assert result(run).meta["verdict"] == found["verdict"]
    assert [row["prompt"] for row in run.samples()] == [example["prompt"] for example in found["examples"]]


def test_two_models_differ_and_their_divergence_is_that_of_the_sampled_answers(
    folder: Path, other: Path, runs: Callable[[], Run]
) -> None:
    run = runs()
    found = judged(run, other, folder, temperature=1.0)
    kept = run.artifact("key-model-0")
    assert kept is not None
    answers = formats.read_groups(kept.path / "groups.jsonl", format="group")
    ours, theirs = (AutoModelForCausalLM.from_pretrained(path) for path in (other, folder))
    renderer = models.read_renderer(str(folder))
    ratios = []
    for group in answers:
        sampled = group.completions[0].sampled
        assert sampled is not None
        prompt = renderer.prompt(group.prompt)
        ids = torch.tensor([[*prompt, *sampled.tokens]])
        total = 0.0
        for model, sign in ((ours, 1), (theirs, -1)):
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1).detach()
            for place in range(len(prompt), ids.shape[1]):
                total += sign * logprobs[place - 1, ids[0, place]].item()
        ratios.append(total)
    assert found["kl"]["value"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    assert found["kl"]["n"] == 6


def plain_logprob(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """The sum over the answer's tokens, from an ordinary forward pass."""
    ids = torch.tensor([[*prompt, *answer]])
    logprobs = model(input_ids=ids).logits[0].log_softmax(-1).detach()
    return sum(logprobs[place - 1, ids[0, place]].item() for place in range(len(prompt), ids.shape[1]))


def test_held_out_comparisons_say_how_the_model_moved(folder: Path, other: Path, runs: Callable[[], Run]) -> None:
    found = judged(runs(), other, folder)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(path) for path in (other, folder))
    renderer = models.read_renderer(str(folder))
    moved = []
    for group in tiny_model.pairs(6):
        row = renderer.render(group)
        moved.append(
            [
                plain_logprob(ours, row.prompt, a.tokens) - plain_logprob(theirs, row.prompt, a.tokens)
                for a in row.answers
            ]
        )
    margins = [chosen - rejected for chosen, rejected in moved]
    told = found["preferences"]
    assert told["margin"]["value"] == pytest.approx(sum(margins) / 6, rel=1e-3)
    assert told["chosen"]["value"] == pytest.approx(sum(chosen for chosen, _ in moved) / 6, rel=1e-3)
    assert told["accuracy"]["value"] == pytest.approx(sum(margin > 0 for margin in margins) / 6)
    assert len(found["outcomes"]) == 6
    assert sum(found["outcomes"]) == found["wins"] + found["ties"] / 2


def test_held_out_rankings_are_compared_by_their_ends_and_other_rows_left_out(
    folder: Path, other: Path, runs: Callable[[], Run]
) -> None:
    """Three answers, two thumbs up, and two equal scores: only the first says which answer is better."""
    first, second, third = tiny_model.pairs(3)
    ranked = replace(
        first, completions=(*first.completions, replace(first.completions[1], rank=2, messages=(assistant("no no"),)))
    )
    thumbs = replace(second, completions=tuple(replace(a, rank=None, label=True) for a in second.completions))
    tied = replace(third, completions=tuple(replace(a, rank=None, score=1.0) for a in third.completions))
    context = tiny_model.context(runs(), "evaluate")
    held = tiny_model.given([ranked, thumbs, tied])
    evaluate(context, checked(Evaluate, {}), tiny_model.model_of(other), tiny_model.model_of(folder), held)
    found = json.loads((result(context.run).path / "evaluation.json").read_text())
    assert (found["prompts"], found["preferences"]["accuracy"]["n"]) == (3, 1)


def test_plain_text_prompts_for_a_chat_model_are_told(folder: Path, runs: Callable[[], Run]) -> None:
    model = tiny_model.model_of(folder)
    for prompts, told in (([Group((text("Q "),))], True), (tiny_model.prompts(1), False)):
        context = tiny_model.context(runs(), "evaluate")
        evaluate(context, checked(Evaluate, {"max_new_tokens": 2}), model, model, tiny_model.given(prompts))
        assert any("plain text" in e["message"] for e in context.run.events(kind="warning")) == told


def test_an_instruction_is_put_before_the_models_answers_alone(
    folder: Path, other: Path, runs: Callable[[], Run]
) -> None:
    bare, told = judged(runs(), folder, folder), judged(runs(), folder, folder, instruction="Give a good answer.")
    assert [e["base"]["text"] for e in told["examples"]] == [e["base"]["text"] for e in bare["examples"]]
    assert [e["prompt"] for e in told["examples"]] == [e["prompt"] for e in bare["examples"]]
    assert [e["model"]["text"] for e in told["examples"]] != [e["model"]["text"] for e in bare["examples"]]
    assert (bare["kl"]["value"], told["kl"]["value"] != 0) == (0.0, True)


def test_every_setting_of_evaluate_is_alive(folder: Path, other: Path, runs: Callable[[], Run]) -> None:
    base = judged(runs(), other, folder, PRINCIPLE)
    assert judged(runs(), other, folder, PRINCIPLE) == base
    assert judged(runs(), other, folder, PRINCIPLE, forest_tokens=1, live_answers=1)["wins"] == base["wins"]
    assert judged(runs(), other, folder, PRINCIPLE, judge="likelihood")["judge"] == "likelihood"
    assert judged(runs(), other, folder, PRINCIPLE, limit=2)["prompts"] == 2
    assert len(judged(runs(), other, folder, PRINCIPLE, examples=1)["examples"]) == 1
    two = judged(runs(), other, folder, PRINCIPLE, answers=2)
    assert two["wins"] + two["ties"] + two["losses"] == 12
    run = runs()
    with pytest.raises(ConfigError, match=r"needs a \[principle\]"):
        judged(run, other, folder, judge="principle")
    assert run.artifacts() == [], "it is told before anything is drawn"


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}])
def test_answers_that_are_not_drawn_from_the_whole_distribution_give_no_divergence(
    folder: Path, other: Path, runs: Callable[[], Run], change: dict[str, Any]
) -> None:
    found = judged(runs(), other, folder, **change)
    assert found["kl"] is None
    assert "KL" not in found["verdict"]


def test_no_probability_to_draw_from_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"test\.top_p: .*greater than 0"):
        checked(Sample, {"top_p": 0})


def test_evaluate_needs_prompts(folder: Path, runs: Callable[[], Run]) -> None:
    model = tiny_model.model_of(folder)
    with pytest.raises(DataError, match=r"no held-out prompts to evaluate on: set data\.held_out"):
        evaluate(tiny_model.context(runs(), "e"), checked(Evaluate, {}), model, model, tiny_model.given([]))


def summarised(
    rows: list[tuple[list[Completion], list[float]]], divergence: list[list[float]], **settings: Any
) -> dict[str, Any]:
    groups = [
        Group(prompt.prompt, tuple(row[0])) for prompt, row in zip(tiny_model.prompts(len(rows)), rows, strict=True)
    ]
    return summarise(groups, [row[1] for row in rows], divergence, checked(Evaluate, settings), PRINCIPLE)


def test_the_numbers_of_a_comparison_by_hand() -> None:
    """Five prompts, one answer a side: a win, a loss, a tie, a win by an empty answer of the base, two empty ones."""
    a = tiny_model.sampled
    rows = [
        ([a("x", tokens=2), a("y", tokens=4)], [1.0, 0.0]),
        ([a("x", tokens=2), a("y", tokens=4)], [-1.0, 0.0]),
        ([a("x", tokens=2), a("y", tokens=4)], [0.5, 0.5]),
        ([a("x", tokens=2, stop=False), a(" ", tokens=4)], [-9.0, 9.0]),
        ([a("", tokens=2), a("\n", tokens=4)], [1.0, 0.0]),
    ]
    found = summarised(rows, [[1.0], [2.0], [3.0], [4.0], [0.0]], examples=2)
    assert (found["wins"], found["ties"], found["losses"]) == (2, 2, 1)
    assert found["win_rate"]["value"] == pytest.approx(3 / 5)
    assert found["win_rate"]["n"] == 5
    assert found["win_rate"]["low"] < 0.6 < found["win_rate"]["high"]
    assert found["kl"]["value"] == pytest.approx(2.0)
    half = 2.776 * math.sqrt(2.5 / 5)  # Student's t with 4 degrees of freedom; variance 2.5
    assert (found["kl"]["low"], found["kl"]["high"]) == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert found["length_ratio"]["value"] == pytest.approx(0.5)
    assert (found["model"]["mean_tokens"], found["base"]["mean_tokens"]) == (2, 4)
    assert (found["model"]["finished"]["value"], found["base"]["finished"]["value"]) == (0.8, 1.0)
    assert found["verdict"].startswith("wins 60 % [")
    assert "on 5 held-out prompts; KL 2.0 nats; answers 0.50x as long; 80 % finished (base 100 %)" in found["verdict"]
    assert [example["winner"] for example in found["examples"]] == ["model", "base"]
    assert found["examples"][0]["model"] == {"text": "x", "tokens": 2, "finished": True, "score": 1.0}


def test_several_answers_are_paired_by_their_number_and_count_by_prompt() -> None:
    a = tiny_model.sampled
    rows = [
        ([a("x"), a("x"), a("y"), a("y")], [1.0, 1.0, 0.0, 0.0]),
        ([a("x"), a("x"), a("y"), a("y")], [1.0, 0.0, 0.0, 1.0]),
    ]
    found = summarised(rows, [[1.0, 3.0], [5.0, 7.0]], answers=2)
    assert (found["wins"], found["ties"], found["losses"], found["prompts"]) == (3, 0, 1, 2)
    assert found["win_rate"]["value"] == pytest.approx(0.75)
    assert found["kl"]["value"] == pytest.approx(4.0)


def test_an_answer_in_circles_never_wins() -> None:
    a = tiny_model.sampled
    found = summarised([([a("again and " * 40), a("y")], [9.0, 0.0])], [[0.0]])
    assert (found["wins"], found["losses"]) == (0, 1)
    assert found["model"]["looping"]["value"] == 1.0
    assert evaluation.says_nothing(a("again and " * 40))


def test_merge_writes_an_ordinary_model_in_the_dtype_asked_for(folder: Path, runs: Callable[[], Run]) -> None:
    sizes = {}
    for dtype in ("fp32", "bf16", "fp16"):
        run = runs()
        merge(tiny_model.context(run, "merge"), validated(Merge, {"dtype": dtype}, "m"), tiny_model.model_of(folder))
        made = result(run)
        assert run.path / str(made.meta["model"]) == made.path
        plain = AutoModelForCausalLM.from_pretrained(made.path)
        assert str(plain.dtype) == {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}[dtype]
        sizes[dtype] = (made.path / "model.safetensors").stat().st_size
        reloaded = models.read_renderer(str(made.path))
        assert reloaded.fingerprint == models.read_renderer(str(folder)).fingerprint
    assert sizes["fp32"] > 1.8 * sizes["bf16"]
    original = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in AutoModelForCausalLM.from_pretrained(made.path).named_parameters():
        torch.testing.assert_close(weight.float(), original.get_parameter(name).detach(), rtol=1e-3, atol=1e-3)


def against_the_data(
    run: Run, folder: Path, rows: Sequence[Group], words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> list[Group]:
    """What `sample` makes where every prompt gets these answers."""
    answers = tuple(tiny_model.sampled(word) for word in words)
    monkeypatch.setattr(sampling, "draw", lambda _context, _generator, prompts, *_: [answers] * len(prompts))
    settings = checked(Sample, {"data_answers": "prefer", "answers": len(words)})
    sample(tiny_model.context(run, "sample"), settings, tiny_model.model_of(folder), tiny_model.given(rows))
    return groups_of(run)


def test_the_data_s_own_answer_is_preferred_to_all_that_are_drawn(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    demonstration, other = tiny_model.demonstrations(2)
    rows = [demonstration, replace(tiny_model.pairs(1)[0], strength=3.0)]
    made = against_the_data(runs(), folder, rows, ["perhaps", "no"], monkeypatch)
    assert [[(a.text, a.rank) for a in group.completions] for group in made] == [
        [(demonstration.completions[0].text, 0), ("perhaps", 1), ("no", 1)],
        [("yes", 0), ("perhaps", 1), ("no", 1)],
    ]
    assert [group.strength for group in made] == [None, None]
    (row,) = judged_rows(bind({"name": "dpo"}), made[:1])
    assert row.pairs == ((0, 1), (0, 2)), "what was drawn is not compared with itself"
    assert other.prompt != demonstration.prompt


def test_answers_that_equal_the_data_s_and_rows_that_cannot_be_compared_are_counted(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, same, bad, long = tiny_model.demonstrations(4)
    same = replace(same, completions=(Completion((assistant(" no "),)),))
    bad = replace(bad, completions=(replace(bad.completions[0], label=False),))
    long = replace(long, completions=(Completion((assistant("a"), user("b"), assistant("c"))),))
    run = runs()
    (made,) = against_the_data(run, folder, [whole, same, bad, long], ["no", "no"], monkeypatch)
    assert made.prompt == whole.prompt
    (event,) = run.events(kind="data")
    assert (event["rows"], event["used"]) == (4, 1)
    assert event["refused"] == {
        "an answer with a thumb down": 1,
        "an answer of several turns, where one is drawn": 1,
        "an answer that equals the data's": 2,
    }
    assert event["written_by"] == {"": 1, "none": 2}
    with pytest.raises(DataError, match=r"no row left; left out: an answer that equals the data's \(2\)"):
        against_the_data(runs(), folder, [same], ["no", "no"], monkeypatch)
    with pytest.raises(DataError, match="this row has no answer"):
        against_the_data(runs(), folder, tiny_model.prompts(1), ["no"], monkeypatch)
