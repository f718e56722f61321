"""The processes of one training: each takes a share of every step's rows, and their gradients are added up.

`torchrun` starts them and says in the environment which is which. One process alone, the usual case, needs nothing of
torch.distributed. What they say to each other is JSON and safetensors, never pickled objects.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import psutil
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from truing.errors import ConfigError, Interrupted, MissingError

Plain = TypeVar("Plain")
"""What JSON holds to the bit: numbers, words, lists and tables by words."""

TIMEOUT = "TRUING_RANK_TIMEOUT"
SECONDS = 600.0
PATIENCE = timedelta(days=365)
BUCKET = 2**24
"""Elements that are sent at once, 64 MiB of fp32."""


class LostRankError(MissingError):
    """Another process is gone, or does not answer."""


class Ranks(Protocol):
    """Who takes part in a training, numbered from 0, and what they say to each other. All make the same calls."""

    @property
    def rank(self) -> int:
        """Which one this process is. The first, 0, writes and draws for all."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def neighbours(self) -> int:
        """How many of them, this one included, are on this machine and share its memory."""

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Puts into each tensor the sum of what all ranks have there, which is the same on all to the bit."""

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Puts into each tensor what the first rank has there. The others wait for it as long as it takes."""

    def gather(self, value: Plain) -> list[Plain]:
        """What each rank says, in their order."""

    def gather_tensors(self, tensors: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
        """What each rank says, in their order; each may say other things. Of several ranks they lie on the CPU."""

    def tell(self, find: Callable[[], Plain]) -> Plain:
        """What the first rank finds, for all. The others wait for it as long as it takes."""

    def wait(self) -> None:
        """Ends once all are here, as long as it takes."""


@dataclass(frozen=True, slots=True)
class Alone:
    """One process."""

    rank: int = 0
    count: int = 1
    neighbours: int = 1

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """The sum of one."""

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """It is the first."""

    def gather(self, value: Plain) -> list[Plain]:
        """What it says."""
        return [value]

    def gather_tensors(self, tensors: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
        """What it says."""
        return [tensors]

    def tell(self, find: Callable[[], Plain]) -> Plain:
        """What it finds."""
        return find()

    def wait(self) -> None:
        """Nobody else is to come."""


ALONE = Alone()


class Together:
    """Several processes that torch.distributed has joined.

    Where all do alike work, a rank that does not answer within the time-out is given up; where the first one works for
    all, the others are patient. One that dies is noticed at once in either case: each rank has a thread that listens to
    the next one, in a ring, and hears its connection break.

    timeout: seconds.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._timeout = timeout
        self._talk, self._patient, self._ring = (
            dist.new_group(backend="gloo", timeout=limit) for limit in (timedelta(seconds=timeout), PATIENCE, PATIENCE)
        )
        self._leaving = False
        me = {"node": platform.node(), "parent": os.getppid(), "process": os.getpid()}
        near = [one for one in self.gather(me) if one["node"] == me["node"]]
        self.neighbours = len(near)
        self._beside = [one["process"] for one in near if one != me and one["parent"] == me["parent"]]
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """By all-reduce of flat buckets: on the GPU by NCCL, on the CPU by gloo."""
        for bucket in buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._or_give_up():
                dist.all_reduce(flat, group=self._talk if flat.device.type == "cpu" else None)
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """By broadcast, once all are here."""
        self.wait()
        for tensor in tensors:
            whole = tensor.contiguous()
            with self._or_give_up():
                dist.broadcast(whole, src=0, group=self._talk if whole.device.type == "cpu" else None)
            tensor.copy_(whole)

    def gather(self, value: Plain) -> list[Plain]:
        """As JSON."""
        return [json.loads(said) for said in self._gather(json.dumps(value).encode())]

    def gather_tensors(self, tensors: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
        """As safetensors."""
        own = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}  # some may share memory
        return [load(said) for said in self._gather(save(own))]

    def tell(self, find: Callable[[], Plain]) -> Plain:
        """As JSON, also to the first one, so that all have the same."""
        said = json.dumps(find()).encode() if self.rank == 0 else b""
        size = torch.tensor([len(said)])
        with self._or_give_up():
            dist.broadcast(size, src=0, group=self._patient)
            whole = _bytes(said, int(size))
            dist.broadcast(whole, src=0, group=self._patient)
        found: Plain = json.loads(whole.numpy().tobytes())
        return found

    def wait(self) -> None:
        """A barrier without a time-out."""
        with self._or_give_up():
            dist.barrier(group=self._patient)

    def leave(self, *, all_do: bool) -> None:
        """Says goodbye, after which nobody misses this rank. all_do: whether the others are about to leave as well."""
        if all_do:
            self.wait()
        self._leaving = True
        with suppress(RuntimeError):  # whoever listened may be gone already
            dist.send(torch.ones(1), dst=(self.rank - 1) % self.count, group=self._ring)
        if all_do:
            self._listener.join()
            dist.destroy_process_group()

    def stay_silent(self) -> None:
        """Lets this process end with its own error instead of with what it hears of others."""
        self._leaving = True

    def _gather(self, said: bytes) -> list[bytes]:
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.count)]
        with self._or_give_up():
            dist.all_gather(sizes, torch.tensor([len(said)]), group=self._talk)
            most = max(int(size) for size in sizes)
            whole = [torch.zeros(most, dtype=torch.uint8) for _ in range(self.count)]
            dist.all_gather(whole, _bytes(said, most), group=self._talk)
        return [one[: int(size)].numpy().tobytes() for one, size in zip(whole, sizes, strict=True)]

    def _listen(self) -> None:
        """Waits for the next rank's goodbye. If its connection breaks first, this process ends as a killed one does.

        Nothing is lost by that: what a run holds is whole after every kill. To wait for a safe place could take as long
        as the work that is under way, and the others cannot finish it.
        """
        following = (self.rank + 1) % self.count
        try:
            dist.recv(torch.zeros(1), src=following, group=self._ring)
        except RuntimeError:
            if not self._leaving:
                sys.stderr.write(f"error: rank {self.rank}: rank {following} is gone: {GO_ON}\n")
                sys.stderr.flush()
                os._exit(LostRankError.exit_code)

    @contextmanager
    def _or_give_up(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if "timed out" in str(error).lower():
                self._end_hung()
            raise LostRankError(
                f"rank {self.rank}: another rank is gone, or did not answer within {TIMEOUT} = {self._timeout:g} "
                f"seconds: {GO_ON} ({str(error).splitlines()[0]})"
            ) from error

    def _end_hung(self) -> None:
        """Kills the ranks beside this one, that is, of the same parent: one that hangs may not hear `torchrun`."""
        self._leaving = True
        for process in self._beside:
            with suppress(psutil.Error):
                found = psutil.Process(process)
                if found.ppid() == os.getppid():
                    found.kill()


GO_ON = "all stop; the same command goes on from the last checkpoint"


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The processes that `torchrun` started, or this one alone."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    timeout = _timeout()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _end_with_parent()
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout)
        )
        ranks = Together(timeout)
    except (RuntimeError, ValueError) as error:
        raise MissingError(
            f"the ranks did not come together within {TIMEOUT} = {timeout:g} seconds: start them by torchrun, and look "
            f"at the addresses it was given ({str(error).splitlines()[0]})"
        ) from error
    try:
        yield ranks
    except Interrupted:
        ranks.leave(all_do=False)
        raise
    except BaseException:
        ranks.stay_silent()
        raise
    ranks.leave(all_do=True)


def is_first() -> bool:
    """Whether this process speaks for all that were started with it."""
    return os.environ.get("RANK", "0") == "0"


def own_device(device: torch.device) -> torch.device:
    """Of several GPUs the one that belongs to this process."""
    local = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", int(local)) if device.type == "cuda" and local is not None else device


def buckets(tensors: Sequence[Tensor], limit: int = BUCKET) -> Iterator[list[Tensor]]:
    """The tensors in their order, as many together as go into `limit` elements of one dtype on one device."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        alike = bucket and (bucket[0].dtype, bucket[0].device) == (tensor.dtype, tensor.device)
        if bucket and not (alike and sum(one.numel() for one in bucket) + tensor.numel() <= limit):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _timeout() -> float:
    """Seconds."""
    given = os.environ.get(TIMEOUT, str(SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= PATIENCE.total_seconds():
        raise ConfigError(f"{TIMEOUT} = {given!r}: write the seconds after which a silent rank is given up")
    return seconds


def _bytes(said: bytes, size: int) -> Tensor:
    """The bytes, filled up with zeros."""
    return torch.frombuffer(bytearray(said.ljust(size, b"\0")) or bytearray(1), dtype=torch.uint8)[:size]


def _end_with_parent() -> None:
    """Asks the system to stop this process when `torchrun` dies, so that no rank is left alone. Linux only."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        libc: Any = ctypes.CDLL(None)
        libc.prctl(set_parent_death_signal, signal.SIGTERM)
