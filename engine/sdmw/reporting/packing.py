"""What a delta archive holds, against the checkpoint that it stands for."""

import os
from dataclasses import dataclass
from typing import Any, cast

from sdmw import codec
from sdmw.archives.archive import Archive
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.version import __version__


@dataclass(frozen=True, slots=True)
class PackReport:
    """An archive in numbers.

    Attributes:
        version: of sdmw.
        path: of the output: the archive, or the model that was restored with it.
        k: percentage of the nonzero deltas of each tensor that the archive leaves out.
        tensors: how many.
        elements: in all tensors.
        kept: elements in the archive.
        share: kept divided by elements.
        archive_bytes: of all files of the archive.
        checkpoint_bytes: of the checkpoint's shards.
        ratio: archive_bytes divided by checkpoint_bytes; above 1 the archive is larger.
        files: number of other files that differ.
        warnings: unexpected facts about the place of the output.
    """

    version: str
    path: str
    k: float
    tensors: int
    elements: int
    kept: int
    share: float
    archive_bytes: int
    checkpoint_bytes: int
    ratio: float
    files: int
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))


def pack_report(archive: Archive, checkpoint: Checkpoint, path: str) -> PackReport:
    """The report of an archive that is on disk.

    Args:
        archive: its attributes.
        checkpoint: of either side.
        path: of what was written.
    """
    elements, kept = (sum(getattr(tensor, each) for tensor in archive.tensors) for each in ("elements", "kept"))
    sizes = size_of(archive.path), sum(shard.size for shard in checkpoint.shards)
    return PackReport(
        version=__version__,
        path=path,
        k=archive.k,
        tensors=len(archive.tensors),
        elements=elements,
        kept=kept,
        share=kept / elements if elements else 0.0,
        archive_bytes=sizes[0],
        checkpoint_bytes=sizes[1],
        ratio=sizes[0] / sizes[1],
        files=len(archive.files["base"].keys() | archive.files["model"].keys()),
    )


def size_of(folder: str) -> int:
    """Bytes of all files below a folder."""
    return sum(os.path.getsize(os.path.join(above, name)) for above, _, names in os.walk(folder) for name in names)
