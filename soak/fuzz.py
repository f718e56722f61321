"""Readers of data under bytes that were made to break them, guided by the lines of the readers that they reach.

An input is kept, and changed further, if it reached a line that none before it had reached. A reader may refuse what it
is given; it may raise nothing but what is meant for the user, and each refusal names file and line.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import orjson

import truing.formats
from truing.errors import TruingError
from truing.formats import BadRow, open_data

READERS = str(Path(truing.formats.__file__).parent)
CASES = 200_000
LARGE = 5 * 10**9
"""Bytes of the large file."""
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.zst")

_HI, _HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
ROWS: tuple[dict[str, Any], ...] = (
    {"text": "once"},
    {"messages": [_HI, _HELLO]},
    {"prompt": "a", "completion": "b"},
    {"prompt": [_HI]},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"chosen": [_HI, _HELLO], "rejected": [_HI, {**_HELLO, "content": "No"}]},
    {"prompt": "a", "completion": "b", "label": True},
    {"prompt": "a", "completions": ["b", "c"], "labels": [True, False]},
    {"instruction": "a", "input": "b", "output": "c"},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    {"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]},
    {"prompt": [_HI], "completions": [{"messages": [_HELLO], "score": 1.5, "rank": 1}], "weight": 2, "extra": {"a": 1}},
)
"""One row of each format at least."""
WORDS = (
    b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\r", b"\n", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\\ud800",
    b"\\udc00", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"18446744073709551616", b"0123", b"[" * 100_000,
    b'{"a":' * 2000, b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"{}", b"[]", b'""',
    b'"prompt":"x",', b'"role":"user"', b'"role":"assistant"', b'"role":"system"', b'"role":"tool"', b'"role":7',
    b'"content":[]', b'"messages":[]', b'"label":"yes"', b'"rank":-1', b'"score":"NaN"', b'"strength":0.5',
    b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"PAR1", b"prompt,chosen,rejected\n", b"\n\nHuman: ",
    b"\n\nAssistant: ", b"\xe2\x80\xa8", b" " * 3000, b'"steps":[', b'"tools":"[{"', b'"tool_calls":{}',
)  # fmt: skip
"""What files of other tools, damaged files and files that mean harm hold."""


class Found(NamedTuple):
    """What a run of inputs came to. broken: what was raised or said that should not be, with the input that did it."""

    cases: int
    kept: int
    lines: int
    broken: list[tuple[str, bytes, str]]


def seeds() -> list[tuple[str, bytes]]:
    """Files of every format, in every container that can be made of bytes alone."""
    files = []
    for row in ROWS:
        line = orjson.dumps(row)
        files += [(".jsonl", line + b"\n" + line), (".json", b"[" + line + b",\n" + line + b"]")]
        files.append((".jsonl.gz", gzip.compress(line, mtime=0)))
        cells = [value if isinstance(value, str) else json.dumps(value) for value in row.values()]
        quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
        files.append((".csv", f"{','.join(row)}\n{quoted}\n".encode()))
    return files


def fuzz(folder: Path, cases: int, seed: int, read: Callable[[Path], None] | None = None) -> Found:
    """Reads so many files in the folder. read: reads one, and raises what must not be."""
    read = read or read_all
    source = random.Random(seed)
    pool: list[tuple[str, bytes]] = []
    waiting = seeds()
    reached: set[tuple[str, int]] = set()
    broken: list[tuple[str, bytes, str]] = []
    for _ in range(cases):
        suffix, content = waiting.pop() if waiting else changed(source, pool)
        path = folder / f"rows{suffix}"
        path.write_bytes(content)
        seen: set[tuple[str, int]] = set()
        try:
            with_lines(lambda path=path: read(path), seen)  # type: ignore[misc]
        except Exception as error:
            broken.append((suffix, content, f"{type(error).__name__}: {error}"))
        if not seen <= reached or not pool:
            reached |= seen
            pool.append((suffix, content))
        path.unlink()
    return Found(cases, len(pool), len(reached), broken)


def read_all(path: Path) -> None:
    """Reads a file to its end. Raises what is no refusal, or is one that does not say where."""
    try:
        rows = open_data(path)
        for row in rows:
            if isinstance(row, BadRow):
                demand_place(str(row), path)
    except TruingError as error:
        if str(path) not in str(error):
            raise AssertionError(f"the file is not named: {error}") from error


def demand_place(words: str, path: Path) -> None:
    """A row that is refused is told with file and line, and what is wrong."""
    if not re.match(rf"{re.escape(str(path))}:\d+: \S", words):
        raise AssertionError(f"no file and line: {words[:200]}")


def with_lines(run: Callable[[], None], seen: set[tuple[str, int]]) -> None:
    """Runs, and notes the lines of the readers that are reached."""

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def calls(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(READERS) else None

    before = sys.gettrace()
    sys.settrace(calls)
    try:
        run()
    finally:
        sys.settrace(before)


def changed(source: random.Random, pool: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """An input of the pool after a few changes, now and then under another suffix or compressed."""
    suffix, content = source.choice(pool)
    for _ in range(source.choice((1, 1, 2, 4))):
        content = _change(source, content, source.choice(pool)[1])
    if source.random() < 0.1:
        suffix = source.choice(SUFFIXES)
    if suffix.endswith(".gz") and source.random() < 0.3:
        content = gzip.compress(content, mtime=0)
    return suffix, content[: 1 << 20]


def _change(source: random.Random, content: bytes, other: bytes) -> bytes:
    a, b = sorted(source.randrange(len(content) + 1) for _ in range(2))
    kind = source.randrange(7)
    if kind == 0:  # a word put in
        return content[:a] + source.choice(WORDS) + content[a:]
    if kind == 1:  # a word in the place of something
        return content[:a] + source.choice(WORDS) + content[min(b, a + 20) :]
    if kind == 2:  # something left out
        return content[:a] + content[min(b, a + 30) :]
    if kind == 3:  # something twice
        return content[:b] + content[a:b] * source.choice((1, 2, 50)) + content[b:]
    if kind == 4:  # one byte changed
        return content[:a] + bytes([source.randrange(256)]) + content[a + 1 :]
    if kind == 5:  # cut off
        return content[:a]
    return content[:a] + other[source.randrange(len(other) + 1) :]


MEASURE = """
import sys
from truing.formats import iter_groups, open_data
count = sum(1 for _ in iter_groups(open_data(sys.argv[1])))
print(count, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def streamed(folder: Path, size: int) -> tuple[int, int, int]:
    """Reads that many bytes of rows out of a compressed file in a process of its own.

    Returns how many rows there were, how many bytes, and the largest size of the process in MiB.
    """
    answer = {"role": "assistant", "content": 'words, "quoted" ' * 60}
    rows = [orjson.dumps({"messages": [{"role": "user", "content": f"Hi {i}"}, answer]}) for i in range(10_000)]
    part = b"\n".join(rows) + b"\n"
    parts = max(1, size // len(part))
    path = folder / "large.jsonl.gz"
    packed = gzip.compress(part, 6, mtime=0)
    with path.open("wb") as file:  # compressed files may be joined end to end
        for _ in range(parts):
            file.write(packed)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    path.unlink()
    assert int(done[0]) == parts * len(rows), "a row was lost"
    return int(done[0]), parts * len(part), int(done[1]) // 1024


def run() -> dict[str, int | float]:
    """Reads what was made to break readers, and a large file. Raises SystemExit where one did not hold."""
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), CASES, seed=0)
        for suffix, content, words in found.broken[:5]:
            print(f"{suffix} {content[:300]!r}: {words}", file=sys.stderr)
        rows, size, peak = streamed(Path(folder), LARGE)
    if found.broken or peak > 300:
        raise SystemExit(f"soak: {len(found.broken)} files broke a reader, and the large file took {peak} MiB")
    return {
        "files made to break a reader": found.cases,
        "of them kept, as they reached new lines": found.kept,
        "lines of the readers reached": found.lines,
        "errors that were no refusal, or named no file and line": len(found.broken),
        "GB of rows streamed": round(size / 1e9, 1),
        "rows of it": rows,
        "MiB of memory at most": peak,
    }
