"""Which weights of a fine-tune can be said by an adapter, and which cannot; from headers alone."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, quoted
from sdmw.planning import budget, memory
from sdmw.planning.budget import MiB, Tasks, Workers
from sdmw.planning.check import MOST_SAID
from sdmw.planning.limits import Limits
from sdmw.planning.plan import SMALLEST
from sdmw.tensors.dtype import DType
from sdmw.tensors.low_rank import matrix_names
from sdmw.tensors.tensor import Tensor
from sdmw.views.conv1d import is_conv1d
from sdmw.views.tied import EMBEDDINGS
from sdmw.writing.layout import ADAPTER, ShardLayout, lay_out
from sdmw.writing.shard_writer import IN_FLIGHT
from sdmw.writing.target import check_target

OVERSAMPLED = 8  # columns beyond the rank while the range is looked for
ROWS = 1 << 20  # elements of a block of rows
ALGEBRA = 24 * MiB  # measured: NumPy's linear algebra and random numbers, with all that they load
BLAS = 4 * MiB  # measured: what each thread of the linear algebra library takes for copies of blocks
COMPARED = 13  # bytes of an element while two tensors are compared, in float32
NUMBER = 512  # bytes of one weight, in the journal and the report
_LIBRARIES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")  # read when the library is loaded
_MORE_EMBEDDINGS = ("wpe", "shared", "relative_attention_bias")
_NO_EMBEDDINGS = ("embed_out", "embedding_hidden_mapping_in")  # linear, for all their names


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
class ExtractionPlan:
    """What is extracted, and what is not because it is no matrix.

    Attributes:
        base, model: both checkpoints.
        rank: of all matrices.
        weights: in the base's order.
        rest: the other tensors of both.
        added: names of tensors that the base lacks.
        shards: the adapter's one file.
        threads: that compute.
        peak_bytes: bound on the resident memory of the process.
        problems: why it cannot run; empty where it can.
    """

    base: Checkpoint
    model: Checkpoint
    rank: int
    weights: tuple[Weight, ...]
    rest: tuple[tuple[Tensor, Tensor], ...]
    added: tuple[str, ...]
    shards: tuple[ShardLayout, ...]
    threads: int
    peak_bytes: int
    problems: tuple[Problem, ...]


def plan_extraction(
    base: Checkpoint, model: Checkpoint, rank: int, target: str, limits: Limits, *, overwrite: bool, apart: bool = False
) -> ExtractionPlan:
    """What there is to do, with every problem that headers, disk and memory can tell.

    Args:
        base: what the fine-tune was made from.
        model: the fine-tune.
        rank: of all matrices.
        target: the directory to appear.
        limits: memory and threads.
        overwrite: a directory there may be replaced.
        apart: workers are not threads of this process.
    """
    problems = [
        Problem(checkpoint.path, "a model", "an adapter", "Give the model that it was merged into")
        for checkpoint in (base, model)
        if checkpoint.adapts is not None
    ]
    problems = problems or [*islice(_wrong(base, model), MOST_SAID)]
    pairs = [(info, model.tensors[name]) for name, info in base.tensors.items() if name in model.tensors]
    weights = tuple(_weight(*pair, base) for pair in pairs if _is_matrix(*pair))
    rest = tuple(pair for pair in pairs if not _is_matrix(*pair))
    added = tuple(name for name in model.tensors if name not in base.tensors)
    shards: tuple[ShardLayout, ...] = ()
    if not weights:
        problems.append(Problem(base.path, "weights of two axes", "none"))
    elif not problems:
        shards = _laid_out(weights, rank)
        folders = [base.path, model.path, *(os.path.realpath(s.path) for c in (base, model) for s in c.shards)]
        problems += check_target(target, folders, size := sum(shard.size for shard in shards), overwrite)
    fitted = Workers(1, 0)
    if not problems:
        resident = memory.resident()
        if not apart and algebra_is_threaded():  # one thread already keeps all cores busy
            limits = replace(limits, threads=limits.threads or 1)
        found = limits.fit(extraction_tasks(weights, rest, rank, resident), resident)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            fitted = found
            problems += memory.check_output(target, size, found.peak - resident)
    return ExtractionPlan(base, model, rank, weights, rest, added, shards, fitted.threads, fitted.peak, tuple(problems))


def algebra_is_threaded() -> bool:
    """Whether NumPy's linear algebra library has threads of its own, as far as the environment says."""
    return not any(os.environ.get(name) == "1" for name in _LIBRARIES)


def extraction_tasks(
    weights: Sequence[Weight], rest: Sequence[tuple[Tensor, Tensor]], rank: int, resident: int
) -> Tasks:
    """What extracting asks of memory: weights under way, or tensors compared, and matrices on their way to the file."""
    matrices = max((4 * rank * sum(weight.shape) for weight in weights), default=0)
    blas = BLAS * len(os.sched_getaffinity(0))
    working = [working_bytes(each.shape, rank, max(each.base.cost.held, each.model.cost.held)) for each in weights]
    compared = [
        min(ROWS + SMALLEST, base.elements) * (base.cost.held + model.cost.held + COMPARED) for base, model in rest
    ]
    return Tasks(
        reserved=resident + budget.kernels_to_load() + ALGEBRA + blas + NUMBER * len(weights) + IN_FLIGHT * matrices,
        waiting=matrices,
        each=[*working, *compared],
    )


def working_bytes(shape: tuple[int, int], rank: int, itemsize: int) -> int:
    """Bytes that a thread takes for one weight (`running.decomposition`).

    Its blocks: two tiles of the models, in float32 and once more while they are widened, in float64 and once more
    while the error is measured. Beside them the most of: a QR of the taller matrix (the matrix, a copy of it, the
    basis, and two copies within LAPACK); a decomposition of as much and of some small squares; the result, and the
    result in float64.

    Args:
        shape: of the delta.
        rank: of the matrices.
        itemsize: bytes of an element of the models.
    """
    block = max(ROWS, max(shape)) + SMALLEST
    width, longer, together = min(rank + OVERSAMPLED, *shape), max(shape), sum(shape)
    factors = 8 * (5 * width * longer + 8 * width**2) + 4 * rank * together
    return block * (2 * itemsize + 12 + 16) + max(factors, 12 * rank * together)


def _wrong(base: Checkpoint, model: Checkpoint) -> Iterator[Problem]:
    for name, info in base.tensors.items():
        found = model.tensors.get(name)
        where = f"{model.path}: tensor {quoted(name)}"
        if found is None:
            yield Problem(where, f"a tensor of each name in {base.path}", "none", "Give a fine-tune of this base")
        elif found.shape != info.shape:
            mend = "Give a fine-tune of this base, with its vocabulary"
            yield Problem(where, f"shape {list(info.shape)} as in {base.path}", f"{list(found.shape)}", mend)


def _is_matrix(base: Tensor, model: Tensor) -> bool:
    shaped = len(base.shape) == 2 and base.elements > 0 and base.name.endswith(".weight")
    return shaped and base.dtype.merges and model.dtype.merges


def _weight(base: Tensor, model: Tensor, checkpoint: Checkpoint) -> Weight:
    module = base.name.removesuffix(".weight")
    last = module.split(".")[-1]
    embedding = last in _MORE_EMBEDDINGS or (any(part in last for part in EMBEDDINGS) and last not in _NO_EMBEDDINGS)
    # GPT-2's on the Hub are stored without the prefix that the model has in memory, where peft looks.
    unprefixed = (checkpoint.config or {}).get("model_type") == "gpt2" and module.startswith(("h.", "wte", "wpe"))
    in_memory = f"transformer.{module}" if unprefixed else module
    return Weight(in_memory, base, model, embedding or is_conv1d(checkpoint, module), embedding)


def _laid_out(weights: tuple[Weight, ...], rank: int) -> tuple[ShardLayout, ...]:
    wanted = []
    for weight in weights:
        rows, columns = weight.shape
        a, b = weight.names
        wanted += [(a, DType.F32, (rank, columns)), (b, DType.F32, (rows, rank))]
    return lay_out(wanted, sum(r * c * 4 for _, _, (r, c) in wanted), ADAPTER)
