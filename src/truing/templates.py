"""Chat templates. Each is a program of whoever made the model, and runs in a process of its own under limits.

The process lives as long as its template is used here and writes one text after the other, so that a text costs hardly
more than in this process. It ends when this process ends, however that comes about: its pipe is closed then.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe

from truing import template_process
from truing.errors import MissingError
from truing.template_process import LENGTH, NO_MEMORY, REFUSED, TIMES, TOO_MUCH, WRITTEN

SECONDS = 10.0
"""Of computing that a template has for one text."""
SILENCE = 60.0
"""Seconds by the clock after which the process is ended, whatever it may be doing."""
PASSED_ON = ("TZ", "LD_LIBRARY_PATH")
"""Variables of the environment that the process gets: its clock, and where Python's own library may lie."""
MEMORY = 2**30
"""Bytes that the process may take beyond those it starts with."""
OUTPUT = 2**20
"""Characters that a text may have beyond `TIMES` those of the conversation."""
AT_ONCE = 2**24
"""Bytes that texts of one request have together, about: those of a long conversation, up to each turn, have more."""


class Wanted(NamedTuple):
    """A text: so many turns of the conversation of this number, and whether the header of an answer follows them."""

    talk: int
    turns: int
    answer_next: bool


class RefusedError(Exception):
    """The template does not write these turns. The message is the template's own."""


class LimitError(Exception):
    """The template went beyond a limit, and its process was ended. The message says which."""


class Template:
    """A chat template in its process, which starts with the first text. Threads may share it, and forks do not."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._process: _Process | None = None
        self._lock = threading.Lock()
        _known.add(self)

    def render(
        self, variables: Mapping[str, Any], talks: Sequence[Sequence[Mapping[str, Any]]], wanted: Sequence[Wanted]
    ) -> list[str]:
        """The texts that are wanted of a row's conversations, which go to the process at one go unless they are long.

        variables: what the template sees beside the turns of a conversation.
        Raises RefusedError, or LimitError after which a new process writes the next row.
        """
        try:
            size = len(_as_json([variables, talks]))
        except (TypeError, ValueError, RecursionError) as error:
            raise RefusedError(f"they cannot be written as JSON: {error}") from error
        count = max(1, AT_ONCE // size)
        texts: list[str] = []
        for start in range(0, len(wanted), count):
            some = wanted[start : start + count]
            texts += self._rendered(_as_json({"variables": variables, "talks": talks, "wanted": some}), len(some))
        return texts

    def _rendered(self, request: bytes, count: int) -> list[str]:
        with self._lock:
            try:
                if self._process is None:
                    with _starting:  # a fork on the way would hold both ends of the pipe
                        self._process = _Process(self.source)
                return self._process.answer(request, count)
            except RefusedError:
                raise
            except BaseException:  # an interrupt too: a late answer would be taken for that to the next request
                if self._process:
                    self._process.end()
                self._process = None
                raise

    def forget(self) -> None:
        """In a fork: the process belongs to another, and so may whoever held the lock."""
        if self._process:
            self._process.let_go()
        self._process = None
        self._lock = threading.Lock()


class _Process:
    """A process that renders one template."""

    def __init__(self, source: str) -> None:
        command = [sys.executable, "-I", "-S", template_process.__file__, *_libraries()]
        self._pipe, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command, env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
                    stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                self._pipe.close()
                raise _does_not_start(command, str(error)) from error
        self.end = weakref.finalize(self, _end, self._process, self._pipe)
        try:
            self._received(0)
        except (OSError, EOFError):
            self.end()
            raise _does_not_start(command, _how_ended(self._process.returncode)) from None
        job = {"template": source, "seconds": SECONDS, "memory": MEMORY, "output": OUTPUT}
        self._unsent = _framed(_as_json(job))

    def answer(self, request: bytes, count: int) -> list[str]:
        """So many texts. Raises RefusedError, or LimitError after which this process is of no use any more."""
        most = 8 * count * (OUTPUT + TIMES * len(request))
        try:
            self._send(self._unsent + _framed(request))
            self._unsent = b""
            answer = self._received(most)
        except TimeoutError:
            raise LimitError(f"gives no answer within {SILENCE:g} seconds") from None
        except (EOFError, ConnectionError):
            self.end()
            raise LimitError(_how_ended(self._process.returncode)) from None
        if answer[:1] == NO_MEMORY:
            raise LimitError(f"takes more than {MEMORY >> 20:,} MiB of memory")
        if answer[:1] == TOO_MUCH:
            raise LimitError(f"writes more than {OUTPUT:,} characters beyond {TIMES} times its turns")
        if answer[:1] == REFUSED:
            raise RefusedError(answer[1:].decode("utf-8", "surrogatepass"))
        texts = _texts(answer[1:])
        if answer[:1] != WRITTEN or len(texts) != count:
            raise LimitError("gives an answer that is none")
        return texts

    def let_go(self) -> None:
        """In a fork: closes its copy of the pipe, and leaves the process to the other."""
        self.end.detach()
        self._pipe.close()
        self._process.poll()  # it is no child of this process, and Popen takes it for ended then

    def _send(self, content: bytes) -> None:
        self._pipe.settimeout(SILENCE)
        self._pipe.sendall(content)

    def _received(self, most: int) -> bytes:
        """The content of a frame; the letter of TOO_MUCH in place of one with more than `most` bytes."""
        deadline = time.monotonic() + SILENCE
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        return TOO_MUCH if length > most else self._read(length, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        found = bytearray()
        while len(found) < count:
            self._pipe.settimeout(max(deadline - time.monotonic(), 1e-3))
            piece = self._pipe.recv(min(count - len(found), 1 << 18))
            if not piece:
                raise EOFError
            found += piece
        return bytes(found)


@lru_cache(maxsize=8)
def template(source: str) -> Template:
    """The template of this text, the same to all who use it."""
    return Template(source)


def _as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _texts(content: bytes) -> list[str]:
    """The texts of an answer; none where it holds anything else, as it may if the process is no longer itself."""
    try:
        found = json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else []


def _framed(content: bytes) -> bytes:
    return LENGTH.pack(len(content)) + content


def _libraries() -> list[str]:
    """The folders from which the process imports: nothing that may have been put into this one's path reaches it."""
    return sorted({str(Path(library.__path__[0]).parent) for library in (jinja2, markupsafe)})


def _does_not_start(command: Sequence[str], why: str) -> MissingError:
    return MissingError(
        f"the process that runs chat templates does not start ({why}): see what `{shlex.join(command)}` says"
    )


def _how_ended(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"computes for more than {SECONDS:g} seconds"
    return f"ended its process ({f'signal {-code}' if code < 0 else f'exit code {code}'})"


def _end(process: subprocess.Popen[bytes], pipe: socket.socket) -> None:
    pipe.close()
    process.kill()
    process.wait()


def _forget() -> None:
    for known in list(_known):
        known.forget()


_known: weakref.WeakSet[Template] = weakref.WeakSet()
_starting = threading.Lock()
os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)
os.register_at_fork(after_in_child=_forget)
