"""The page docs/benchmarks/README.md and its pictures, from the results file alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from bench.results import worded

Entry = Mapping[str, Any]

INTRODUCTION = """# Benchmarks

Truing beside TRL 1.16 and transformers' `generate`, each section in one run on one machine. `make bench` measures
everything anew into [results.json](results.json), and this page is made from that file alone (`python -m bench page`).

Brackets hold the range of n measurements around their median. A ratio is the median over steps that both sides made on
the same rows in the same round, and it stands here only where both sides gave the same losses and gradient norms in
fp32.
"""
METHOD = """
## How it is measured

- **Processes.** Every system runs in a process of its own, one at a time, in turn (A B A B ...); each loads, warms up
  and is then timed. A step is timed from its rows to the renewed weights, packing or padding included.
- **The same work.** Both sides get the same checkpoint, token ids, rows of each step, learning rate, beta and AdamW;
  weights that are trained are fp32, and compute is bf16 (for TRL by autocast) unless tuning found fp32 faster.
  Reward models begin with the same head, and no row ends in a padding token, by which TRL finds a row's end.
- **Equality gate.** Before any ratio, both sides of it train in fp32 on two rows for four steps, with TRL's options of
  that comparison; where it accumulates gradients over micro-batches, it does so over these rows too.
  Losses must agree to a relative 1e-4 and gradient norms before clipping to 1e-3, at every step;
  generators must write the same greedy tokens. Where they do not, the page says so and has no ratio.
- **`trl-default`** is TRL as it comes (bf16 autocast, gradient checkpointing, the reference run in every step), set
  only to eight rows a step and to the constant learning rate both sides have.
- **`trl-tuned`** has the reference computed beforehand, no gradient checkpointing, steps of rows of like length as
  `group_by_length` forms them over 400 rows, rows of a micro-batch sorted by length, and the fastest of the dtypes
  and micro-batches that were tried (listed with each task; `threads`: with Truing's thread settings). For SFT
  padding-free collation is tried too: it is what TRL's packing runs on, with the rows of a step kept, where packing
  itself would change which rows form a step.
- **`truing-grouped`** is Truing on the very steps of `trl-tuned`; **`truing-reference-pass`** runs the reference in
  every step, as `trl-default` does, in place of the cache.
- **The cache** of reference log-probabilities is not in the time of a step. "With cache" adds its cost for the rows
  of a step: what one epoch pays. More epochs pay less.
- **Memory** is the peak above a process that has loaded the weights once, in fp32 (for sampling in bf16), and done
  nothing else.
- **Intervals.** Of fewer than six measurements (n) the smallest and the largest are given, of more a bootstrapped 95 %
  interval of the median. In the table of targets a question mark says that the range holds values on both sides.
- **The process.** Truing's threads wait for work as the command `truing` has them do (`environment.py`), and so do
  those of the rooflines; for `trl-tuned` it is tried. Truing keeps freed memory, as its command does.
- **Rows.** `hh` (127/59), `ultrafeedback` (120/289) and `tldr` (382/34) are random tokens with log-normal lengths
  (sigma 0.6, mean tokens of prompt/answer), none longer than 1,024; `real` is HH-RLHF's harmless half.
- **Share of the matrix rate** is the arithmetic that the step needs (no padding, no prompt twice, nothing recomputed,
  the output layer on scored tokens only, that of a reward on the last of each answer, causal attention) over the
  time, over the rate of the model's own bf16 matrix products measured in the same round.
- **Scaling and curves.** Scaling runs judging, rendering, packing and the choice of rows for all rows, and of the
  passes through the model a spread sample. Curves train the same rows in the same order in bf16 and in fp32.
- **On CUDA** the models have the named shapes and random weights, a step has 64 rows, and Truing runs up to 16,384
  tokens at once (8,192 with 8B), with Liger's kernels where the machine has them. `trl-default` gathers micro-batches
  of its own eight rows to a step; for `trl-tuned` 64, 32 and 16 are tried. Processes are forks of one that has
  imported both sides and touched no device, with the same thread settings. The entries above were measured before
  `use_liger_kernel` was among what is tried for TRL: it ran without Liger's kernels there, with which it would need
  less memory and might be faster. 0.6B and 8B are not measured for want of time on a device: `make bench-gpu` measures
  all three sizes.
- **GRPO.** An iteration draws and scores 8 answers of up to 64 tokens to each of 8 prompts and takes one step on them,
  at learning rate 1e-6 without KL, every token alike, as TRL's defaults have it. The reward is the share of vowels.
  `brief` has short questions, `hh` random words of HH-RLHF's lengths, both in the chat template. Truing runs its stage
  `online` from a recipe, with all that it writes down; TRL's GRPOTrainer runs with `generate`. The **rollout** of both
  ends when answers are scored and ready to be learnt from; neither has run the policy over them once more by then. For
  the gate both are given the same rollouts of two prompts, cut to various lengths, and take one step on each of four
  and then two steps on each of two. For `trl-tuned` micro-batch, dtype, static cache and threads were tried. Continuous
  batching was not: TRL rounds the trained weights to bf16 for it, which is other mathematics.
- **`generate-default`** is `from_pretrained` and `generate` as they come, left-padded; **`generate-best`** is the
  fastest of bf16 or fp32 and dynamic or static cache. Continuous batching is given a tenth of the free memory for its
  cache, where its own default is nearly all of it. Answers end where they end, so the ratio is of useful new
  tokens a second.
"""


class Target(NamedTuple):
    """What was promised: a number in an entry that is to be at least, or at most, `bound`."""

    what: str
    entry: str
    theirs: str
    field: str
    bound: float
    at_least: bool = True


def _on_cuda(size: str, share: float) -> list[Target]:
    entry, name = f"cuda-dpo/hh-{size}", f"DPO of {size.upper()} on CUDA"
    return [
        Target(f"{name}, times TRL tuned", entry, "trl-tuned", "times_faster", 1.5),
        Target(f"{name}, share of TRL tuned's memory", entry, "trl-tuned", "memory", 0.6, False),
        Target(f"{name}, share of the bf16 matrix rate", entry, "", "share", share),
    ]


def _against(entry: str, name: str, default: float, tuned: float, memory: float) -> list[Target]:
    return [
        Target(f"{name}, times TRL default", entry, "trl-default", "times_faster", default),
        Target(f"{name}, times TRL tuned", entry, "trl-tuned", "times_faster", tuned),
        Target(f"{name}, share of TRL default's memory", entry, "trl-default", "memory", memory, False),
    ]


def _iterations(entry: str, name: str) -> list[Target]:
    found = []
    for peer, words in (("trl-default", "TRL default"), ("trl-tuned", "TRL tuned")):
        found.append(Target(f"{name}, times {words}", entry, peer, "times_faster", 6))
        found.append(Target(f"{name}, share of {words}'s memory", entry, peer, "memory", 0.5, False))
    return found


TARGETS = [
    *_against("dpo/hh", "DPO hh", 10, 6, 0.4),
    *_against("dpo/ultrafeedback", "DPO ultrafeedback", 5, 3, 0.4),
    *_against("dpo/tldr", "DPO tldr", 10, 5, 0.4),
    *_against("sft/hh", "SFT hh", 6, 3, 0.5),
    *_against("reward/hh", "Reward model hh", 7, 4, 0.5),
    Target("Sampling, times `generate`", "sampling/brief", "generate-default", "times_faster", 3),
    Target("Sampling, times its best setting", "sampling/brief", "generate-best", "times_faster", 2),
    Target("Sampling, share of its memory", "sampling/brief", "generate-default", "memory", 0.6, False),
    *_iterations("grpo/brief", "GRPO iteration brief"),
    *_iterations("grpo/hh", "GRPO iteration hh"),
    Target("DPO hh, share of the bf16 matrix rate", "dpo/hh", "", "share", 0.55),
    Target("SFT hh, share of the bf16 matrix rate", "sft/hh", "", "share", 0.60),
    *_on_cuda("1.7b", 0.35),
    *_on_cuda("0.6b", 0.35),
    *_on_cuda("8b", 0.45),
]
CEILING = """The rows are random tokens of the lengths that are named; real ones are below. `ceiling` is the ratio that
would be measured if Truing ran at the whole bf16 matrix rate of that run, with nothing beside the matrix products: a
target above it is out of reach on this machine.

"""
FLAT = 0.1
"""How much more the dearest token of a scaling curve may cost than the cheapest."""


def write(results: Path) -> None:
    """README.md and pictures into the folder of the results."""
    entries = json.loads(results.read_text())
    folder = results.parent
    pictures = _pictures(entries, folder)
    parts = [INTRODUCTION, _targets(entries), *pictures]
    parts += [_training(entry) for entry in entries.values() if "utilisation" in entry]
    parts += [_sampling(entry) for entry in entries.values() if entry["task"].endswith("sampling")]
    parts += [_grpo(entry) for entry in entries.values() if entry["task"].endswith("grpo")]
    parts += [_profile(entry) for entry in entries.values() if entry["task"] == "profile"]
    parts += [_scaling(entry) for entry in entries.values() if entry["task"] == "scaling"]
    parts += [_curves(entry) for entry in entries.values() if entry["task"] == "curves"]
    parts += [_roles(entry) for entry in entries.values() if entry["task"] == "roles"]
    parts.append(_planned([entry for entry in entries.values() if entry["task"] == "plan"]))
    if not any(name.startswith("cuda") for name in entries):
        parts.append("\n## On a GPU\n\nNot measured: no CUDA device was at hand. `make bench-gpu` measures it.\n")
    text = re.sub(r"\n{3,}", "\n\n", "\n".join([*parts, METHOD]))
    (folder / "README.md").write_text(text, encoding="utf-8")


def headline(entries: Mapping[str, Entry]) -> str:
    """The README's line on speed: Truing's DPO step, TRL's as it comes and tuned."""
    entry = entries["dpo/hh"]
    ours, default = (
        f"{one['seconds']['value']:.1f} s, {one['memory']['above']['value'] / 1e9:.1f} GB"
        for one in (entry["systems"]["truing"], entry["systems"]["trl-default"])
    )
    tuned = next(one for one in entry["comparisons"] if one["theirs"] == "trl-tuned")
    cached = 8 * entry["systems"]["truing"]["cache_seconds_per_row"]["value"]
    slower, more = tuned["times_faster"]["value"], 1 / tuned["memory"]["value"]
    return (
        f"{ours} and once {cached:.1f} s for its reference | {default}; tuned, its reference apart: {slower:.1f} times "
        f"Truing's time, {more:.1f} times its memory |"
    )


def _targets(entries: Mapping[str, Entry]) -> str:
    lines = [_target(one, entries) for one in TARGETS]
    for name, over in (("pairs", "50 to 5,000 pairs"), ("batch", "steps of 4 to 64 rows")):
        found = entries.get("scaling/hh", {}).get("spread", {}).get(name)
        measured = "not measured" if found is None else f"{100 * found:.0f} %"
        lines.append(
            (f"Cost of a token from {over}: spread", f"<= {100 * FLAT:.0f} %", measured, _met(found, FLAT), "")
        )
    return "\n## Targets\n\n" + CEILING + _table(("", "target", "measured", "reached", "ceiling"), lines)


def _target(target: Target, entries: Mapping[str, Entry]) -> tuple[str, ...]:
    sign = ">=" if target.at_least else "<="
    head = (target.what, f"{sign} {target.bound:g}")
    found = _found(target, entries)
    if isinstance(found, str):
        return (*head, found, "", "")
    return (*head, worded(found), _reached(found, target), _ceiling(found, target, entries))


def _ceiling(found: Mapping[str, Any], target: Target, entries: Mapping[str, Entry]) -> str:
    """The ratio, had Truing run at the whole matrix rate."""
    if target.field != "times_faster" or "utilisation" not in entries[target.entry]:
        return ""
    ours = {"trl-default": "truing", "trl-tuned": "truing-grouped"}[target.theirs]
    share = next(one["share"] for one in entries[target.entry]["utilisation"] if one["system"] == ours)
    return f"{found['value'] / share['value']:.1f}"


def _reached(found: Mapping[str, Any], target: Target) -> str:
    """yes or no where all that was measured says the same, else what the median says with a question mark."""
    sign = 1 if target.at_least else -1
    said = ["yes" if sign * (found[end] - target.bound) >= 0 else "no" for end in ("value", "low", "high")
            if found[end] is not None]  # fmt: skip
    return said[0] if len(set(said)) == 1 else f"{said[0]}?"


def _found(target: Target, entries: Mapping[str, Entry]) -> Any:
    """The interval that the target is about, or in words why there is none."""
    entry = entries.get(target.entry)
    if entry is None:
        return "not measured"
    if target.field == "share":
        return next(one["share"] for one in entry["utilisation"] if one["system"] == "truing")
    one = next(one for one in entry["comparisons"] if one["theirs"] == target.theirs)
    return one.get(target.field, "the sides disagree, so there is no ratio")


def _met(found: float | None, bound: float) -> str:
    return "" if found is None else "yes" if found <= bound else "no"


def _training(entry: Entry) -> str:
    shares = {one["system"]: one["share"] for one in entry["utilisation"]}
    lines = [
        (
            f"`{name}`",
            worded(one["seconds"]),
            worded(one["tokens_per_second"], 0),
            " / ".join(f"{part['value']:.2f}" for part in one.get("phases", {}).values()),
            _gigabytes(one["memory"]["above"]),
            _gigabytes(one["memory"]["peak"]),
            f"{1000 * one['cache_seconds_per_row']['value']:.0f}",
            f"{100 * shares[name]['value']:.0f} %" if name in shares else "",
        )
        for name, one in entry["systems"].items()
    ]
    columns = (
        "system",
        "seconds a step",
        "useful tokens/s",
        "forward / backward / optimizer, s",
        "peak above load, GB",
        "peak, GB",
        "cache, ms a row",
        "of the bf16 matrix rate",
    )
    return "\n".join(
        [_heading(entry), _table(columns, lines), _comparisons(entry), _set_as(entry), _roofs(entry), _tuning(entry)]
    )


def _sampling(entry: Entry) -> str:
    lines = [
        (
            f"`{name}`",
            one["dtype"].removeprefix("torch."),
            worded(one["tokens_per_second"], 0),
            worded(one["seconds"], 1),
            worded(one["tokens"], 0),
            _gigabytes(one["memory"]["above"]),
            _gigabytes(one["memory"]["peak"]),
        )
        for name, one in entry["systems"].items()
    ]
    columns = ("system", "dtype", "useful tokens/s", "seconds", "tokens", "peak above load, GB", "peak, GB")
    batching = f"\nContinuous batching (`generate_batch`): {entry['continuous_batching']}.\n"
    return "\n".join(
        [_heading(entry), _table(columns, lines), _comparisons(entry), batching, _roofs(entry), _tuning(entry)]
    )


def _grpo(entry: Entry) -> str:
    lines = [
        (
            f"`{name}`",
            worded(one["seconds"]),
            *(worded(one["phases"][phase]) for phase in ("rollout", "update")),
            f"{one['prompt_tokens']} + {worded(one['answer_tokens'], 0)}",
            worded(one["tokens_per_second"], 0),
            _gigabytes(one["memory"]["above"]),
            _gigabytes(one["memory"]["peak"]),
        )
        for name, one in entry["systems"].items()
    ]
    columns = (
        "system",
        "seconds an iteration",
        "of them rollout",
        "and update",
        "tokens of prompts + answers",
        "useful tokens/s",
        "peak above load, GB",
        "peak, GB",
    )
    apart = [
        (
            f"`{one['ours']}` against `{one['theirs']}`",
            worded(one["rollout_times_faster"]),
            worded(one["update_times_faster"]),
        )
        for one in entry["comparisons"]
        if one["gate"]["agreed"]
    ]
    parts = _table(("", "rollout, times faster", "update, times faster"), apart)
    table = _table(columns, lines)
    return "\n".join(
        [_heading(entry), table, _comparisons(entry), parts, _set_as(entry), _roofs(entry), _tuning(entry)]
    )


def _comparisons(entry: Entry) -> str:
    lines = []
    for one in entry["comparisons"]:
        pair = f"`{one['ours']}` against `{one['theirs']}`"
        if not one["gate"]["agreed"]:
            lines.append((pair, "no ratio: " + "; ".join(one["gate"]["disagreed"]), "", "", ""))
            continue
        cached = one.get("times_faster_with_cache")
        apart = ", ".join(f"{name} {value:.0e}" for name, value in one["gate"]["differences"].items())
        with_cache = worded(cached) if cached else ""
        lines.append((pair, worded(one["times_faster"]), with_cache, worded(one["memory"]), apart or "same tokens"))
    return "\n" + _table(("", "times faster", "with cache", "share of memory", "apart in fp32"), lines)


def _set_as(entry: Entry) -> str:
    """What TRL's trainers ended up with."""
    told = [
        f"- `{name}`: " + ", ".join(f"{key} = {value}" for key, value in one["settings"].items())
        for name, one in entry["systems"].items()
        if "settings" in one
    ]
    return "\n" + "\n".join(told) + "\n"


def _roofs(entry: Entry) -> str:
    roofs = {name: one["value"] / 1e9 for name, one in entry["rooflines"].items()}
    return (
        f"\nRooflines: matrix products of one layer {roofs['bf16']:.0f} GFLOP/s in bf16 and {roofs['fp32']:.0f} in "
        f"fp32, of the output layer {roofs['bf16_head']:.0f} and {roofs['fp32_head']:.0f}; memory copy "
        f"{roofs['copy']:.1f} GB/s, triad {roofs['triad']:.1f} GB/s.\n"
    )


def _tuning(entry: Entry) -> str:
    if not entry["tuning"]:
        return "\nThe tuned peer's settings were not searched in this run.\n"
    lines = []
    for one in entry["tuning"]:
        more = {key: value for key, value in one.items() if key in ("precision", "static_cache", "threads")}
        names = {**one.get("options", {}), **more}
        found = (
            _brief(one["error"])
            if "error" in one
            else (f"{one['seconds']:.2f} s a step" if "seconds" in one else f"{one['tokens_per_second']:.0f} tokens/s")
        )
        lines.append((", ".join(f"{name} = {value}" for name, value in names.items()), found))
    return "\nTried for the tuned peer:\n\n" + _table(("settings", "measured once"), lines)


TRIED = """
Tried for speed and memory, and not kept: masters, gradients and AdamW's moments as flat vectors (0.4 GB more, as freed
activations are not reused for them); giving memory back after each step, one allocation arena, huge pages (no gain or
slower); flushing denormals (no gain). Of the reward model's memory 1.6 GB are gradients and moments, which both sides
have. The step was profiled while other work ran on the machine, which the shares hardly tell.
"""


def _profile(entry: Entry) -> str:
    """Where the time of a step goes."""
    kinds = next(iter(entry["shares"].values()))
    lines = [(kind, *(f"{100 * found[kind]:.0f} %" for found in entry["shares"].values())) for kind in kinds]
    table = _table(("share of a step's time", *entry["shares"]), lines)
    return "\n".join(["\n## Where the time of a step goes\n", _measured_on(entry), table, TRIED])


def _brief(error: str) -> str:
    """A peer's error without its advice."""
    return "ran out of memory" if "OutOfMemoryError" in error else error


def _scaling(entry: Entry) -> str:
    lines = [
        (
            f"{point['pairs']:,}",
            str(point["batch"]),
            worded({**point["seconds_per_token"], **_scaled(point["seconds_per_token"], 1000)}, 3),
            " / ".join(f"{1000 * part['value']:.4f}" for part in point["parts"].values()),
        )
        for point in (*entry["by_pairs"], *entry["by_batch"])
    ]
    columns = ("pairs", "rows a step", "ms a useful token", "rendering / packing / reference / steps, ms")
    return _heading(entry) + _table(columns, lines)


def _scaled(interval: Mapping[str, Any], factor: float) -> dict[str, Any]:
    return {name: interval[name] and interval[name] * factor for name in ("value", "low", "high")}


def _curves(entry: Entry) -> str:
    told, first = entry["verdict"], entry["beginning"]
    noise = "one seed, so no spread" if told["seed_spread"] is None else f"{told['seed_spread']:.4f}"
    return (
        _heading(entry)
        + f"Rows: {entry['rows']}. Smoothed losses in bf16 and in fp32 at the same seed are {told['apart']:.4f} apart "
        f"on average; the seeds' own spread in fp32 is {noise}. Over the first {first['steps']} steps of the "
        f"first seed the loss of each step in bf16 is {first['truing']:.3f} from fp32's on average, and "
        f"{first['trl']:.3f} in TRL, whose autocast rounds weights to the nearest.\n\n![Loss curves](curves.svg)\n"
    )


def _roles(entry: Entry) -> str:
    """Peaks of memory by the way in which four roles share their weights."""
    ways = {way: one["memory"] for way, one in entry["ways"].items()}
    above = {way: one["iteration"]["value"] - one["libraries"]["value"] for way, one in ways.items()}
    most = max(above.values())
    lines = [
        (
            way,
            *(_gigabytes(one[part]) for part in ("libraries", "loaded", "iteration", "whole")),
            f"{100 * above[way] / most:.0f} %",
            f"{entry['ways'][way]['planned'] / 1e9:.2f}",
        )
        for way, one in ways.items()
    ]
    columns = (
        "resident memory, GB",
        "libraries",
        "and models",
        "peak of the iteration",
        "peak with loading",
        "peak less libraries",
        "planned",
    )
    told = ", ".join(f"{name} = {value}" for name, value in entry["settings"].items())
    return (
        "\n## Memory of PPO: four models, or roles over one base\n\n"
        + _measured_on(entry)
        + f"One iteration of stage `online` with PPO and recomputed activations; {told}; medians of the rounds. In "
        "their first step adapters over one base and those on bases of their own differ by "
        f"{entry['apart']:.0e} in loss, reward and length, as a share: a reward model of its own is merged and then "
        "rounded.\n\n" + _table(columns, lines)
    )


def _planned(entries: Sequence[Entry]) -> str:
    """Predicted beside measured, and whether it is within what was promised."""
    if not entries:
        return ""
    lines = [
        (
            one["profile"],
            *(f"{one[side]['memory'] / 2**30:.2f}" for side in ("predicted", "measured")),
            *(f"{one[side]['time']:.2f}" for side in ("predicted", "measured")),
            *(f"{100 * one['off'][what]:.0f} %" for what in ("memory", "time")),
            "yes" if all(one["off"][what] <= one["within"][what] for what in one["off"]) else "no",
        )
        for one in entries
    ]
    columns = (
        "case and forest budget",
        *("memory predicted, GiB", "measured", "seconds a step predicted", "measured"),
        *("memory off", "time off", "within 15 % and 25 %"),
    )
    return "\n## What `truing plan --measure` predicts\n\n" + _table(columns, lines)


def _heading(entry: Entry) -> str:
    return f"\n## {entry['task']} on {entry['profile']}\n\n{_measured_on(entry)}"


def _measured_on(entry: Entry) -> str:
    machine = entry["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{entry['date']}; {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gb']} GB, {machine['device']}; {versions}; commit {entry.get('commit', 'not noted')}.\n\n"
    )


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "| " + " | ".join("---" for _ in columns) + " |"
    head, *body = ("| " + " | ".join(line) + " |" for line in (columns, *lines))
    return "\n".join([head, rule, *body, ""])


def _gigabytes(interval: Mapping[str, Any]) -> str:
    return f"{interval['value'] / 1e9:.2f}"


def _pictures(entries: Mapping[str, Entry], folder: Path) -> list[str]:
    """SVGs of rates and memory for every task that has systems, and of the loss curves; returns their Markdown."""
    made = []
    for task in sorted({entry["task"] for entry in entries.values() if "systems" in entry}):
        own = {entry["profile"]: entry["systems"] for entry in entries.values() if entry["task"] == task}
        _bars(own, f"{task}: useful tokens a second", lambda one: one["tokens_per_second"], folder / f"{task}-rate.svg")
        _bars(own, f"{task}: peak memory above load, GB", _above, folder / f"{task}-memory.svg")
        made.append(f"![{task}, rate]({task}-rate.svg) ![{task}, memory]({task}-memory.svg)\n")
    for entry in entries.values():
        if entry["task"] == "curves":
            _lines(entry["curves"], folder / "curves.svg")
    return made


def _above(system: Mapping[str, Any]) -> dict[str, Any]:
    return _scaled(system["memory"]["above"], 1e-9)


def _bars(systems: Mapping[str, Mapping[str, Any]], title: str, of: Any, path: Path) -> None:
    """One bar for each system of each profile, with its interval."""
    names = [(profile, name) for profile, own in systems.items() for name in own]
    found = [of(systems[profile][name]) for profile, name in names]
    values = [one["value"] for one in found]
    low = [one["value"] - (one["value"] if one["low"] is None else one["low"]) for one in found]
    high = [(one["value"] if one["high"] is None else one["high"]) - one["value"] for one in found]
    colours = ["#2a6f97" if name.startswith("truing") else "#b5b5b5" for _, name in names]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.3 * len(names)))
    axes.barh([f"{profile}: {name}" for profile, name in names], values, xerr=[low, high], color=colours, capsize=2)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def _lines(curves: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.5))
    for (name, own), colour in zip(curves.items(), ("#2a6f97", "#d17a22"), strict=True):
        for number, curve in enumerate(own):
            axes.plot(curve, color=colour, linewidth=0.6, label=name if number == 0 else None)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    axes.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """Without date and random ids, so that the same results give the same file."""
    with plt.rc_context({"svg.hashsalt": "truing"}):
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
