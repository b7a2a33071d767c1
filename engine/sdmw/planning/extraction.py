"""Which weights of a fine-tune can be said by an adapter, and which cannot; from headers alone."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sdmw.checkpoints.alike import once
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.heads import tied_by_config
from sdmw.checkpoints.tied_names import tied_names
from sdmw.errors import Problem, quoted, shorten
from sdmw.planning import budget, memory
from sdmw.planning.budget import MiB, Tasks, Workers, with_stores
from sdmw.planning.limits import Limits
from sdmw.planning.misnamed import unmerged_adapter
from sdmw.planning.plan import SMALLEST
from sdmw.storage.files import is_same
from sdmw.tensors.dtype import DType
from sdmw.tensors.low_rank import matrix_names
from sdmw.tensors.tensor import Tensor
from sdmw.views.aliases import named_as, with_aliases
from sdmw.views.experts import reformed
from sdmw.views.experts import told as experts_told
from sdmw.views.in_memory import is_rebuilt
from sdmw.views.peft_modules import Module, Modules
from sdmw.views.renamed import renaming, told, under
from sdmw.views.tied_adapter import tie_of
from sdmw.writing import licences
from sdmw.writing.layout import ADAPTER, ShardLayout, lay_out
from sdmw.writing.shard_writer import in_flight
from sdmw.writing.target import check_target, replaced

OVERSAMPLED = 8  # columns beyond the rank while the range is looked for
ROWS = 1 << 20  # elements of a block of rows
ALGEBRA = 24 * MiB  # measured: NumPy's linear algebra and random numbers, with all that they load
BLAS = 4 * MiB  # measured: what each thread of the linear algebra library takes for copies of blocks
TILE = 1 << 18  # elements of two tensors that are compared at once
COMPARED = 42  # bytes of an element while they are, in float64: both, which differ, those of each, and their difference
NUMBER = 512  # bytes of one tensor, in the journal and the report
_POSITIONS = "embed_positions"  # an embedding of transformers that is not called with rows: peft's forward raises on it
_LIBRARIES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")  # read when the library is loaded


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
        notes: what a user of the adapter should know.
        follows: the head is the embedding, and only a merged adapter changes both: see the note.
        shards: the adapter's one file.
        threads: that compute.
        peak_bytes: bound on the resident memory of the process.
        problems: why it cannot run; empty where it can.
        warnings: on licences, and on what is overwritten.
    """

    base: Checkpoint
    model: Checkpoint
    rank: int
    weights: tuple[Weight, ...]
    rest: tuple[Rest, ...]
    notes: tuple[str, ...]
    follows: bool
    shards: tuple[ShardLayout, ...]
    threads: int
    peak_bytes: int
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()


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
    base = with_aliases(base)
    model = with_aliases(model)
    formed = reformed(base, model)
    names = renaming(base, formed.model).names
    told_names = tuple(
        f"the fine-tune: {note}"
        for note in (experts_told(formed.changes), told(formed.model, names) if names else "")
        if note
    )
    model = named_as(base, under(formed.model, names))
    problems = [
        Problem(checkpoint.path, "a model", "an adapter", "Give the model that it was merged into")
        for checkpoint in (base, model)
        if checkpoint.adapts is not None
    ]
    if not problems and is_same(base.path, model.path):
        problems.append(Problem(model.path, "a fine-tune", "the base itself", "Give two different models"))
    problems = problems or _misnamed(base, model) or shorten(_wrong(base, model))
    weights, rest = _sorted(base, model)
    shards: tuple[ShardLayout, ...] = ()
    if not weights:
        problems.append(Problem(base.path, "weights of modules that peft supports", "none"))
    elif not problems:
        shards = _laid_out(weights, rank)
        folders = [base.path, model.path, *(os.path.realpath(s.path) for c in (base, model) for s in c.shards)]
        problems += check_target(target, folders, size := sum(shard.size for shard in shards), overwrite)
    fitted = Workers(1, 0)
    if not problems:
        resident = memory.resident()
        if not apart and algebra_is_threaded():  # one thread already keeps all cores busy
            limits = replace(limits, threads=limits.threads or 1)
        tasks = with_stores(extraction_tasks(weights, rest, rank, resident), (base.path, model.path))
        found = limits.fit(tasks, resident)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            fitted = found
            problems += memory.check_output(target, size, found.peak - resident)
    follows = _follows(base, weights)
    return ExtractionPlan(
        base=base,
        model=model,
        rank=rank,
        weights=weights,
        rest=rest,
        notes=(*told_names, *follows),
        follows=bool(follows),
        shards=shards,
        threads=fitted.threads,
        peak_bytes=fitted.peak,
        problems=tuple(problems),
        warnings=(*_licences(base, model), *(replaced(target, ()) if overwrite else ())),
    )


def _licences(base: Checkpoint, model: Checkpoint) -> Iterator[str]:
    """A warning where the two have different ones."""
    folders = {each.path: (each.path, each.follow_links) for each in (base, model)}
    if (said := licences.warning(licences.read_licences(folders), ())) is not None:
        yield said


def algebra_is_threaded() -> bool:
    """Whether NumPy's linear algebra library has threads of its own, as far as the environment says."""
    return not any(os.environ.get(name) == "1" for name in _LIBRARIES)


def extraction_tasks(weights: Sequence[Weight], rest: Sequence[Rest], rank: int, resident: int) -> Tasks:
    """What extracting asks of memory: weights under way, or tensors compared, and matrices on their way to the file."""
    matrices = max((4 * rank * sum(weight.shape) for weight in weights), default=0)
    blas = BLAS * len(os.sched_getaffinity(0))
    working = [working_bytes(each.shape, rank, max(each.base.cost.held, each.model.cost.held)) for each in weights]
    compared = [_compared_bytes(each) for each in rest]
    kernels = budget.kernels_to_load()
    return Tasks(
        loading=resident + kernels.most,
        reserved=resident
        + kernels.stay
        + ALGEBRA
        + blas
        + NUMBER * (len(weights) + len(rest))
        + in_flight(1) * matrices,
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


def _compared_bytes(rest: Rest) -> int:
    """Bytes that a thread takes for the norm of a change (`running.left_out`)."""
    held = rest.model.cost.held + (rest.base.cost.held if rest.base else 0)
    return min(TILE + SMALLEST, rest.model.elements) * (held + COMPARED)


def _sorted(base: Checkpoint, model: Checkpoint) -> tuple[tuple[Weight, ...], tuple[Rest, ...]]:
    """The weights that peft has matrices for, and the other tensors of the fine-tune."""
    modules, tied = Modules(base), _tied(base)
    weights, rest = [], []
    for name, above in model.tensors.items():
        below = base.tensors.get(name)
        if (source := tied.get(name, "")) in model.tensors:
            # Once merged it follows the embedding, so that what it differs by is lost.
            rest.append(Rest(model.tensors[source], above, "heads that the base ties to its embedding"))
        elif below is None:
            rest.append(Rest(None, above, "tensors that the base lacks"))
        elif isinstance(module := _module(modules, below, above), Module):
            transposed = module.kind != "linear"
            weights.append(Weight(module.name, below, above, transposed, embedding=module.kind == "embedding"))
        else:
            rest.append(Rest(below, above, module))
    order = {name: number for number, name in enumerate(base.tensors)}
    return tuple(sorted(weights, key=lambda weight: order[weight.base.name])), tuple(rest)


def _tied(base: Checkpoint) -> dict[str, str]:
    """By the name of what the base ties, that of the tensor which stands for it; of what it stores the head alone."""
    if tied_by_config(base.config) is False:
        return {}
    known = tied_names(base.config, base.tensors).sources
    tie = tie_of(base)
    head = {tie.head: tie.embedding} if tie else {}
    return {name: source for name, source in known.items() if name not in base.tensors} | head


def _module(modules: Modules, below: Tensor, above: Tensor) -> Module | str:
    if below.name.split(".")[-2:-1] == [_POSITIONS]:
        return "tables of positions, which do not work with an adapter"
    return modules.of(below) if above.dtype.merges else "tensors of other dtypes"


def _follows(base: Checkpoint, weights: Sequence[Weight]) -> tuple[str, ...]:
    tie = tie_of(base)
    if tie is None or all(weight.base.name != tie.embedding for weight in weights):
        return ()
    return (
        f"{quoted(tie.embedding)} is also the output head: peft changes the head only when the adapter is merged "
        "(merge_and_unload)",
    )


def _wrong(base: Checkpoint, model: Checkpoint) -> Iterator[Problem]:
    if is_rebuilt(base.config):
        model_type = quoted((base.config or {}).get("model_type"))
        found = f"model_type {model_type}, for which transformers and the checkpoint name modules differently"
        mend = "Keep what the fine-tune changed with `sdmw pack`"
        yield Problem(base.path, "a model whose tensors are named after its modules", found, mend)
    yield from once(_unlike(base, model))


def _unlike(base: Checkpoint, model: Checkpoint) -> Iterator[tuple[str, Problem]]:
    """What is wrong with a tensor, with its name."""
    for name, info in base.tensors.items():
        above = model.tensors.get(name)
        where = f"{model.path}: tensor {quoted(name)}"
        if above is None:
            mend = "Give a fine-tune of this base"
            yield name, Problem(where, f"this tensor, as in {base.path}", "none", mend)
        elif above.shape != info.shape:
            mend = "Give a fine-tune of this base, with its vocabulary"
            yield name, Problem(where, f"shape {list(info.shape)} as in {base.path}", f"{list(above.shape)}", mend)


def _misnamed(base: Checkpoint, model: Checkpoint) -> list[Problem]:
    return unmerged_adapter(base.path, base, base) or unmerged_adapter(model.path, base, model)


def _laid_out(weights: tuple[Weight, ...], rank: int) -> tuple[ShardLayout, ...]:
    wanted = []
    for weight in weights:
        rows, columns = weight.shape
        a, b = weight.names
        wanted += [(a, DType.F32, (rank, columns)), (b, DType.F32, (rows, rank))]
    return lay_out(wanted, sum(r * c * 4 for _, _, (r, c) in wanted), ADAPTER)
