"""How a file differs from its fingerprint."""

import os
import stat

import pytest

from checkpoints.formats.handmade import SINGLE, checkpoint, entry, shard
from sdmw.checkpoints.formats import read


@pytest.fixture
def file(tmp_path):
    checkpoint(tmp_path, {SINGLE: shard({"t": entry(shape=(4,), stop=16)}, bytes(16))})
    return tmp_path / SINGLE


@pytest.fixture
def fingerprint(file):
    return read(str(file.parent)).shards[0]


def looks(monkeypatch, **other):
    """Every look at a file tells these fields."""
    real = os.stat

    def look(path, **names):
        found = real(path, **names)
        told = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")} | other
        return os.stat_result(
            [other.get("st_ino", each) if n == stat.ST_INO else each for n, each in enumerate(found)], told
        )

    monkeypatch.setattr(os, "stat", look)


def test_the_same_file(fingerprint):
    assert fingerprint.changed() is None


def test_another_inode_alone_is_no_change(fingerprint, monkeypatch):
    """As on FUSE, once it was mounted again."""
    looks(monkeypatch, st_ino=1)
    assert fingerprint.changed() is None


def test_another_inode_and_another_header(file, fingerprint, monkeypatch):
    before = os.stat(file)
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"t"', b'"u"'))
    looks(monkeypatch, st_ino=1, st_mtime_ns=before.st_mtime_ns, st_ctime_ns=before.st_ctime_ns)
    assert fingerprint.changed() == "was replaced"


def test_a_replaced_file(file, fingerprint):
    other = file.parent / "other"
    other.write_bytes(file.read_bytes())
    os.utime(other, ns=(fingerprint.mtime_ns, fingerprint.mtime_ns))
    other.rename(file)
    assert fingerprint.changed() == "was replaced"


def test_touched_resized_gone(file, fingerprint):
    os.utime(file)
    assert fingerprint.changed() == "was modified"
    os.truncate(file, 10)
    assert "is 10 bytes now" in fingerprint.changed()
    file.unlink()
    assert fingerprint.changed() == "is gone"
