"""A file of a checkpoint while it is read, on this machine or in a store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import xxhash

from sdmw.addresses import is_remote
from sdmw.errors import Problem, UnreachableError
from sdmw.storage import remote, remote_folder
from sdmw.storage.files import open_file, read_exactly
from sdmw.storage.shard import Shard

START = 4096  # bytes of an object that are fetched at once: mostly a whole header
CHUNK = 1 << 20  # bytes, where a file is read from its beginning to its end


class OpenFile(Protocol):
    """What can be asked of it.

    Attributes:
        size: in bytes.
        version: of an object in a store; None for a file.
    """

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def version(self) -> str | None:
        """Of an object in a store; None for a file."""

    def read(self, size: int, offset: int) -> bytes:
        """So many bytes from an offset on, fewer only where the file ends; OSError where it cannot be read."""

    def fingerprint(self, path: str, header: bytes) -> Shard:
        """Of the file under this path, with this header."""


@contextmanager
def opened(directory: str, name: str, *, follow_links: bool | None = None) -> Iterator[OpenFile]:
    """A file of a checkpoint for reading.

    Args:
        directory: the checkpoint.
        name: the file's name in it.
        follow_links: as for `open_file`.

    Raises:
        CheckpointError: as `open_file`.
    """
    if is_remote(directory):
        yield _object(f"{directory}/{name}", remote_folder.found_of(directory, name))
        return
    fd, status = open_file(directory, name, follow_links=follow_links)
    try:
        yield _File(fd, status)
    finally:
        os.close(fd)


def chunks(file: OpenFile) -> Iterator[bytes]:
    """The whole content, piece by piece; OSError where it cannot be read."""
    for offset in range(0, file.size, CHUNK):
        yield file.read(min(CHUNK, file.size - offset), offset)


@dataclass(frozen=True, slots=True)
class _File:
    fd: int
    status: os.stat_result

    @property
    def size(self) -> int:
        return self.status.st_size

    @property
    def version(self) -> None:
        return None

    def read(self, size: int, offset: int) -> bytes:
        return read_exactly(self.fd, size, offset)

    def fingerprint(self, path: str, header: bytes) -> Shard:
        return Shard.of(path, self.status, header)


def _object(address: str, listed: remote.Found) -> "_Object":
    """An object as it is now: since it was listed another may have taken its place."""
    try:
        start, found = remote.fetch(address, 0, START) if listed.size else (b"", listed)
    except OSError as error:
        raise UnreachableError([Problem(address, "", f"cannot be read: {error.strerror}")]) from None
    return _Object(address, found, start)


@dataclass(frozen=True, slots=True)
class _Object:
    address: str
    found: remote.Found
    start: bytes

    @property
    def size(self) -> int:
        return self.found.size

    @property
    def version(self) -> str:
        return self.found.version

    def read(self, size: int, offset: int) -> bytes:
        stop = min(offset + size, self.size)
        if offset >= stop:
            return b""
        known = self.start[offset:stop]
        if len(known) == stop - offset:
            return known
        return known + remote.fetch(self.address, offset + len(known), stop, self.version)[0]

    def fingerprint(self, path: str, header: bytes) -> Shard:
        hashed = xxhash.xxh3_128_hexdigest(header)
        return Shard(path, self.size, self.found.modified_ns, 0, 0, hashed, self.version)
