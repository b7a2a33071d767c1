"""What matched scales need to know of two experts' deltas: NumPy over whole small models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

Tensors = dict[str, np.ndarray]


def tensors(folder: Path) -> Tensors:
    """All tensors of a checkpoint, whatever its shards."""
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return found


@dataclass(frozen=True, slots=True)
class Deltas:
    """The float32 deltas of N experts.

    Attributes:
        by_tensor: (N, elements) of each tensor.
    """

    by_tensor: dict[str, np.ndarray]

    @classmethod
    def of(cls, base: Path, experts: Sequence[Path]) -> "Deltas":
        """Of fine-tunes of a base, by their folders."""
        start, tuned = tensors(base), [tensors(expert) for expert in experts]
        return cls({name: np.stack([(each[name] - start[name]).ravel() for each in tuned]) for name in sorted(start)})

    def gram(self) -> np.ndarray:
        """(N, N): products of the unfiltered deltas, over the whole model."""
        return sum(delta.astype(np.float64) @ delta.astype(np.float64).T for delta in self.by_tensor.values())


def norm_preserving(weights: Sequence[float], gram: np.ndarray) -> float:
    """Lambda by which the weighted sum gets the weighted mean length of its parts: sum |W_i| |D_i| / |sum W_i D_i|."""
    given = np.array(weights)
    return float((np.abs(given) * np.sqrt(np.diag(gram))).sum() / np.sqrt(given @ gram @ given))
