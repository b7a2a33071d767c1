"""A tensor that lies in a file as it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from sdmw import linux
from sdmw.codec import tagged
from sdmw.errors import CheckpointError, Problem
from sdmw.tensors.lost_pages import can_guard
from sdmw.tensors.mapping import MappedTensor
from sdmw.tensors.reading import ReadTensor
from sdmw.tensors.tensor import Cost, Source, Tensor


@tagged
@dataclass(frozen=True, slots=True)
class Stored(Tensor):
    """Elements at an offset of a file, in row-major order and little-endian, as safetensors keeps them.

    Attributes:
        file: path of the shard.
        offset: of the first byte, from the beginning of the file.
    """

    file: str
    offset: int

    @property
    def cost(self) -> Cost:
        """Every byte once; tiles are views of mapped pages."""
        return _cost(self.dtype.itemsize)

    def open(self) -> Source:
        """Through a mapping where that can be trusted, else by `pread`.

        Raises:
            CheckpointError: the dtype can be neither merged nor copied.
        """
        if not (self.dtype.merges or self.dtype.copies):
            found = f"{self.dtype.name}, which can be neither merged nor copied"
            raise CheckpointError([Problem(self.where, "", found)])
        return MappedTensor(self) if can_guard() and linux.maps_safely(self.file) else ReadTensor(self)

    def leaves(self) -> Iterator["Stored"]:
        """Itself."""
        yield self


@cache  # a plan asks for it many times a tensor
def _cost(itemsize: int) -> Cost:
    return Cost(read=itemsize, held=itemsize)
