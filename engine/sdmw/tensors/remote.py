"""A tensor that lies in an object of a store: its tiles are copies of blocks that are fetched ahead."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.errors import CheckpointError, Problem, RunError
from sdmw.storage.remote import ChangedError
from sdmw.tensors.read_ahead import KEPT, blocks
from sdmw.tensors.read_errors import changed
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Cost, Source, check_range


@tagged
@dataclass(frozen=True, slots=True)
class StoredRemotely(Stored):
    """Elements at an offset of an object.

    Attributes:
        version: the object's, which every read asks for: no tile comes from another one under the same address.
    """

    version: str

    @property
    def cost(self) -> Cost:
        """Every byte once; tiles are copies, and blocks are kept that are fetched ahead."""
        return Cost(read=self.dtype.itemsize, held=self.dtype.itemsize, kept=KEPT)

    def open(self) -> Source:
        """By ranges; CheckpointError where the dtype can be neither merged nor copied."""
        if not (self.dtype.merges or self.dtype.copies):
            found = f"{self.dtype.name}, which can be neither merged nor copied"
            raise CheckpointError([Problem(self.where, "", found)])
        return RemoteTensor(self)


@dataclass(frozen=True, slots=True)
class RemoteTensor:
    """A `Source` whose tiles are copies. Keeps nothing open; pickles.

    Attributes:
        info: the tensor; its dtype is of whole bytes.
    """

    info: StoredRemotely

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `info.dtype.storage`.

        Raises:
            InputChangedError: the object is gone, or another one.
            RunError: it cannot be read.
        """
        info = self.info
        check_range(info, start, stop)
        values = np.empty(stop - start, info.dtype.storage)
        if values.size:
            fill(info, info.offset + start * info.dtype.itemsize, memoryview(values.data).cast("B"))
        values.flags.writeable = False
        return values.view()  # the owner of the memory could be made writeable again

    def release(self, start: int, stop: int) -> None:
        """Nothing is mapped: a tile is a copy."""

    def lost(self) -> RunError | None:
        """Nothing can be lost of a copy."""
        return None


def fill(info: StoredRemotely, offset: int, out: memoryview) -> None:
    """Fill a buffer with the bytes from an offset of a tensor's object on; errors as of `RemoteTensor.tile`."""
    try:
        blocks.read(info.file, info.version, offset, info.offset + info.nbytes, out)
    except ChangedError as error:
        raise changed(info, str(error.strerror)) from None
    except FileNotFoundError:
        raise changed(info, "is gone") from None
    except OSError as error:
        raise RunError([Problem(info.where, "", f"read error at byte {offset:,}: {error.strerror}")]) from None
