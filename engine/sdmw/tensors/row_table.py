"""Which row of which tensor each row of a gathered tensor is: runs of consecutive rows, kept as text."""

import base64
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ZEROS = -1  # the source of rows that are zero
_TEXT = 16  # characters of a run
_KEPT = 16  # tables that stay unpacked in a process: a few for each input
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Consecutive rows of a gathered tensor that are consecutive rows of a source.

    Attributes:
        starts, stops: (runs) int64, rows of the gathered tensor.
        sources: (runs) int64, whose rows they are; `ZEROS` where they are zero.
        firsts: (runs) int64, the row of the source that `starts` is.
    """

    starts: Numbers
    stops: Numbers
    sources: Numbers
    firsts: Numbers


@dataclass(frozen=True, slots=True)
class RowTable:
    """Rows of a gathered tensor as runs. Frozen and small, so that it goes through pickle and JSON with its tensor.

    Attributes:
        packed: base64 of little-endian int32, three for each run: source, first row in it, number of rows.
    """

    packed: str

    @classmethod
    def of(cls, sources: Numbers, rows: Numbers) -> "RowTable":
        """From what each row is.

        Args:
            sources: (rows) int64, numbers of tensors, or `ZEROS`.
            rows: (rows) int64, the row in that tensor.
        """
        rows = np.where(sources == ZEROS, 0, rows)
        step = np.where(sources == ZEROS, 0, 1)
        follows = (sources[1:] == sources[:-1]) & (rows[1:] == rows[:-1] + step[1:])
        begins = np.flatnonzero(np.concatenate([[True], ~follows])) if sources.size else np.zeros(0, np.int64)
        lengths = np.diff(np.append(begins, sources.size))
        runs = np.stack([sources[begins], rows[begins], lengths], axis=1).astype("<i4")
        return cls(base64.b64encode(runs.tobytes()).decode())

    @property
    def rows(self) -> int:
        """How many rows it has."""
        starts = _unpacked(self.packed)[0]
        return int(starts[-1])

    @property
    def count(self) -> int:
        """How many runs it has."""
        return len(self.packed) // _TEXT

    def runs(self, start: int, stop: int) -> Runs:
        """The runs that make up rows start to stop, the first and the last cut to them."""
        starts, sources, firsts = _unpacked(self.packed)
        first, last = int(np.searchsorted(starts, start, "right")) - 1, int(np.searchsorted(starts, stop, "left"))
        edges = starts[first : last + 1].astype(np.int64)
        begins, ends = np.maximum(edges[:-1], start), np.minimum(edges[1:], stop)
        inside: Numbers = begins - edges[:-1]
        return Runs(begins, ends, sources[first:last].astype(np.int64), firsts[first:last] + inside)


@lru_cache(maxsize=_KEPT)
def _unpacked(packed: str) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Where each run starts, and after the last the number of rows; the source of each; its first row there."""
    runs = np.frombuffer(base64.b64decode(packed), "<i4").reshape(-1, 3)
    starts = np.zeros(len(runs) + 1, np.int32)
    np.cumsum(runs[:, 2], out=starts[1:])
    return starts, runs[:, 0], runs[:, 1]
