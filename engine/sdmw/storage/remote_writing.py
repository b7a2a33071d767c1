"""Objects written to a store, the large ones in parts; errors as of `remote`, OSErrors in our own words."""

import errno
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdmw.addresses import place_and_key
from sdmw.storage.remote import asked, library, store_of

PATIENCE = 600.0  # seconds for one request: all parts that are under way share a link, which may be slow
PART = 8 << 20  # bytes that are sent in one request
UNDER_WAY = 8  # parts that are on their way at once: one connection is a part of what a store takes
_MOST_PARTS = 10_000  # of one object, in S3
_COPIED = 2  # parts that are held beside those under way: the one that is filled, and what is copied into it


def part_of(size: int) -> int:
    """Bytes in a part of an object of so many bytes."""
    return max(PART, -(-size // _MOST_PARTS))


def memory_of(size: int) -> int:
    """Bytes of memory that sending an object of so many bytes takes at most."""
    return (UNDER_WAY + _COPIED) * part_of(size)


class ObjectWriter:
    """An object that is sent in parts, from front to back; it is there when it is closed, and before that nothing is.

    Every method raises OSError where the store refuses; then only `abort` is left to do.
    """

    def __init__(self, address: str, size: int) -> None:
        """`size`: bytes that it will have."""
        place, key = place_and_key(address)
        self._file: Any = asked(
            lambda: library().open_writer(
                store_of(place, PATIENCE), key, buffer_size=part_of(size), max_concurrency=UNDER_WAY
            )
        )  # fmt: skip

    def write(self, data: memoryview | bytes) -> None:
        """Take the bytes that come next; waits while as many parts as may be are under way."""
        asked(lambda: self._file.write(data), tries=1)

    def close(self) -> None:
        """Make the object appear, once the store has all of it."""
        asked(self._file.close, tries=1)

    def abort(self) -> None:
        """Have the store forget the parts; as far as it can be reached."""
        with suppress(Exception):  # it raises what is handed to it, or says why it cannot: nobody can do more
            self._file.__exit__(InterruptedError, InterruptedError(), None)


def put(address: str, content: bytes | Path) -> None:
    """Send bytes, or a file of this machine, as an object, which appears as a whole.

    Raises:
        OSError: the file cannot be read, or the store refuses it.
    """
    place, key = place_and_key(address)
    asked(
        lambda: library().put(store_of(place, PATIENCE), key, content, chunk_size=PART, max_concurrency=UNDER_WAY),
        tries=1,
    )


def put_new(address: str, content: bytes) -> None:
    """Send bytes as an object where there is none yet; a store that cannot tell takes them in any case.

    Raises:
        FileExistsError: there is one.
        OSError: the store refuses it.
    """
    place, key = place_and_key(address)
    try:
        asked(lambda: library().put(store_of(place), key, content, mode="create"), tries=1)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        put(address, content)


def remove(address: str) -> None:
    """Remove an object, if it is there; OSError where the store refuses."""
    place, key = place_and_key(address)
    with suppress(FileNotFoundError):
        asked(lambda: library().delete(store_of(place), key))


def names_under(address: str) -> list[str]:
    """The names of all objects below a folder of a store, in order, with those of the folders in it before a slash.

    Raises:
        OSError: it cannot be listed.
    """
    place, key = place_and_key(address)

    def listed() -> list[str]:
        found = library().list(store_of(place), key or None)
        return [each["path"].removeprefix(key).removeprefix("/") for some in found for each in some]

    return sorted(filter(None, asked(listed)))
