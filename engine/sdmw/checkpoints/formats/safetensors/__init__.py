"""Checkpoints in safetensors, one file or shards with an index, as transformers writes them."""

from sdmw.checkpoints import linux
from sdmw.checkpoints.formats.safetensors.directory import read, recognises
from sdmw.checkpoints.lost_pages import can_guard
from sdmw.checkpoints.mapping import MappedTensor
from sdmw.checkpoints.reading import ReadTensor
from sdmw.checkpoints.tensor import TensorInfo, TensorSource

__all__ = ["open_tensor", "read", "recognises"]


def open_tensor(info: TensorInfo) -> TensorSource:
    """The source of one tensor; nothing is opened before the first tile."""
    return MappedTensor(info) if can_guard() and linux.maps_safely(info.file) else ReadTensor(info)
