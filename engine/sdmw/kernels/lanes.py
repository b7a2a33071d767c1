"""Sixteen float64 side by side, each in order. Compiled in `compiled_lanes.py`.

Arrays are contiguous. A group is 16 numbers, one for each lane.
"""

from typing import Any

import numpy as np

from sdmw.kernels.blocks import LANES


def add_groups(values: Any, at: int, groups: int, lanes: Any) -> None:
    """Add groups of float64, from place `at` on."""
    for group in values[at : at + groups * LANES].reshape(groups, LANES):
        lanes[:] = lanes + group


def add_products_of_groups(one: Any, other: Any, at: int, groups: int, lanes: Any) -> None:
    """Add the products of groups of float32, each exact."""
    add_groups(one.astype(np.float64) * other.astype(np.float64), at, groups, lanes)


def add_pairs_of_groups(one: Any, other: Any, at: int, groups: int, lanes: Any, both: Any, others: Any) -> None:
    """Add the products of groups of float32: of one with itself, of both, and of the other with itself."""
    add_products_of_groups(one, one, at, groups, lanes)
    add_products_of_groups(one, other, at, groups, both)
    add_products_of_groups(other, other, at, groups, others)


def raise_by_groups(values: Any, at: int, groups: int, lanes: Any) -> None:
    """Put float64 that are larger in the place of what lanes hold; NaN is not."""
    for group in values[at : at + groups * LANES].reshape(groups, LANES):
        lanes[:] = np.where(group > lanes, group, lanes)


def add_patterns_from(bits: Any, at: int, groups: int, lowest: Any, lanes: Any) -> None:
    """Add the float32 of groups of patterns (uint32), from place `at` on, that are at least a pattern, as float64."""
    found = np.where(bits >= lowest, bits, np.uint32(0)).view(np.float32).astype(np.float64)
    add_groups(found, at, groups, lanes)
