"""The steps of a merge on whole NumPy arrays, for whole_tensors.py."""

from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

FRAMEWORK = "np"


def widened(tensor: Any) -> Any:
    """To float32."""
    return tensor.astype(np.float32)


def threshold(delta: Any, k: float) -> tuple[float, float]:
    """The percentile of the nonzero magnitudes, and the sum of those that reach it."""
    magnitudes = np.abs(delta)
    changed = magnitudes[magnitudes != 0]
    if not changed.size:
        return np.inf, 0.0
    cut = float(np.percentile(changed, 100 * k))
    return cut, float(changed[changed >= cut].sum(dtype=np.float64))


def masked(delta: Any, cut: float) -> Any:
    """Deltas below the threshold as zero."""
    return np.where(np.abs(delta) >= cut, delta, np.float32(0))


def narrowed(tensor: Any) -> Any:
    """To bfloat16."""
    return tensor.astype(ml_dtypes.bfloat16)


def save(tensors: dict[str, Any], path: str) -> None:
    """One file."""
    save_file(tensors, path, metadata={"format": "pt"})
