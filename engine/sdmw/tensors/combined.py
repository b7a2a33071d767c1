"""Several low-rank deltas combined to one by their matrices, as peft's `add_weighted_adapter` does.

A combination is two small mixing matrices: with all A one below the other and all B side by side,
A' = mix_a @ A and B' = B @ mix_b, each element summed in float64 and rounded once to float32; the delta is B' @ A'.

    linear  A' = sum of sqrt(|w s|) A_i, signed; B' = sum of sqrt(|w s|) B_i: the product has cross terms B_i A_j
    cat     A' = the w s A_i one below the other, B' = the B_i side by side: the exact sum of the deltas
    svd     the best approximation of that sum of the rank that is asked for

with w the weight of a delta and s its scaling. Source: peft 0.21, `LoraModel.add_weighted_adapter`; LoRA soups,
arXiv:2410.13025.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from sdmw.codec import tagged
from sdmw.errors import NonFiniteError, Problem
from sdmw.tensors.low_rank import LowRank
from sdmw.tensors.matrices import Block, Matrix, Product, Span, Stacked, Transposed
from sdmw.tensors.stored import Stored

Kind = Literal["linear", "cat", "svd"]
KEPT = 2  # pairs of mixing matrices: tensors are taken one after the other
TALL = 4096  # rows of a block whose triangle is computed at once: fixed, so that the bits do not depend on the budget


@dataclass(frozen=True, slots=True)
class Combination:
    """How deltas of one weight are combined.

    Attributes:
        kind: of the combination.
        deltas: at least one; for `linear` all of one rank.
        weights: of each.
        rank: of the result; what it has beyond the deltas' own is zero.
    """

    kind: Kind
    deltas: tuple[LowRank, ...]
    weights: tuple[float, ...]
    rank: int

    @property
    def a(self) -> Stacked:
        """All A, one below the other."""
        return Stacked(tuple(delta.a for delta in self.deltas))

    @property
    def b(self) -> Transposed:
        """All B, side by side."""
        return Transposed(Stacked(tuple(Transposed(delta.b) for delta in self.deltas)))

    @property
    def factors(self) -> list[float]:
        """W s of each delta."""
        return [weight * delta.scaling for weight, delta in zip(self.weights, self.deltas, strict=True)]


def combined(combination: Combination) -> LowRank:
    """The delta of the combined matrices, whose scaling is 1."""
    first = combination.deltas[0]
    a = Product(Mixing(combination, "a"), combination.a, 1.0)
    b = Product(combination.b, Mixing(combination, "b"), 1.0)
    return replace(first, a=a, b=b, scaling=1.0)


@tagged
@dataclass(frozen=True, slots=True)
class Mixing:
    """One of the two mixing matrices; what it needs of the deltas is read when it is first asked for."""

    combination: Combination
    side: Literal["a", "b"]

    @property
    def shape(self) -> tuple[int, int]:
        """(rank, all ranks) or (all ranks, rank)."""
        ranks = self.combination.a.shape[0]
        return (self.combination.rank, ranks) if self.side == "a" else (ranks, self.combination.rank)

    def block(self, rows: Span, columns: Span) -> Block:
        """Some rows of some columns."""
        a, b = _mixing(self.combination)
        return np.ascontiguousarray((a if self.side == "a" else b)[slice(*rows), slice(*columns)])

    @property
    def working_bytes(self) -> int:
        """The kept ones, and what decomposing takes: blocks of tall matrices, and square ones of all ranks."""
        rank, ranks = self.combination.rank, self.combination.a.shape[0]
        return 8 * (2 * KEPT * rank * ranks + 3 * TALL * ranks + 6 * ranks * ranks)

    def leaves(self) -> Iterator[Stored]:
        """What it is computed from."""
        yield from self.combination.a.leaves()
        yield from self.combination.b.leaves()


@lru_cache(maxsize=KEPT)
def _mixing(combination: Combination) -> tuple[Block, Block]:
    """mix_a (rank, all ranks) and mix_b (all ranks, rank), padded with zeros to the rank."""
    if combination.kind == "svd":
        a, b = _svd(combination)
    elif combination.kind == "cat":
        a, b = _diagonal(combination), np.eye(combination.a.shape[0])
    else:
        roots = np.sqrt(np.abs(_diagonal(combination)))
        signs = np.sign(np.diag(_diagonal(combination)))
        own = combination.deltas[0].a.shape[0]
        places = np.tile(np.eye(own), len(combination.deltas))  # adds the i-th rows of all
        a, b = places @ (roots * signs), (places @ roots).T
    return _padded(a, (combination.rank, a.shape[1])), _padded(b, (b.shape[0], combination.rank))


def forget() -> None:
    """Lets go of mixing matrices that were kept."""
    _mixing.cache_clear()


def _svd(combination: Combination) -> tuple[Block, Block]:
    """From the triangles of QR: the delta is Q_b (R_b D R_a') Q_a', so that only a small matrix is decomposed.

    B' = U S and A' = V' of the delta's singular value decomposition, as in peft; the largest element of each row of V'
    is positive where LAPACK would choose.
    """
    scale = _diagonal(combination)
    triangle_a, triangle_b = _triangle(Transposed(combination.a)), _triangle(combination.b)
    left, values, right = np.linalg.svd(triangle_b @ scale @ triangle_a.T)
    width = min(combination.rank, values.size)
    left, values, right = left[:, :width], values[:width], right[:width]
    kept = values > values.max(initial=0.0) * np.finfo(np.float64).eps * max(triangle_a.shape[0], 1)
    inverse = np.where(kept, 1 / np.where(kept, values, 1.0), 0.0)
    mix_a = inverse[:, None] * (left.T @ triangle_b @ scale)
    mix_b = np.where(kept, scale @ triangle_a.T @ right.T, 0.0)
    signs = np.where(right[np.arange(width), np.abs(right).argmax(axis=1)] < 0, -1.0, 1.0)
    return signs[:, None] * mix_a, mix_b * signs


def _triangle(tall: Matrix) -> Block:
    """R of QR, whose R'R is the matrix's own; block by block, since the matrix may be tall."""
    rows, width = tall.shape
    found: Block = np.zeros((0, width))
    for first in range(0, rows, TALL):
        below = tall.block((first, min(first + TALL, rows)), (0, width)).astype(np.float64)
        if not np.isfinite(below).all():
            where = " or ".join(dict.fromkeys(info.file for info in tall.leaves()))
            mend = "Repair the adapter: values that are not finite cannot be decomposed"
            raise NonFiniteError([Problem(where, "finite matrices", "NaN or infinity", mend)])
        found = np.asarray(np.linalg.qr(np.concatenate([found, below]), mode="r"))
    return found


def _diagonal(combination: Combination) -> Block:
    ranks = [delta.a.shape[0] for delta in combination.deltas]
    return np.diag(np.repeat(np.array(combination.factors), ranks))


def _padded(matrix: Block, shape: tuple[int, int]) -> Block:
    found = np.zeros(shape)
    found[: matrix.shape[0], : matrix.shape[1]] = matrix
    return found
