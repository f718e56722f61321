"""The peers' side: workers that train with TRL's own trainers and sample with transformers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from bench.grpo import vowels
from bench.machine import Memory, synchronize
from bench.ours import DTYPES, adapted, draw_head, timed_sampling
from bench.rows import from_json
from truing.models.quiet import quiet_libraries
from truing.rendering import Row

SHOWN = (
    "bf16",
    "gradient_checkpointing",
    "precompute_ref_log_probs",
    "padding_free",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "max_grad_norm",
    "max_length",
    "loss_type",
    "num_generations",
    "steps_per_generation",
    "cache_implementation",
)
"""Settings of TRL that decide what a step costs, for the results."""

CACHE_SHARE = 0.1
"""Share of the free memory that continuous batching takes for its cache; its default is nearly all of it."""

transformers.utils.logging.set_verbosity_error()
warnings.filterwarnings("ignore")


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds from the end of one optimizer step to the end of the next, and what the trainer logs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = 0.0
        self.seconds: list[float] = []
        self.logged: list[dict[str, float]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now

    def on_log(self, *_: Any, logs: Mapping[str, float], **__: Any) -> None:
        if "grad_norm" in logs:
            self.logged.append({"loss": float(logs["loss"]), "grad_norm": float(logs["grad_norm"])})


class _Prepared:
    """A trainer that is given token ids, so that both sides have the very same ones.

    TRL prepares its data between loading the policy and loading the reference: the moment from which memory counts.
    """

    memory: Memory
    cache_seconds = 0.0

    def _prepare_dataset(self, dataset: Dataset, _: Any, args: Any, *__: Any) -> Dataset:
        self.memory = Memory(args.device)
        return dataset

    def _precompute_ref_logps(self, *arguments: Any) -> Dataset:
        began = time.perf_counter()
        found = super()._precompute_ref_logps(*arguments)  # type: ignore[misc]
        self.cache_seconds = time.perf_counter() - began
        return found


class PreparedDpo(_Prepared, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer on given token ids."""


class PreparedSft(_Prepared, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer on given token ids."""


class PreparedReward(_Prepared, RewardTrainer):  # type: ignore[misc]
    """TRL's RewardTrainer on given token ids."""


class WatchedGrpo(GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer with a watch on its rollouts. given: answers that are taken in place of drawn ones."""

    def __init__(self, prompts: int, given: Sequence[Any] | None, **how: Any) -> None:
        self._given = given
        self._prompts = prompts
        self.rollout_seconds: list[float] = []
        self.answer_tokens: list[int] = []
        self.prompt_tokens = 0
        super().__init__(**how)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        began = time.perf_counter()
        found = super()._generate_and_score_completions(inputs)
        synchronize(self.args.device)
        self.rollout_seconds.append(time.perf_counter() - began)
        self.answer_tokens.append(int(found["num_items_in_batch"]))
        return found

    def _generate_single_turn(self, prompt_ids: Sequence[Sequence[int]], *others: Any, **how: Any) -> Any:
        each = len(prompt_ids) // self._prompts
        self.prompt_tokens = sum(map(len, prompt_ids[::each]))
        if self._given is None:
            return super()._generate_single_turn(prompt_ids, *others, **how)
        rollout = self._given[len(self.rollout_seconds)]
        return [answer for answers in rollout for answer in answers], None


TRAINERS: dict[str, Any] = {"dpo": PreparedDpo, "sft": PreparedSft, "reward": PreparedReward}


def train(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Steps of TRL's trainer on given rows, in their order."""
    rows = from_json(spec["rows"])
    ordered = [row for step in spec["steps"] for row in _longest_first([rows[index] for index in step])]
    data = Dataset.from_list([_columns(spec["task"], row) for row in ordered])
    clock = Clock(torch.device(spec["device"]))
    with quiet_libraries():
        trainer = TRAINERS[spec["task"]](
            model=_model(spec),
            args=_config(spec),
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(spec["model"]),
            callbacks=[clock],
        )
        trainer.train()
    return {
        "seconds": clock.seconds[spec["warm_up"] :],
        "loss": [step["loss"] for step in clock.logged],
        "gradient_norm": [step["grad_norm"] for step in clock.logged],
        "cache_seconds_per_row": trainer.cache_seconds / len(data),
        "memory": trainer.memory.taken(),
        "settings": {name: getattr(trainer.args, name) for name in SHOWN if hasattr(trainer.args, name)},
    }


def grpo(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Iterations of TRL's GRPOTrainer on chat prompts, in their order."""
    device = torch.device(spec["device"])
    clock = Clock(device)
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32).to(device)
        memory = Memory(device)
        trainer = WatchedGrpo(
            len(spec["prompts"]),
            spec["given"],
            model=model,
            reward_funcs=_reward,
            args=_grpo_config(spec),
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": t}]} for t in spec["prompts"]]),
            processing_class=AutoTokenizer.from_pretrained(spec["model"], padding_side="left"),
            callbacks=[clock],
        )
        trainer.train()
    return {
        "seconds": clock.seconds[spec["warm_up"] :],
        "rollout_seconds": trainer.rollout_seconds[spec["warm_up"] :],
        "loss": [step["loss"] for step in clock.logged],
        "gradient_norm": [step["grad_norm"] for step in clock.logged],
        "prompt_tokens": trainer.prompt_tokens,
        "answer_tokens": trainer.answer_tokens[spec["warm_up"] :],
        "memory": memory.taken(),
        "settings": {name: getattr(trainer.args, name) for name in SHOWN if hasattr(trainer.args, name)},
    }


def sample(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Answers from `generate`, left-padded, or from continuous batching."""
    device = torch.device(spec["device"])
    tokenizer = AutoTokenizer.from_pretrained(spec["model"], padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    width = {} if spec["precision"] is None else {"dtype": DTYPES[spec["precision"]]}
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(spec["model"], **width).to(device)
    memory = Memory(device)
    once = _continuous(model, tokenizer, spec) if spec["continuous"] else _generate(model, tokenizer, spec)
    return timed_sampling(once, spec, device) | {"memory": memory.taken(), "dtype": str(model.dtype)}


def _config(spec: Mapping[str, Any]) -> DPOConfig | SFTConfig | RewardConfig:
    """TRL's defaults, but for what is the same for all and what `options` say."""
    shared = _same_for_all(spec, len(spec["steps"][0]), len(spec["steps"]), log_all=spec["log_all"])
    same_for_all = shared | {"train_sampling_strategy": "sequential"}
    own = _own(spec)
    if spec["task"] == "sft":
        return SFTConfig(**same_for_all, **own)
    if spec["task"] == "reward":
        return RewardConfig(**same_for_all, **own)
    return DPOConfig(**same_for_all, beta=spec["beta"], **own)


def _grpo_config(spec: Mapping[str, Any]) -> GRPOConfig:
    """TRL's defaults, by which every token counts alike and there is no KL, but for the task's sizes and `options`."""
    rows = spec["answers"] * len(spec["prompts"])
    updates = spec["iterations"] * spec["epochs"]
    return GRPOConfig(
        **_same_for_all(spec, rows, updates, log_all=spec["given"] is not None),
        num_generations=spec["answers"],
        num_iterations=spec["epochs"],
        max_completion_length=spec["length"],
        shuffle_dataset=False,
        **_own(spec),
    )


def _same_for_all(spec: Mapping[str, Any], batch: int, steps: int, *, log_all: bool) -> dict[str, Any]:
    """Settings that every trainer gets. batch: rows of a step."""
    micro = spec["options"].get("micro_batch", batch)
    return {
        "output_dir": f"{spec['folder']}/trl",
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "max_steps": steps,
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": "constant",
        "use_cpu": spec["device"] == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "bf16": spec["precision"] == "bf16",
        **({"logging_steps": 1} if log_all else {}),
    }


def _own(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are TRL's own."""
    return {name: value for name, value in spec["options"].items() if name not in ("micro_batch", "base")}


def _reward(completions: Sequence[Any], **_: Any) -> list[float]:
    return [vowels(None, turns[0]["content"]) for turns in completions]


def _longest_first(rows: Sequence[Row]) -> list[Row]:
    """A step's rows by length, so that micro-batches of it hold rows of like length."""
    return sorted(rows, key=lambda row: -row.longest)


def _columns(task: str, row: Row) -> dict[str, list[int]]:
    """The row under the names of the task's trainer."""
    prompt, (first, *others) = list(row.prompt), [list(answer.tokens) for answer in row.answers]
    if task == "sft":
        return {"input_ids": prompt + first, "labels": [-100] * len(prompt) + first}
    if task == "reward":
        return {"chosen_ids": prompt + first, "rejected_ids": prompt + others[0]}
    return {"prompt_ids": prompt, "chosen_ids": first, "rejected_ids": others[0]}


def _model(spec: Mapping[str, Any]) -> Any:
    """What the trainer is given: a name that it loads itself, or a model to which something must be done first."""
    if spec["task"] == "reward":
        model = _read(AutoModelForSequenceClassification, spec, num_labels=1)
        model.config.architectures = [type(model).__name__]
        draw_head(model)
        return adapted(model) if spec["lora"] else model
    return adapted(_read(AutoModelForCausalLM, spec)) if spec["lora"] else spec["model"]


def _read(kind: Any, spec: Mapping[str, Any], **how: Any) -> Any:
    dtype = DTYPES[spec["options"].get("base", "fp32")]
    return kind.from_pretrained(spec["model"], dtype=dtype, **how).to(spec["device"])


def _generate(model: Any, tokenizer: Any, spec: Mapping[str, Any]) -> Any:
    batch = _chats(tokenizer, spec, padding=True, return_tensors="pt").to(model.device)

    def once(seed: int, length: int) -> list[list[int]]:
        torch.manual_seed(seed)
        cache = {"cache_implementation": "static"} if spec["static_cache"] else {}
        found = model.generate(**batch, generation_config=_sampling(tokenizer, spec, length), **cache)
        answers = found[:, batch["input_ids"].shape[1] :].tolist()
        return [_until_stop(answer, tokenizer.eos_token_id) for answer in answers]

    return once


def _continuous(model: Any, tokenizer: Any, spec: Mapping[str, Any]) -> Any:
    prompts = _chats(tokenizer, spec)["input_ids"]
    room = ContinuousBatchingConfig(max_memory_percent=CACHE_SHARE)

    def once(seed: int, length: int) -> list[list[int]]:
        torch.manual_seed(seed)
        sampling = _sampling(tokenizer, spec, length)
        found = model.generate_batch(inputs=prompts, generation_config=sampling, continuous_batching_config=room)
        if len(found) != len(prompts) * spec["answers"]:
            raise RuntimeError(f"generate_batch returned {len(found)} of {len(prompts) * spec['answers']} answers")
        return [list(one.generated_tokens) for one in found.values()]

    return once


def _sampling(tokenizer: Any, spec: Mapping[str, Any], length: int) -> GenerationConfig:
    drawn = spec["temperature"] > 0
    return GenerationConfig(
        max_new_tokens=length,
        do_sample=drawn,
        num_return_sequences=spec["answers"],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"temperature": spec["temperature"], "top_k": 0, "top_p": 1.0} if drawn else {}),
    )


def _chats(tokenizer: Any, spec: Mapping[str, Any], **how: Any) -> Any:
    turns = [[{"role": "user", "content": text}] for text in spec["prompts"]]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, **how)


def _until_stop(answer: Sequence[int], stop: int) -> list[int]:
    """The answer with its end-of-turn token; what `generate` pads it with is not useful."""
    return list(answer[: answer.index(stop) + 1]) if stop in answer else list(answer)
