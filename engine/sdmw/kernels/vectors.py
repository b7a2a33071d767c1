"""Weighted sums whose weights are decided for each row, or for each column, by norms and dot products.

A row runs along the last axis, a column along the first. Source: METHODS.md, section 3.
"""

import math
from typing import Any

import numpy as np

from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.dots import PARTIALS, add_all_products, exact_total, folded, zero_nonfinite
from sdmw.kernels.jit import kernel, part
from sdmw.kernels.tiles import BLOCK, decode, encode
from sdmw.kernels.voting import deltas_of

_SMALLEST_PRODUCT = 1e-6  # of norms, and of the denominator, in model stock
_SMALLEST_NORM, _SMALLEST_SINE = 1e-7, 1e-16  # of an arc; the last one squared


@kernel
def decoded(addresses: Any, codes: Any, start: int, size: int, deltas: bool, base: Any, vectors: Any) -> None:
    """`size` elements from `start` of all inputs; or, where the first input is the base, of the others' deltas."""
    if deltas:
        decode(addresses[0], codes[0], start, size, base)
        for model in range(addresses.size - 1):
            deltas_of(addresses[model + 1], codes[model + 1], start, size, base, vectors[model])
    else:
        for model in range(addresses.size):
            decode(addresses[model], codes[model], start, size, vectors[model])


@kernel
def gram_of_row(
    addresses: Any, codes: Any, start: int, row: int, deltas: bool, base: Any, vectors: Any, lanes: Any, sums: Any,
    partials: Any, gram: Any,
) -> None:  # fmt: skip
    """The dot products of all pairs of vectors in the row that begins at an element of the tile, float64.

    By blocks of GRAIN elements of the row, whose sums are added exactly. Pairs go (0,0), (0,1), …, (1,1), … NaN and
    infinity count as zero.
    """
    block = 0
    for at in range(0, row, BLOCK):
        size = min(BLOCK, row - at)
        decoded(addresses, codes, start + at, size, deltas, base, vectors)
        for each in range(vectors.shape[0]):
            zero_nonfinite(vectors[each], size)
        add_all_products(vectors, 0, 0, size, lanes)
        if (at + size) % GRAIN == 0 or at + size == row:
            for pair in range(gram.size):
                sums[pair, block] = folded(lanes[pair])
            block += 1
    for pair in range(gram.size):
        gram[pair] = exact_total(sums[pair], block, partials)


@kernel
def shares_of_stock(gram: Any, _t: float, partials: Any, shares: Any) -> None:
    """Model stock: T = N cos / (1 + (N - 1) cos), shared out among the deltas; cos is the mean over all pairs."""
    count = shares.size
    cosines, known = np.empty(gram.size, np.float64), 0
    pair = 0
    for one in range(count):
        for other in range(one, count):
            if other > one:
                own, its = one * count - one * (one - 1) // 2, other * count - other * (other - 1) // 2
                product = math.sqrt(gram[own]) * math.sqrt(gram[its])
                cosines[known] = min(1.0, max(-1.0, gram[pair] / max(product, _SMALLEST_PRODUCT)))
                known += 1
            pair += 1
    cosine = exact_total(cosines, known, partials) / known
    denominator = 1.0 + (count - 1) * cosine
    t = count * cosine / denominator if abs(denominator) >= _SMALLEST_PRODUCT else 0.0
    shares[:] = np.float32(t / count)


@kernel
def shares_on_arc(gram: Any, t: float, _partials: Any, shares: Any) -> None:
    """The point at t on the arc between two vectors; in a straight line where they are parallel."""
    one, other = max(math.sqrt(gram[0]), _SMALLEST_NORM), max(math.sqrt(gram[2]), _SMALLEST_NORM)
    cosine = min(1.0, max(-1.0, gram[1] / one / other))
    if 1.0 - cosine * cosine <= _SMALLEST_SINE:
        shares[0], shares[1] = np.float32(1.0 - t), np.float32(t)
    else:
        angle = math.acos(cosine)
        sine = math.sin(angle)
        shares[0], shares[1] = np.float32(math.sin((1.0 - t) * angle) / sine), np.float32(math.sin(t * angle) / sine)


@kernel
def add_up(vectors: Any, shares: Any, size: int, deltas: bool, base: Any, total: Any) -> None:
    """The weighted sum of `size` elements, in order; of deltas it is added to the base. All numbers are float32."""
    for model in range(vectors.shape[0]):
        vector, share = vectors[model], shares[model]
        for i in range(size):
            product = share * vector[i]
            before = np.float32(0.0) if model == 0 else total[i]
            total[i] = product if deltas and model == 0 else before + product
    if deltas:
        for i in range(size):
            total[i] = base[i] + total[i]


def by_row(decide: Any) -> Any:
    """Merges rows of a tile by `decide(gram, t, partials, shares)`, which fills the float32 shares of one row."""

    @part
    def merge(
        addresses: Any, codes: Any, count: int, row: int, begin: int, end: int, deltas: bool, t: float,
        out_address: int, out_code: int,
    ) -> bool:  # fmt: skip
        models = addresses.size - np.int64(deltas)
        pairs = models * (models + 1) // 2
        vectors, base, total = (
            np.empty((models, BLOCK), np.float32),
            np.empty(BLOCK, np.float32),
            np.empty(BLOCK, np.float32),
        )
        lanes, sums = np.zeros((pairs, LANES), np.float64), np.empty((pairs, row // GRAIN + 1), np.float64)
        partials, gram = np.empty(max(PARTIALS, pairs), np.float64), np.empty(pairs, np.float64)
        shares = np.empty(models, np.float32)
        bad = False
        for start in range(0, count, row):
            gram_of_row(addresses, codes, start, row, deltas, base, vectors, lanes, sums, partials, gram)
            decide(gram, t, partials, shares)
            last = min(start + row, end)
            for at in range(max(start, begin), last, BLOCK):
                size = min(BLOCK, last - at)
                decoded(addresses, codes, at, size, deltas, base, vectors)
                add_up(vectors, shares, size, deltas, base, total)
                bad |= encode(total, size, out_code, out_address, at - begin)
        return bad

    return merge


_stock_by_row, _arc_by_row = by_row(shares_of_stock), by_row(shares_on_arc)


@kernel
def merge_stock_rows(
    addresses: Any, codes: Any, count: int, row: int, begin: int, end: int, out_address: int, out_code: int
) -> bool:
    """(n+1),(n+1),(),(),(),(): the base and, for each row, as much of the deltas as model stock gives it.

    Elements of the tile, of whole rows, from `begin` to `end` are merged. NaN and infinity pass on, and count as zero
    where shares are decided. Returns whether a result is NaN or infinite.
    """
    return bool(_stock_by_row(addresses, codes, count, row, begin, end, True, 0.0, out_address, out_code))


@kernel
def merge_arc_rows(
    addresses: Any, codes: Any, count: int, row: int, begin: int, end: int, deltas: bool, t: float, out_address: int,
    out_code: int,
) -> bool:  # fmt: skip
    """(2),(2),(),(),(),(),(),(): each row is the point at t on the arc between two; as `merge_stock_rows`.

    With `deltas` the base comes before the two, and the point is added to it.
    """
    return bool(_arc_by_row(addresses, codes, count, row, begin, end, deltas, t, out_address, out_code))


@kernel
def add_column_products(
    addresses: Any, codes: Any, count: int, first: int, columns: int, deltas: bool, sums: Any
) -> None:  # fmt: skip
    """(2),(2),(),(),(),(),(3,c): the dot products (0,0), (0,1), (1,1) of two vectors in each column, float64.

    Or of two deltas, where the base comes before them. Rows are added in order, so tiles must come in order too. NaN
    and infinity count as zero.
    """
    vectors, base = np.empty((2, BLOCK), np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decoded(addresses, codes, start, size, deltas, base, vectors)
        zero_nonfinite(vectors[0], size)
        zero_nonfinite(vectors[1], size)
        at = 0
        while at < size:
            column = (first + start + at) % columns
            run = min(size - at, columns - column)
            for i in range(run):
                one, other = np.float64(vectors[0, at + i]), np.float64(vectors[1, at + i])
                sums[0, column + i] += one * one
                sums[1, column + i] += one * other
                sums[2, column + i] += other * other
            at += run


@kernel
def shares_of_columns(sums: Any, t: float, shares: Any) -> None:
    """(3,c),(),(2,c): the float32 shares of two vectors in each column, from their dot products."""
    gram, own, none = np.empty(3, np.float64), np.empty(2, np.float32), np.empty(0, np.float64)
    for column in range(sums.shape[1]):
        for pair in range(3):
            gram[pair] = sums[pair, column]
        shares_on_arc(gram, t, none, own)
        shares[0, column], shares[1, column] = own[0], own[1]


@kernel
def merge_columns(
    addresses: Any, codes: Any, count: int, first: int, deltas: bool, shares: Any, out_address: int, out_code: int
) -> bool:
    """(2),(2),(),(),(),(2,c): the sum of two models, or deltas, by the shares of each column.

    With `deltas` the base comes before the two, and the sum is added to it. All numbers are float32. NaN and infinity
    pass on. Returns whether a result is NaN or infinite.
    """
    vectors, base, total = np.empty((2, BLOCK), np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    columns, zero = shares.shape[1], np.float32(0.0)
    bad = False
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decoded(addresses, codes, start, size, deltas, base, vectors)
        at = 0
        while at < size:
            column = (first + start + at) % columns
            run = min(size - at, columns - column)
            for i in range(run):
                one = shares[0, column + i] * vectors[0, at + i]
                total[at + i] = (one if deltas else zero + one) + shares[1, column + i] * vectors[1, at + i]
            at += run
        for i in range(size if deltas else 0):
            total[i] = base[i] + total[i]
        bad |= encode(total, size, out_code, out_address, start)
    return bad
