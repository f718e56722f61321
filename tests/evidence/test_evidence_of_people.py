"""What is measured on people: files as rows, folds, the baseline of words, AUROC, and the page, on a tiny model."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from evidence import human, people, people_page, words
from evidence.detection import auroc, auroc_interval
from evidence.found import Found, OutOfTimeError
from evidence.people import Arm, Trial
from evidence.running import RECIPES
from truing.errors import ConfigError
from truing.formats import read_groups
from truing.recipe import read_recipe
from truing.records import Completion, Group, assistant, comparison, user
from truing.scoring.scorers import make

SMALL = people.Size(
    rows=18, rates=(1e-3, 1e-2), epochs=2, batch=4, seeds=1, shares=(0.2,), members=1, pool=12, budget=4, draws=2,
    references=4, prompts=3, tokens=4,
)  # fmt: skip


def put(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    file = folder / f"{name}.jsonl.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files laid out as the real ones are; the better answer says yes."""
    folder = tmp_path_factory.mktemp("people")
    good, bad = "yes it is", "no no"
    pairs = [
        {"chosen": f"{good} {n}", "rejected": bad if n % 3 else f"{bad} at all, and never was {n}"} for n in range(24)
    ]
    asked = [f"\n\nHuman: Is it {n}?\n\nAssistant: Ask.\n\nHuman: So?\n\nAssistant:" for n in range(24)]
    put(folder, "hh_harmless/pairs", ({"prompt": p, **pair} for p, pair in zip(asked, pairs, strict=True)))
    talks = [
        f"Human: Is it {n // 2}?\n" + (f"Assistant: yes it is {n - 1}\nHuman: And now?\n" if n % 2 else "")
        for n in range(24)
    ]
    put(folder, "oasst1_en/pairs", ({"prompt": p, **pair} for p, pair in zip(talks, pairs, strict=True)))
    put(folder, "finegrained_qa_feedback/pairs", ({"question": f"Is {n}?", **pair} for n, pair in enumerate(pairs)))
    votes = [{"annotator1": 1, "annotator2": 1, "annotator3": n % 2 + 1} for n in range(9)]
    votes += [{"annotator1": 0, "annotator2": 0, "annotator3": 1}, {"annotator1": 0, "annotator2": 1, "annotator3": 2}]
    about = {"instruction": "Say it.", "response1": good, "response2": bad}
    put(folder, "pandalm_testset/testset", ({**about, "input": f"{n}", **vote} for n, vote in enumerate(votes)))
    for name in ("roleplay", "codegen"):
        put(
            folder,
            f"gpteacher/{name}",
            ({"instruction": f"{name} {n}", "input": "", "response": "x " * (n + 1)} for n in range(8)),
        )
    for name in ("user_oriented", "seed_tasks"):
        tasks = ({"instruction": f"{name} {n}", "instances": [{"input": "in", "output": f"out {n}"}]} for n in range(3))
        put(folder, f"self_instruct_human/{name}", tasks)
    return folder


def test_files_become_rows(data: Path) -> None:
    harmless = human.harmless(data)[3]
    assert [turn.content for turn in harmless.prompt] == ["Is it 3?", "Ask.", "So?"]
    replies = human.assistant_replies(data)[5]
    assert [(turn.role, turn.content) for turn in replies.prompt] == [
        ("user", "Is it 2?"), ("assistant", "yes it is 4"), ("user", "And now?"),
    ]  # fmt: skip
    assert [answer.text for answer in replies.comparison()] == ["yes it is 5", "no no"]
    judged = human.judged_by_three(data)
    assert len(judged) == 9  # not where most see a tie, nor where all disagree
    assert {group.completions[0].text for group in judged} == {"yes it is"}
    assert human.pool(data)[-1].extra == {"set": "codegen"}
    assert [group.prompt[0].content for group in human.references(data)[:1]] == ["user_oriented 0\n\nin"]


def test_a_dialogue_and_what_goes_on_from_its_answer_are_in_one_fold(data: Path) -> None:
    groups = human.assistant_replies(data)
    for first, second in zip(groups[::2], groups[1::2], strict=True):
        assert first.prompt != second.prompt
        assert human.fold_of(first, 3, "measured") == human.fold_of(second, 3, "measured")
    assert {human.fold_of(group, 3, "measured") for group in groups} == {0, 1, 2}
    assert any(human.fold_of(group, 3, "measured") != human.fold_of(group, 3, "words") for group in groups)


def said(count: int, seed: int = 0) -> list[Group]:
    """Comparisons of random words, of which `better` is in most chosen answers."""
    draw = random.Random(seed)

    def answer(good: bool) -> Completion:
        some = draw.choices(["abc", "def", "ghi", "jkl", "mno", "pqr", "stu"], k=6)
        return Completion((assistant(" ".join([*some, "better" if good else "worse"])),))

    return [comparison((user(f"{seed} {n}"),), answer(n % 5 > 0), answer(n % 5 == 0)) for n in range(count)]


def test_words_are_the_scorer_bag_of_words_where_the_strength_is_the_same(tmp_path: Path) -> None:
    train, held_out = said(60), said(20, seed=1)
    strength, gaps = words.gaps(train, held_out)
    tiny_model.write_rows(tmp_path / "train.jsonl", ({
        "prompt": [{"role": "user", "content": group.prompt[0].content}],
        "chosen": [{"role": "assistant", "content": group.completions[0].text}],
        "rejected": [{"role": "assistant", "content": group.completions[1].text}],
    } for group in train))  # fmt: skip
    scorer = make(
        {"name": "bag_of_words", "file": str(tmp_path / "train.jsonl"), "ngrams": 2, "regularisation": strength}
    )
    scores = [(chosen.value or 0.0, rejected.value or 0.0) for chosen, rejected in scorer(held_out)]
    assert gaps == pytest.approx([chosen - rejected for chosen, rejected in scores], abs=2e-2)
    assert sum(gap > 0 for gap in gaps) == 16


def test_the_strength_is_the_one_that_is_right_most_often() -> None:
    train = said(60)
    features = words.Words(train).differences(train)
    folds = np.arange(60) % 3
    right = {}
    for strength in words.STRENGTHS:
        right[strength] = 0
        for fold in range(3):
            model = words.fitted(features[folds != fold], strength)
            right[strength] += sum(model.decision_function(features[folds == fold]) > 0)
    assert right[words.best_strength(features, folds)] == max(right.values())


def test_auroc_counts_pairs_and_its_interval_clusters() -> None:
    draw = np.random.default_rng(3)
    wanted = draw.random(40) < 0.3
    scores = np.round(draw.normal(size=40) + wanted, 1)
    pairs = [(a > b) + (a == b) / 2 for a in scores[wanted] for b in scores[~wanted]]
    assert auroc(scores, wanted) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    alone = auroc_interval(scores.tolist(), wanted.tolist(), clusters=list(range(40)))
    assert alone.low < alone.value < alone.high
    # the same rows four times over know no more than they did once
    often = auroc_interval(scores.tolist() * 4, wanted.tolist() * 4, clusters=list(range(40)) * 4)
    assert often.high - often.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_so_many_labels_are_turned_round_and_say_so() -> None:
    groups = said(40)
    found = people.with_turned(groups, 0.2)
    assert sum(group.extra["turned"] for group in found) == 8
    for before, after in zip(groups, found, strict=True):
        chosen, rejected = (answer.text for answer in before.comparison())
        assert [answer.text for answer in after.comparison()] == (
            [rejected, chosen] if after.extra["turned"] else [chosen, rejected]
        )


def test_pieces_are_found_once_and_none_after_the_time(tmp_path: Path) -> None:
    found = Found(tmp_path / "a.json", "here")
    assert found.piece("a/b/0", lambda: [1.5]) == [1.5]
    assert Found(tmp_path / "a.json").piece("a/b/0", lambda: pytest.fail("found before")) == [1.5]
    late = Found(tmp_path / "a.json", seconds=-1.0)
    assert late.piece("a/b/0", lambda: None) == [1.5]
    with pytest.raises(OutOfTimeError, match="a/c"):
        late.piece("a/c", lambda: None)
    assert list(late.under("a")) == [(["b", "0"], [1.5])]
    assert late.pieces["machines"] == {"here": ["a"]}


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_recipe_is_sound(name: str) -> None:
    assert read_recipe(RECIPES / f"{name}.toml").stage


def test_gains_and_wins_are_those_of_the_same_answers() -> None:
    base = {
        "0": {"losses": [2.0, 4.0], "prompts": [0, 1], "scores": [1.0, None]},
        "1": {"losses": [4.0, 4.0], "prompts": [0, 1], "scores": [0.0, 3.0]},
    }
    ours = {
        "0": {"losses": [1.0, 5.0], "prompts": [0, 1], "scores": [2.0, None]},
        "1": {"losses": [3.0, 4.0], "prompts": [1, 0], "scores": [4.0, None]},
    }
    lead = people_page.gain(base.values(), [run["losses"] for run in ours.values()])
    assert lead.value == pytest.approx(((3.0 - 2.0) + (4.0 - 4.5)) / 2)
    by_token = people_page.gain(base.values(), [run["losses"] for run in ours.values()], [1, 3])
    assert by_token.value == pytest.approx((1 * (3.0 - 2.0) + 3 * (4.0 - 4.5)) / 4)
    won = people_page.wins(ours, base)
    assert won.value == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert won.n == 4
    assert people_page.wins({"1": ours["1"]}, base).value == 0.5, "a seed meets its own"


def test_the_page_says_which_way_it_falls(tmp_path: Path) -> None:
    """Of 60 comparisons the reward model is right in all, the words in every other one; then the other way round."""
    every = list(range(60))

    def told(model: list[float], words: list[float]) -> str:
        found = Found(tmp_path / people_page.KEPT)
        found.pieces = {"rows/hh_harmless": {"conversation": every, "longer": [(-1) ** (row // 2) for row in every]}}
        for fold in range(3):
            rows = every[fold::3]
            some = {"rows": rows, "gaps": [words[row] for row in rows], "strength": 1.0}
            found.pieces[f"words/hh_harmless/{fold}"] = some
            for seed in range(2):
                gaps = [model[row] for row in rows]
                found.pieces[f"judged/hh_harmless/{fold}/bradley_terry/{seed}"] = {"rows": rows, "gaps": gaps}
        found.save()
        people_page.write(tmp_path)
        return (tmp_path / "people.md").read_text()

    always, every_other = [1.0] * 60, [(-1.0) ** row for row in every]
    good, bad = told(always, every_other), told(every_other, always)
    right, half = "100.0 % [94.0, 100.0]", "50.0 % [37.7, 62.3]"
    assert f"| hh_harmless: 60 of 60 conversations | {right} | {right} | {half} | {half} |" in good
    assert "| hh_harmless | +50.0 [+37.0, +63.0] | +50.0" in good
    assert "the reward model is better than words, and better than the longer one." in good
    assert "the reward model is worse than words, and not to be told from the longer one; a coin" in bad
    assert "2 models, with heads and orders of their own, are trained" in good


def selection_page(folder: Path, trainings: int, losses: dict[str, list[float]], *, anew: bool = True) -> str:
    """The page of selections with these losses on 40 answers of 2 tokens, and on 40 of 200."""
    found = Found(folder / people_page.KEPT)
    found.pieces = {
        "size": {"budget": 4, "draws": 3},
        "references": {"tokens": [2] * 40 + [200] * 40},
        "untrained": [3.0 + n % 3 / 10 for n in range(80)],
        "judge": {"rows": [0, 1], "gaps": [1.0, 1.0], "longer": [1, 1], "conversation": [0, 1]},
    }
    for name, (brief, long) in losses.items():
        for draw in range(trainings):
            words = 5.0 + draw * (anew and name == "random")
            found.pieces[f"selected/{name}/{draw}"] = {"of": 12, "rows": 4, "words": words, "code": 0.5}
            found.pieces[f"trained/{name}/{draw}"] = {
                "losses": [(brief if n < 40 else long) + n % 3 / 10 + draw / 100 for n in range(80)],
                "prompts": [0, 1],
                "scores": [1.0, 1.0],
                "words": 5.0,
                "finished": 1.0,
            }
    found.save()
    people_page.write(folder)
    return (folder / "people.md").read_text()


def test_no_order_is_told_by_one_training_of_each(tmp_path: Path) -> None:
    better = {"random": [2.0, 2.0], "score first": [1.5, 1.5], "score and diversity": [1.0, 1.0]}
    once, twice = (selection_page(tmp_path, times, better) for times in (1, 2))
    assert "neither confirmed nor refuted" in once
    assert "there are of random 1, score first 1, score and diversity 1" in once
    assert "| score first | 1 of 3 |" in once
    assert "1.500 to" not in once, "one training does not scatter"
    assert "Not measured: longest answers, hardest to foresee (IFD)." in once
    assert "random < score first holds" in twice
    assert "score first < score and diversity holds" in twice
    worse = {"random": [1.0, 1.0], "score first": [1.5, 1.5], "score and diversity": [1.5, 1.5]}
    turned = selection_page(tmp_path, 2, worse)
    assert "random < score first is turned round" in turned
    assert "score first < score and diversity is not to be told" in turned
    same_rows = selection_page(tmp_path, 2, better, anew=False)
    assert "The 2 trainings of random rows have 1 selection between them" in same_rows
    assert "there are of random 1." in same_rows


def test_no_order_is_told_where_answers_and_tokens_disagree(tmp_path: Path) -> None:
    """Much is lost on answers of 2 tokens and a little won on those of 200."""
    two_ways = {"random": [2.0, 2.0], "score first": [3.0, 1.9], "score and diversity": [3.0, 1.9]}
    page = selection_page(tmp_path, 2, two_ways)
    assert "random < score first is not to be told (by answer -0.4500" in page
    assert "by token +0.0891" in page  # (2 * -1 + 200 * 0.1) / 202
    assert "| score first | -1.0000 [-1.0000, -1.0000] | +0.1000 [+0.1000, +0.1000] |" in page
    once = selection_page(tmp_path, 1, two_ways)
    assert "Of score first and of score and diversity not even the sign can be said" in once
    assert "is +0.1000 [+0.1000, +0.1000] and +0.1000 [+0.1000, +0.1000]: it is the loss on very short answers" in once


def length_page(folder: Path, odin: list[float]) -> str:
    """The page of 60 comparisons, half of whose chosen answers are longer, as ODIN sees them."""
    every = list(range(60))
    found = Found(folder / people_page.KEPT)
    found.pieces = {"rows/oasst1_en": {"conversation": every, "longer": [(-1) ** row * (row + 1) for row in every]}}
    for fold in range(3):
        rows = every[fold::3]
        for objective, gaps in (("bradley_terry", [1.0] * 60), ("odin", odin)):
            piece = {"rows": rows, "gaps": [gaps[row] for row in rows]}
            found.pieces[f"judged/oasst1_en/{fold}/{objective}/0"] = piece
    found.save()
    people_page.write(folder)
    return (folder / "people.md").read_text()


def test_odin_is_held_against_a_coin(tmp_path: Path) -> None:
    coin = [(-1.0) ** (row // 2) for row in range(60)]
    assert "Neither rate of ODIN can be told from a coin" in length_page(tmp_path, coin)
    assert "Both rates of ODIN lie above a coin's" in length_page(tmp_path, [1.0] * 60)


def test_shares_of_an_audit_count_conversations() -> None:
    """Four comparisons of each conversation, all of them turned or none, know as much as one."""

    def weakest(times: int) -> dict[str, float]:
        groups = [
            replace(group, strength=-float(n % 4 < 3) + n / 100, extra={"turned": n % 2 == 0})
            for n, group in enumerate(said(40))
            for _ in range(times)
        ]
        found: dict[str, float] = people._detected(groups)["among_weakest"]
        return found

    once, often = weakest(1), weakest(4)
    assert often["value"] == once["value"]
    assert often["high"] - often["low"] == pytest.approx(once["high"] - once["low"], rel=0.02)


@pytest.mark.slow
def test_all_parts_run_and_the_page_is_made_of_what_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = (people.RANDOM, Arm("score first", "length"), Arm("score and diversity", "length", diverse=True))
    monkeypatch.setattr(people, "ARMS", arms)  # a model without sense grades nothing
    monkeypatch.setattr(human, "SETS", {"oasst1_en": human.assistant_replies})
    monkeypatch.setattr(people, "AUDITED", ("oasst1_en",))
    model = str(tiny_model.save(tmp_path / "tiny"))
    out = tmp_path / "out"

    def trial(size: people.Size = SMALL) -> Trial:
        return Trial(data, tmp_path / "runs", Found(out / people_page.KEPT, "here"), size, model, "fp32")

    for part in people.PARTS.values():
        people.begin(trial())
        part(trial())
        people_page.write(out)  # whatever is there yet
    page = (out / "people.md").read_text()
    for heading in ("Does a reward model beat words", "Does the audit find", "loving length", "Do selected rows teach"):
        assert heading in page
    for picture in ("rates", "audit", "length", "selection"):
        assert (out / f"people-{picture}.svg").stat().st_size > 1000
    kept = (out / people_page.KEPT).read_text()
    assert "yes it is" not in kept + page, "texts of people are not kept"
    drawn = [(tmp_path / "runs" / f"selected-0-{draw}").glob("**/groups.jsonl") for draw in range(2)]
    first, second = ({group.id for path in paths for group in read_groups(path, format="group")} for paths in drawn)
    assert len(first) == len(second) == SMALL.budget
    assert first != second, "chance selects anew for each training"
    assert not list((tmp_path / "runs").glob("trained*")), "runs that were read are removed"
    people_page.write(out)
    assert (out / "people.md").read_text() == page
    for part in people.PARTS.values():
        part(trial())
    assert (out / people_page.KEPT).read_text() == kept
    with pytest.raises(ConfigError, match="choose another --out"):
        people.begin(trial(people.Size()))
