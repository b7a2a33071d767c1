"""Small files beside a checkpoint's weights: in its folder, or of a merge that is not written."""

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.storage.files import listing, read_bounded


def names(checkpoint: Checkpoint) -> frozenset[str]:
    """The names in a checkpoint's folder; CheckpointError where it cannot be listed."""
    absent = {name for name, content in checkpoint.files.items() if content is None}
    return (listing(checkpoint.path) | checkpoint.files.keys()) - absent


def content(checkpoint: Checkpoint, name: str, most: int) -> bytes:
    """The whole of a file.

    Args:
        checkpoint: whose it is.
        name: its path in the folder.
        most: bytes it may have.

    Raises:
        CheckpointError: as `read_bounded`.
    """
    if (own := checkpoint.files.get(name)) is not None:
        return own
    return read_bounded(checkpoint.path, name, most, follow_links=checkpoint.follow_links)
