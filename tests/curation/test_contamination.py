"""Pieces of test sets against a plain loop."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from truing.curation.contamination import contaminated, read_pieces
from truing.errors import DataError
from truing.records import Completion, Group, assistant, user

WORD = st.sampled_from(["a", "b", "c", "d"])
TEXT = st.lists(WORD, max_size=14).map(" ".join)


def row(prompt: str, answer: str) -> Group:
    return Group((user(prompt),), (Completion((assistant(answer),)),))


def written(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


@given(tests=st.lists(TEXT, max_size=3), rows=st.lists(st.tuples(TEXT, TEXT), max_size=4), width=st.integers(4, 7))
@settings(max_examples=150)
def test_as_a_plain_loop(
    tests: list[str], rows: list[tuple[str, str]], width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = written(tmp_path_factory.mktemp("tests") / "t.jsonl", [{"question": text} for text in tests])
    found = contaminated([row(*texts) for texts in rows], read_pieces({"t": file}, width), width)
    for place, texts in enumerate(rows):
        lines = {
            number
            for number, test in enumerate(tests, start=1)
            for text in texts
            if _share_a_run(text.split(), test.split(), width)
        }
        assert (place in found) == bool(lines)
        assert place not in found or int(found[place].rpartition(":")[2]) in lines


def _share_a_run(text: list[str], test: list[str], width: int) -> bool:
    if len(test) < width:
        return len(test) >= min(5, width) and text == test
    runs = [test[i : i + width] for i in range(len(test) - width + 1)]
    return any(text[i : i + width] == run for i in range(len(text) - width + 1) for run in runs)


def test_any_layout_and_chinese(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    chinese = "人工智能正在改变我们的生活方式和工作"
    file = written(tmp_path / "t.jsonl", [{"id": 1, "turns": [{"content": f"So: {long}, fourteen"}]}, {"q": chinese}])
    pieces = read_pieces({"t": file}, 13)
    rows = [
        row(long.upper(), "x"),
        row("x", f"well, {long}!"),
        row(long.replace("seven", "7"), "x"),
        row("请看：人工智能正在改变我们的生活方式。", "x"),
        row("人工智能正在改变", "x"),
    ]
    assert contaminated(rows, pieces, 13) == {0: f"t, {file}:1", 1: f"t, {file}:1", 3: f"t, {file}:2"}


def test_short_test_texts_are_found_as_a_whole(tmp_path: Path) -> None:
    pieces = read_pieces({"t": written(tmp_path / "t.jsonl", [{"q": "Who wrote the old Iliad?", "a": "A"}])}, 13)
    rows = [row("who wrote the old iliad", "Homer"), row("Tell me, who wrote the old Iliad?", "Homer"), row("A", "A")]
    assert list(contaminated(rows, pieces, 13)) == [0]


def test_share(tmp_path: Path) -> None:
    pieces = read_pieces({"t": written(tmp_path / "t.jsonl", [{"q": "a b c d e"}])}, 5)
    rows = [row("a b c d e f", "no more words at all")]  # one of three pieces
    assert contaminated(rows, pieces, 5, 0.33) == {0: f"t, {tmp_path / 't.jsonl'}:1"}
    assert contaminated(rows, pieces, 5, 0.34) == {}


def test_a_damaged_test_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"q": "a"}\n{"q": \n')
    with pytest.raises(DataError, match=r"t\.jsonl:2: "):
        read_pieces({"t": str(tmp_path / "t.jsonl")}, 13)
