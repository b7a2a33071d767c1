"""Checkpoints in safetensors, one file or shards with an index, as transformers writes them."""

from sdmw.checkpoints.formats.safetensors.directory import read, recognises

__all__ = ["read", "recognises"]
