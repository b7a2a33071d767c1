"""Checkpoints in safetensors, one file or shards with an index, as transformers writes them."""

from sdmw.checkpoints.formats.safetensors.directory import read, recognises
from sdmw.tensors.opening import open_stored as open_tensor

__all__ = ["open_tensor", "read", "recognises"]
