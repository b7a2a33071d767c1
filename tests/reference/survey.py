"""What a store keeps of a tensor, in plain NumPy, for `sdmw.statistics.survey`."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np


def deltas_of(base: np.ndarray, models: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Float32 deltas; zero where bits are equal."""
    wide = base.astype(np.float32)
    found = []
    for model in models:
        own = model.astype(np.float32)
        with np.errstate(all="ignore"):
            found.append(np.where(own.view(np.uint32) == wide.view(np.uint32), np.float32(0), own - wide))
    return found


def magnitudes(base: np.ndarray, delta: np.ndarray) -> dict[str, Any]:
    """Of one model: by bin (count, odd, low sum, squares of low bits), and its numbers."""
    finite = np.where(np.isfinite(delta), delta, np.float32(0))
    patterns = np.abs(finite).view(np.uint32)
    patterns = [int(pattern) for pattern in patterns if pattern]
    bins: dict[int, list[int]] = {}
    for pattern in patterns:
        low = pattern & 0xFFFF
        held = bins.setdefault(pattern >> 16, [0, 0, 0, 0])
        for place, value in enumerate((1, low > 0, low, low * low)):
            held[place] += int(value)
    wide = base.astype(np.float32)
    changed = finite != 0
    unchanged = []
    with np.errstate(all="ignore"):
        for dtype in (ml_dtypes.bfloat16, np.float16):
            before, after = ((each).astype(dtype).astype(np.float32) for each in (wide, wide + finite))
            unchanged.append(int(((before == after) & changed).sum()))
    return {
        "bins": dict(sorted(bins.items())),
        "nonfinite": int((~np.isfinite(delta)).sum()),
        "unchanged": tuple(unchanged),
        "smallest": min(patterns, default=0xFFFFFFFF),
        "largest": max(patterns, default=0),
    }


def conflict(deltas: Sequence[np.ndarray]) -> list[list[int]]:
    """Above the diagonal: both change, in opposed directions."""
    signs = [np.sign(np.where(np.isfinite(each), each, 0)) for each in deltas]
    return [
        [int((one * other < 0).sum()) if j > i else 0 for j, other in enumerate(signs)] for i, one in enumerate(signs)
    ]


def overlap(deltas: Sequence[np.ndarray]) -> list[int]:
    """Elements by the subset of models that change them."""
    changed = [np.isfinite(each) & (each != 0) for each in deltas]
    counts = Counter(sum(1 << i for i, each in enumerate(bits) if each) for bits in zip(*changed, strict=True))
    return [counts[subset] for subset in range(1 << len(deltas))]
