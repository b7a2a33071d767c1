"""A plan as data: frozen, picklable, no open file. What it does not say cannot happen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem
from sdmw.recipes.recipe import Recipe
from sdmw.tensors.tensor import DType, TensorInfo
from sdmw.writing.layout import ShardLayout

TILES_IN_PIECE = 8  # short enough that a stop is soon noticed, long enough to be worth handing over


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
        params: the method's parameters of a merge; None otherwise.
        component: its name less the layer index.
        shard: index into `Plan.shards`.
        output: dtype, shape and place in that shard.
    """

    name: str
    action: Literal["merge", "copy", "convert"]
    inputs: tuple[TensorInfo, ...]
    params: Any
    component: str
    shard: int
    output: TensorInfo

    @property
    def elements(self) -> int:
        """How many elements."""
        return self.output.elements


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


@dataclass(frozen=True, slots=True)
class TiedHead:
    """A model's output head that the base ties to its embedding: dropped if equal to the model's own embedding.

    Attributes:
        model: its name in the recipe.
        head, embedding: the two tensors in it.
    """

    model: str
    head: TensorInfo
    embedding: TensorInfo


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a merge will do, and what is wrong with it.

    Attributes:
        recipe: as loaded.
        models: names of what is merged, as in the recipe, in order.
        base: the checkpoint whose tensor names, config and tokenizer the output has; None where it could not be read.
        checkpoints: every input, the base's first.
        tensors: of the output, in the base's order.
        layers: in the order in which they are measured.
        heads: tied heads to be checked first.
        shards: of the output.
        copied: names of the base's other files that the output gets.
        skipped: names of those that it does not, with the reason.
        target: the directory to appear; None where only a plan was asked for.
        overwrite: a directory there may be replaced.
        threads: that compute.
        tile: elements in a tile.
        passes: how often each input is read, unless a layer needs another look.
        peak_bytes: proved bound on the resident memory of the process.
        free_bytes: free disk where the output goes.
        problems: why it cannot run; empty where it can.
        warnings: what is odd.
        notes: what the recipe language has to say.
    """

    recipe: Recipe
    models: tuple[str, ...]
    base: Checkpoint | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    tensors: tuple[TensorPlan, ...] = ()
    layers: tuple[LayerPlan, ...] = ()
    heads: tuple[TiedHead, ...] = ()
    shards: tuple[ShardLayout, ...] = ()
    copied: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    target: str | None = None
    overwrite: bool = False
    threads: int = 1
    tile: int = 0
    passes: int = 1
    peak_bytes: int = 0
    free_bytes: int = 0
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def makes_adapter(self) -> bool:
        """The output is a PEFT adapter, and no model."""
        return self.recipe.parameters.get("output") == "adapter"

    @property
    def measured_bytes(self) -> int:
        """Bytes that measuring reads, further looks not counted."""
        looked_at = (self.tensors[index] for layer in self.layers if layer.measured for index in layer.tensors)
        return sum(info.elements * info.read_itemsize for tensor in looked_at for info in tensor.inputs)

    @property
    def applied_bytes(self) -> int:
        """Bytes that applying reads."""
        return sum(info.elements * info.read_itemsize for tensor in self.tensors for info in tensor.inputs)

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors that are read, further looks not counted."""
        return self.measured_bytes + self.applied_bytes

    @property
    def bytes_written(self) -> int:
        """Bytes of the output's shards."""
        return sum(shard.size for shard in self.shards)

    def pieces_of(self, tensor: int) -> Iterator[Piece]:
        """The tensor cut into pieces; the tiles end at row ends where a row fits in one."""
        elements, step = self.tensors[tensor].elements, TILES_IN_PIECE * self.tile_of(tensor)
        for start in range(0, elements, step):
            yield Piece(tensor, start, min(start + step, elements))

    def piece_count(self, tensor: int) -> int:
        """How many pieces the tensor has."""
        return -(-self.tensors[tensor].elements // (TILES_IN_PIECE * self.tile_of(tensor)))

    def tile_of(self, tensor: int) -> int:
        """Elements in this tensor's tiles."""
        shape = self.tensors[tensor].output.shape
        row = shape[-1] if shape else 1
        return self.tile - self.tile % row if 0 < row <= self.tile else self.tile


def output_dtype(recipe: Recipe, base: DType) -> DType:
    """The dtype in which a tensor is written: the recipe's for the floats that merge, else the base's."""
    wanted = {"float32": DType.F32, "float16": DType.F16, "bfloat16": DType.BF16, None: base}
    return wanted[recipe.output_dtype] if base.merges else base
