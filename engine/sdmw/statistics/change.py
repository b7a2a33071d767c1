"""What a difference says in numbers for people."""

import math
from dataclasses import dataclass

import numpy as np

from sdmw.statistics.blocks import rounded
from sdmw.statistics.difference import Difference
from sdmw.statistics.histogram import UNIT_EXPONENT

BIAS = 127  # of float32's exponents


@dataclass(frozen=True, slots=True)
class Change:
    """What changed from A to B, in one tensor or in several. Deltas are B - A in float32.

    Of tensors that are not F32, F16 or BF16 only `elements` and `changed` are known; all else is of these floats, and
    None where there are none. NaN and infinity count as zero in sums and norms.

    Attributes:
        elements: in all.
        changed: elements whose bits differ, zeros of unlike sign too. Of F4 and F6, which share bytes: bytes.
        nonfinite: deltas that are NaN or infinite.
        sum: of |delta|; the exact sum, rounded once.
        largest: |delta|.
        norm_a, norm_b: square roots of the sums of squares of A and B.
        norm: that of the deltas.
        ratio: norm by norm_a; None where norm_a is 0.
        cosine: of the angle between the values of A and B as vectors; None where one of them has no length.
        power: of the first of `counts`; None where there are none.
        counts: how many |delta| lie from 2**power up to 2**(power + 1), from there up to 2**(power + 2), and so on.
            Power -127 has all below 2**-126.
    """

    elements: int
    changed: int
    nonfinite: int | None = None
    sum: float | None = None
    largest: float | None = None
    norm_a: float | None = None
    norm_b: float | None = None
    norm: float | None = None
    ratio: float | None = None
    cosine: float | None = None
    power: int | None = None
    counts: tuple[int, ...] = ()


def change_of(difference: Difference, elements: int, *, floats: bool) -> Change:
    """The numbers of a difference.

    Args:
        difference: of all elements.
        elements: how many.
        floats: some of them were counted as numbers.
    """
    if not floats:
        return Change(elements, difference.changed)
    norm, norm_a, norm_b = map(math.sqrt, rounded((difference.squares, *difference.products[::2])))
    used = np.flatnonzero(difference.exponents).tolist()
    return Change(
        elements=elements,
        changed=difference.changed,
        nonfinite=difference.nonfinite,
        sum=difference.total / (1 << UNIT_EXPONENT),
        largest=float(np.uint32(difference.largest).view(np.float32)),
        norm_a=norm_a,
        norm_b=norm_b,
        norm=norm,
        ratio=norm / norm_a if norm_a else None,
        cosine=_cosine(difference.products),
        power=used[0] - BIAS if used else None,
        counts=tuple(difference.exponents[used[0] : used[-1] + 1].tolist()) if used else (),
    )


def _cosine(products: tuple[int, ...]) -> float | None:
    one, both, other = rounded(products)
    if not (one and other):
        return None
    return max(-1.0, min(1.0, both / math.sqrt(one) / math.sqrt(other)))  # rounding could lead beyond 1
