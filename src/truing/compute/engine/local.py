"""The engine of one process: fp32 master weights, compute in the model's dtype, AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from truing.compute import ForestStatistics, Role
from truing.compute.attention import ForestLayout
from truing.compute.head import Head, token_logprobs, token_statistics
from truing.compute.lean import keep_less
from truing.compute.rounding import round_into, rounded
from truing.errors import GuardError, MissingError
from truing.models import Loaded, is_adapted
from truing.models.finite import demand_finite
from truing.models.output import output_weight
from truing.models.parity import demand_parity, longest_exact, too_long
from truing.models.quantised import bits_of
from truing.models.quiet import quiet_libraries
from truing.models.reward import first_output, head_of, is_reward, language_head, prototypes_of, readout, wide
from truing.models.saving import save_tensors, saving
from truing.rendering import Renderer
from truing.tensors import Forest, Logprobs, PerToken, Scores


class LocalEngine:
    """One model on one device.

    Every trainable weight has a master in fp32. Where the model computes in bf16, its own weights are a rounded copy
    of the masters (see `rounding`), renewed after each step, and gradients are gathered in fp32 so that they do not
    depend on how a batch was cut. Dropout is always off: log-probabilities are of the model that will be used.

    trainable: False for an engine that only scores and keeps no masters.
    dtype: what to compute in; none: the dtype in which the model was loaded.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        checkpointing: bool = False,
        trainable: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.loaded = loaded
        self.model = loaded.model
        self.device = next(self.model.parameters()).device
        self._adapted = is_adapted(self.model)
        self._reference: dict[str, Tensor] = {}
        self._reference_masters: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._decay = 1.0
        if not trainable:
            self.model.requires_grad_(False)
        self._weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._masters = {name: _master(p, dtype or p.dtype) for name, p in self._weights.items()}
        if self._masters:
            self._optimizer: Any = torch.optim.AdamW(
                list(self._masters.values()), betas=betas, weight_decay=weight_decay, fused=True
            )
        _narrow(self.model, dtype)
        if self.device.type == "cuda" and dtype not in (None, torch.float32):
            demand_parity(self._whole(), dtype)  # once more, as it will compute: another width has another kernel
        self._longest = longest_exact(self.model.config)
        self._renew_compute_weights()
        for name, weight in self._weights.items():
            if self._masters[name] is not weight:
                weight.register_post_accumulate_grad_hook(_gather_into(self._masters[name]))
        keep_less(self.model)
        if checkpointing:
            _recompute_activations(self.model)

    @property
    def renderer(self) -> Renderer:
        """What turns text into this model's token ids."""
        return self.loaded.renderer

    @property
    def arithmetic(self) -> str:
        """Dtype and device of the computation, and the bits of its base, on which its results depend."""
        bits = bits_of(self.model)
        kept = f", base in {bits} bits" if bits else ""
        return f"{next(self.model.parameters()).dtype} on {self.device.type}{kept}"

    def logprobs(self, forest: Forest, of: Role = "policy", temperature: float = 1.0) -> Logprobs:
        """Log-probabilities of the scored tokens of a forest, fp32 (fp64 for an fp64 model)."""
        forest = forest.to(self.device)
        with self.as_role(of):
            head = self._head_of(forest)
            token = token_logprobs(head.hidden, head.weight, forest.target, temperature)
        return Logprobs(token, forest.completion, forest.group.shape[0])

    def scores(self, forest: Forest) -> tuple[Scores, ...]:
        """What each output of the model's reward head says after each scored token, fp32 (fp64 for an fp64 model)."""
        forest = forest.to(self.device)
        return self._scores(forest, self._hidden_of(forest))

    def values(self, forest: Forest) -> PerToken:
        """What the head expects before each scored token, where that token is predicted: a critic's values."""
        forest = forest.to(self.device)
        rows = self._hidden_of(forest).index_select(0, forest.hidden_row)
        return PerToken(readout(self._whole(), rows)[:, 0], forest.completion, forest.group.shape[0])

    def scores_and_logprobs(self, forest: Forest) -> tuple[tuple[Scores, ...], Logprobs]:
        """The scores, and the log-probabilities by the head that the reward model wrote with, in one pass."""
        forest = forest.to(self.device)
        hidden = self._hidden_of(forest)
        token = token_logprobs(hidden.index_select(0, forest.hidden_row), self._output_weight(), forest.target, 1.0)
        return self._scores(forest, hidden), Logprobs(token, forest.completion, forest.group.shape[0])

    def scores_and_features(self, forest: Forest) -> tuple[tuple[Scores, ...], Tensor]:
        """The scores, and what the head reads at the end of each answer, [C, width], fp32 (fp64), in one pass."""
        forest = forest.to(self.device)
        hidden = self._hidden_of(forest)
        scores = self._scores(forest, hidden)
        return scores, wide(hidden.index_select(0, forest.own_row[scores[0].end]))

    def head(self) -> Tensor:
        """The weights of the reward head, [outputs, width], fp32 (fp64), with gradient."""
        return head_of(self._whole())

    def prototypes(self) -> Tensor:
        """The directions that are trained beside the reward head, [K, width], fp32 (fp64), with gradient."""
        return prototypes_of(self._whole())

    def hidden(self, forest: Forest) -> Tensor:
        """The last layer's hidden state of each token, [S, width], fp32 (fp64 for an fp64 model), without gradient."""
        with torch.no_grad():
            found = self._hidden_of(forest.to(self.device))
        return found if found.dtype == torch.float64 else found.float()

    def statistics(
        self,
        forest: Forest,
        *,
        temperature: float = 1.0,
        divergence: bool = False,
        concentration: bool = False,
        entropy: bool = False,
    ) -> ForestStatistics:
        """Log-probabilities of the policy with statistics of its whole distribution at each scored token.

        divergence: KL(reference || policy), which runs the reference as well. concentration: log sum of p^2.
        entropy: of the policy, with gradient.
        """
        forest = forest.to(self.device)
        reference = None
        if divergence:
            with torch.no_grad(), self.as_role("reference"):
                other = self._head_of(forest)
                reference = Head(other.hidden, other.weight.data)  # the data, as the weight is the policy's again soon
        found = token_statistics(
            self._head_of(forest),
            forest.target,
            temperature,
            reference=reference,
            concentration=concentration,
            entropy=entropy,
        )
        count = forest.group.shape[0]

        def of_answers(kind: type[PerToken], values: Tensor | None) -> Any:
            return None if values is None else kind(values, forest.completion, count)

        return ForestStatistics(
            of_answers(Logprobs, found.logprob),
            of_answers(Logprobs, found.reference),
            of_answers(PerToken, found.divergence),
            of_answers(PerToken, found.concentration),
            of_answers(PerToken, found.entropy),
        )

    def keep_reference(self) -> None:
        """Keeps the weights as they are now as the reference, beside the policy in memory.

        It has masters as wide as the policy's, or small moves of it would be rounded away.
        """
        self._reference_masters = {name: master.detach().clone() for name, master in self._masters.items()}
        self._round_reference()

    def move_reference(self, mix: float) -> None:
        """Moves the kept reference: mix * policy + (1 - mix) * reference."""
        for name, reference in self._reference_masters.items():
            reference.lerp_(self._masters[name].detach(), mix)
        self._round_reference()

    def as_role(self, of: Role) -> AbstractContextManager[Any]:
        """Within it the model computes as this role; as a reference that is kept beside it, without gradient."""
        if of == "policy":
            return nullcontext()
        if self._reference:
            return self._with_kept_reference()
        if self._adapted:
            off: AbstractContextManager[Any] = self.model.disable_adapter()
            return off
        raise GuardError("there is no reference in memory: it is cached before the first step, or kept on request")

    def keep_average(self, decay: float) -> None:
        """Keeps a running mean of the weights beside them, which begins as they are now. As wide as the masters.

        After each step: decay * mean + (1 - decay) * weights. `save_model` writes the mean.
        """
        self._average = {name: master.detach().clone() for name, master in self._masters.items()}
        self._decay = decay

    def take_average(self) -> None:
        """Puts the running mean in the place of the weights, where one is kept. Nothing is trained after that."""
        with torch.no_grad():
            for name, mean in self._average.items():
                self._masters[name].copy_(mean)
        self._average = {}
        self._renew_compute_weights()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar to the masters' gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def moved(self, rate: float) -> Iterator[None]:
        """Within it the masters stand `rate` times the gathered gradient further on, and gathering begins anew."""
        slopes = self.gradients()
        before = {name: self._masters[name].detach().clone() for name in slopes}
        with torch.no_grad():
            for name, slope in slopes.items():
                self._masters[name].add_(slope, alpha=rate)
        self.discard()
        self._renew_compute_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, master in before.items():
                    self._masters[name].copy_(master)
            self._renew_compute_weights()

    def step(self, learning_rate: float, max_gradient_norm: float) -> float:
        """Clips, steps and renews the compute weights.

        A gradient or learning rate that is not finite stops before anything changes.
        """
        if not math.isfinite(learning_rate):
            self.discard()
            raise GuardError(f"the learning rate is {learning_rate}")
        norm = self.demand_finite_gradient()
        torch.nn.utils.clip_grads_with_norm_(list(self._masters.values()), max_gradient_norm, norm)
        for part in self._optimizer.param_groups:
            part["lr"] = learning_rate
        self._optimizer.step()
        for name, mean in self._average.items():
            mean.lerp_(self._masters[name].detach(), 1 - self._decay)
        self.discard()
        self._renew_compute_weights()
        return float(norm)

    def demand_finite_gradient(self) -> Tensor:
        """The norm of the gathered gradient. Raises GuardError, and forgets the gradient, where it is not finite."""
        norm = torch.nn.utils.get_total_norm([m.grad for m in self._masters.values() if m.grad is not None])
        if not torch.isfinite(norm):
            self.discard()
            raise GuardError(f"the gradient norm is {norm.item()}")
        return norm

    def discard(self) -> None:
        """Forgets all gradients gathered since the last step."""
        self._optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> dict[str, Tensor]:
        """Gradients gathered since the last step, by weight name."""
        return {name: m.grad for name, m in self._masters.items() if m.grad is not None}

    def save_model(self, folder: Path) -> None:
        """A `save_pretrained` or PEFT folder with tokenizer: of the masters, or of their running mean if kept."""
        demand_finite(self._masters | self._average, "the weights to be saved")
        state = {name: weight.detach() for name, weight in self.model.state_dict().items()}
        source = self._average or self._masters
        masters = {weight: source[name].detach() for name, weight in self._weights.items()}
        # tied weights have several names, and each must get the master, or they would be read back untied
        for name, weight in self.model.named_parameters(remove_duplicate=False):
            if weight in masters:
                state[name] = masters[weight]
        if is_reward(self._whole().config):
            state = first_output(state)
        with saving(state.values(), folder):
            self.model.save_pretrained(folder, state_dict=state)
            if not self._adapted:  # save_pretrained wrote the compute dtype, and the masters are wider
                self.model.config.dtype = next(iter(self._masters.values())).dtype
                self.model.config.save_pretrained(folder)
            self.renderer.tokenizer.save_pretrained(folder)

    def save_state(self, folder: Path) -> None:
        """Masters, what is kept beside them, optimizer state and RNG in `folder`, as safetensors."""
        tensors = {f"master.{name}": master.detach() for name, master in self._masters.items()}
        for name, master in self._masters.items():
            for key, value in self._optimizer.state[master].items():
                tensors[f"optimizer.{key}.{name}"] = value
        tensors |= {f"reference.{name}": master for name, master in self._reference_masters.items()}
        tensors |= {f"average.{name}": mean for name, mean in self._average.items()}
        demand_finite(tensors, "the state of training to be saved")
        tensors["rng.torch"] = torch.get_rng_state()
        save_tensors(tensors, folder / "state.safetensors")

    def load_state(self, folder: Path) -> None:
        """What `save_state` wrote, to the same bits."""
        tensors = load_file(folder / "state.safetensors")
        demand_finite(tensors, str(folder))
        torch.set_rng_state(tensors.pop("rng.torch"))
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(tensors[f"master.{name}"])
            for name, kept in self._reference_masters.items():
                kept.copy_(tensors[f"reference.{name}"])
            for name, mean in self._average.items():
                mean.copy_(tensors[f"average.{name}"])
        self._round_reference()
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                kind, name = key.removeprefix("optimizer.").split(".", 1)
                self._optimizer.state[self._masters[name]][kind] = value.to(self.device)
        self._renew_compute_weights()

    def _whole(self) -> Any:
        """The model, inside of its adapter where it has one."""
        return self.model.get_base_model() if self._adapted else self.model

    def _hidden_of(self, forest: Forest) -> Tensor:
        if self._longest is not None and int(forest.positions.max()) >= self._longest:
            raise MissingError(too_long(self._longest))
        hidden: Tensor = (
            self._whole()
            .get_decoder()(
                input_ids=forest.tokens[None],
                position_ids=forest.positions[None],
                use_cache=False,
                layout=ForestLayout(forest.trees),
            )
            .last_hidden_state[0]
        )
        return hidden

    def _head_of(self, forest: Forest) -> Head:
        return Head(self._hidden_of(forest).index_select(0, forest.hidden_row), self._output_weight())

    def _output_weight(self) -> Tensor:
        whole = self._whole()
        kept = language_head(whole) if is_reward(whole.config) else None
        return output_weight(whole) if kept is None else kept

    def _scores(self, forest: Forest, hidden: Tensor) -> tuple[Scores, ...]:
        values = readout(self._whole(), hidden.index_select(0, forest.own_row))
        return tuple(Scores(one, forest.completion, forest.group.shape[0]) for one in values.unbind(1))

    def _round_reference(self) -> None:
        """The reference's weights in the dtype of compute."""
        self._reference = {}
        for name, master in self._reference_masters.items():
            self._reference[name] = rounded(master.detach(), self._weights[name].dtype)

    @contextmanager
    def _with_kept_reference(self) -> Iterator[None]:
        """The model with the reference's weights in place of its own; only where no gradient is taken."""
        if torch.is_grad_enabled():
            raise GuardError("a kept reference is run without gradient: wrap the call in torch.no_grad()")
        own = {name: weight.data for name, weight in self._weights.items()}
        try:
            for name, weight in self._weights.items():
                weight.data = self._reference[name]
            yield
        finally:
            for name, weight in self._weights.items():
                weight.data = own[name]

    def _renew_compute_weights(self) -> None:
        with torch.no_grad():
            for name, master in self._masters.items():
                if self._weights[name] is not master:
                    round_into(self._weights[name], master)


def _master(weight: torch.nn.Parameter, compute: torch.dtype) -> torch.nn.Parameter:
    """The weight itself where it is computed with in full width, or its values in fp32 apart from it."""
    if compute in (torch.float32, torch.float64):
        return weight
    return torch.nn.Parameter(weight.detach().to(torch.float32))


def _narrow(model: Any, dtype: torch.dtype | None) -> None:
    """Rounds the weights to the compute dtype. Buffers stay: rotary frequencies do not survive bf16."""
    if dtype is not None:
        for weight in model.parameters():
            if weight.is_floating_point():  # not the bits of a quantised base
                weight.data = weight.data.to(dtype)


def _gather_into(master: torch.nn.Parameter) -> Any:
    def gather(weight: Tensor) -> None:
        assert weight.grad is not None
        if master.grad is None:
            master.grad = weight.grad.to(master.dtype)
        else:
            master.grad += weight.grad
        weight.grad = None

    return gather


def _recompute_activations(model: Any) -> None:
    """Trades time for memory: activations are made again in the backward pass.

    transformers does so in layers that are in train mode, so they are, and nothing else; their dropout is taken out.
    """
    with quiet_libraries():
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if is_adapted(model):
        model.enable_input_require_grads()
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True  # not layer.train(), which reaches the modules in it
            for name, value in list(vars(layer).items()):
                if "drop" in name and isinstance(value, float):
                    setattr(layer, name, 0.0)
