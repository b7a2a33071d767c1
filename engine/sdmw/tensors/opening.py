"""How a tensor on disk is read: through a mapping where that can be trusted, else by `pread`."""

from sdmw import linux
from sdmw.tensors.lost_pages import can_guard
from sdmw.tensors.mapping import MappedTensor
from sdmw.tensors.reading import ReadTensor
from sdmw.tensors.tensor import TensorInfo, TensorSource


def open_stored(info: TensorInfo) -> TensorSource:
    """The source of one tensor of a file; nothing is opened before the first tile."""
    return MappedTensor(info) if can_guard() and linux.maps_safely(info.file) else ReadTensor(info)
