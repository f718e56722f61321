"""Attention in blocks against a softmax over every pair of tokens, forward and backward."""

from __future__ import annotations

from itertools import product

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truing.compute import blocks
from truing.packing import forest
from truing.tensors import Forest

CPU = torch.device("cpu")
shapes = st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 6), max_size=4)), min_size=1, max_size=5)


def trees(shape: list[tuple[int, list[int]]]) -> Forest:
    return forest(tiny.random_rows(0, [(prompt, tuple(answers)) for prompt, answers in shape]))


def heads_of(packed: Forest, dtype: torch.dtype, heads: int = 4, shared: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(1, count, len(packed), 8, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for count in (heads, shared, shared)
    ]


def sees(packed: Forest, window: int | None) -> Tensor:
    """[S, S], worked out pair by pair."""
    visible = torch.zeros(len(packed), len(packed), dtype=torch.bool)
    for tree in packed.trees:
        for branch in (tree.prompt, *tree.answers):
            path = list(range(tree.prompt.start, tree.prompt.stop))
            path += [] if branch is tree.prompt else list(range(branch.start, branch.stop))
            for asking, seen in product(range(len(path)), repeat=2):
                if seen <= asking and (window is None or asking - seen < window):
                    visible[path[asking], path[seen]] = True
    return visible


def plain(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scaling: float) -> Tensor:
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    scores = (query @ key.mT * scaling).masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def both(packed: Forest, given: list[Tensor], window: int | None) -> tuple[list[Tensor], list[Tensor]]:
    """Attention and the gradients of its inputs, in blocks and plainly."""
    made = blocks.blocks_of(packed.trees, window, CPU)
    found = blocks.attend(*given, made, 0.3)
    expected = plain(*given, sees(packed, window), 0.3)
    pull = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(found.dtype)
    return [found, *torch.autograd.grad(found, given, pull)], [expected, *torch.autograd.grad(expected, given, pull)]


@pytest.mark.parametrize("rows", [2, 5, 128])
@pytest.mark.parametrize("window", [None, 3])
@given(shape=shapes)
def test_every_token_sees_its_prompt_and_its_own_answer(
    shape: list[tuple[int, list[int]]], window: int | None, rows: int
) -> None:
    packed = trees(shape)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(blocks, "ROWS", rows)
        found, expected = both(packed, heads_of(packed, torch.float64), window)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("heads", "shared"), [(1, 1), (3, 1), (6, 3)])
def test_heads_that_share_keys(heads: int, shared: int) -> None:
    packed = trees([(5, [3, 4]), (2, [1])])
    found, expected = both(packed, heads_of(packed, torch.float64, heads, shared), None)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_in_bf16_it_errs_by_its_rounding() -> None:
    packed = trees([(40, [20, 30]), (25, [31, 8])])
    narrow = heads_of(packed, torch.bfloat16)
    found, _ = both(packed, narrow, None)
    _, exact = both(packed, [part.detach().double().requires_grad_() for part in narrow], None)
    for ours, theirs in zip(found, exact, strict=True):
        assert float((ours.detach() - theirs.detach()).norm() / theirs.detach().norm()) < 2**-7


def test_short_answers_of_a_prompt_are_one_span_and_long_ones_are_apart() -> None:
    def spans(prompt: int, answers: list[int]) -> list[int]:
        (tree,) = trees([(prompt, answers)]).trees
        return [len(span.query) for span in blocks._spans(tree, None)]

    assert spans(90, [5, 6]) == [90, 11]
    assert spans(6, [70, 75]) == [6, 70, 75]
    assert spans(6, [40] * 8) == [6, *[40] * 8]
    assert spans(300, [150, 6]) == [128, 128, 44, 128, 22, 6]


def test_blocks_are_few_and_no_larger_than_they_are_worth() -> None:
    packed = trees([(30 + 7 * n, [20 + 3 * n, 25]) for n in range(20)])
    made = blocks.blocks_of(packed.trees, None, CPU)
    spans = [span for tree in packed.trees for span in blocks._spans(tree, None)]
    cells = [block.bias.numel() for block in made]
    assert len(made) < len(spans) / 2
    assert max(cells) <= blocks.CELLS
    assert sum(cells) <= sum(span.cells for span in spans) + blocks.SPARED * (len(spans) - len(made))
    assert sorted(torch.cat([b.query.flatten()[b.tokens] for b in made]).tolist()) == list(range(len(packed)))
