"""A piece with all that is needed to read it, and the tiles in which it is read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import InputChangedError
from sdmw.planning.plan import SMALLEST, TensorPlan
from sdmw.running.stop import GivenUp
from sdmw.statistics.look import Look
from sdmw.tensors import lost_pages
from sdmw.tensors.tensor import Tensor

Arrays = Sequence[NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of one tensor, with all that is needed to read it.

    Attributes:
        tensor: what it is a piece of.
        start, stop: elements.
        tile: elements in a tile.
        strict: NaN, infinity and overflow are errors.
        given_up: when it is set, the piece is left at the next tile.
    """

    tensor: TensorPlan
    start: int
    stop: int
    tile: int
    strict: bool
    given_up: GivenUp = field(default_factory=GivenUp)

    @property
    def nbytes(self) -> int:
        """Bytes read of all inputs."""
        return (self.stop - self.start) * self.tensor.read

    def looked_at(self, look: Look[Any], models: int) -> list[Tensor]:
        """What a look reads: the base where the method takes deltas from it, and the models that the look names.

        Args:
            look: what to measure.
            models: how many models there are.
        """
        before = len(self.tensor.inputs) - models
        return [*self.tensor.inputs[:before], *(self.tensor.inputs[before + number] for number in look.reads(models))]

    @property
    def written(self) -> int:
        """Bytes of the output."""
        return (self.stop - self.start) * self.tensor.output.dtype.itemsize

    def borders(self) -> Iterator[tuple[int, int]]:
        """First element and the one behind the last of each tile."""
        return tile_borders(self.start, self.stop, self.tile)

    def tiles(self) -> Iterator[tuple[int, Arrays]]:
        """Each tile's first element, and its elements in every input; they are released when the next is asked for."""
        return read_ranges(self.tensor.inputs, self.borders(), self.given_up.check)


def read_tiles(
    inputs: Sequence[Tensor], start: int, stop: int, tile: int, check: Callable[[], None]
) -> Iterator[tuple[int, Arrays]]:
    """Each tile's first element, and its elements in every input; they are released when the next is asked for.

    Args:
        inputs: tensors of one shape.
        start: first element.
        stop: the one behind the last.
        tile: elements in a tile.
        check: called before each tile; raises to stop.

    Raises:
        RunError: a file changed or cannot be read.
    """
    return read_ranges(inputs, tile_borders(start, stop, tile), check)


def read_ranges(
    inputs: Sequence[Tensor], ranges: Iterable[tuple[int, int]], check: Callable[[], None]
) -> Iterator[tuple[int, Arrays]]:
    """As `read_tiles`, for tiles given by their first element and the one behind the last."""
    sources = [each.open() for each in inputs]
    for first, last in ranges:
        check()
        lost = lost_pages.lost()
        arrays = [source.tile(first, last) for source in sources]
        yield first, arrays
        arrays.clear()  # no computed tile stays alive in the list while the next ones are made
        if lost_pages.lost() != lost and (errors := [error for s in sources if (error := s.lost())]):
            # The most telling: a file that is shorter now, before one whose pages may not have been the lost ones.
            raise min(errors, key=lambda error: not isinstance(error, InputChangedError))
        # A mapped page counts as resident until it is released, however little is kept.
        for source in sources:
            source.release(first, last)


def tile_borders(start: int, stop: int, tile: int) -> Iterator[tuple[int, int]]:
    """First element and the one behind the last of each tile; within a tensor they lie on multiples of the tile.

    Pieces begin at blocks of the file, a few elements behind such a multiple: these go with the tile before.
    """
    first = start
    while first < stop:
        last = min((first // tile + 1) * tile, stop)
        last = stop if stop - last < min(SMALLEST, tile) else last
        yield first, last
        first = last
