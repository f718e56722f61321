"""distinct-n and self-BLEU by hand and against plain loops."""

from __future__ import annotations

import math
import random

import pytest

from truing.scoring.diversity import bleu, distinct, self_bleu, words


def test_words():
    assert words("Don't stop, 3 cats!") == ["don", "t", "stop", "3", "cats"]


def test_distinct_by_hand():
    assert distinct(["a b a", "b a"], 1) == 2 / 5
    assert distinct(["a b a", "b a"], 2) == 2 / 3
    assert distinct(["a", ""], 2) == 1.0


def test_bleu_by_hand():
    """p1 = 2/3; of two words 1 + 1 in 2 + 1, of three 0 + 1 in 1 + 1, of four 0 + 1 in 0 + 1; r = c."""
    assert bleu(["a", "b", "c"], [["a", "b", "d"]]) == pytest.approx((2 / 3 * 2 / 3 * 1 / 2 * 1) ** 0.25)


def test_a_short_one_pays_and_a_repeated_word_counts_as_often_as_in_one_reference():
    assert bleu(["a"], [["a", "b", "c"]]) == pytest.approx(math.exp(1 - 3))
    assert bleu(["a", "a"], [["a", "b"], ["b", "a"]]) == pytest.approx((1 / 2 * 1 / 2 * 1 * 1) ** 0.25)
    assert bleu([], [["a"]]) == 0.0
    assert bleu([], [[]]) == 1.0


def test_self_bleu_of_equal_and_of_unlike_texts():
    assert self_bleu(["the same words again", "The same words again."]) == pytest.approx(1)
    assert self_bleu(["one two", "three four"]) == 0
    with pytest.raises(ValueError, match="two or more"):
        self_bleu(["alone"])


def plain_self_bleu(texts: list[list[str]]) -> float:
    """As its definition says, counting by hand."""
    total = 0.0
    for place, one in enumerate(texts):
        others = [other for k, other in enumerate(texts) if k != place]
        product = 1.0
        for n in (1, 2, 3, 4):
            grams = [tuple(one[i : i + n]) for i in range(len(one) - n + 1)]
            hit = 0
            for gram in set(grams):
                most = max(sum(tuple(o[i : i + n]) == gram for i in range(len(o) - n + 1)) for o in others)
                hit += min(grams.count(gram), most)
            more = 1 if n > 1 else 0
            product *= (hit + more) / (len(grams) + more)
        nearest = sorted(others, key=lambda o: (abs(len(o) - len(one)), len(o)))[0]
        total += product**0.25 * (1 if len(one) >= len(nearest) else math.exp(1 - len(nearest) / len(one)))
    return total / len(texts)


def test_self_bleu_equals_a_plain_loop():
    rng = random.Random(0)
    for _ in range(30):
        texts = [[rng.choice("abc") for _ in range(rng.randint(1, 9))] for _ in range(4)]
        assert self_bleu([" ".join(text) for text in texts]) == pytest.approx(plain_self_bleu(texts))
