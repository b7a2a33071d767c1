"""What is in a checkpoint, from its headers."""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from sdmw import codec
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import quoted
from sdmw.sizes import counted, shown
from sdmw.tensors.tensor import Tensor
from sdmw.views.layers import component_of, layer_index


@dataclass(frozen=True, slots=True)
class Amount:
    """How many tensors, their elements, their bytes."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class InspectedTensor:
    """One tensor as its header tells it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint at a glance.

    Attributes:
        path: of its directory.
        architecture: the first of the config's `architectures`, else its `model_type`; or that it is an adapter.
        total: of everything.
        blocks: how many layer indices the names have.
        dtypes: by dtype.
        shards: by file.
        components: by name less the layer index.
        tensors: each, in the order of shard, then offset.
        warnings: unexpected facts.
    """

    path: str
    architecture: str
    total: Amount
    blocks: int
    dtypes: Mapping[str, Amount]
    shards: Mapping[str, Amount]
    components: Mapping[str, Amount]
    tensors: tuple[InspectedTensor, ...]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        total = f"{self.total.parameters:,} parameters in {counted(self.total.tensors, 'tensor')}"
        said = counted(len(self.warnings), "warning")
        return f"Inspection({self.path!r}, {self.architecture}, {total}, {shown(self.total.bytes)}, {said})"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))


def inspection(checkpoint: Checkpoint) -> Inspection:
    """Sums up a checkpoint; no tensor data are touched."""
    tables: dict[str, dict[str, list[int]]] = {name: defaultdict(lambda: [0, 0, 0]) for name in ("d", "s", "c", "t")}
    for name, info in checkpoint.tensors.items():
        keys = {"d": info.dtype.name, "s": _shard_of(info), "c": component_of(name), "t": "total"}
        for table, key in keys.items():
            amount = tables[table][key]
            amount[0] += 1
            amount[1] += info.elements
            amount[2] += info.nbytes
    dtypes, shards, components, total = (
        {key: Amount(*amount) for key, amount in tables[table].items()} for table in ("d", "s", "c", "t")
    )
    return Inspection(
        path=checkpoint.path,
        architecture=_architecture(checkpoint),
        total=total.get("total", Amount(0, 0, 0)),
        blocks=len({layer_index(name) for name in checkpoint.tensors} - {None}),
        dtypes=dtypes,
        shards=shards,
        components=components,
        tensors=tuple(
            InspectedTensor(name, info.dtype.name, info.shape, _shard_of(info))
            for name, info in checkpoint.tensors.items()
        ),
        warnings=checkpoint.warnings,
    )


def _shard_of(tensor: Tensor) -> str:
    return " ".join(dict.fromkeys(os.path.basename(leaf.file) for leaf in tensor.leaves()))


def _architecture(checkpoint: Checkpoint) -> str:
    if checkpoint.adapts is not None:
        return f"LoRA adapter{f' of {quoted(checkpoint.adapts)}' if checkpoint.adapts else ''}"
    config = checkpoint.config or {}
    named = config.get("architectures")
    return str(named[0] if isinstance(named, list) and named else config.get("model_type", "unknown"))
