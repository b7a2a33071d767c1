"""Which weights of a fine-tune can be said by an adapter, and which cannot; from headers alone."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, quoted, shorten
from sdmw.tensors.dtype import DType
from sdmw.tensors.low_rank import matrix_names
from sdmw.tensors.tensor import Tensor
from sdmw.views.in_memory import is_rebuilt
from sdmw.views.peft_modules import Module, Modules
from sdmw.views.tied_adapter import tie_of
from sdmw.writing.layout import ADAPTER, ShardLayout, lay_out
from sdmw.writing.target import check_target


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight whose delta is extracted.

    Attributes:
        module: its name in memory, less `.weight`.
        base, model: the tensor in each.
        transposed: it lies as (in, out).
        embedding: its module looks rows up.
    """

    module: str
    base: Tensor
    model: Tensor
    transposed: bool
    embedding: bool

    @property
    def names(self) -> tuple[str, str]:
        """What peft calls its A and its B."""
        return matrix_names(self.module, embedding=self.embedding)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        rows, columns = self.base.shape
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True, slots=True)
class Rest:
    """A tensor that the adapter does not have.

    Attributes:
        base: what it would be with the adapter: the base's tensor; None where the base lacks it.
        model: in the fine-tune.
        why: what such tensors are, in the plural.
    """

    base: Tensor | None
    model: Tensor
    why: str


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What is extracted, and what is not because peft has no matrices for it.

    Attributes:
        base, model: both checkpoints.
        rank: of all matrices.
        weights: in the base's order.
        rest: the other tensors of the fine-tune.
        notes: what whoever loads the adapter should know.
        shards: the adapter's one file.
        problems: why it cannot run; empty where it can.
    """

    base: Checkpoint
    model: Checkpoint
    rank: int
    weights: tuple[Weight, ...]
    rest: tuple[Rest, ...]
    notes: tuple[str, ...]
    shards: tuple[ShardLayout, ...]
    problems: tuple[Problem, ...]


def plan_extraction(base: Checkpoint, model: Checkpoint, rank: int, target: str, *, overwrite: bool) -> ExtractionPlan:
    """What there is to do, with every problem that headers and disk can tell."""
    problems = [
        Problem(checkpoint.path, "a model", "an adapter", "Give the model that it was merged into")
        for checkpoint in (base, model)
        if checkpoint.adapts is not None
    ]
    problems = problems or shorten(_wrong(base, model))
    weights, rest = _sorted(base, model)
    shards: tuple[ShardLayout, ...] = ()
    if not weights:
        problems.append(Problem(base.path, "weights of modules that peft takes", "none"))
    elif not problems:
        shards = _laid_out(weights, rank)
        folders = [base.path, model.path, *(os.path.realpath(s.path) for c in (base, model) for s in c.shards)]
        problems += check_target(target, folders, sum(shard.size for shard in shards), overwrite)
    return ExtractionPlan(base, model, rank, weights, rest, _notes(base, weights), shards, tuple(problems))


def _sorted(base: Checkpoint, model: Checkpoint) -> tuple[tuple[Weight, ...], tuple[Rest, ...]]:
    """The weights that peft has matrices for, and the other tensors of the fine-tune."""
    modules, tie = Modules(base), tie_of(base)
    weights, rest = [], []
    for name, above in model.tensors.items():
        below = base.tensors.get(name)
        if tie and name == tie.head and tie.embedding in model.tensors:
            # Once merged it follows the embedding, so that what it differs by is lost.
            rest.append(Rest(model.tensors[tie.embedding], above, "heads that the base ties to its embedding"))
        elif below is None:
            rest.append(Rest(None, above, "tensors that the base lacks"))
        elif isinstance(module := _module(modules, below, above), Module):
            transposed = module.kind != "linear"
            weights.append(Weight(module.name, below, above, transposed, embedding=module.kind == "embedding"))
        else:
            rest.append(Rest(below, above, module))
    order = {name: number for number, name in enumerate(base.tensors)}
    return tuple(sorted(weights, key=lambda weight: order[weight.base.name])), tuple(rest)


def _module(modules: Modules, below: Tensor, above: Tensor) -> Module | str:
    return modules.of(below) if above.dtype.merges else "tensors of other dtypes"


def _notes(base: Checkpoint, weights: Sequence[Weight]) -> tuple[str, ...]:
    tie = tie_of(base)
    if tie is None or all(weight.base.name != tie.embedding for weight in weights):
        return ()
    return (
        f"{quoted(tie.embedding)} is the output head too: peft changes the head with it where the adapter is merged "
        "(merge_and_unload), and not before",
    )


def _wrong(base: Checkpoint, model: Checkpoint) -> Iterator[Problem]:
    if is_rebuilt(base.config):
        model_type = quoted((base.config or {}).get("model_type"))
        found = f"model_type {model_type}, whose modules transformers calls otherwise than the checkpoint does"
        mend = "Keep what the fine-tune changed with `sdmw pack`"
        yield Problem(base.path, "a model whose modules are known by the names of its tensors", found, mend)
    for name, info in base.tensors.items():
        above = model.tensors.get(name)
        where = f"{model.path}: tensor {quoted(name)}"
        if above is None:
            yield Problem(where, f"a tensor of each name in {base.path}", "none", "Give a fine-tune of this base")
        elif above.shape != info.shape:
            mend = "Give a fine-tune of this base, with its vocabulary"
            yield Problem(where, f"shape {list(info.shape)} as in {base.path}", f"{list(above.shape)}", mend)


def _laid_out(weights: tuple[Weight, ...], rank: int) -> tuple[ShardLayout, ...]:
    wanted = []
    for weight in weights:
        rows, columns = weight.shape
        a, b = weight.names
        wanted += [(a, DType.F32, (rank, columns)), (b, DType.F32, (rows, rank))]
    return lay_out(wanted, sum(r * c * 4 for _, _, (r, c) in wanted), ADAPTER)
