"""The part of rendering that runs a chat template, alone in a process of its own under limits.

`templates.py` starts this file as a program. It imports nothing of Truing, and of others jinja2 alone, in whose
immutable sandbox it gives a template what transformers gives it: the same names, filters and tags.

It reads and writes frames: their length as four bytes, and their content. The first one is the template with its
limits, each later one conversations of a row and which texts are wanted of them, as JSON. It is answered by a letter,
which says what follows. Before all that it writes an empty frame, by which one knows that it runs.
"""

from __future__ import annotations

import codecs
import json
import os
import resource
import signal
import struct
import sys
import textwrap  # noqa: F401 - a filter of jinja2 imports it, when no file can be opened any more
import unicodedata  # noqa: F401 - as the lexer does for \N{...}
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

if __name__ == "__main__":
    sys.path += sys.argv[1:]  # where jinja2 lies, behind Python's own library

import jinja2.constants
import jinja2.debug
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

LENGTH = struct.Struct(">I")
WRITTEN, REFUSED, TOO_MUCH, NO_MEMORY = b"w", b"r", b"o", b"m"
"""An answer is a list of texts, the words of a refusal, or nothing, as a text or the memory grew beyond its limit."""
TIMES = 8
"""A text may be so many times as long as all that is said of its row, and by a fixed number of characters longer."""
SAID = 1000
"""Characters of a refusal that are passed on."""


class Table:
    """`dict` for templates. It is no type, whose attributes would lead out of the sandbox."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:
        """Like `dict`."""
        return dict(*pairs, **named)

    def fromkeys(self, *given: Any) -> dict[Any, Any]:
        """Like `dict.fromkeys`."""
        return dict.fromkeys(*given)


class Namespace(jinja2.utils.Namespace):
    """`namespace` for templates, without names that begin with an underscore."""

    def __init__(self, /, *pairs: Any, **named: Any) -> None:
        values = dict(*pairs, **named)
        for name in values:
            _demand_public(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: Any) -> None:
        _demand_public(name)
        super().__setitem__(name, value)


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant says. Here it writes what is in it and nothing else."""

    tags = {"generation"}  # noqa: RUF012 - a ClassVar is not what jinja2 declares

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The block as a call, so that what is set in it stays in it, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inner"), [], [], body).set_lineno(line)

    def _inner(self, caller: Any) -> Any:
        return caller()


class TooMuchError(Exception):
    """The text grows beyond its limit."""


def _demand_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name with an underscore in front: {name!r}")


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As it is, where jinja2's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache
def compiled(source: str) -> jinja2.Template:
    """The template in its sandbox."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _json
    made.globals |= {"raise_exception": _raise, "strftime_now": _now, "dict": Table(), "namespace": Namespace}
    return made.from_string(source)


def text(source: str, variables: Mapping[str, Any], limit: int) -> str:
    """What the template writes. Raises TooMuchError beyond `limit` characters, and whatever the template raises."""
    pieces: list[str] = []
    length = 0
    for piece in compiled(source).generate(variables):
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            raise TooMuchError
    return "".join(pieces)


def answer(source: str, request: bytes, output: int, seconds: float) -> bytes:
    """What is said to one request. SIGPROF ends what computes longer than `seconds` for one text."""
    try:
        row = json.loads(request.decode("utf-8", "surrogatepass"))
        most = output + TIMES * len(request)
        texts = []
        for talk, turns, header in row["wanted"]:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            told = {**row["variables"], "messages": row["talks"][talk][:turns], "add_generation_prompt": header}
            texts.append(text(source, told, most))
        return WRITTEN + _bytes(json.dumps(texts, ensure_ascii=False))
    except TooMuchError:
        return TOO_MUCH
    except MemoryError:
        return NO_MEMORY
    except Exception as error:  # whatever a template may raise
        said = str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
        return REFUSED + _bytes(said[:SAID])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def limit(memory: int) -> None:
    """From here on no file, connection or process more, and of memory so many bytes beyond what is taken."""
    codecs.lookup("unicode-escape")  # what the lexer and the clock need, while files can be read
    _now("%c")
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NPROC, 0)]
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        limits.append((resource.RLIMIT_AS, taken + memory))
    for which, value in (*limits, (resource.RLIMIT_NOFILE, 0)):
        resource.setrlimit(which, (value, value))


def main() -> None:
    """Says that it is there, and answers until the other end is closed."""
    _send(b"")
    job = json.loads(_received())
    limit(job["memory"])
    while request := _received():
        _send(answer(job["template"], request, job["output"], job["seconds"]))


def _send(content: bytes) -> None:
    sys.stdout.buffer.write(LENGTH.pack(len(content)) + content)
    sys.stdout.buffer.flush()


def _received() -> bytes:
    """The content of the next frame; none at the end."""
    length = sys.stdin.buffer.read(LENGTH.size)
    return sys.stdin.buffer.read(*LENGTH.unpack(length)) if len(length) == LENGTH.size else b""


def _bytes(words: str) -> bytes:
    return words.encode("utf-8", "surrogatepass")


if __name__ == "__main__":
    main()
    os._exit(0)  # at once: whoever closed the pipe may wait
