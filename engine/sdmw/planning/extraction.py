"""Which weights of a fine-tune can be said by an adapter, and which cannot; from headers alone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.layout import ADAPTER, ShardLayout, lay_out
from sdmw.checkpoints.low_rank import PREFIX
from sdmw.checkpoints.target import check_target
from sdmw.checkpoints.tensor import DType, TensorInfo
from sdmw.errors import Problem, quoted
from sdmw.planning.check import EMBEDDINGS, MOST_SAID

# Modules whose weight lies as (in, out), of the models that have any (transformers' Conv1D).
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight whose delta is extracted.

    Attributes:
        module: its name less `.weight`.
        base, model: the tensor in each.
        transposed: it lies as (in, out).
        embedding: its module looks rows up.
    """

    module: str
    base: TensorInfo
    model: TensorInfo
    transposed: bool
    embedding: bool

    @property
    def names(self) -> tuple[str, str]:
        """What peft calls its A and its B."""
        kind = "lora_embedding_{}" if self.embedding else "lora_{}.weight"
        return f"{PREFIX}{self.module}.{kind.format('A')}", f"{PREFIX}{self.module}.{kind.format('B')}"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        rows, columns = self.base.shape
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What is extracted, and what is not because it is no matrix.

    Attributes:
        base, model: both checkpoints.
        rank: of all matrices.
        weights: in the base's order.
        rest: the other tensors that merge, in both.
        shards: the adapter's one file.
        problems: why it cannot run; empty where it can.
    """

    base: Checkpoint
    model: Checkpoint
    rank: int
    weights: tuple[Weight, ...]
    rest: tuple[tuple[TensorInfo, TensorInfo], ...]
    shards: tuple[ShardLayout, ...]
    problems: tuple[Problem, ...]


def plan_extraction(base: Checkpoint, model: Checkpoint, rank: int, target: str, *, overwrite: bool) -> ExtractionPlan:
    """What there is to do, with every problem that headers and disk can tell."""
    problems = [
        Problem(checkpoint.path, "a model", "an adapter", "Give the model that it was merged into")
        for checkpoint in (base, model)
        if checkpoint.adapts is not None
    ]
    problems = problems or [*islice(_wrong(base, model), MOST_SAID)]
    pairs = [(info, model.tensors[name]) for name, info in base.tensors.items() if name in model.tensors]
    pairs = [pair for pair in pairs if pair[0].dtype.merges and pair[1].dtype.merges]
    conv1d = (base.config or {}).get("model_type") in _CONV1D_MODELS
    weights = tuple(_weight(*pair, conv1d=conv1d) for pair in pairs if _is_matrix(pair[0]))
    rest = tuple(pair for pair in pairs if not _is_matrix(pair[0]))
    shards: tuple[ShardLayout, ...] = ()
    if not weights:
        problems.append(Problem(base.path, "weights of two axes", "none"))
    elif not problems:
        shards = _laid_out(weights, rank)
        folders = [base.path, model.path, *(os.path.realpath(s.path) for c in (base, model) for s in c.shards)]
        problems += check_target(target, folders, sum(shard.size for shard in shards), overwrite)
    return ExtractionPlan(base, model, rank, weights, rest, shards, tuple(problems))


def _wrong(base: Checkpoint, model: Checkpoint) -> Iterator[Problem]:
    for name, info in base.tensors.items():
        found = model.tensors.get(name)
        where = f"{model.path}: tensor {quoted(name)}"
        if found is None:
            yield Problem(where, f"a tensor of each name in {base.path}", "none", "Give a fine-tune of this base")
        elif found.shape != info.shape:
            mend = "Give a fine-tune of this base, with its vocabulary"
            yield Problem(where, f"shape {list(info.shape)} as in {base.path}", f"{list(found.shape)}", mend)


def _is_matrix(info: TensorInfo) -> bool:
    return len(info.shape) == 2 and info.elements > 0 and info.name.endswith(".weight")


def _weight(base: TensorInfo, model: TensorInfo, *, conv1d: bool) -> Weight:
    module = base.name.removesuffix(".weight")
    last = module.split(".")[-1]
    embedding = any(part in last for part in (*EMBEDDINGS, "wpe"))
    return Weight(module, base, model, embedding or (conv1d and last in _CONV1D), embedding)


def _laid_out(weights: tuple[Weight, ...], rank: int) -> tuple[ShardLayout, ...]:
    wanted = []
    for weight in weights:
        rows, columns = weight.shape
        a, b = weight.names
        wanted += [(a, DType.F32, (rank, columns)), (b, DType.F32, (rows, rank))]
    return lay_out(wanted, sum(r * c * 4 for _, _, (r, c) in wanted), ADAPTER)
