"""A file of records that vouch for what is done: one line each, checksummed, believed up to the first bad one."""

import errno
import json
import os
import zlib
from collections.abc import Iterable
from typing import Self

from sdmw.linux import fsync_path

_compact = json.JSONEncoder(separators=(",", ":")).encode
MOST = 2**28  # bytes that are read; a line takes about a hundred for each 16 million elements


class Journal:
    """Appends records to `path`; each is any JSON value, written as `CRC32 JSON`, the CRC in eight hex digits.

    Methods raise OSError where the file system refuses.

    Attributes:
        records: what was believed when it was opened, the head first.
    """

    def __init__(self, path: str, records: list[object], size: int) -> None:
        """Cut off behind the last line that is believed: what a power cut left there would hide what follows."""
        self.records = records
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, size)

    @classmethod
    def begin(cls, path: str, head: object) -> Self:
        """A new one, durable with its head before anything is done that it could vouch for."""
        journal = cls(path, [head], 0)
        journal.append([head])
        fsync_path(os.path.dirname(path))
        return journal

    @classmethod
    def reopen(cls, path: str) -> Self | None:
        """The journal that is there; None where there is no journal, or one without a head."""
        records, size = read(path)
        return cls(path, records, size) if records else None

    def append(self, records: Iterable[object]) -> None:
        """Adds records, durably. What they vouch for must be durable before."""
        left = memoryview(b"".join(map(_line, records)))
        if not left:
            return
        while left:
            written = os.write(self._fd, left)
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            left = left[written:]
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def read(path: str) -> tuple[list[object], int]:
    """The records up to the first line that is not whole, and how many bytes they take; none where there is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return [], 0
    with open(fd, "rb") as file:
        content = file.read(MOST)
    records: list[object] = []
    size = 0
    for line in content.splitlines(keepends=True):
        if not (line.endswith(b"\n") and line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:-1])):
            break
        try:
            records.append(json.loads(line[9:]))
        except (ValueError, RecursionError):
            break
        size += len(line)
    return records, size


def _line(record: object) -> bytes:
    text = _compact(record).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)
