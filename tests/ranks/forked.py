"""Ranks forked from a process that has imported all they need, some of which are killed or stopped in the middle."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from truing.compute.engine.local import LocalEngine
from truing.compute.ranks import TIMEOUT
from truing.errors import describe_error

PLENTY = 60.0
"""Seconds after which ranks that should have ended are killed."""


@dataclass(frozen=True)
class Blow:
    """What one rank does to itself as it is about to take its nth step: killed, stopped for good, or asked to stop."""

    rank: int
    step: int
    kind: signal.Signals


@dataclass(frozen=True)
class Ended:
    """How the ranks ended: exit codes, or less the signal. seconds: from the blow to the last one's end."""

    codes: list[int]
    seconds: float


def together(work: Callable[[], object], *, blow: Blow | None = None, timeout: float = PLENTY, count: int = 2) -> Ended:
    """Runs `work` in as many ranks. timeout: seconds after which they give up a silent one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    read, write = os.pipe()
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), TIMEOUT: str(timeout)}
    processes = [
        _forked(work, where | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, blow, write) for rank in range(count)
    ]
    os.close(write)
    codes = _waited(processes)
    ended = time.monotonic()
    struck = os.read(read, 100).decode()
    os.close(read)
    return Ended(codes, ended - float(struck) if struck else 0.0)


def alone(work: Callable[[], object]) -> Ended:
    """Runs `work` in one process of its own."""
    codes = _waited([_forked(work, {}, None, None)])
    return Ended(codes, 0.0)


def _forked(work: Callable[[], object], where: dict[str, str], blow: Blow | None, tell: int | None) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ |= where
        torch.set_num_threads(1)
        if blow is not None and where["RANK"] == str(blow.rank):
            _struck(blow, tell)
        work()
        code = 0
    except BaseException as error:
        words, code = describe_error(error)
        print(f"rank {where.get('RANK', 'alone')}: {words}", flush=True)
        if code == 1:
            traceback.print_exc()
    finally:
        os._exit(code)


def _struck(blow: Blow, tell: int | None) -> None:
    """Lets this process do it to itself."""
    assert tell is not None
    whole, steps = LocalEngine.step, 0

    def step(engine: LocalEngine, learning_rate: float, max_gradient_norm: float) -> float:
        nonlocal steps
        steps += 1
        if steps == blow.step:
            os.write(tell, str(time.monotonic()).encode())
            os.kill(os.getpid(), blow.kind)
        return whole(engine, learning_rate, max_gradient_norm)

    mock.patch.object(LocalEngine, "step", step).start()


def _waited(processes: list[int]) -> list[int]:
    codes: dict[int, int] = {}
    deadline = time.monotonic() + PLENTY
    while len(codes) < len(processes):
        for process in processes:
            if process not in codes:
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    codes[process] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for process in processes:
                if process not in codes:
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[process] for process in processes]


def leftovers(run: Path) -> list[str]:
    """What lies in a run folder that was not committed, or does not verify."""
    from truing.store.files import verify_folder

    folders = [*run.glob("checkpoint-*"), *(run / "artifacts").glob("*")]
    return [str(one) for one in folders if one.name[0] != "." and verify_folder(one)]
