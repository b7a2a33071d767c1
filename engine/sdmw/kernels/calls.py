"""Every kernel with arguments of the types that the engine gives it: what each is compiled for.

They come in groups, one a module: a run needs `ALWAYS` and those that its method names (`Method.uses`).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels import bus_error

ALWAYS = "tiles"
Call = tuple[Any, tuple[Any, ...]]  # a kernel or a callback, and its arguments


def _integers(*shape: int) -> NDArray[np.int64]:
    return np.zeros(shape, np.int64)


_NONE, _ONE, _BASE = np.zeros(0, np.float32), np.float32(1), _integers(1)


def _tiles() -> Iterator[Call]:
    from sdmw.kernels import bracket, low_rank, pages, small, tiles
    from sdmw.kernels.bins import BINS

    bins, listed = _integers(0, BINS), np.zeros((0, 0), np.uint32)
    packed = np.zeros((0, tiles.PACKED), np.uint64)
    yield tiles.merge_deltas, (_BASE, _BASE, 0, _NONE, _NONE, _ONE, _ONE, True, 0, 0)
    yield tiles.average, (_BASE, _BASE, 0, _NONE, _ONE, 0, 0)
    yield tiles.count_magnitudes, (_BASE, _BASE, 0, 1, packed, bins, bins, _integers(0, 2), listed, _integers(0))
    outside, brackets = _integers(0, 4), _integers(0, 2)
    yield (
        bracket.count_by_bracket,
        (_BASE, _BASE, 0, brackets, packed, bins, bins, outside, listed, _integers(0)),
    )
    patterns, numbers, sums = np.zeros((0, 1), np.uint32), _integers(0, 6), _integers(0, 256)
    yield small.put_patterns, (_BASE, _BASE, 0, 0, patterns)
    yield small.decide_all, (patterns, 0, np.zeros(0), np.zeros(0), numbers, sums)
    yield tiles.count_low_bits, (_BASE, _BASE, 0, _integers(0, 2), _integers(0, 2, 1))
    yield tiles.decode, (0, 0, 0, 0, _NONE)
    yield bus_error.handler, ()
    yield pages.touch, (0, 0)
    floats, doubles = np.zeros((1, 1), np.float32), np.zeros((1, 1))
    yield low_rank.product_of_floats, (floats, floats, 1.0, _NONE, 0, 0)
    yield low_rank.product_of_doubles, (doubles, doubles, 1.0, _NONE, 0, 0)


def _cuts() -> Iterator[Call]:
    from sdmw.kernels import cuts

    patterns = np.zeros((0, 2), np.uint32)
    yield cuts.count_equal, (_BASE, _BASE, 0, 0, _integers(0), np.zeros(0, np.uint32), 1, _integers(0, 1))
    yield cuts.find_equal, (_BASE, _BASE, 0, 0, 0, np.uint32(0), _integers(2))
    yield cuts.merge_kept, (_BASE, _BASE, 0, 0, patterns, _integers(0, 2), _NONE, _NONE, True, True, _ONE, 0, 0)


def _chance() -> Iterator[Call]:
    from sdmw.kernels import chance

    keys = np.zeros(0, np.uint64)
    yield chance.sum_kept, (_BASE, _BASE, 0, 0, keys, keys, _integers(0, 2, 1))
    yield chance.merge_by_chance, (_BASE, _BASE, 0, 0, keys, keys, _NONE, _NONE, True, True, _ONE, 0, 0)


def _consensus() -> Iterator[Call]:
    from sdmw.kernels import consensus, tiles
    from sdmw.kernels.bins import BINS

    yield (
        consensus.count_variances,
        (_BASE, _BASE, 0, np.zeros(tiles.PACKED, np.uint64), _integers(BINS), _integers(BINS)),
    )
    yield consensus.count_low_variances, (_BASE, _BASE, 0, 0, _integers(1))
    yield consensus.sum_squares, (_BASE, _BASE, 0, 0, True, np.uint32(0), 0, _integers(0, 1, 2))
    yield consensus.merge_agreeing, (_BASE, _BASE, 0, 0, True, np.uint32(0), 0, _NONE, 0, 0)


def _squares() -> Iterator[Call]:
    from sdmw.kernels import squares

    yield squares.sum_squares_from, (_BASE, _BASE, 0, _NONE, _integers(0, 1, 2))


def _fusion() -> Iterator[Call]:
    from sdmw.kernels import fusion

    both, unknown = _integers(2), np.zeros(0)
    yield fusion.count_scores, (both, both, 0, 1, unknown, _integers(1), _integers(1))
    yield fusion.count_low_scores, (both, both, 0, 1, unknown, _integers(0), _integers(0, 1))
    yield fusion.merge_telling, (both, both, 0, 1, unknown, 0, 0, 0.5, 0, 0)


def _divergence() -> Iterator[Call]:
    from sdmw.kernels import divergence
    from sdmw.kernels.blocks import LANES

    both, lanes = _integers(2), np.zeros((2, LANES))
    yield divergence.find_largest, (both, both, 0, np.zeros(2))
    yield divergence.sum_by_block, (both, both, 0, 0, np.zeros(2), np.zeros(0), lanes, np.zeros((1, 2)))


def _ranks() -> Iterator[Call]:
    from sdmw.kernels import ranks

    keys, none64 = np.zeros(0, np.uint64), np.zeros(0)
    yield ranks.sum_kept_by_rank, (_BASE, _BASE, 0, 0, 1, keys, none64, none64, _integers(0, 2, 1))
    yield ranks.merge_by_rank, (_BASE, _BASE, 0, 0, 1, 0, 0, keys, none64, none64, _NONE, _NONE, True, True, _ONE, 0, 0)


def _steps() -> Iterator[Call]:
    from sdmw.kernels import steps

    keys, none, ends = np.zeros(0, np.uint64), np.zeros(0, np.uint32), _integers(1)
    yield steps.count_ranges, (_BASE, _BASE, 0, none, ends, _integers(0), none, none)
    yield steps.list_open, (_BASE, _BASE, 0, 0, keys, none, ends, none, none, np.zeros((0, 0), np.uint32), _integers(0))
    yield steps.sum_kept_by_step, (_BASE, _BASE, 0, 0, keys, none, ends, none, _integers(0, 2, 1))
    yield steps.merge_by_step, (_BASE, _BASE, 0, 0, keys, none, ends, none, _NONE, _NONE, True, True, _ONE, 0, 0)


def _vectors() -> Iterator[Call]:
    from sdmw.kernels import vectors

    both = _integers(2)
    yield vectors.merge_stock_rows, (_BASE, _BASE, 0, 1, 0, 0, 0, 0)
    yield vectors.merge_arc_rows, (both, both, 0, 1, 0, 0, False, 0.5, 0, 0)
    yield vectors.add_column_products, (both, both, 0, 0, 1, False, np.zeros((3, 0)))
    yield vectors.shares_of_columns, (np.zeros((3, 0)), 0.5, np.zeros((2, 0), np.float32))
    yield vectors.merge_columns, (both, both, 0, 0, False, np.zeros((2, 1), np.float32), 0, 0)


def _dots() -> Iterator[Call]:
    from sdmw.kernels import dots
    from sdmw.kernels.blocks import LANES

    yield dots.dots, (_BASE, _BASE, 0, 0, True, np.zeros((0, LANES)), np.zeros((0, 0)), _integers(1))
    yield dots.folded, (np.zeros(LANES),)


def _changed() -> Iterator[Call]:
    from sdmw.kernels import changed

    both = _integers(2)
    yield changed.count_changed, (both, both, 0, both)


def _ram() -> Iterator[Call]:
    from sdmw.kernels import ram

    yield ram.count_shared, (_BASE, _BASE, 0, _ONE, _integers(0, 2))
    yield ram.merge_shared, (_BASE, _BASE, 0, _ONE, _NONE, 0, 0)


def _single() -> Iterator[Call]:
    from sdmw.kernels import single

    yield single.swap_near, (_BASE, _BASE, 0, _ONE, 0, 0)
    yield single.scaled, (_BASE, _BASE, 0, _ONE, 0, 0)


def _rows() -> Iterator[Call]:
    from sdmw.kernels import rows

    yield rows.read_runs, (-1, _integers(0), _integers(0), _integers(0), 0)


def _survey() -> Iterator[Call]:
    from sdmw.kernels import survey, tiles
    from sdmw.kernels.bins import BINS
    from sdmw.kernels.blocks import LANES

    packed, bins, pairs = np.zeros((0, tiles.PACKED), np.uint64), _integers(0, BINS), _integers(0, 2)
    low, squares, lanes = np.zeros((0, BINS), np.uint64), _integers(0, 2, BINS), np.zeros((0, LANES))
    yield (
        survey.survey,
        (
            _BASE, _BASE, 0, 0, packed, low, bins, bins, bins, squares, pairs, pairs, _integers(0, 0),
            _integers(survey.COPIES, 1), lanes, np.zeros((0, 0)),
        ),
    )  # fmt: skip


CALLS: dict[str, Callable[[], Iterator[Call]]] = {
    "tiles": _tiles,
    "cuts": _cuts,
    "chance": _chance,
    "consensus": _consensus,
    "squares": _squares,
    "fusion": _fusion,
    "divergence": _divergence,
    "ranks": _ranks,
    "steps": _steps,
    "vectors": _vectors,
    "dots": _dots,
    "changed": _changed,
    "ram": _ram,
    "survey": _survey,
    "single": _single,
    "rows": _rows,
}
