"""The object that stands in a folder of a store while a run writes there, and says whose the folder is."""

import uuid

from sdmw.storage.remote import fetch
from sdmw.storage.remote_writing import put, put_new, remove

MARK = "sdmw_unfinished"  # its name
_LONGEST = 256  # bytes that are read of one


class Mark:
    """One run's mark in a folder. A run that may overwrite puts its own in the place of another's.

    Every method raises OSError where the store cannot be asked or refuses.

    Attributes:
        address: of the object.
    """

    def __init__(self, folder: str) -> None:
        self.address = f"{folder}/{MARK}"
        said = f"sdmw is writing a model here, or was killed while it did\nrun {uuid.uuid4().hex}\n"
        self._content = said.encode()

    def put(self, *, anew: bool) -> bool:
        """Have it stand there; removed once, so that a store that lets nothing be removed is found before the work.

        Args:
            anew: in the place of another run's.

        Returns:
            False where another run's stands there, if the store can tell.
        """
        if not self._was_put(anew):
            return False
        self.remove()
        return self._was_put(anew)

    def stands(self) -> bool:
        """Whether it is there, and no other in its place."""
        return self._found() == self._content

    def is_gone(self) -> bool:
        """Whether there is none, of whatever run."""
        return self._found() is None

    def remove(self) -> None:
        """Let the folder be one that is finished."""
        remove(self.address)

    def _was_put(self, anew: bool) -> bool:
        if anew:
            put(self.address, self._content)
            return True
        try:
            put_new(self.address, self._content)
        except FileExistsError:
            return self.stands()  # an answer that was lost is asked for again, and then finds what it had put there
        return True

    def _found(self) -> bytes | None:
        try:
            return fetch(self.address, 0, _LONGEST)[0]
        except FileNotFoundError:
            return None
