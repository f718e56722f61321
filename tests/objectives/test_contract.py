"""What every registered objective must do, whatever it is. A new one is tested by being defined."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
import torch

from truing import objectives
from truing.objectives import NEEDS, OBJECTIVES, Bound, bind
from truing.records import Group
from truing.signatures import asks_for, setting_words, settings_of
from truing.stages.arranging import Judged
from truing.stages.asking import Case, ask, weights
from truing.tensors import Logprobs, PerToken, Scores

ROWS = 5
WIDTH = 16
OTHER_VALUES = {
    "alpha": 0.3,
    "beta": 0.37,
    "centering": 0.2,
    "decay": 0.5,
    "delta": 40.0,
    "desirable_weight": 1.3,
    "divergence": "forward_kl",
    "dropout": 0.4,
    "epsilon": 0.3,
    "eta": 30.0,
    "game": "difference",
    "game_weight": 0.3,
    "gamma": 0.2,
    "iterations": 1,
    "keep": 0.4,
    "kl_weight": 0.3,
    "label_smoothing": 0.3,
    "length_exponent": 0.5,
    "length_weight": 0.2,
    "max_weight": 1.1,
    "nll_weight": 0.3,
    "of": "differences",
    "orthogonality_weight": 0.3,
    "penalty": 3.0,
    "preference_weight": 0.3,
    "prototypes": 20,
    "quality_weight": 0.7,
    "rejected": True,
    "scale": 0.4,
    "tail_weight": 0.9,
    "tau": 0.4,
    "temperature": 0.3,
    "undesirable_weight": 1.3,
    "weight": 0.3,
}
"""A second legal value for each setting; a new setting without one here fails, so that none is forgotten."""


def judged(seed, answers):
    """A row of so many answers, best first, with everything said of them."""
    source = random.Random(seed)
    scores = sorted((source.random() for _ in range(answers)), reverse=True)
    pairs = tuple((i, j) for i in range(answers) for j in range(i + 1, answers))
    return Judged(
        Group((), (), weight=0.5 + source.random()),
        pairs,
        tuple(2 + source.random() for _ in pairs),
        tuple(place < answers / 2 for place in range(answers)),
        tuple(scores),
        tuple(float(place == 0) for place in range(answers)),
        tuple((place != 1, source.random() < 0.5) for place in range(answers)),
        tuple(float(place > 0 and seed % 2 == 0) for place in range(answers)),
    )


def logprobs(kind, seed, counts, dtype, scale=1.0):
    """Log-probabilities of as many answers, of lengths that `seed` does not change."""
    lengths = [random.Random(f"{row}:{answer}").randint(1, 6) for row, count in counts for answer in range(count)]
    completion = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    parts = []
    place = 0
    for row, count in counts:
        size = sum(lengths[place : place + count])
        generator = torch.Generator().manual_seed(1000 * seed + row)
        parts.append(-3 * torch.rand(size, generator=generator, dtype=torch.float64))
        place += count
    token = (scale * torch.cat(parts)).to(dtype)
    return kind(token.requires_grad_(seed == 1), completion, len(lengths))


def targets(counts):
    """Ids of the tokens; the answers of a row share the first one or two."""
    lengths = logprobs(PerToken, 0, counts, torch.float32).length.long().tolist()
    return torch.tensor([place if place < 1 else 10 * answer + place for answer, count in enumerate(lengths)
                         for place in range(count)])  # fmt: skip


def case_of(function, rows=range(ROWS), dtype=torch.float32, scale=1.0, answers=None):
    """A case that offers everything. Numbers of a row depend on the row alone."""
    kind = objectives.kind_of(function)
    counts = [(row, answers or (2 if kind == "pair" else 3)) for row in rows]
    said = [judged(row, count) for row, count in counts]
    if "margin" in asks_for(function):  # it may be below 0
        said = [replace(j, strength=tuple(value - 2.5 for value in j.strength)) for j in said]
    divergence = logprobs(PerToken, 3, counts, dtype, scale)
    of_rewards = objectives.stage_of(function) == "reward_model"
    learned = logprobs(Scores if of_rewards else Logprobs, 1, counts, dtype, scale)
    return Case(
        judged=said,
        **(of_reward_model(learned, counts, dtype, scale) if of_rewards else {"policy": learned}),
        reference=logprobs(Logprobs, 2, counts, dtype, scale),
        divergence=divergence.with_token(-divergence.token.detach()),
        concentration=logprobs(PerToken, 4, counts, dtype),
        kl=torch.tensor(0.7, dtype=dtype),
        uniform=[
            [random.Random(f"{row}:{k}").random() for k in range(len(j.pairs))]
            for (row, _), j in zip(counts, said, strict=True)
        ],
    )


def of_reward_model(score, counts, dtype, scale):
    """What a reward model says beside its score."""
    length_score = logprobs(Scores, 5, counts, dtype, scale)
    writing = logprobs(Logprobs, 6, counts, dtype, scale)
    return {
        "score": score,
        "target": targets(counts),
        "length_score": length_score,
        "writing": writing,
        "feature": torch.cat([drawn(7, row, (count, WIDTH), dtype) - 0.5 for row, count in counts]) * scale,
        "dropped": torch.cat([drawn(8, row, (count, 2, WIDTH), torch.float32) for row, count in counts]),
        "step": steps(counts),
        "head": drawn(9, 0, (2, WIDTH), dtype) - 0.5,
        "prototype": drawn(10, 0, (50, WIDTH), dtype) - 0.5,
    }


def steps(counts):
    """Two steps of each answer: one ends in its first token, one in its last."""
    length = logprobs(PerToken, 0, counts, torch.float32).length.long()
    return torch.stack([length.cumsum(0) - length, length.cumsum(0) - 1], 1).flatten()


def drawn(seed, row, shape, dtype):
    """Numbers from 0 to 1 that depend on the row alone."""
    generator = torch.Generator().manual_seed(1000 * seed + row)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def loss_of(function, case, **settings):
    bound = bind({"name": function.__name__, **settings})
    if bound.needs("prototype"):
        case = replace(case, prototype=case.prototype[: bound.settings["prototypes"]])
    return bound(policy=case.policy) if bound.kind == "token" else ask(bound, case)


def unit_rows(function, case):
    """The row of each loss."""
    if objectives.kind_of(function) == "token":
        rows = [row for row, j in enumerate(case.judged) for _ in j.label]
        return [rows[answer] for answer in case.learned.completion.tolist()]
    if objectives.kind_of(function) == "ranking":
        return list(range(len(case.judged)))
    if objectives.kind_of(function) == "step":
        return [row for row, j in enumerate(case.judged) for steps in j.right for _ in steps]
    per_row = "pairs" if objectives.kind_of(function) == "pair" else "label"
    return [row for row, j in enumerate(case.judged) for _ in getattr(j, per_row)]


def token_rows(case):
    rows = [row for row, j in enumerate(case.judged) for _ in j.label]
    return torch.tensor([rows[answer] for answer in case.learned.completion.tolist()])


@pytest.fixture(params=OBJECTIVES)
def function(request):
    return OBJECTIVES[request.param]


def test_the_signature_asks_for_known_things(function):
    assert asks_for(function).keys() <= NEEDS.keys()
    assert len({"policy", "score"} & asks_for(function).keys()) == 1


def test_the_docstring_says_what_the_page_needs(function):
    words = function.__doc__
    assert re.search(r"arXiv:\d{4}\.\d{5}", words) or function.__name__ in ("nll", "weighted_nll")
    assert re.search(r"\n    Use: ", words), "when to use it"
    assert re.search(r"\n    Claim: ", words), "what the paper claims"
    assert len(words.split("\n\n")[1].strip()) > 5, "the equation"
    assert settings_of(function).model_fields.keys() <= setting_words(function).keys()


def test_shapes_and_detached_stats(function):
    case = case_of(function)
    loss = loss_of(function, case)
    assert loss.value.shape == (len(unit_rows(function, case)),)
    assert loss.value.requires_grad
    assert loss.stats
    for name, stat in loss.stats.items():
        assert stat.shape == loss.value.shape, name
        assert not stat.requires_grad, name
        assert torch.isfinite(stat).all(), name
    assert not any(value.requires_grad for value in loss.memory.values())


def test_rows_are_independent_unless_declared_coupled(function):
    """The gradient of one row's losses is zero on every token of every other row, and its values stay alone."""
    case = case_of(function)
    value, owner, tokens = loss_of(function, case).value, torch.tensor(unit_rows(function, case)), token_rows(case)
    crossed = False
    for row in range(ROWS):
        (slope,) = torch.autograd.grad(value[owner == row].sum(), case.learned.token, retain_graph=True)
        crossed |= bool((slope[tokens != row] != 0).any())
    alone = torch.cat([loss_of(function, case_of(function, [row])).value for row in range(ROWS)])
    independent = not crossed and torch.allclose(alone, value, rtol=1e-5, atol=1e-6)
    assert independent != Bound("", function, {}).is_coupled


def test_the_sum_does_not_depend_on_the_order_of_rows(function):
    """Gradients as well, so packing may order rows as it likes; coupled objectives see all rows at once."""

    def weighted(order):
        case = case_of(function, order, torch.float64)
        name = Bound(function.__name__, function, {})
        value = loss_of(function, case).value
        weight = torch.ones_like(value) if name.kind == "token" else torch.tensor(weights(name, case.judged))
        total = (value * weight.to(value)).sum()
        (slope,) = torch.autograd.grad(total, case.learned.token)
        tokens = token_rows(case)
        return total, [slope[tokens == order.index(row)] for row in range(ROWS)]

    (one, slopes), (other, others) = weighted([0, 1, 2, 3, 4]), weighted([3, 0, 4, 2, 1])
    torch.testing.assert_close(one, other)
    for slope, again in zip(slopes, others, strict=True):
        torch.testing.assert_close(slope, again)


def adds_up(function):
    """Whether the objective takes sums or means over answers, which are float64."""
    return objectives.kind_of(function) != "token" and bool({"policy", "writing"} & asks_for(function).keys())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_gradients_are_finite(function, dtype, scale):
    case = case_of(function, dtype=dtype, scale=scale)
    loss = loss_of(function, case)
    assert loss.value.dtype == (torch.float64 if adds_up(function) else dtype)
    (slope,) = torch.autograd.grad(loss.value.sum(), case.learned.token)
    assert slope.dtype == dtype
    assert torch.isfinite(slope).all()
    assert torch.isfinite(loss.value).all()


def test_certain_tokens_have_finite_losses(function):
    """A model that is sure of every token: log-probabilities of exactly 0."""
    case = case_of(function, scale=0.0)
    loss = loss_of(function, case)
    (slope,) = torch.autograd.grad(loss.value.sum(), case.learned.token, allow_unused=True)
    assert torch.isfinite(loss.value).all()
    assert slope is None or torch.isfinite(slope).all()


@pytest.mark.parametrize("step", [1, 2])
def test_every_setting_changes_the_value(function, step):
    case = case_of(function, dtype=torch.float64, scale=0.2)
    memory = loss_of(function, case_of(function, dtype=torch.float64, scale=0.3)).memory if step == 2 else {}
    case = replace(case, memory=memory)
    for name, field in settings_of(function).model_fields.items():
        if name == "decay" and step == 1:
            continue  # at the first step there is nothing to keep
        usual = loss_of(function, case)
        assert OTHER_VALUES[name] != field.default
        changed = loss_of(function, case, **{name: OTHER_VALUES[name]})
        same = torch.allclose(changed.value, usual.value, rtol=1e-9) and all(
            torch.allclose(changed.memory[key], usual.memory[key]) for key in usual.memory
        )
        assert not same, name


def test_everything_that_is_asked_for_counts(function):
    case = case_of(function, dtype=torch.float64, scale=0.2)
    usual = loss_of(function, case).value

    def said(**change):
        return {
            "judged": [replace(j, **{n: tuple(map(f, getattr(j, n))) for n, f in change.items()}) for j in case.judged]
        }

    other = {
        "policy": {"policy": case.learned.with_token(2 * case.learned.token)},
        "score": {"score": case.learned.with_token(2 * case.learned.token)},
        "writing": {"writing": case.writing and case.writing.with_token(2 * case.writing.token)},
        "length_score": {"length_score": case.length_score and case.length_score.with_token(2 * case.writing.token)},
        "feature": {"feature": case.feature if case.feature is None else case.feature.roll(1, 1)},
        "head": {"head": case.head if case.head is None else case.head * torch.linspace(0, 1, WIDTH)},
        "prototype": {"prototype": case.prototype if case.prototype is None else case.prototype.roll(1, 1)},
        "reference": {
            "reference": case.reference.with_token(
                case.reference.token + torch.linspace(0, 1, len(case.reference.token))
            )
        },
        "divergence": {"divergence": case.divergence.with_token(case.divergence.token.square())},
        "concentration": {"concentration": case.concentration.with_token(0.01 * case.concentration.token)},
        "kl": {"kl": case.kl + 1},
        "memory": {"memory": {"shift": torch.tensor(3.0), "middle": torch.tensor(2.0), "spread": torch.tensor(1.0)}},
        "uniform": {"uniform": [[1e-9 if place == 0 else u for u in row] for place, row in enumerate(case.uniform)]},
        "right": said(right=lambda each: tuple(not v for v in each)),
        "label": said(label=lambda v: not v),
        "reward": said(reward=lambda v: v**2 - 1),
        "strength": said(strength=lambda v: 2 * v),
        "margin": said(strength=lambda v: -2 * v),
        "parted": {"target": None if case.target is None else torch.arange(len(case.target))},
        "from_reference": {
            "judged": [replace(j, by_reference=tuple(1 - v for v in j.by_reference)) for j in case.judged]
        },
        "drawn": {"judged": [replace(j, drawn=(0.0,) + (1 - j.drawn[-1],) * (len(j.drawn) - 1)) for j in case.judged]},
    }
    for name in asks_for(function):
        changed = replace(case, **other[name])
        if function.__name__ in ("tpo", "plackett_luce", "rrhf", "listwise") and name == "reward":
            # only the order counts, and of tpo only for what is logged
            changed = replace(case, **said(reward=lambda v: -v))
        loss = loss_of(function, changed)
        differs = not torch.allclose(loss.value, usual)
        if function.__name__ == "tpo" and name == "reward":
            differs = not torch.equal(loss.stats["reward/accuracy"], loss_of(function, case).stats["reward/accuracy"])
        assert differs, name


def test_inputs_are_left_as_they_were(function):
    case = case_of(function)
    before = [values.token.detach().clone() for values in (case.learned, case.reference, case.divergence)]
    loss_of(function, case)
    for old, values in zip(before, (case.learned, case.reference, case.divergence), strict=True):
        assert torch.equal(old, values.token)
