"""Objectives on answers that are simply to be made likelier: one loss per scored token, [N]; stage `sft` uses them."""

from __future__ import annotations

from truing.tensors import Conditioned, Hindsight, Logprobs, Loss


def nll(policy: Logprobs) -> Loss:
    """Negative log-likelihood.

    -log p(token)

    Use: for demonstrations; `reduction` says whether tokens or answers count alike, or answers as sums.
    Claim: the base of everything else.
    """
    return Loss(-policy.token, {"logprob/token": policy.token.detach()})


def dft(policy: Logprobs) -> Loss:
    """Dynamic fine-tuning: arXiv:2508.05629.

    -sg(p(token)) log p(token)

    Use: when plain fine-tuning forgets too much: tokens that the model finds unlikely count little.
    Claim: generalises better than plain fine-tuning on maths benchmarks, at the same cost.
    """
    return Loss(-policy.token.detach().exp() * policy.token, {"logprob/token": policy.token.detach()})


def csft(policy: Conditioned) -> Loss:
    """Conditional fine-tuning: csft of arXiv:2402.01306, after arXiv:2302.08582.

    -log p(token | what kind of answer is asked for)

    Use: on thumbs or comparisons; every answer is learnt after an instruction that says whether it is good or bad
        (settings `good` and `bad` of stage `sft`), and answers are later asked for with the good one.
    Claim: a baseline that uses bad answers too.
    """
    return nll(policy)


def chain_of_hindsight(policy: Hindsight) -> Loss:
    """Chain of hindsight: arXiv:2302.02676.

    -log p(token) of a conversation that holds a good and a bad answer, each announced, in random order

    Use: on comparisons or rankings, without a reference and without the paper's masking of past tokens; answers are
        later asked for with the good instruction (setting `good` of stage `sft`).
    Claim: above SFT and RLHF on TL;DR and hh-rlhf in the paper's own human study.
    """
    return nll(policy)
