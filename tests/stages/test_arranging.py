"""What people said of answers, as each kind of objective asks for it: by hand on small rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny
import tiny_model

from truing.errors import DataError
from truing.objectives import bind
from truing.records import AnswerStep, Completion, Group, assistant, comparison, text, user
from truing.rendering import Renderer
from truing.stages.arranging import best, conditioned, hindsight, judge, judged_rows, to_watch

GOOD, BAD = "Be good.", "Be bad."


def row(*marks: dict[str, Any], **more: Any) -> Group:
    """Answers a, b, c, ... to one question, with what is said of each."""
    answers = [Completion((assistant(chr(ord("a") + i)),), **some) for i, some in enumerate(marks)]
    return Group((user("q?"),), tuple(answers), file="prefs.jsonl", line=218, **more)


def ranked(*ranks: int, **more: Any) -> Group:
    return row(*({"rank": rank} for rank in ranks), **more)


def scored(*scores: float, **more: Any) -> Group:
    return row(*({"score": score} for score in scores), **more)


def thumbs(*labels: bool | None, **more: Any) -> Group:
    return row(*({"label": label} for label in labels), **more)


def words(group: Group) -> str:
    return "".join(answer.text for answer in group.completions)


class TestPairs:
    @pytest.mark.parametrize(
        ("which", "pairs"),
        [
            ("all", ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))),
            ("best_worst", ((0, 3),)),
            ("adjacent", ((0, 1), (1, 2), (2, 3))),
        ],
    )
    @pytest.mark.parametrize("given", [ranked(3, 0, 7, 1), scored(0.1, 9.0, -4.0, 2.0)])
    def test_without_ties(self, given: Group, which: Any, pairs: Any) -> None:
        judged = judge(given, "pair", which)
        assert (words(judged.group), judged.pairs) == ("bdac", pairs)

    @pytest.mark.parametrize(
        ("which", "pairs"),
        [
            ("all", ((0, 1), (0, 2), (0, 3), (1, 3), (2, 3))),
            ("best_worst", ((0, 3),)),
            ("adjacent", ((0, 1), (0, 2), (1, 3), (2, 3))),
        ],
    )
    @pytest.mark.parametrize("given", [ranked(2, 1, 2, 5), scored(2.0, 3.0, 2.0, 1.0)])
    def test_tied_answers_are_not_compared(self, given: Group, which: Any, pairs: Any) -> None:
        judged = judge(given, "pair", which)
        assert (words(judged.group), judged.pairs) == ("bacd", pairs)

    def test_ties_at_both_ends(self) -> None:
        assert judge(ranked(0, 0, 1, 1), "pair", "best_worst").pairs == ((0, 3),)
        assert judge(ranked(0, 0, 1, 1), "pair").pairs == ((0, 2), (0, 3), (1, 2), (1, 3))

    def test_thumbs_compare_up_with_down(self) -> None:
        judged = judge(thumbs(False, True, False), "pair")
        assert (words(judged.group), judged.pairs) == ("bac", ((0, 1), (0, 2)))

    @pytest.mark.parametrize("kind", ["answer", "ranking"])
    def test_other_kinds_have_none(self, kind: Any) -> None:
        assert judge(ranked(0, 1, 2), kind).pairs == ()
        assert judge(ranked(0, 1, 2), kind).strength == ()


class TestStrength:
    def test_is_the_difference_of_scores(self) -> None:
        assert judge(scored(1.0, 4.5, 3.0), "pair").strength == pytest.approx((1.5, 3.5, 2.0))

    def test_or_the_rows_own(self) -> None:
        assert judge(ranked(1, 0, strength=2.5), "pair").strength == (2.5,)
        assert judge(scored(1.0, 4.5, strength=2.5), "pair").strength == (3.5,)

    def test_or_1(self) -> None:
        assert judge(ranked(0, 1, 2), "pair").strength == (1.0, 1.0, 1.0)


class TestReward:
    def test_is_the_score(self) -> None:
        assert judge(scored(1.0, 4.5, 3.0), "ranking").reward == (4.5, 3.0, 1.0)

    def test_or_minus_the_rank(self) -> None:
        assert judge(ranked(3, 0, 1), "ranking").reward == (0.0, -1.0, -3.0)

    def test_or_the_thumb(self) -> None:
        """A thumb up is above a thumb down, or a ranking of thumbs would say nothing."""
        assert judge(thumbs(False, True), "ranking").reward == (1.0, 0.0)

    @pytest.mark.parametrize("given", [scored(0.25), scored(0.1, 0.9, 0.5), scored(0.5, 0.5)])
    def test_every_scored_answer_counts_where_scores_are_learnt(self, given: Group) -> None:
        judged = judge(given, "answer", scored=True)
        assert judged.reward == tuple(answer.score for answer in given.completions)
        assert judged.group == given
        assert len(judged.label) == len(given.completions)

    @pytest.mark.parametrize("kind", ["answer", "pair"])
    def test_is_missing(self, kind: Any) -> None:
        with pytest.raises(DataError, match=r"^prefs.jsonl:218: .* score of each answer: put scores into the data"):
            judge(ranked(0, 1), kind, scored=True)
        assert judge(ranked(0, 1), "ranking", scored=True).reward == (0.0, -1.0), "ranks will do for rankings"

    def test_a_row_without_answers(self) -> None:
        with pytest.raises(DataError, match=r"^prefs.jsonl:218: "):
            judge(row(), "answer", scored=True)


class TestLabels:
    def test_of_a_comparison(self) -> None:
        judged = judge(ranked(1, 0), "answer")
        assert (words(judged.group), judged.label) == ("ba", (True, False))

    def test_of_more_the_best_and_the_worst(self) -> None:
        judged = judge(scored(0.5, 0.9, 0.1, 0.4), "answer")
        assert (words(judged.group), judged.label) == ("bc", (True, False))

    def test_are_kept_where_all_have_one(self) -> None:
        judged = judge(thumbs(False, True, False), "answer")
        assert (words(judged.group), judged.label) == ("abc", (False, True, False))
        assert judge(thumbs(False), "answer").label == (False,)

    def test_the_weight_stays(self) -> None:
        assert judge(ranked(1, 0, weight=0.25), "answer").group.weight == 0.25


def test_who_wrote_an_answer() -> None:
    judged = judge(row({"rank": 1, "source": "reference"}, {"rank": 0, "source": "policy"}), "pair")
    assert judged.by_reference == (0.0, 1.0)


class TestRefusals:
    """Each says where, what and what to do."""

    @pytest.mark.parametrize("kind", ["pair", "ranking"])
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (row({}), "a comparison needs two answers, this row has 1$"),
            (thumbs(True), "a comparison needs two answers, this row has 1$"),
            (row(), "a comparison needs two answers, this row has 0$"),
            (row({}, {"rank": 0}), "each answer needs a rank, or each a score: say which answer is preferred"),
            (row({"score": 1.0}, {"rank": 0}), "each answer needs a rank, or each a score"),
            (ranked(1, 1), "a comparison needs two different ranks: say which answer is preferred"),
            (scored(1.0, 1.0, 1.0), "a comparison needs two different ranks: say which answer is preferred"),
        ],
    )
    def test_of_comparisons(self, given: Group, words: str, kind: Any) -> None:
        with pytest.raises(DataError, match=f"^prefs.jsonl:218: {words}"):
            judge(given, kind)

    @pytest.mark.parametrize(
        ("given", "name", "words"),
        [
            (row({}), "dpo", "'dpo' compares two answers, this row has 1: bring a second answer, or use stage 'sft'"),
            (row(), "dpo", "'dpo' compares two answers, this row has 0: use it as a prompt, or drop it"),
            (thumbs(True), "dpo", "use an objective on thumbs, such as kto$"),
            (
                thumbs(True),
                "bradley_terry",
                "no reward model learns from thumbs: .* scores for objective 'regression'$",
            ),
            (row({"score": 1.0}), "dpo", "objective 'weighted_nll'$"),
            (row({"score": 1.0}), "bradley_terry", "learn from its score, by objective 'regression'$"),
            (row({"steps": (AnswerStep(1, True),)}), "dpo", "objective 'process' of stage 'reward_model'$"),
            (row({"steps": (AnswerStep(1, True),)}), "listwise", "objective 'process' of stage 'reward_model'$"),
        ],
    )
    def test_of_single_answers_say_what_they_are_good_for(self, given: Group, name: str, words: str) -> None:
        with pytest.raises(DataError, match=f"^prefs.jsonl:218: .*{words}"):
            judged_rows(bind({"name": name}), [given])

    def test_of_thumbs(self) -> None:
        needs = r"^prefs.jsonl:218: the answer needs a thumb: put `label` \(true or false\) into the data$"
        for given in (row({}), row()):
            with pytest.raises(DataError, match=needs):
                judge(given, "answer")
        with pytest.raises(DataError, match=r"^prefs.jsonl:218: .*say which answer is preferred"):
            judge(thumbs(True, None), "answer")

    def test_of_equal_answers(self) -> None:
        given = comparison((user("q"),), Completion((assistant("x"),)), Completion((assistant("x"),)), file="p", line=3)
        with pytest.raises(DataError, match=r"^p:3: 'chosen' and 'rejected' are equal: drop the line$"):
            judge(given, "pair")
        tied = Group(
            (user("q"),), tuple(Completion((assistant(w),), rank=r) for w, r in (("x", 0), ("x", 0), ("y", 1)))
        )
        assert judge(tied, "pair").pairs == ((0, 2), (1, 2)), "equal answers may be tied"

    def test_of_demonstrations(self) -> None:
        with pytest.raises(DataError, match=r"^prefs.jsonl:218: .*no answer to train on: use it as a prompt, or drop"):
            best(row())
        with pytest.raises(DataError, match=r"^prefs.jsonl:218: 2 answers and no rank or score says which"):
            best(row({}, {"rank": 0}))

    def test_of_hindsight(self) -> None:
        for given in (ranked(0), row()):
            with pytest.raises(DataError, match=r"^prefs.jsonl:218: chain_of_hindsight needs two answers: use compar"):
                hindsight(given, GOOD, BAD, 0)


def test_best() -> None:
    assert words(best(ranked(2, 0, 1, strength=3.0))) == "b"
    assert words(best(scored(2.0, 0.0, 1.0))) == "a"
    assert words(best(thumbs(False, True))) == "b"
    assert best(ranked(2, 0, strength=3.0)).strength is None
    assert best(thumbs(False)) == thumbs(False)


class TestConditioned:
    def test_chat(self) -> None:
        rows = conditioned(ranked(1, 0, weight=0.5), GOOD, BAD)
        assert [(one.prompt[-1].content, words(one), one.weight) for one in rows] == [
            ("q?\n\nBe good.", "b", 0.5),
            ("q?\n\nBe bad.", "a", 0.5),
        ]
        assert [one.place for one in rows] == ["prefs.jsonl:218"] * 2
        assert [one.prompt[-1].role for one in rows] == ["user"] * 2

    def test_thumbs_stand_alone(self) -> None:
        rows = conditioned(thumbs(False, True, True), GOOD, BAD)
        assert [(one.prompt[-1].content.split("\n\n")[1], words(one)) for one in rows] == [
            (BAD, "a"),
            (GOOD, "b"),
            (GOOD, "c"),
        ]

    def test_text(self) -> None:
        given = Group((text("Once"),), (Completion((text(" more"),), rank=0), Completion((text(" less"),), rank=1)))
        rows = conditioned(given, GOOD, BAD)
        assert [(one.prompt[0].content, words(one)) for one in rows] == [
            ("Once\n\nBe good.\n", " more"),
            ("Once\n\nBe bad.\n", " less"),
        ]
        without = conditioned(replace(given, prompt=()), GOOD, BAD)
        assert [one.prompt for one in without] == [(text("Be good.\n"),), (text("Be bad.\n"),)]


class TestHindsight:
    def test_chat(self) -> None:
        orders = set()
        for seed in range(12):
            made = hindsight(ranked(1, 0, 2, weight=0.5), GOOD, BAD, seed)
            (answer,) = made.completions
            first, between, last = answer.messages
            said = (made.prompt[-1].content, first.content, between.content, last.content)
            assert (between.role, first.role, last.role) == ("user", "assistant", "assistant")
            assert said in {("q?\n\nBe good.", "b", "Be bad.", "c"), ("q?\n\nBe bad.", "c", "Be good.", "b")}
            assert (made.weight, made.strength) == (0.5, None)
            assert made == hindsight(ranked(1, 0, 2, weight=0.5), GOOD, BAD, seed), "the seed decides"
            orders.add(said)
        assert len(orders) == 2, "either may come first"

    def test_both_answers_are_scored_and_the_announcements_are_not(self) -> None:
        renderer = Renderer(tiny.tokenizer(tiny.NEWLINE_TEMPLATE))
        rendered = renderer.render(hindsight(ranked(1, 0, 2), GOOD, BAD, 0))
        (answer,) = rendered.answers
        spoken = [token for token, scored in zip(answer.tokens, answer.scored, strict=True) if scored]
        first, last = [m.content for m in hindsight(ranked(1, 0, 2), GOOD, BAD, 0).completions[0].messages[::2]]
        assert renderer.tokenizer.decode(spoken) == f"{first}{tiny.END}{last}{tiny.END}"

    def test_text(self) -> None:
        """Every word of a text answer is scored, so the first answer stands before the last announcement."""
        given = Group((text("Once"),), (Completion((text(" more"),), rank=0), Completion((text(" less"),), rank=1)))
        seen = {
            ("".join(m.content for m in made.prompt), words(made))
            for made in (hindsight(given, GOOD, BAD, seed) for seed in range(12))
        }
        assert seen == {
            ("Once\n\nBe good.\n more\n\nBe bad.\n", " less"),
            ("Once\n\nBe bad.\n less\n\nBe good.\n", " more"),
        }


@pytest.mark.parametrize(
    ("objective", "scores", "words"),
    [
        ("odpo", None, "'odpo' needs a strength"),
        ("odpo", (1.0, 1.0), "a strength must be above 0"),
        ("xpo", None, "'xpo' needs an answer whose `source` is \"reference\""),
        ("sppo", (9.0, 3.0), "probabilities from 0 to 1"),
    ],
)
def test_without_what_an_objective_is_about_it_is_refused(objective: str, scores: Any, words: str) -> None:
    (group,) = tiny_model.pairs(1)
    if scores:
        group = replace(
            group, completions=tuple(replace(a, score=s) for a, s in zip(group.completions, scores, strict=True))
        )
    with pytest.raises(DataError, match=words):
        judged_rows(bind({"name": objective}), [group])


@pytest.mark.parametrize("name", ["soft_dpo", "ordinal"])
def test_two_scores_of_0_have_no_shares(name: str) -> None:
    """Ranks say which answer is better, and the scores that none is: a label of 0 / 0."""
    marks = [{"rank": rank, "score": score} for rank, score in enumerate((0.5, 0.0, 0.0))]
    with pytest.raises(DataError, match=rf"^prefs.jsonl:218: '{name}' takes an answer's share .*, which are 0: drop"):
        judged_rows(bind({"name": name}), [row(*marks)])
    assert judged_rows(bind({"name": name}), [row(*marks)], "best_worst"), "both pairs with the first have shares"
    assert judged_rows(bind({"name": "sppo"}), [row(*marks)]), "chances of their own need no share"


def test_contradictions_are_refused_where_scores_count() -> None:
    pair = tiny_model.pairs(1)[0]
    scored = tuple(replace(answer, score=score) for answer, score in zip(pair.completions, (1, 2), strict=True))
    contradicted = replace(pair, completions=scored)
    for name in ("odpo", "pro"):
        with pytest.raises(DataError, match="ranks and scores contradict each other"):
            judged_rows(bind({"name": name}), [contradicted])
    assert len(judged_rows(bind({"name": "dpo"}), [contradicted])) == 1, "dpo asks for the order alone"


def test_held_out_comparisons_by_people_are_sure_where_an_objective_asks_for_chances() -> None:
    """Training rows carry a judge's chances; what is measured on is as people labelled it. Scores that stand stay."""
    plain, given = tiny_model.pairs(2)
    first, second = given.completions
    chances = (replace(first, score=0.7), replace(second, score=0.3))
    found = to_watch(bind({"name": "soft_dpo"}), [plain, replace(given, completions=chances)])
    assert [[answer.score for answer in row.completions] for row in found] == [[1.0, 0.0], [0.7, 0.3]]
    assert to_watch(bind({"name": "dpo"}), [plain]) == [plain]
