from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from store.test_disk import largest_file
from store.test_files import flip
from truing.errors import StorageError
from truing.store import StoreWarning
from truing.store.journal import Journal

ROWS = [{"step": 1, "text": "one\nline"}, {"step": 2, "text": "é"}, {"step": 3}]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "events.jsonl")
    for row in ROWS:
        journal.append(row)
    return journal


def test_rows_come_back_in_order(journal: Journal) -> None:
    assert list(journal.rows()) == ROWS


def test_a_row_is_in_the_file_at_once(journal: Journal) -> None:
    assert journal.path.read_bytes().endswith(b'{"step": 3, "crc": "%08x"}\n' % zlib.crc32(b'{"step": 3'))


def test_a_journal_without_a_file_has_no_rows_and_makes_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "none")
    journal.mend()
    journal.sync()
    journal.drop(lambda row: True)
    assert list(journal.rows()) == []
    assert not journal.path.exists()


def test_cut_anywhere_the_whole_rows_are_read_and_gone_on_from(journal: Journal) -> None:
    content = journal.path.read_bytes()
    for size in range(len(content)):
        journal.path.write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        assert list(journal.rows()) == ROWS[:whole]
        journal.mend()
        journal.append({"step": 9})
        assert list(journal.rows()) == [*ROWS[:whole], {"step": 9}]


def test_a_tail_of_zeros_such_as_a_loss_of_power_leaves_is_cut_off(journal: Journal) -> None:
    content = journal.path.read_bytes()
    journal.path.write_bytes(content + b'{"step"' + bytes(5) + b"\n" + bytes(50))
    with pytest.warns(StoreWarning, match=r"damaged from line 4 to its end; the rest of it is cut off"):
        journal.mend()
    assert journal.path.read_bytes() == content


def test_mend_leaves_a_whole_journal_alone(journal: Journal) -> None:
    before = journal.path.stat().st_ino
    journal.mend()
    assert journal.path.stat().st_ino == before


def test_a_damaged_row_in_the_middle_is_named(journal: Journal) -> None:
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(lines[0] + b"\x00garbage\n" + lines[2])
    with pytest.raises(StorageError, match=r"events\.jsonl:2: damaged line"):
        list(journal.rows())


def test_every_flipped_bit_is_seen(journal: Journal) -> None:
    content = journal.path.read_bytes()
    for bit in range(8 * len(content)):
        flip(journal.path, bit)
        with pytest.raises(StorageError, match=r"events\.jsonl:\d: damaged line") as caught:
            list(journal.rows())
        # The first line may have lost its CRC: that shows at the second, which has one.
        told, at = int(str(caught.value).split(":")[1]), content[: bit // 8].count(b"\n") + 1
        assert told == at or (at, told) == (1, 2), bit
        flip(journal.path, bit)
    assert list(journal.rows()) == ROWS


def test_a_journal_from_before_the_crc_is_read_and_gone_on_with(journal: Journal) -> None:
    journal.path.write_text('{"step": 1}\n{}\n')
    assert list(journal.rows()) == [{"step": 1}, {}]
    journal.mend()
    journal.append({"step": 2})
    assert list(journal.rows()) == [{"step": 1}, {}, {"step": 2}]
    assert journal.path.read_bytes().count(b"crc") == 3


def test_a_whole_last_line_that_is_damaged_is_not_cut_off_as_if_it_were_torn(journal: Journal) -> None:
    journal.path.write_bytes(journal.path.read_bytes()[:-1] + b"\x0b")
    with pytest.warns(StoreWarning, match="damaged from line 3"):
        journal.mend()
    assert list(journal.rows()) == ROWS[:2]


def test_when_all_lines_are_damaged_nothing_is_left(journal: Journal) -> None:
    journal.path.write_bytes(b"\x00\n\x00\n")
    with pytest.warns(StoreWarning, match="damaged from line 1"):
        journal.mend()
    assert journal.path.read_bytes() == b""


def test_drop_takes_out_what_is_unwanted_and_nothing_else(journal: Journal) -> None:
    journal.drop(lambda row: row["step"] == 2)
    assert list(journal.rows()) == [ROWS[0], ROWS[2]]
    before = journal.path.stat().st_ino
    journal.drop(lambda row: False)
    assert journal.path.stat().st_ino == before


def test_a_drop_that_does_not_fit_changes_nothing(journal: Journal) -> None:
    with largest_file(20), pytest.raises(StorageError, match="bytes needed"):
        journal.drop(lambda row: row["step"] == 3)
    assert list(journal.rows()) == ROWS
    assert [path.name for path in journal.path.parent.iterdir()] == ["events.jsonl"]
