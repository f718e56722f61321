"""Draws against brute force: which tokens may come, how often, and with which log-probability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from truing.compute import Sampling
from truing.compute.generate import sampling as module
from truing.compute.generate.sampling import draw

LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.9, -3.0, 0.0, 1.0])
SETTINGS = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(temperature=2.5),
    Sampling(top_k=3),
    Sampling(top_k=99),
    Sampling(top_p=0.8),
    Sampling(top_p=0.5),
    Sampling(temperature=1.7, top_p=0.9),
    Sampling(temperature=0.7, top_k=4, top_p=0.9),
]


def by_hand(logits, sampling):
    """The distribution, one token at a time: temperature, then top-k, then the smallest likely set of top-p."""
    weights = np.exp(np.asarray(logits, dtype=float) / sampling.temperature)
    order = np.argsort(-weights)
    if sampling.top_k:
        weights[order[sampling.top_k :]] = 0
    weights /= weights.sum()
    kept, held = [], 0.0
    for token in order:
        if held < sampling.top_p:
            kept.append(token)
            held += weights[token]
    result = np.zeros_like(weights)
    result[kept] = weights[kept]
    return result / result.sum()


@pytest.mark.parametrize("sampling", SETTINGS)
def test_frequencies_and_logprobs(sampling):
    count = 20_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    token, logprob = draw(LOGITS.expand(count, -1), sampling, uniform)
    expected = by_hand(LOGITS, sampling)
    seen = np.bincount(token.numpy(), minlength=len(expected))
    assert seen[expected == 0].sum() == 0
    possible = expected > 0
    assert possible.sum() > 1
    assert stats.chisquare(seen[possible], expected[possible] * count).pvalue > 1e-3
    np.testing.assert_allclose(logprob.numpy(), np.log(expected[token.numpy()]), atol=1e-5)


@pytest.mark.parametrize("sampling", SETTINGS)
def test_extreme_uniforms_stay_within_what_may_come(sampling):
    possible = by_hand(LOGITS, sampling) > 0
    uniform = torch.tensor([0.0, 1e-12, 0.5, 1 - 2**-24])
    token, logprob = draw(LOGITS.expand(4, -1), sampling, uniform)
    assert all(possible[t] for t in token.tolist())
    assert torch.isfinite(logprob).all()


def test_nucleus_wider_than_the_first_guess(monkeypatch):
    monkeypatch.setattr(module, "NUCLEUS_GUESS", 2)
    test_frequencies_and_logprobs(Sampling(top_p=0.9))


@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 3.0]),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1),
)
def test_rows_are_independent(seed, temperature, top_k, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits, uniform = torch.randn(5, 9, generator=generator) * 3, torch.rand(5, generator=generator)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    token, logprob = draw(logits, sampling, uniform)
    for row in range(5):
        alone, alone_logprob = draw(logits[row : row + 1], sampling, uniform[row : row + 1])
        assert alone[0] == token[row]
        assert alone_logprob[0] == logprob[row]
    expected = np.array([by_hand(row, sampling)[t] for row, t in zip(logits.tolist(), token.tolist(), strict=True)])
    np.testing.assert_allclose(logprob.exp().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_a_draw_from_all_inverts_the_cumulative_distribution(block, temperature, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    generator = torch.Generator().manual_seed(block)
    logits, uniform = torch.randn(300, 23, generator=generator) * 3, torch.rand(300, generator=generator)
    token, logprob = draw(logits, Sampling(temperature=temperature), uniform)
    for row in range(300):
        probability = by_hand(logits[row], Sampling(temperature=temperature))
        held = np.concatenate(([0.0], probability.cumsum()))
        assert held[token[row]] - 1e-6 <= uniform[row] <= held[token[row] + 1] + 1e-6
        np.testing.assert_allclose(logprob[row], np.log(probability[token[row]]), atol=1e-5)


def test_a_draw_from_all_of_a_real_vocabulary_in_bf16():
    logits = torch.randn(8, 49_152, generator=torch.Generator().manual_seed(0)).mul(4).bfloat16()
    uniform = torch.linspace(0, 1 - 2**-24, 8)
    token, logprob = draw(logits, Sampling(), uniform)
    exact = logits.double().log_softmax(1)
    held = exact.exp().cumsum(1).gather(1, token[:, None])[:, 0]
    own = exact.gather(1, token[:, None])[:, 0]
    assert ((held - own.exp() - 1e-5 <= uniform) & (uniform <= held + 1e-5)).all()
    np.testing.assert_allclose(logprob, own, atol=1e-5)
    alone = [draw(logits[row : row + 1], Sampling(), uniform[row : row + 1]) for row in range(8)]
    assert torch.equal(token, torch.cat([one for one, _ in alone]))
    assert torch.equal(logprob, torch.cat([one for _, one in alone]))


def test_greedy_is_certain():
    token, logprob = draw(torch.stack([LOGITS, -LOGITS]), Sampling(temperature=0), torch.tensor([0.9, 0.1]))
    assert token.tolist() == [0, 4]
    assert logprob.tolist() == [0.0, 0.0]


def test_minus_infinity_is_never_drawn():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(500, -1)
    token, _ = draw(logits, Sampling(), torch.linspace(0, 1 - 1e-6, 500))
    assert set(token.tolist()) == {0, 2}
