"""What is compared with what: one Case for each objective and for each setting that is a branch of the loss.

Where the two differ on purpose, the rows or settings are such that they coincide, and the note says how they differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tiny

from parity.rows import (
    EQUAL,
    certain_scores,
    comparisons,
    demonstration_texts,
    demonstrations,
    equal_lengths,
    margins,
    one_token_prompts,
    texts,
    thumbs,
    triples,
)
from truing.records import Group

ONE = {"per_device_train_batch_size": 1}
"""TRL's loss is taken for each pair by itself, and averaged over the pairs, as its gradient accumulation does."""


@dataclass(frozen=True, slots=True)
class Call:
    """A name and its settings."""

    name: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={_short(value)}' for key, value in self.settings.items())})"


@dataclass(frozen=True, slots=True)
class Case:
    """An objective of Truing, the trainer of TRL that it must agree with, and on which rows.

    reference: whether there is one; without, Truing's stage has `reference = "none"`. tokenizer: of both sides.
    """

    ours: Call
    theirs: Call
    note: str = ""
    rows: Callable[[], list[Group]] = comparisons
    reference: bool = True
    tokenizer: Callable[[], Any] = tiny.tokenizer


def call(name: str, **settings: Any) -> Call:
    return Call(name, settings)


def padded_apart() -> Any:
    """Pads with a token that nothing writes."""
    return tiny.tokenizer(pad=tiny.BOS)


def padded_with_eos() -> Any:
    """Pads with its eos token, which is not the token that ends a turn: so the tokenizers of many base models."""
    made = tiny.tokenizer(pad=tiny.BOS)
    made.eos_token = tiny.BOS
    return made


def rewarding(ours: Call, theirs: Call, note: str = "", rows: Callable[[], list[Group]] = comparisons) -> Case:
    """A reward model, with padding that ends no answer."""
    return Case(ours, theirs, note, rows, tokenizer=padded_apart)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else repr(value).replace("'", '"')


TOKEN_MEAN = (
    "TRL's nll is the mean over all tokens of a batch, so that long answers count more; Truing's is the mean of each "
    "answer: equal where a batch is one pair"
)
NO_REFERENCE = "TRL's form without a reference is in another trainer"
SUMMED = "TRL's nll is per token, Truing's is summed: equal, but for a factor, where all answers are equally long"
TWO = "TRL has no rankings: equal on two answers"
LAST = (
    "TRL takes the score at the last token of the conversation, Truing at the one that ended the answer: equal where "
    "the chat template writes nothing after it. SmolLM2's and Qwen's write a newline, where TRL then takes it"
)
PADDED = (
    "the pad token is the eos token. TRL finds the last token as the last one that is not padding: equal where no "
    "answer ends in the pad token. Where that token ends each turn and nothing follows it, TRL takes the score one "
    "token too early, before the answer has ended"
)

CASES = [
    Case(call("dpo", beta=0.1), call("DPO", loss_type="sigmoid", beta=0.1)),
    Case(call("dpo", beta=0.5), call("DPO", loss_type="sigmoid", beta=0.5), "verbatim text", texts),
    Case(
        call("dpo", beta=0.3, label_smoothing=0.2),
        call("DPO", loss_type="aot", beta=0.3, label_smoothing=0.2, **ONE),
        "TRL's sigmoid ignores label_smoothing; its aot takes it, and is DPO where a batch is one pair",
    ),
    Case(
        call("dpo", beta=0.3, label_smoothing=0.2),
        call("CPO", loss_type="sigmoid", beta=0.3, label_smoothing=0.2, cpo_alpha=0.0),
        NO_REFERENCE,
        reference=False,
    ),
    Case(
        call("robust_dpo", beta=0.3, label_smoothing=0.2),
        call("DPO", loss_type="robust", beta=0.3, label_smoothing=0.2),
    ),
    Case(call("ipo", tau=0.2), call("DPO", loss_type="ipo", beta=0.2), "TRL calls tau beta"),
    Case(call("ipo", tau=0.2), call("CPO", loss_type="ipo", beta=0.2, cpo_alpha=0.0), NO_REFERENCE, reference=False),
    Case(call("ipo", tau=0.2), call("TPO", loss_type="ipo", beta=0.2, tpo_alpha=0.0), NO_REFERENCE, reference=False),
    Case(
        call("ipo_sum", tau=0.5),
        call("DPO", loss_type="ipo", beta=0.5 * EQUAL, loss_weights=[float(EQUAL**2)]),
        "TRL has the averaged form alone: it is the summed one, but for a factor, where all answers are equally long",
        equal_lengths,
    ),
    Case(call("hinge", beta=0.5), call("DPO", loss_type="hinge", beta=0.5)),
    Case(
        call("hinge", beta=0.1),
        call("CPO", loss_type="hinge", beta=0.1, cpo_alpha=0.0),
        NO_REFERENCE,
        reference=False,
    ),
    Case(
        call("hinge", beta=0.1),
        call("TPO", loss_type="hinge", beta=0.1, tpo_alpha=0.0),
        NO_REFERENCE,
        reference=False,
    ),
    Case(call("rso", gamma=0.5), call("DPO", loss_type="hinge", beta=0.5), "TRL calls gamma beta"),
    Case(
        call("slic", delta=1.0, weight=0.25),
        call("CPO", loss_type="hinge", beta=1.0, cpo_alpha=0.25 * EQUAL),
        SUMMED,
        equal_lengths,
        reference=False,
    ),
    Case(
        call("simpo", beta=2.0, gamma=0.5),
        call("CPO", loss_type="simpo", beta=2.0, simpo_gamma=0.5, cpo_alpha=0.0),
        reference=False,
    ),
    Case(
        call("simpo", beta=2.0, gamma=0.5, label_smoothing=0.2),
        call("CPO", loss_type="simpo", beta=2.0, simpo_gamma=0.5, label_smoothing=0.2, cpo_alpha=0.0),
        reference=False,
    ),
    Case(
        call("simpo", beta=2.0, gamma=0.5),
        call("TPO", loss_type="tpo-l", beta=2.0, tpo_l_gamma=0.5, tpo_alpha=0.0),
        "TRL's tpo-l is simpo with nll on a gold answer, here left out",
        reference=False,
    ),
    Case(
        call("alphapo", beta=2.0, gamma=0.5, alpha=0.25),
        call("CPO", loss_type="alphapo", beta=2.0, simpo_gamma=0.5, alpha=0.25),
        reference=False,
    ),
    Case(
        call("cpo", beta=0.1, nll_weight=0.7),
        call("CPO", loss_type="sigmoid", beta=0.1, cpo_alpha=0.7, **ONE),
        TOKEN_MEAN,
        reference=False,
    ),
    Case(
        call("cpo", beta=0.1, nll_weight=1.0, label_smoothing=0.2),
        call("CPO", loss_type="sigmoid", beta=0.1, cpo_alpha=1.0, label_smoothing=0.2, **ONE),
        TOKEN_MEAN,
        reference=False,
    ),
    Case(
        call("cpo", beta=0.1, nll_weight=0.7, label_smoothing=0.2),
        call("TPO", loss_type="sigmoid", beta=0.1, tpo_alpha=0.7, label_smoothing=0.2, **ONE),
        f"TRL's TPO takes nll of a gold answer: equal where it is the chosen one. {TOKEN_MEAN}",
        reference=False,
    ),
    Case(
        call("orpo", weight=0.3),
        call("ORPO", beta=0.3, **ONE),
        "TRL takes nll over prompt and answer, Truing over the answer: equal where the prompt is one token, which has "
        "no loss. TRL calls the weight beta. " + TOKEN_MEAN,
        one_token_prompts,
        reference=False,
    ),
    Case(call("ld_dpo", beta=0.3, tail_weight=0.4), call("DPO", loss_type="sigmoid", beta=0.3, ld_alpha=0.4)),
    Case(call("ln_dpo", beta=5.0), call("DPO", loss_type="sigmoid_norm", beta=5.0)),
    *(
        Case(
            call("f_dpo", beta=0.3, divergence=ours),
            call("DPO", loss_type="sigmoid", beta=0.3, f_divergence_type=theirs, **their_settings),
        )
        for ours, theirs, their_settings in [
            ("reverse_kl", "reverse_kl", {}),
            ("forward_kl", "forward_kl", {}),
            ("js", "js_divergence", {}),
            (0.4, "alpha_divergence", {"f_alpha_divergence_coef": 0.4}),
        ]
    ),
    Case(
        call("exo", beta=0.3, label_smoothing=0.001),
        call("DPO", loss_type="exo_pair", beta=0.3, label_smoothing=0.001),
    ),
    Case(call("nca", beta=0.3), call("DPO", loss_type="nca_pair", beta=0.3)),
    Case(call("bco_pair", beta=0.3), call("DPO", loss_type="bco_pair", beta=0.3)),
    Case(
        call("sppo_hard", eta=2.0),
        call("DPO", loss_type="sppo_hard", beta=0.5),
        "TRL's beta is 1 / eta; its default 0.1 is an eta of 10, the paper's and Truing's is 1000",
        equal_lengths,
    ),
    Case(
        call("sppo", eta=2.0),
        call("DPO", loss_type="sppo_hard", beta=0.5),
        "TRL knows no scores: equal where they are 1 and 0",
        certain_scores,
    ),
    Case(call("apo_zero", beta=0.3), call("DPO", loss_type="apo_zero", beta=0.3)),
    Case(call("apo_down", beta=0.3), call("DPO", loss_type="apo_down", beta=0.3)),
    Case(
        call("discopop", beta=0.3, tau=0.2),
        call("DPO", loss_type="discopop", beta=0.3, discopop_tau=0.2),
    ),
    Case(
        call("wpo", beta=0.3),
        call("DPO", loss_type="sigmoid", beta=0.3, use_weighting=True),
        "TRL does not hold an answer's weight at 1, as the paper's code does: equal where every weight is below 1",
    ),
    Case(
        call("cal_dpo", beta=1.0, weight=0.5),
        call("DPO", loss_type=["sigmoid", "sppo_hard"], loss_weights=[1.0, 0.5], beta=1.0),
        "TRL has it as a sum in which both terms share beta: equal where beta is 1",
        equal_lengths,
    ),
    Case(call("spin", beta=0.3), call("DPO", loss_type="sigmoid", beta=0.3)),
    Case(
        call("rpo", beta=0.3, nll_weight=0.7),
        call("DPO", loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7], beta=0.3, **ONE),
        TOKEN_MEAN,
    ),
    Case(
        call("mpo", beta=0.3, preference_weight=0.8, quality_weight=0.2, nll_weight=1.0),
        call("DPO", loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0], beta=0.3, **ONE),
        TOKEN_MEAN,
    ),
    *(
        Case(
            call(name, beta=0.9, label_smoothing=0.2),
            call("DPO", loss_type=name, beta=0.9, label_smoothing=0.2),
            "TRL sorts each micro-batch, Truing all pairs of the optimizer step: equal where these are the same pairs",
            equal_lengths,
        )
        for name in ("aot", "aot_unpaired")
    ),
    Case(
        call("kto", beta=0.3),
        call("KTO", loss_type="kto", beta=0.3),
        "For the KL, TRL gives each prompt the answer of the row before in its batch, and never shuffles; Truing that "
        "of the row before in the data, however rows are shuffled: equal where a batch is all the data",
        thumbs,
    ),
    Case(
        call("kto", beta=0.3, desirable_weight=1.2, undesirable_weight=0.7),
        call(
            "KTO",
            loss_type="kto",
            beta=0.3,
            desirable_weight=1.2,
            undesirable_weight=0.7,
            per_device_train_batch_size=10,
        ),
        "comparisons become two thumbs each: in TRL two rows, of which a batch counts both, in Truing one row",
    ),
    Case(
        call("apo_zero_unpaired", beta=0.3),
        call("KTO", loss_type="apo_zero_unpaired", beta=0.3),
        rows=thumbs,
    ),
    Case(call("plackett_luce", beta=0.3), call("DPO", loss_type="sigmoid", beta=0.3), TWO),
    Case(
        call("info_nca", beta=0.3, alpha=0.01),
        call("DPO", loss_type="sigmoid", beta=0.3),
        f"{TWO}, where alpha is near 0",
    ),
    Case(
        call("lipo", beta=0.3),
        call("DPO", loss_type="sigmoid", beta=0.3, loss_weights=[1 / math.log(2) - 1 / math.log(3)]),
        f"{TWO}, but for a factor",
    ),
    Case(
        call("pro", nll_weight=0.05),
        call("CPO", loss_type="simpo", beta=1.0, simpo_gamma=0.0, cpo_alpha=0.05 * EQUAL),
        f"{TWO}. {SUMMED}",
        equal_lengths,
        reference=False,
    ),
    Case(
        call("tpo", beta=0.1, nll_weight=0.7),
        call("TPO", loss_type="sigmoid", beta=0.1, tpo_alpha=0.7, **ONE),
        f"TRL's column `reference` is the best answer of three. {TOKEN_MEAN}",
        triples,
        reference=False,
    ),
    Case(call("nll"), call("SFT", loss_type="nll"), rows=demonstrations),
    Case(call("nll"), call("SFT", loss_type="nll"), "verbatim text", demonstration_texts),
    Case(call("dft"), call("SFT", loss_type="dft"), rows=demonstrations),
    rewarding(call("bradley_terry"), call("Reward"), LAST),
    rewarding(call("bradley_terry"), call("Reward"), "verbatim text", texts),
    Case(call("bradley_terry"), call("Reward"), PADDED, tokenizer=padded_with_eos),
    rewarding(call("bradley_terry", centering=0.3), call("Reward", center_rewards_coefficient=0.3)),
    rewarding(call("margin"), call("Reward"), "TRL reads margins from a column `margin`", margins),
    rewarding(call("margin", centering=0.3), call("Reward", center_rewards_coefficient=0.3), "", margins),
    rewarding(
        call("soft_margin"), call("Reward"), "TRL has no smoothing: equal where every margin is above 0", margins
    ),
    rewarding(
        call("ordinal"),
        call("Reward"),
        "TRL has no degrees of preference: equal where scores are 1 and 0",
        certain_scores,
    ),
    rewarding(call("listwise"), call("Reward"), TWO),
]

NO_COUNTERPART = {
    "dpop": "no penalty for a fall of the chosen answer",
    "r_dpo": "no length term",
    "odpo": "no strengths of preferences",
    "soft_dpo": "one label smoothing for all pairs",
    "adversarial": "no comparisons of two kinds",
    "tdpo1": "no KL over the vocabulary",
    "tdpo2": "no KL over the vocabulary",
    "xpo": "no XPO trainer any more",
    "unlikelihood": "no unlikelihood",
    "token_unlikelihood": "no unlikelihood",
    "weighted_nll": "no scores",
    "reward_weighted": "no scores",
    "rrhf": "no rankings, and no hinge without a margin",
    "bco": "no BCO trainer any more; bco_pair has no shift",
    "beta_dpo": "no beta that follows the step",
    "csft": "nll on rows that Truing arranges",
    "chain_of_hindsight": "nll on rows that Truing arranges",
    "bradley_terry_nll": "no language-model term in reward models",
    "grm": "no language-model term in reward models",
    "grm_dpo": "no language-model term in reward models",
    "odin": "no second head",
    "simcse": "no contrastive terms in reward models",
    "swav": "no contrastive terms in reward models",
    "token_level": "no scores before an answer's end",
    "regression": "no ratings",
    "process": "no trainer of process rewards any more",
}
"""What TRL does not have of ours, and what it is that is missing."""

THEIRS_ALONE = (
    "sums of any loss types with any weights; Truing has rpo, mpo and cal_dpo",
    "f_divergence_type with hinge, ipo, exo_pair, robust, discopop or sigmoid_norm; Truing's f_dpo is logistic",
    "ld_alpha and use_weighting with other losses than sigmoid; Truing's ld_dpo and wpo are logistic",
    "nll beside CPO's hinge, ipo, simpo and alphapo, and alphapo's reward in the other losses of CPO",
    "nll of a gold answer beside TPO's hinge, ipo and tpo-l; Truing's tpo is logistic",
)
"""What Truing does not have of theirs."""
