"""A plan as data: frozen, picklable, no open file. What it does not say cannot happen."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdmw import codec
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.depth import Depth
from sdmw.errors import Problem
from sdmw.methods.method import Product
from sdmw.planning.estimate import LIMITS, Bandwidth, Estimate, shown_time
from sdmw.planning.rows import Action
from sdmw.recipes.recipe import Recipe
from sdmw.sizes import counted, shown
from sdmw.statistics.look import Look
from sdmw.tensors.dtype import DType
from sdmw.tensors.tensor import Tensor
from sdmw.views.layers import layer_index
from sdmw.views.tied import TiedHead
from sdmw.writing.layout import Place, ShardLayout

BLOCK = 4096  # bytes of a file that are written together
RATE = 1_000_000_000  # bytes a second, read and written: a plain NVMe disk; what a plan's time is reckoned with
LARGE = 1 << 20  # bytes of a tensor that is a group, or several, of its own
SMALLEST = 4096  # elements; what is left of a piece behind its last whole tile may be less, and is no tile of its own
TILES_IN_PIECE = 8  # short enough that a stop is soon noticed, long enough to be worth handing over
MOST_EARLY = 1  # merged tiles of a piece that wait for one before them, which another worker has


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of whole tiles of one tensor: what an executor receives.

    Attributes:
        tensor: index into `Plan.tensors`.
        start, stop: elements.
    """

    tensor: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the output.

    Attributes:
        name: its name.
        action: merge by the method; copy where all inputs agree; convert one input's values to the output dtype.
        inputs: what is read: of a merge the base (where the method needs one) and the models in recipe order; of a
            copy all that must agree; of a conversion one.
        among: of a merge the numbers, in `Plan.models`, of the models that take part, in their order.
        params: the method's parameters; None where it has no say.
        component: its name less the layer index.
        output: dtype, shape and place in its shard.
        whole_rows: its tiles are read with all rows of the last axis that they touch.
    """

    name: str
    action: Action
    inputs: tuple[Tensor, ...]
    among: tuple[int, ...]
    params: object
    component: str
    output: Place
    whole_rows: bool = False

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.output.elements

    @property
    def read(self) -> int:
        """Bytes read of all inputs for an element."""
        return sum(each.cost.read for each in self.inputs)

    @property
    def row(self) -> int:
        """Elements along the last axis."""
        return self.output.shape[-1] if self.output.shape else 1

    @property
    def columns(self) -> int:
        """Places behind the first axis."""
        return math.prod(self.output.shape[1:])

    def tile(self, most: int) -> int:
        """Elements in a tile: at most `most`, whole rows where one fits in; a longer row where rows must be whole."""
        if 0 < self.row <= most:
            return most - most % self.row
        return self.row if self.whole_rows and self.row else most

    def read_for(self, start: int, stop: int) -> tuple[int, int]:
        """What is read to merge some elements: the first one, and the one behind the last."""
        if not self.whole_rows or start == stop:
            return start, stop
        return start - start % self.row, -(-stop // self.row) * self.row

    @property
    def beside(self) -> int:
        """The most elements that a tile is read with beside those that were asked for."""
        return min(2 * self.row, self.elements) if self.whole_rows else 0

    def aligned(self, element: int) -> int:
        """The first element from this one on that begins a block of the output's file, or the tensor's end.

        Two tasks that write either side of such a border never write one block.
        """
        beyond = -(self.output.offset + element * self.output.dtype.itemsize) % BLOCK
        return min(element + beyond // self.output.dtype.itemsize, self.elements)


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Tensors that are decided together.

    Attributes:
        name: the layer's.
        tensors: indices into `Plan.tensors`, all merged.
        measured: the method looks at their data before it decides.
    """

    name: str
    tensors: tuple[int, ...]
    measured: bool


def time_of(plan: "Plan") -> str:
    """How long it takes, in a line."""
    if not plan.estimates:
        return f"{plan.seconds:.1f} s at {shown(RATE)}/s"
    own = plan.estimates[0]
    return f"about {shown_time(own.seconds)}, limited by {LIMITS[own.limit]}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a merge will do, and what is wrong with it.

    Attributes:
        recipe: as loaded.
        models: names of what is merged, as in the recipe, in order.
        base: the checkpoint whose tensor names, config and tokenizer the output has; None where it could not be read.
        checkpoints: every input with its adapter on it, the base's first.
        sources: each directory that is read, with its name in the recipe, the base's first.
        tensors: of the output, in the base's order.
        layers: in the order in which they are measured.
        heads: tied heads to check first; if all equal their embeddings, they are not written.
        depth: where the layers are in the base, if slices restack them.
        untied: heads that are written although the base's config ties them; the output's config unties them.
        shards: of the output.
        copied: names of the base's other files that the output gets.
        skipped: names of the base's other files that the output does not get, with the reasons.
        beside: the content of files that the output gets from other models, by name.
        tokenizer_from: the folder of another model whose tokenizer the output gets, and whether links may lead out of
            it.
        tokenizer_files: names of the files that are copied from there.
        config_changes: values of the output's config.json that differ because its tokens do, by key.
        product: what the output is.
        target: the directory to create; None without an output.
        overwrite: whether an existing directory may be replaced.
        max_shard_size: bytes of tensors in a shard.
        card: whether the output gets one.
        page: whether the output gets one.
        threads: number of worker threads.
        tile: elements in a tile.
        peak_bytes: proved bound on the resident memory of the process.
        workers: number of other processes that do the work; 0 for none.
        worker_bytes: proved bound on the resident memory of each of them.
        free_bytes: free disk at the output's place; 0 for an address.
        spared: bytes that need not be read to measure, because a statistics store covers them.
        read_again: bytes of these that must still be read to measure, because bins do not decide their layers.
        bandwidth: speed of the disks, as stated or measured; None if no estimate was asked for.
        estimates: of the time with that bandwidth, for the plan's own workers first.
        missing: models that lack tensors of the base, and how many; the base's are used.
        extra: models that give tensors which the base lacks, and how many.
        dropped: models whose tensors are left out because the base lacks them, and how many.
        absent_heads: inputs that lack heads, and how many; their embeddings are used.
        problems: the reasons why it cannot run; empty if it can.
        warnings: unexpected facts about the inputs.
        notes: remarks on the recipe and the inputs.
    """

    recipe: Recipe
    models: tuple[str, ...]
    base: Checkpoint | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    sources: tuple[tuple[str, Checkpoint], ...] = ()
    tensors: tuple[TensorPlan, ...] = ()
    layers: tuple[LayerPlan, ...] = ()
    heads: tuple[TiedHead, ...] = ()
    depth: Depth | None = None
    untied: tuple[str, ...] = ()
    shards: tuple[ShardLayout, ...] = ()
    copied: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)
    tokenizer_from: tuple[str, bool] | None = None
    tokenizer_files: tuple[str, ...] = ()
    config_changes: Mapping[str, Any] = field(default_factory=dict)
    product: Product = "model"
    target: str | None = None
    overwrite: bool = False
    max_shard_size: int = 0
    card: bool = True
    page: bool = True
    threads: int = 1
    tile: int = 0
    peak_bytes: int = 0
    workers: int = 0
    worker_bytes: int = 0
    free_bytes: int = 0
    spared: int = 0
    read_again: int = 0
    bandwidth: Bandwidth | None = None
    estimates: tuple[Estimate, ...] = ()
    missing: tuple[tuple[str, int], ...] = ()
    extra: tuple[tuple[str, int], ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()
    absent_heads: tuple[tuple[str, int], ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        found = [self.recipe.merge_method, counted(len(self.models), "model"), counted(len(self.tensors), "tensor")]
        if self.problems:
            return f"Plan({', '.join(found)}, {counted(len(self.problems), 'problem')}: {self.problems[0]})"
        size = f"{shown(self.bytes_read)} to read, {shown(self.bytes_written)} to write"
        return f"Plan({', '.join(found)}, {size}, at most {shown(self.peak_bytes)} of memory, no problem)"

    def _repr_html_(self) -> str:
        from sdmw.notebook import fragment

        rows = [
            ("models", ", ".join(self.models)),
            ("tensors", f"{len(self.tensors):,} in {counted(self.blocks, 'block')}"),
            ("read", shown(self.bytes_read)),
            ("written", shown(self.bytes_written)),
            ("peak memory", f"at most {shown(self.peak_bytes)}, with {counted(self.threads, 'thread')}"),
            ("time", time_of(self)),
            *(("problem", str(problem)) for problem in self.problems),
            *(("warning", warning) for warning in self.warnings),
        ]
        return fragment(f"Plan of a merge by {self.recipe.merge_method}", (), rows)

    @property
    def makes_adapter(self) -> bool:
        """Whether the output is a PEFT adapter instead of a model."""
        return self.product == "adapter"

    @property
    def measured_bytes(self) -> int:
        """Bytes that measuring reads, further looks not counted."""
        return self.bytes_of(index for layer in self.layers if layer.measured for index in layer.tensors)

    @property
    def applied_bytes(self) -> int:
        """Bytes that applying reads."""
        return self.bytes_of(range(len(self.tensors)))

    def bytes_of(self, tensors: Iterable[int]) -> int:
        """Bytes of all inputs of tensors, by index."""
        return sum(each.elements * each.cost.read for index in tensors for each in self.tensors[index].inputs)

    def read_of(self, piece: Piece) -> int:
        """Bytes of all inputs of a piece."""
        return (piece.stop - piece.start) * self.tensors[piece.tensor].read

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors that are read, further looks not counted but those that a statistics store leaves."""
        return self.measured_bytes - self.spared + self.read_again + self.applied_bytes

    @property
    def bytes_written(self) -> int:
        """Bytes of the output's shards."""
        return sum(shard.size for shard in self.shards)

    @property
    def seconds(self) -> float:
        """What reading and writing take at `RATE` bytes a second."""
        return round((self.bytes_read + self.bytes_written) / RATE, 3)

    @property
    def blocks(self) -> int:
        """How many transformer blocks the tensors' names tell of."""
        return len({layer_index(tensor.name) for tensor in self.tensors} - {None})

    def to_dict(self) -> dict[str, Any]:
        """The plan in numbers, as plain data for JSON: what `sdmw plan --json` prints."""
        return {
            "models": len(self.models),
            "blocks": self.blocks,
            "layers": len(self.layers),
            "tensors": len(self.tensors),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "bytes_spared": self.spared,
            "bytes_read_again": self.read_again,
            "peak_bytes": self.peak_bytes,
            "free_bytes": self.free_bytes,
            "seconds": self.seconds,
            "rate": RATE,
            "bandwidth": codec.encode(self.bandwidth),
            "estimates": [each.to_dict() for each in self.estimates],
            "threads": self.threads,
            "workers": self.workers,
            "worker_bytes": self.worker_bytes,
            "missing": dict(self.missing),
            "extra": dict(self.extra),
            "dropped": dict(self.dropped),
            "absent_heads": dict(self.absent_heads),
            "skipped": dict(self.skipped),
            "problems": codec.encode(self.problems),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }

    def pieces_of(self, tensor: int) -> Iterator[Piece]:
        """The tensor cut into pieces, whose borders within it lie on multiples of 4,096 bytes of the file.

        What a large tensor has before the first of them is a piece of its own: else all that follow a tensor of an odd
        size would share blocks, each with the next, and be one group.
        """
        planned = self.tensors[tensor]
        start = 0
        if planned.output.nbytes >= LARGE and (head := planned.aligned(0)):
            yield Piece(tensor, 0, head)
            start = head
        while start < planned.elements:
            stop = planned.aligned(start + TILES_IN_PIECE * planned.tile(self.tile))
            yield Piece(tensor, start, stop)
            start = stop

    def groups_apart(self) -> Iterator[tuple[Piece, ...]]:
        """All pieces, the last of each file first, in groups that share no block of a file with each other."""
        numbers = {tensor.name: number for number, tensor in enumerate(self.tensors)}
        for shard in reversed(self.shards):
            groups: list[list[Piece]] = [[]]
            for place in shard.tensors:
                for piece in self.pieces_of(numbers[place.name]):
                    groups[-1].append(piece)
                    if (place.offset + piece.stop * place.dtype.itemsize) % BLOCK == 0:
                        groups.append([])
            yield from (tuple(group) for group in reversed(groups) if group)

    def looked_at(self, tensor: int, look: Look[Any]) -> Iterator[Piece]:
        """The tensor, or the ranges of it that a look asks for, cut into pieces that begin at multiples of its grain.

        That of a look that needs whole rows is a row, where the method holds the tensor's rows whole.
        At a grain of 1 they are those of the output.
        """
        if (ranges := look.ranges()) is not None:
            yield from (Piece(tensor, start, stop) for start, stop in ranges)
            return
        planned = self.tensors[tensor]
        if (grain := max(1, planned.row) if look.whole_rows and planned.whole_rows else look.grain) == 1:
            yield from self.pieces_of(tensor)
            return
        # A tile each where one worker has to take them all: several then read side by side, and not far apart.
        tiles = 1 if look.in_order else TILES_IN_PIECE
        step = -(-tiles * planned.tile(self.tile) // grain) * grain
        for start in range(0, planned.elements, step):
            yield Piece(tensor, start, min(start + step, planned.elements))


def output_dtype(recipe: Recipe, base: DType) -> DType:
    """The dtype in which a tensor is written: the recipe's for the floats that merge, else the base's."""
    wanted = {"float32": DType.F32, "float16": DType.F16, "bfloat16": DType.BF16, None: base}
    return wanted[recipe.output_dtype] if base.merges else base
