"""From a budget to the size of a tile and the number of threads, by arithmetic alone."""

import mmap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from sdmw.addresses import is_remote
from sdmw.errors import Problem
from sdmw.kernels import ready
from sdmw.methods.method import AnyMethod
from sdmw.planning.plan import MOST_EARLY, Plan
from sdmw.sizes import shown
from sdmw.statistics.look import LookMemory, Measured
from sdmw.statistics.ranges import OPEN_RANGE, RANGE_BYTES
from sdmw.storage.remote_writing import memory_of as memory_of_upload
from sdmw.tensors.mapping import WINDOWS
from sdmw.tensors.read_ahead import KEPT
from sdmw.tensors.tensor import Tensor
from sdmw.writing.shard_writer import in_flight

MB = 10**6
MiB = 1 << 20
LARGEST_TILE = 1 << 21  # elements; measured: larger gains nothing
TILES = 24 * MiB  # of all inputs and the output in a worker; more only costs memory
SMALLEST_TILE = 1 << 16  # elements; measured: smaller tiles cost more calls than arithmetic
EDGES = 3 * mmap.PAGESIZE  # mapped of one input beside a tile: the rest of its first and last page, and the one behind
LOADED = 28 * MiB  # measured 17: the linker without its code, the kernels, safetensors, the report
LOADING = 116 * MiB  # at most while kernels are loaded; measured 100, with the libraries cached in large folios
COMPILING = 250 * MiB  # measured: where this process compiles kernels, and LLVM's code stays mapped
STAGING = 8 * MiB  # what the driver, its events and the allocator hold beside
DECISION = 2560  # measured: of one model in one layer, as a decision, in the report and in its JSON
AT_REST = 96 * MiB  # a worker of dask before its first task; measured 75, with the modules of a merge
STORES = 48 * MiB  # the library that reads stores, its threads and connections
APART = 64  # of one column or range that is decided by itself: eleven letters in the decision, the report and its JSON
PIECE = 1024  # of one tensor: its first piece in the journal and the report; further ones are larger than this
ROOM = 8 * MiB  # added to the budget that a message asks for: what is resident differs a little from run to run
DEFAULT_CAP = 1 << 30
TIGHT = 256 * MiB  # where half of what is free is less, more than half may be taken


@dataclass(frozen=True, slots=True)
class Demand:
    """What a plan asks of memory, whatever the tile.

    Attributes:
        reserved: bytes resident before the run, and what is loaded in any case.
        loading: bytes resident at most before the run begins.
        element: bytes that one element takes in all inputs and the output, of the widest tensor.
        output: bytes that one element takes in the output, at most.
        working: bytes that a thread takes beside its tiles and counters.
        models: how many models are measured; 0 where nothing is.
        components: the most components in a layer.
        looks: what one model takes of memory in looks.
        beside: elements that a tile may have beside its own, so that its rows are whole.
    """

    reserved: int
    loading: int
    element: int
    output: int
    working: int
    models: int
    components: int
    looks: LookMemory
    beside: int = 0


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits: threads, elements in a tile, and the bound that follows."""

    threads: int
    tile: int
    peak: int


def projected_peak(demand: Demand, tile: int, threads: int) -> int:
    """Bound on the resident memory of the process, in bytes.

    Before the run the kernels are loaded. Then each thread maps a tile of every input, holds one of output, and counts
    into its own arrays. Some tiles of output are on their way to the disk, and of each thread's piece one may wait for
    its turn in the checksum. The driver holds the statistics of one
    layer, a copy of one of its components while a piece's are added, and those of the pieces under way, twice as many
    as threads.
    """
    looks = demand.looks
    tile += demand.beside
    worker = tile * demand.element + demand.working + demand.models * looks.counter
    statistics = demand.models * (looks.kept * (demand.components + 1) + looks.result * 2 * threads)
    written = (in_flight(threads) + threads * MOST_EARLY) * tile * demand.output
    running = demand.reserved + threads * worker + written + statistics + STAGING
    return max(demand.loading, running)


def driver_peak(demand: Demand, threads: int) -> int:
    """Bound on the resident memory of a process that drives so many threads of other processes, in bytes."""
    looks = demand.looks
    statistics = demand.models * (looks.kept * (demand.components + 1) + looks.result * 2 * threads)
    return max(demand.loading, demand.reserved + statistics + STAGING)


def demand_of(plan: Plan, method: AnyMethod, resident: int) -> Demand:
    """What a plan asks of memory, in a process that occupies `resident` bytes."""
    kernels = kernels_to_load(kernels_of(plan, method))
    components = max((len({plan.tensors[i].component for i in layer.tensors}) for layer in plan.layers), default=0)
    by_column = [
        (t.columns, size) for t in plan.tensors if t.action == "merge" and (size := method.column_bytes(t.params))
    ]
    ranges = [method.ranges(t.params) for t in plan.tensors if t.action == "merge"]
    tensors, measured = plan.tensors, any(layer.measured for layer in plan.layers)
    return Demand(
        reserved=resident
        + kernels.stay
        + DECISION * len(plan.layers) * len(plan.models)
        + PIECE * len(tensors)
        + (STORES if any(is_remote(each.path) for each in plan.checkpoints) or is_remote(plan.target or "") else 0)
        + (memory_of_upload(max((each.size for each in plan.shards), default=0)) if is_remote(plan.target or "") else 0)
        + APART * (sum(columns for columns, _ in by_column) + sum(ranges))
        + OPEN_RANGE * max(ranges, default=0),
        loading=resident + kernels.most,
        element=max((sum(i.cost.held for i in t.inputs) + t.output.dtype.itemsize for t in tensors), default=0),
        output=max((tensor.output.dtype.itemsize for tensor in tensors), default=0),
        working=max((working_bytes(tensor.inputs) for tensor in tensors), default=0)
        + EDGES * max((len(tensor.inputs) for tensor in tensors), default=0)
        + WINDOWS
        + max((t.row * (method.row_bytes(t.params) or 0) for t in tensors if t.whole_rows), default=0)
        + max((columns * size for columns, size in by_column), default=0)
        + RANGE_BYTES * max(ranges, default=0),
        models=len(plan.models) if measured else 0,
        components=components,
        looks=memory_of(method),
        beside=max((tensor.beside for tensor in tensors), default=0),
    )


def working_bytes(inputs: Sequence[Tensor]) -> int:
    """What tiles of a tensor's inputs take beside them: they are made one after the other, what is kept is of all."""
    each = [tensor.cost for tensor in inputs]
    return max((cost.working for cost in each), default=0) + sum(cost.kept for cost in each)


def memory_of(method: AnyMethod) -> LookMemory:
    """What all looks of a method take for one model: a worker takes one at a time, a layer keeps the results of all."""
    each = [look.memory for look in method.looks]
    return LookMemory(
        counter=max((look.counter for look in each), default=0),
        result=max((look.result for look in each), default=0),
        kept=sum(look.kept for look in each),
    )


def is_measured(method: AnyMethod, params: object) -> bool:
    """Whether a method looks at the data of a layer before it decides it."""
    return method.needs(params, Measured()) is not None


def default_budget(resident: int, available: int) -> int:
    """What is resident, and of what is free half, at most 1 GiB: neighbours and page cache need room too.

    Where little is free, seven eighths up to 256 MiB: a small control group should not be refused what fits.
    """
    return resident + min(DEFAULT_CAP, max(available // 2, min(available * 7 // 8, TIGHT)))


@dataclass(frozen=True, slots=True)
class Kernels:
    """What kernels add to the process, in bytes: at most while they are loaded, and what stays."""

    most: int
    stay: int


def kernels_of(plan: Plan, method: AnyMethod) -> tuple[str, ...]:
    """The groups of kernels that a merge needs, beside those that every run does."""
    return method.kernels(dict.fromkeys(tensor.params for tensor in plan.tensors if tensor.params is not None))


def kernels_to_load(groups: Collection[str] = ()) -> Kernels:
    """What the compiler and the kernels will add to the process: nothing where they are loaded already."""
    match ready.state(groups):
        case "loaded":
            return Kernels(0, 0)
        case "here":
            return Kernels(COMPILING, COMPILING)
        case _:
            return Kernels(LOADING, LOADED)


def of_a_worker(demand: Demand, kernels: Kernels, resident: int) -> Demand:
    """What a process that works for a driver asks of memory.

    Args:
        demand: of the driver, if it did the work itself.
        kernels: what they add to the driver.
        resident: bytes that the driver occupies.
    """
    compiles = kernels.most == COMPILING
    own = Kernels(COMPILING, COMPILING) if compiles else Kernels(LOADING, LOADED)
    reserved = demand.reserved - resident - kernels.stay + AT_REST + own.stay
    return replace(demand, reserved=reserved, loading=AT_REST + own.most)


def least_peak(demand: Demand) -> int:
    """The bound with the smallest tile in one thread."""
    return projected_peak(demand, SMALLEST_TILE, 1)


def fit(demand: Demand, budget: int, threads: int) -> Fit | Problem:
    """The largest tile that keeps within the budget; fewer threads only where the smallest tile does not."""
    for count in range(threads, 0, -1):
        if isinstance(found := fit_tile(demand, budget, count), Fit):
            return found
    return refusal(least_peak(demand), budget)


def fit_tile(demand: Demand, budget: int, threads: int) -> Fit | Problem:
    """The largest tile with which so many threads keep within the budget."""
    tile = LARGEST_TILE
    while tile > SMALLEST_TILE and tile * demand.element > TILES:
        tile //= 2
    while tile >= SMALLEST_TILE:
        peak = projected_peak(demand, tile, threads)
        if peak <= budget:
            return Fit(threads, tile, peak)
        tile //= 2
    return refusal(projected_peak(demand, SMALLEST_TILE, threads), budget)


@dataclass(frozen=True, slots=True)
class Tasks:
    """What a run of tasks that are cut beforehand asks of memory.

    Attributes:
        loading: bytes resident while the kernels are loaded, before the run.
        reserved: bytes resident before the first task, and what the run takes in any case.
        waiting: bytes more for each thread: results that wait for their turn, say.
        each: bytes that a task takes while it runs, of each.
    """

    loading: int
    reserved: int
    waiting: int
    each: Sequence[int]

    def peak(self, threads: int) -> int:
        """Bound on the resident memory of the process, in bytes: the largest tasks may come together."""
        largest = sum(sorted(self.each, reverse=True)[:threads])
        return max(self.loading, self.reserved + threads * self.waiting + largest + STAGING)


def with_stores(tasks: Tasks, paths: Iterable[str]) -> Tasks:
    """The same tasks, where models are read that lie under these paths or addresses."""
    remote = len({path for path in paths if is_remote(path)})
    if not remote:
        return tasks
    return replace(tasks, reserved=tasks.reserved + STORES, waiting=tasks.waiting + remote * KEPT)


@dataclass(frozen=True, slots=True)
class Workers:
    """How many threads fit, and the bound that follows."""

    threads: int
    peak: int


def fit_threads(tasks: Tasks, budget: int, threads: int) -> Workers | Problem:
    """As many threads as keep within the budget."""
    for count in range(threads, 0, -1):
        if (peak := tasks.peak(count)) <= budget:
            return Workers(count, peak)
    return refusal(tasks.peak(1), budget)


def refusal(least: int, budget: int) -> Problem:
    """What to say where a run needs more than the budget."""
    mend = f"Set the budget to {-(-(least + ROOM) // MB)}MB or more"
    return Problem("budget", f"at least {shown(least)} of memory", shown(budget), mend)
