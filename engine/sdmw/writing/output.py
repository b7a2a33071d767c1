"""What a merge asks of the place that it writes to: a directory of this machine, or a folder of a store."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray


class Tiles(Protocol):
    """Takes finished tiles, from the threads of the run."""

    def write(self, shard: int, offset: int, data: "NDArray[Any] | ReadableBuffer") -> None:
        """Take bytes of a shard, at an offset from the beginning of its file."""

    def settle(self) -> None:
        """At the end of a task: what it wrote is on its way."""


class Output(Protocol):
    """A checkpoint that is being written, and appears when it is published; what `Publication` says holds for each.

    Attributes:
        path: a folder of this machine, to which files beside the shards may be added until it is published.
        records: what an earlier run had vouched for.
        warnings: what is odd about the output or its place.
    """

    path: str
    records: list[object]
    warnings: list[str]

    @property
    def sink(self) -> Tiles:
        """Where the shards' bytes go."""

    def sync(self) -> None:
        """Make durable what was given to the sink; OutputError where it cannot be."""

    def settle(self) -> None:
        """Wait until what was given to the sink is written; OutputError where it cannot be."""

    def vouch(self, records: Iterable[object]) -> None:
        """Note durably what a run need not do again."""

    def add(self, name: str, data: bytes) -> None:
        """Write a file beside the shards."""

    def checksums(self) -> dict[str, str]:
        """XXH3-128 of every file beside the shards, in hex, by its path in the output."""

    def finish(self) -> None:
        """Complete the shards, and check them. No write may follow."""

    def publish(self) -> None:
        """Make the output appear."""
