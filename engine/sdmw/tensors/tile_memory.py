"""The memory of tiles, mapped and staged, as long as a run lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

from sdmw.tensors import combined, lost_pages, mapping, matrices, rows
from sdmw.tensors.read_ahead import HELD, blocks
from sdmw.tensors.staging import staging


@contextmanager
def tile_memory(ahead: int = 0) -> Iterator[None]:
    """Around a run: lost pages do not end the process, and neither mappings nor staging stay behind.

    Another run of this process maps again what it still reads.

    Args:
        ahead: bytes that may be fetched ahead from stores.
    """
    blocks.capacity = max(ahead, HELD)
    with lost_pages.guarded():
        try:
            yield
        finally:
            forget()


def forget() -> None:
    """Let mappings, staging and what was computed of files go: another run may find other data under the same names."""
    mapping.unmap()
    staging.clear()
    matrices.computed.clear()
    combined.forget()
    rows.forget()
    blocks.forget()
