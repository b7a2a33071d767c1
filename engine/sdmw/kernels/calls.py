"""Every kernel, called as the engine calls it with nothing to do: what compiles it, or loads it from the cache.

They come in groups, one a module: a run needs `ALWAYS` and those that its method names (`Method.uses`).
"""

import importlib
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

ALWAYS = "tiles"
_WITH_IT = ("bus_error", "low_rank")


def modules(group: str) -> tuple[str, ...]:
    """The modules of a group."""
    return (group, *_WITH_IT) if group == ALWAYS else (group,)


def call(groups: Iterable[str], release: Callable[[], None]) -> None:
    """Call each kernel of some groups; `release` once their modules are imported, and after the first.

    Args:
        groups: names of modules with kernels.
        release: gives memory back.
    """
    wanted = list(groups)
    for name in wanted:
        importlib.import_module(f"sdmw.kernels.{name}")
    release()
    if ALWAYS in wanted:
        from sdmw.kernels import bus_error

        bus_error.handler()
        release()
    for name in wanted:
        CALLS[name]()


def _integers(*shape: int) -> NDArray[np.int64]:
    return np.zeros(shape, np.int64)


_NONE, _ONE, _BASE = np.zeros(0, np.float32), np.float32(1), _integers(1)


def _tiles() -> None:
    from sdmw.kernels import low_rank, tiles
    from sdmw.kernels.bins import BINS

    bins, listed = _integers(0, BINS), np.zeros((0, 0), np.uint32)
    packed = np.zeros((0, tiles.PACKED), np.uint64)
    tiles.merge_deltas(_BASE, _BASE, 0, _NONE, _NONE, _ONE, _ONE, True, 0, 0)
    tiles.average(_BASE, _BASE, 0, _NONE, _ONE, 0, 0)
    tiles.count_magnitudes(_BASE, _BASE, 0, packed, bins, bins, _integers(0, 2), listed, _integers(0))
    tiles.count_low_bits(_BASE, _BASE, 0, _integers(0, 2), _integers(0, 2, 1))
    tiles.decode(0, 0, 0, 0, _NONE)
    low_rank.product(np.zeros((0, 1)), np.zeros((1, 0)), 1.0, np.zeros((0, 0), np.float32))


def _cuts() -> None:
    from sdmw.kernels import cuts

    patterns = np.zeros((0, 2), np.uint32)
    cuts.count_equal(_BASE, _BASE, 0, 0, _integers(0), np.zeros(0, np.uint32), 1, _integers(0, 1))
    cuts.find_equal(_BASE, _BASE, 0, 0, 0, np.uint32(0), 0)
    cuts.merge_kept(_BASE, _BASE, 0, 0, patterns, _integers(0, 2), _NONE, _NONE, True, True, _ONE, 0, 0)


def _chance() -> None:
    from sdmw.kernels import chance

    keys = np.zeros(0, np.uint64)
    chance.sum_kept(_BASE, _BASE, 0, 0, keys, keys, _integers(0, 2, 1))
    chance.merge_by_chance(_BASE, _BASE, 0, 0, keys, keys, _NONE, _NONE, True, True, _ONE, 0, 0)


def _consensus() -> None:
    from sdmw.kernels import consensus, tiles
    from sdmw.kernels.bins import BINS

    consensus.count_variances(_BASE, _BASE, 0, np.zeros(tiles.PACKED, np.uint64), _integers(BINS), _integers(BINS))
    consensus.count_low_variances(_BASE, _BASE, 0, 0, _integers(1))
    consensus.sum_squares(_BASE, _BASE, 0, 0, True, np.uint32(0), 0, _integers(0, 1, 2))
    consensus.merge_agreeing(_BASE, _BASE, 0, 0, True, np.uint32(0), 0, _NONE, 0, 0)


def _fusion() -> None:
    from sdmw.kernels import fusion

    both, unknown = _integers(2), np.zeros(0)
    fusion.count_scores(both, both, 0, 1, unknown, _integers(1), _integers(1))
    fusion.count_low_scores(both, both, 0, 1, unknown, _integers(0), _integers(0, 1))
    fusion.merge_telling(both, both, 0, 1, unknown, 0, 0, 0.5, 0, 0)


def _divergence() -> None:
    from sdmw.kernels import divergence
    from sdmw.kernels.blocks import LANES

    both, lanes = _integers(2), np.zeros((2, LANES))
    divergence.find_largest(both, both, 0, np.zeros(2))
    divergence.sum_by_block(both, both, 0, 0, np.zeros(2), np.zeros(0), lanes, np.zeros((1, 2)))


def _ranks() -> None:
    from sdmw.kernels import ranks

    keys, none64 = np.zeros(0, np.uint64), np.zeros(0)
    ranks.sum_kept_by_rank(_BASE, _BASE, 0, 0, 1, keys, none64, none64, _integers(0, 2, 1))
    ranks.merge_by_rank(_BASE, _BASE, 0, 0, 1, 0, 0, keys, none64, none64, _NONE, _NONE, True, True, _ONE, 0, 0)


def _steps() -> None:
    from sdmw.kernels import steps

    keys, none, ends = np.zeros(0, np.uint64), np.zeros(0, np.uint32), _integers(1)
    steps.count_ranges(_BASE, _BASE, 0, none, ends, _integers(0), none, none)
    steps.list_open(_BASE, _BASE, 0, 0, keys, none, ends, none, none, np.zeros((0, 0), np.uint32), _integers(0))
    steps.sum_kept_by_step(_BASE, _BASE, 0, 0, keys, none, ends, none, _integers(0, 2, 1))
    steps.merge_by_step(_BASE, _BASE, 0, 0, keys, none, ends, none, _NONE, _NONE, True, True, _ONE, 0, 0)


def _vectors() -> None:
    from sdmw.kernels import vectors

    both = _integers(2)
    vectors.merge_stock_rows(_BASE, _BASE, 0, 1, 0, 0, 0, 0)
    vectors.merge_arc_rows(both, both, 0, 1, 0, 0, False, 0.5, 0, 0)
    vectors.add_column_products(both, both, 0, 0, 1, False, np.zeros((3, 0)))
    vectors.shares_of_columns(np.zeros((3, 0)), 0.5, np.zeros((2, 0), np.float32))
    vectors.merge_columns(both, both, 0, 0, False, np.zeros((2, 1), np.float32), 0, 0)


def _dots() -> None:
    from sdmw.kernels import dots
    from sdmw.kernels.blocks import LANES

    dots.dots(_BASE, _BASE, 0, 0, True, np.zeros((0, LANES)), np.zeros((0, 0)), _integers(1))
    dots.folded(np.zeros(LANES))


def _ram() -> None:
    from sdmw.kernels import ram

    ram.count_shared(_BASE, _BASE, 0, _ONE, _integers(0, 2))
    ram.merge_shared(_BASE, _BASE, 0, _ONE, _NONE, 0, 0)


def _single() -> None:
    from sdmw.kernels import single

    single.swap_near(_BASE, _BASE, 0, _ONE, 0, 0)
    single.scaled(_BASE, _BASE, 0, _ONE, 0, 0)


def _rows() -> None:
    from sdmw.kernels import rows

    rows.read_runs(-1, _integers(0), _integers(0), _integers(0), 0)


CALLS: dict[str, Callable[[], None]] = {
    "tiles": _tiles,
    "cuts": _cuts,
    "chance": _chance,
    "consensus": _consensus,
    "fusion": _fusion,
    "divergence": _divergence,
    "ranks": _ranks,
    "steps": _steps,
    "vectors": _vectors,
    "dots": _dots,
    "ram": _ram,
    "single": _single,
    "rows": _rows,
}
