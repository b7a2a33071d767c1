"""The best low-rank approximation of a weight's delta that a randomised decomposition finds, in bounded memory.

The delta is never whole in memory: it is read by blocks of rows, nine times. What it takes beside is in
`planning.extraction.working_bytes`, which must follow where arrays here live longer or are more.

Source: Halko, Martinsson, Tropp, arXiv:0909.4061, algorithms 4.4 (power iterations) and 5.1.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.errors import NonFiniteError, Problem
from sdmw.planning.extraction import OVERSAMPLED, ROWS, Weight, algebra_is_threaded
from sdmw.planning.plan import SMALLEST
from sdmw.running.span import read_tiles
from sdmw.running.stop import GivenUp
from sdmw.tensors.matrices import widened
from sdmw.tensors.tensor import Tensor

Block = NDArray[np.float64]
Matrix = NDArray[np.float32]
POWERS = 2  # further looks at the delta, for spectra that fall slowly
# Where the linear algebra library has threads of its own, one weight at a time uses it: two at once take twice as long
# as one after the other (measured: OpenBLAS, whose threads wait by spinning). How many threads it has is not changed
# here: its last bits depend on them.
_alone: AbstractContextManager[Any] = threading.Lock() if algebra_is_threaded() else nullcontext()


@dataclass(frozen=True, slots=True)
class Extracted:
    """The matrices of one weight, and how well they do.

    Attributes:
        a: (rank, in), float32.
        b: (out, rank), float32; b @ a approximates the delta of shape (out, in).
        norm: of the delta, Frobenius.
        error: of what is left of it, the same norm over the delta's; 0 where there is no delta.
    """

    a: Matrix
    b: Matrix
    norm: float
    error: float


def extract(weight: Weight, rank: int, given_up: GivenUp) -> Extracted:
    """The best matrices of a rank that a randomised decomposition finds; singular values are shared out evenly.

    The random numbers depend on the tensor's name alone, so that the same call gives the same matrices.

    Args:
        weight: whose delta is approximated.
        rank: of the matrices; what lies beyond the delta's own is zero.
        given_up: when it is set, the weight is left at the next block; a factorisation under way ends first.

    Raises:
        NonFiniteError: a delta is NaN or infinite.
        RunError: the data or the machine.
    """
    delta = Delta(weight.base, weight.model, given_up.check, transposed=weight.transposed)
    a, b = _matrices(delta, rank)
    norm, rest = delta.norms(a.astype(np.float64), b.astype(np.float64))
    return Extracted(a, b, norm, rest / norm if norm else 0.0)


class Delta:
    """The delta of one weight, read by blocks of rows; its transpose where the module keeps it so.

    `check` is called before each block; what it raises ends the work.
    """

    def __init__(self, base: Tensor, model: Tensor, check: Callable[[], None], *, transposed: bool) -> None:
        self.base, self.model, self.check, self.transposed = base, model, check, transposed
        rows, columns = base.shape
        self.shape = (columns, rows) if transposed else (rows, columns)
        self._step = max(1, ROWS // columns)

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """Rows of the weight as it is stored, and which they are; each in the memory of the one before.

        Raises:
            NonFiniteError: a delta is NaN or infinite.
        """
        rows, columns = self.base.shape
        infos, memory = (self.base, self.model), self._memory()
        for start, tiles in read_tiles(infos, 0, rows * columns, self._step * columns, self.check):
            found = memory[: tiles[0].size // columns]
            self._fill(found.reshape(-1), tiles)
            if not np.isfinite(found).all():
                where = self.model.where
                raise NonFiniteError([Problem(where, "finite deltas", "NaN or infinity", "Repair the checkpoint")])
            first = start // columns
            yield slice(first, first + len(found)), found

    def times(self, right: Block) -> Block:
        """Delta @ right."""
        return self._transposed_times(right) if self.transposed else self._times(right)

    def transposed_times(self, right: Block) -> Block:
        """Delta' @ right."""
        return self._times(right) if self.transposed else self._transposed_times(right)

    @contextmanager
    def algebra(self) -> Iterator[None]:
        """A block that calls the linear algebra library."""
        with _alone:
            self.check()  # it may have waited
            yield

    def norms(self, a: Block, b: Block) -> tuple[float, float]:
        """The Frobenius norms of the delta, and of what b @ a leaves of it."""
        left, right = (a.T, b.T) if self.transposed else (b, a)
        whole = rest = 0.0
        memory = self._memory()
        for rows, block in self.blocks():
            scratch = memory[: len(block)]
            whole += float(np.square(block, out=scratch).sum())
            with self.algebra():
                np.matmul(left[rows], right, out=scratch)
            np.subtract(block, scratch, out=scratch)
            rest += float(np.square(scratch, out=scratch).sum())
        return float(np.sqrt(whole)), float(np.sqrt(rest))

    def _times(self, right: Block) -> Block:
        out = np.empty((self.base.shape[0], right.shape[1]))
        for rows, block in self.blocks():
            with self.algebra():
                np.matmul(block, right, out=out[rows])
        return out

    def _transposed_times(self, right: Block) -> Block:
        out = np.zeros((self.base.shape[1], right.shape[1]))
        product = np.empty_like(out)
        for rows, block in self.blocks():
            with self.algebra():
                np.matmul(block.T, right[rows], out=product)
            out += product
        return out

    def _memory(self) -> Block:
        """For a block of rows. The last one may have some more: `read_tiles` makes no tile of a few elements."""
        rows, columns = self.base.shape
        return np.empty((min(rows, self._step + -(-SMALLEST // columns)), columns))

    def _fill(self, out: Block, tiles: Sequence[NDArray[np.generic]]) -> None:
        below, above = (widened(tile, info.dtype) for tile, info in zip(tiles, (self.base, self.model), strict=True))
        np.subtract(above, below, out=above)
        out[:] = above


def _matrices(delta: Delta, rank: int) -> tuple[Matrix, Matrix]:
    """A and B."""
    rows, columns = delta.shape
    basis = _range(delta, min(rank + OVERSAMPLED, rows, columns))
    projected = delta.transposed_times(basis).T
    with delta.algebra():
        left, values, right = np.linalg.svd(projected, full_matrices=False)
    del projected
    kept = min(rank, values.size)
    root = np.sqrt(values[:kept])
    a, b = np.zeros((rank, columns), np.float32), np.zeros((rows, rank), np.float32)
    a[:kept] = root[:, None] * right[:kept]
    with delta.algebra():
        b[:, :kept] = (basis @ left[:, :kept]) * root
    return a, b


def _range(delta: Delta, width: int) -> Block:
    """An orthonormal basis of nearly the range of the delta."""
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(delta.base.name.encode()))
    found = delta.times(rng.standard_normal((delta.shape[1], width)))
    for _ in range(POWERS):
        # One name for all of them: each array goes as soon as the next one is made.
        found = _basis(delta, found)
        found = delta.transposed_times(found)
        found = _basis(delta, found)
        found = delta.times(found)
    return _basis(delta, found)


def _basis(delta: Delta, columns: Block) -> Block:
    with delta.algebra():
        return np.asarray(np.linalg.qr(columns)[0])
