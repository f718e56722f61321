"""Where the time of a training step goes on the CPU, by kind of operation, from PyTorch's profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from torch.profiler import ProfilerActivity, profile

from bench import ours, process, results
from bench.rows import as_json, first_answers, pool, shuffled_steps
from bench.training import BETA, LEARNING_RATES, Settings, say
from truing.models import locate

KINDS: dict[str, tuple[str, ...]] = {
    "products of layers and head": ("mm", "addmm"),
    "products of attention": ("bmm", "baddbmm"),
    "copies, casts and gathering": (
        "copy_", "index", "index_select", "index_add_", "index_put_", "cat", "fill_", "zero_", "_index_put_impl_",
    ),
    "softmax, exponentials and sums": (
        "_softmax", "_softmax_backward_data", "exp_", "exp", "log", "sum", "mean", "amax", "gather", "scatter_add_",
    ),
    "optimizer, clipping and rounding": (
        "_fused_adamw_", "_foreach_norm", "_foreach_mul_", "__rshift__", "bitwise_right_shift_", "linalg_vector_norm",
    ),
    "other element-wise work": (
        "mul", "mul_", "add", "add_", "sub", "sub_", "div", "div_", "neg", "pow", "rsqrt", "silu", "silu_backward",
        "square", "masked_fill", "masked_fill_", "where", "clamp",
    ),
}  # fmt: skip
"""Operations of PyTorch by what they are for; all others, and Python between them, are `everything else`."""
TASKS = ("dpo", "sft", "reward")


def run(settings: Settings) -> None:
    """One profiled step of each kind of training, into the results file."""
    model = locate(settings.model)
    rows = pool("hh", model)
    found = {}
    for task in TASKS:
        own = first_answers(rows) if task == "sft" else rows
        steps = shuffled_steps(own, settings.batch, 2)
        used = sorted({index for step in steps for index in step})
        place = {index: number for number, index in enumerate(used)}
        spec = {
            "name": f"profile of {task}", "task": task, "model": model, "device": settings.device, "lora": False,
            "rows": as_json([own[index] for index in used]), "steps": [[place[i] for i in step] for step in steps],
            "warm_up": 1, "learning_rate": LEARNING_RATES[task], "beta": BETA, "precision": "bf16",
            "reference_pass": False, "forest_tokens": settings.forest_tokens,
        }  # fmt: skip
        found[task] = process.run("bench.profile:shares", spec)
        say(f"profile of {task}: {found[task]}")
    results.store(settings.out, "profile", "hh", {"shares": found}, settings.device)


def shares(spec: Mapping[str, Any]) -> dict[str, float]:
    """The share of each kind of operation in the time of the second step."""
    kind_of = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    whole = ours.optimize
    seconds: dict[str, float] = defaultdict(float)

    def watched(*given: Any) -> tuple[float, float]:
        with profile(activities=[ProfilerActivity.CPU]) as watch:
            done = whole(*given)
        seconds.clear()  # the last step alone counts
        for event in watch.events():
            seconds[kind_of.get(event.name, "everything else")] += event.self_cpu_time_total / 1e6
        return done

    with patch.object(ours, "optimize", watched):
        ours.train(spec)
    total = sum(seconds.values())
    return {kind: seconds[kind] / total for kind in [*KINDS, "everything else"]}
