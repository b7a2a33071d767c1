"""Small things to do, handed over together: a call for each would cost more than the work."""

from collections.abc import Callable
from typing import Generic, TypeVar

SMALL = 1 << 16  # bytes that are read of a thing; what takes more is handed over by itself
LARGEST = 1 << 20  # bytes of a bundle
MOST = 64  # things in it

T = TypeVar("T")


class Bundles(Generic[T]):
    """Neighbours that are small, in lists; all others alone.

    Args:
        next_one: gives None where there is none now.
        nbytes: that are read of each.
        small: bytes; what takes more is handed over by itself.
        largest: bytes of a bundle.
    """

    def __init__(
        self,
        next_one: Callable[[], T | None],
        nbytes: Callable[[T], int],
        small: int = SMALL,
        largest: int = LARGEST,
    ) -> None:
        self._next, self._nbytes, self._small, self._largest = next_one, nbytes, small, largest
        self._held: T | None = None

    def next(self) -> list[T]:
        """What comes next; empty where there is nothing now."""
        found: list[T] = []
        size = 0
        while (one := self._held or self._next()) is not None:
            self._held = None
            nbytes = self._nbytes(one)
            if found and (nbytes > self._small or size + nbytes > self._largest or len(found) == MOST):
                self._held = one
                break
            found.append(one)
            size += nbytes
            if nbytes > self._small:
                break
        return found
