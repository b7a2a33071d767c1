"""The steps of a merge on whole torch tensors, for whole_tensors.py."""

from typing import Any

import torch
from safetensors.torch import save_file

FRAMEWORK = "pt"


def widened(tensor: Any) -> Any:
    """To float32."""
    return tensor.float()


def threshold(delta: Any, k: float) -> tuple[float, float]:
    """The percentile of the nonzero magnitudes, and the sum of those that reach it."""
    magnitudes = delta.abs().flatten()
    changed = magnitudes[magnitudes != 0]
    if not changed.numel():
        return float("inf"), 0.0
    # torch.quantile refuses more than 16 million elements; the k-th value is the percentile's lower rank.
    cut = changed.kthvalue(1 + int(k * (changed.numel() - 1))).values
    return float(cut), float(changed[changed >= cut].sum(dtype=torch.float64))


def masked(delta: Any, cut: float) -> Any:
    """Deltas below the threshold as zero."""
    return torch.where(delta.abs() >= cut, delta, 0.0)


def narrowed(tensor: Any) -> Any:
    """To bfloat16."""
    return tensor.to(torch.bfloat16)


def save(tensors: dict[str, Any], path: str) -> None:
    """One file."""
    save_file(tensors, path, metadata={"format": "pt"})
