"""The fingerprint of an input file, and how a file differs from it later."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from sdmw.addresses import is_remote
from sdmw.errors import Problem, RunError
from sdmw.sizes import shown
from sdmw.storage import remote
from sdmw.storage.files import read_exactly

_LENGTH = 8  # bytes of a safetensors file that tell the size of its header, and precede it


def size_change(was: int, now: int) -> str:
    """How a file's size differs, of two numbers of bytes: "was 5.00 GB at the start, is 2.10 GB now"."""
    before, after = shown(was), shown(now)
    if before == after:
        before, after = f"{was:,} bytes", f"{now:,} bytes"
    return f"was {before} at the start, is {after} now"


@dataclass(frozen=True, slots=True)
class Shard:
    """The fingerprint of one input file: what must still hold whenever its data are trusted.

    Attributes:
        path: of the file, absolute.
        size: in bytes.
        mtime_ns: last change of its data, nanoseconds since 1970.
        ctime_ns: last change of data or inode, nanoseconds since 1970; a writer cannot set it back.
        inode: its number.
        header_hash: XXH3-128 of the JSON header (with its padding, without the length before it), in hex. No signature.
        version: of an object in a store, which every read asks for; None for a file.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    header_hash: str
    version: str | None = None

    @classmethod
    def of(cls, path: str, status: os.stat_result, header: bytes) -> "Shard":
        """The fingerprint of a file from the `fstat` of the descriptor through which its header was read."""
        return cls(
            path,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
            xxhash.xxh3_128_hexdigest(header),
        )

    def changed(self) -> str | None:
        """What differs between this fingerprint and the file as it is now; None where nothing does.

        The header is read again only where nothing but the inode is another: rewriting it changes the ctime.
        Some file systems (FUSE) give a file another inode at each look, or once they are mounted again. Of an object in
        a store nothing is asked: no read takes another version.
        """
        if self.version is not None:
            return None
        try:
            now = os.stat(self.path)
            replaced = now.st_ino != self.inode and not self._looks_the_same(now)
        except OSError as error:
            return "is gone" if isinstance(error, FileNotFoundError) else f"cannot be examined: {error.strerror}"
        if now.st_size != self.size:
            return size_change(self.size, now.st_size)
        if replaced:
            return "was replaced"
        if (now.st_mtime_ns, now.st_ctime_ns) != (self.mtime_ns, self.ctime_ns):
            return "was modified"
        return None

    def seen_here(self) -> str | None:
        """What differs between this fingerprint, taken on another machine, and the file under its path here.

        Its size, last change and header are compared. Another machine may see another inode, and another ctime.

        Returns:
            What differs; None where nothing does.
        """
        if self.version is not None:
            return None
        try:
            with open(self.path, "rb", buffering=0) as file:
                now, header = os.fstat(file.fileno()), _header(file.fileno(), self.size)
        except OSError as error:
            return "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        if now.st_size != self.size:
            return f"has {now.st_size:,} bytes instead of {self.size:,}"
        if now.st_mtime_ns != self.mtime_ns:
            return "has another time of change"
        return None if xxhash.xxh3_128_hexdigest(header) == self.header_hash else "has another header"

    def _looks_the_same(self, now: os.stat_result) -> bool:
        """Whether size, times and header are those of this fingerprint."""
        seen = (now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        if seen != (self.size, self.mtime_ns, self.ctime_ns):
            return False
        with open(self.path, "rb", buffering=0) as file:
            header = _header(file.fileno(), self.size)
        return xxhash.xxh3_128_hexdigest(header) == self.header_hash


def _header(fd: int, most: int) -> bytes:
    """The JSON header of a safetensors file."""
    return read_exactly(fd, min(int.from_bytes(os.pread(fd, _LENGTH, 0), "little"), most), _LENGTH)


ASKED = 8  # blocks of an object that are asked for at once
SAMPLED, BLOCK = 64, 64 * 2**10  # blocks of a file that its sample is made of, and bytes of one


def sample_of(path: str) -> str:
    """XXH3-128 of 64 blocks of 64 KiB, spread evenly over a file, in hex; of a small file, of all of it.

    It tells files apart whose headers are equal, as those of fine-tunes are; it is no signature.

    Raises:
        OSError: the file cannot be read.
        RunError: the object cannot be.
    """
    if is_remote(path):
        return _sample_of_object(path)
    checksum = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        for place in _sampled(os.fstat(file.fileno()).st_size):
            checksum.update(os.pread(file.fileno(), BLOCK, place))
    return checksum.hexdigest()


def _sample_of_object(address: str) -> str:
    try:
        size = remote.head(address).size
        with ThreadPoolExecutor(ASKED) as threads:
            asked = ((address, place, min(place + BLOCK, size)) for place in _sampled(size))
            blocks = list(threads.map(lambda each: remote.fetch(*each)[0], asked))
    except OSError as error:
        raise RunError([Problem(address, "", f"cannot be read: {error.strerror}")]) from None
    return xxhash.xxh3_128_hexdigest(b"".join(blocks))


def _sampled(size: int) -> list[int]:
    """Where the blocks begin, of a file of so many bytes."""
    if size <= SAMPLED * BLOCK:
        return list(range(0, size, BLOCK))
    return [(size - BLOCK) * n // (SAMPLED - 1) for n in range(SAMPLED)]
