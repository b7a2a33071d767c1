"""A fine-tune's delta approximated by low-rank matrices, tensor by tensor, without a whole delta in memory.

Source: Halko, Martinsson, Tropp, arXiv:0909.4061, algorithms 4.4 (power iterations) and 5.1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.errors import NonFiniteError, Problem
from sdmw.planning.extraction import ExtractionPlan
from sdmw.running.context import Context
from sdmw.running.events import Progress
from sdmw.running.left_out import norm_of_change
from sdmw.running.work import read_tiles
from sdmw.tensors.matrices import widened
from sdmw.tensors.tensor import Tensor
from sdmw.writing.publication import Publication

Block = NDArray[np.float64]
OVERSAMPLED = 8  # columns beyond the rank while the range is looked for
POWERS = 2  # further looks at the delta, for spectra that fall slowly
ROWS = 1 << 20  # elements of a block of rows


@dataclass(frozen=True, slots=True)
class Extracted:
    """The matrices of one weight, and how well they do.

    Attributes:
        a: (rank, in), float32.
        b: (out, rank), float32; b @ a approximates the delta of shape (out, in).
        norm: of the delta, Frobenius.
        error: of what is left of it, the same norm over the delta's; 0 where there is no delta.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    norm: float
    error: float


class Delta:
    """The delta of one weight, read by blocks of rows; its transpose where the module keeps it so.

    `check` is called before each block; what it raises ends the work.
    """

    def __init__(self, base: Tensor, model: Tensor, check: Callable[[], None], *, transposed: bool) -> None:
        self.base, self.model, self.check, self.transposed = base, model, check, transposed
        rows, columns = base.shape
        self.shape = (columns, rows) if transposed else (rows, columns)

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """Rows of the weight as it is stored, and which they are.

        Raises:
            NonFiniteError: a delta is NaN or infinite.
        """
        rows, columns = self.base.shape
        step = max(1, ROWS // columns)
        infos = (self.base, self.model)
        for start, tiles in read_tiles(infos, 0, rows * columns, step * columns, self.check):
            below, above = (widened(tile, info.dtype) for tile, info in zip(tiles, infos, strict=True))
            found = (above - below).reshape(-1, columns).astype(np.float64)
            first = start // columns
            last = first + len(found)
            if not np.isfinite(found).all():
                where = self.model.where
                raise NonFiniteError([Problem(where, "finite deltas", "NaN or infinity", "Repair the checkpoint")])
            yield slice(first, last), found

    def times(self, right: Block) -> Block:
        """Delta @ right."""
        return self._transposed_times(right) if self.transposed else self._times(right)

    def transposed_times(self, right: Block) -> Block:
        """Delta' @ right."""
        return self._times(right) if self.transposed else self._transposed_times(right)

    def _times(self, right: Block) -> Block:
        out = np.empty((self.base.shape[0], right.shape[1]))
        for rows, block in self.blocks():
            out[rows] = block @ right
        return out

    def _transposed_times(self, right: Block) -> Block:
        out = np.zeros((self.base.shape[1], right.shape[1]))
        for rows, block in self.blocks():
            out += block.T @ right[rows]
        return out

    def norms(self, a: Block, b: Block) -> tuple[float, float]:
        """The Frobenius norms of the delta, and of what b @ a leaves of it."""
        left, right = (a.T, b.T) if self.transposed else (b, a)
        whole = rest = 0.0
        for rows, block in self.blocks():
            whole += float(np.square(block).sum())
            rest += float(np.square(block - left[rows] @ right).sum())
        return float(np.sqrt(whole)), float(np.sqrt(rest))


def extract(delta: Delta, rank: int) -> Extracted:
    """The best matrices of a rank that a randomised decomposition finds; singular values are shared out evenly.

    The random numbers depend on the tensor's name alone, so that the same call gives the same matrices.

    Args:
        delta: of a weight.
        rank: of the matrices; what lies beyond the delta's own is zero.
    """
    rows, columns = delta.shape
    width = min(rank + OVERSAMPLED, rows, columns)
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(delta.base.name.encode()))
    found = delta.times(rng.standard_normal((columns, width)))
    for _ in range(POWERS):
        found = delta.times(_basis(delta.transposed_times(_basis(found))))
    basis = _basis(found)
    left, values, right = np.linalg.svd(delta.transposed_times(basis).T, full_matrices=False)
    kept = min(rank, values.size)
    root = np.sqrt(values[:kept])
    a, b = np.zeros((rank, columns), np.float32), np.zeros((rows, rank), np.float32)
    a[:kept] = root[:, None] * right[:kept]
    b[:, :kept] = (basis @ left[:, :kept]) * root
    norm, rest = delta.norms(a.astype(np.float64), b.astype(np.float64))
    return Extracted(a, b, norm, rest / norm if norm else 0.0)


def _basis(columns: Block) -> Block:
    return np.asarray(np.linalg.qr(columns)[0])


def carry_out(
    plan: ExtractionPlan, output: Publication, context: Context
) -> tuple[list[tuple[str, float, float]], list[tuple[str, float, str]]]:
    """Extract every weight and write its matrices.

    Returns:
        Name, norm and error of each weight; name, norm and kind of the other tensors that the fine-tune changed.

    Raises:
        RunError: inputs changed, are not finite, or a signal came.
    """
    places = {place.name: place.offset for place in plan.shards[0].tensors}
    total, done, found = sum(weight.base.nbytes for weight in plan.weights), 0, []
    for weight in plan.weights:
        delta = Delta(weight.base, weight.model, context.signals.check, transposed=weight.transposed)
        made = extract(delta, plan.rank)
        for name, matrix in zip(weight.names, (made.a, made.b), strict=True):
            output.sink.write(0, places[name], matrix)
        found.append((weight.base.name, made.norm, made.error))
        done += weight.base.nbytes
        context.tell(Progress("extract", done, total))
    norms = ((rest, norm_of_change(rest.base, rest.model, context.signals.check)) for rest in plan.rest)
    return found, [(rest.model.name, norm, rest.why) for rest, norm in norms if norm is not None]
