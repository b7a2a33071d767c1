"""A journal is believed up to its first bad line, whatever happened to the file."""

import json
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdmw.writing.journal import Journal, read

RECORDS = [{"head": 1}, {"layer": 0, "shares": [["0x1.8p-3", 1 << 90, None]]}, ["é\n"], 7]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "journal")


@pytest.fixture
def whole(path):
    journal = Journal.begin(path, RECORDS[0])
    journal.append(RECORDS[1:3])
    journal.append(RECORDS[3:])
    journal.append([])
    journal.close()
    with open(path, "rb") as file:
        return file.read()


def test_what_is_appended_is_read(path, whole):
    assert read(path) == (RECORDS, len(whole))
    lines = whole.decode().splitlines()
    assert [json.loads(line[9:]) for line in lines] == RECORDS
    assert [int(line[:8], 16) for line in lines] == [zlib.crc32(line[9:].encode()) for line in lines]


def ends(whole):
    """The offsets at which a line ends."""
    return [place + 1 for place, byte in enumerate(whole) if byte == 10]


def test_cut_anywhere_the_whole_lines_before_are_believed(path, whole):
    for size in range(len(whole) + 1):
        with open(path, "wb") as file:
            file.write(whole[:size])
        lines = sum(end <= size for end in ends(whole))
        assert read(path) == (RECORDS[:lines], ([0, *ends(whole)])[lines])


def test_every_changed_byte_ends_belief_at_its_line(path, whole):
    for place in range(len(whole)):
        for change in (1, 0x20, 0x80):
            changed = bytearray(whole)
            changed[place] ^= change
            with open(path, "wb") as file:
                file.write(changed)
            before = sum(end <= place for end in ends(whole))
            assert read(path)[0] == RECORDS[:before]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(path, content):
    with open(path, "wb") as file:
        file.write(content)
    records, size = read(path)
    assert (size == 0) == (records == [])


def test_opened_again_it_goes_on_behind_the_last_good_line(path, whole):
    with open(path, "ab") as file:
        file.write(b"half a li")
    journal = Journal.reopen(path)
    assert journal.records == RECORDS
    journal.append(["more"])
    journal.close()
    assert read(path)[0] == [*RECORDS, "more"]


def test_there_is_none_without_a_head(path, tmp_path):
    assert Journal.reopen(path) is None
    with open(path, "wb"):
        pass
    assert Journal.reopen(path) is None
    os.unlink(path)
    os.mkfifo(path)
    assert Journal.reopen(path) is None
    os.unlink(path)
    Path(path).symlink_to(tmp_path / "elsewhere")
    assert Journal.reopen(path) is None
