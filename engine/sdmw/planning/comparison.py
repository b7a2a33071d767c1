"""What comparing two checkpoints takes, from headers alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import PlanError, Problem, UsageError, quoted
from sdmw.kernels.blocks import GRAIN
from sdmw.planning import budget, memory
from sdmw.planning.budget import EDGES, Tasks, with_stores, working_bytes
from sdmw.planning.limits import Limits
from sdmw.recipes.findings import close
from sdmw.statistics.difference import COUNTER, RESULT
from sdmw.tensors.dtype import DType
from sdmw.tensors.mapping import WINDOWS
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Tensor

TILE = 16 * GRAIN  # elements of a task, and of the tile that it reads
KERNELS = ("dots", "changed")  # groups
AHEAD = 2  # results under way for each thread
ROW = 1 << 12  # bytes of one tensor: its numbers, their JSON


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor that both checkpoints have, in one shape and dtype.

    Attributes:
        name: in both.
        dtype: as it is stored.
        shape: elements along each axis.
        a, b: what is read: of dtypes without arithmetic, words of their bits.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    a: Tensor
    b: Tensor

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def floats(self) -> bool:
        """Whether it is compared as numbers, and not by its bits alone."""
        return self.dtype.merges

    @property
    def read(self) -> int:
        """Bytes read for an element of `a`."""
        return self.a.cost.read + self.b.cost.read

    def tiles(self) -> Iterator[tuple[int, int]]:
        """First element and the one behind the last of each task's tile."""
        for start in range(0, self.a.elements, TILE):
            yield start, min(start + TILE, self.a.elements)


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A tensor that is not compared: one checkpoint lacks it, or has it in another shape or dtype.

    Attributes:
        name: of the tensor.
        a, b: dtype and shape in each, such as `BF16 [32000, 4096]`; None where it is lacking.
    """

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """All that a comparison will do.

    Attributes:
        a, b: both checkpoints.
        pairs: what is compared, in A's order.
        unmatched: what is not, by name.
        threads: that compute.
        peak_bytes: bound on the resident memory of the process.
    """

    a: Checkpoint
    b: Checkpoint
    pairs: tuple[Pair, ...]
    unmatched: tuple[Unmatched, ...]
    threads: int = 1
    peak_bytes: int = 0

    @property
    def bytes_read(self) -> int:
        """Of both checkpoints."""
        return sum(pair.read * pair.a.elements for pair in self.pairs)


def plan_comparison(a: Checkpoint, b: Checkpoint, word: str | None, limits: Limits) -> ComparisonPlan:
    """What there is to do.

    Args:
        a: a checkpoint.
        b: another one.
        word: part of the names that are compared, with `*`, `?` and `[]` as in file names; None for all names.
        limits: memory and threads.

    Raises:
        UsageError: no tensor has such a name.
        PlanError: it does not fit into memory.
    """
    names = _chosen(list(dict.fromkeys((*a.tensors, *b.tensors))), word)
    pairs, unmatched = [], []
    for name in names:
        if name in a.aliases and name in b.aliases:
            continue  # its tensor is compared under the name that both store it by
        ours, theirs = a.tensors.get(name), b.tensors.get(name)
        if ours and theirs and (ours.shape, ours.stored_as) == (theirs.shape, theirs.stored_as):
            pairs.append(Pair(name, ours.stored_as, ours.shape, _readable(ours), _readable(theirs)))
        else:
            unmatched.append(Unmatched(name, _said(ours), _said(theirs)))
    plan = ComparisonPlan(a, b, tuple(pairs), tuple(sorted(unmatched, key=lambda each: each.name)))
    resident = memory.resident()
    found = limits.fit(with_stores(comparison_tasks(pairs, resident), (a.path, b.path)), resident)
    if isinstance(found, Problem):
        raise PlanError([found])
    return replace(plan, threads=found.threads, peak_bytes=found.peak)


def comparison_tasks(pairs: Sequence[Pair], resident: int) -> Tasks:
    """What comparing asks of memory.

    A thread maps a tile of both tensors and counts. For each thread some results are under way, and as many tensors
    have some of theirs.

    Args:
        pairs: what is compared.
        resident: bytes that the process occupies.
    """
    kernels = budget.kernels_to_load(KERNELS)
    return Tasks(
        loading=resident + kernels.most,
        reserved=resident + kernels.stay + ROW * len(pairs),
        waiting=COUNTER + WINDOWS + 2 * AHEAD * RESULT,
        each=[_tile_bytes(pair) for pair in pairs],
    )


def _tile_bytes(pair: Pair) -> int:
    held = pair.a.cost.held + pair.b.cost.held + (not pair.floats)  # a truth value for each word
    return min(TILE, pair.a.elements) * held + working_bytes((pair.a, pair.b)) + 2 * EDGES


def _chosen(names: list[str], word: str | None) -> list[str]:
    if word is None:
        return names
    chosen = [name for name in names if fnmatchcase(name, f"*{word}*")]
    if not chosen:
        parts = sorted({part for name in names for part in name.split(".")})
        raise UsageError([Problem("filter", "a part of a tensor's name", quoted(word), close(word, parts))])
    return chosen


def _said(tensor: Tensor | None) -> str | None:
    return f"{tensor.stored_as.name} {list(tensor.shape)}" if tensor else None


def _readable(tensor: Tensor) -> Tensor:
    """The tensor; one whose dtype has no arithmetic here as words of its bits."""
    dtype = tensor.dtype
    if dtype.merges or dtype.copies or not isinstance(tensor, Stored):
        return tensor
    words = DType.U64 if dtype is DType.C64 else DType.U8
    return replace(tensor, dtype=words, shape=(tensor.nbytes // words.itemsize,))
