"""From a budget to the size of a tile and the number of threads, by arithmetic alone."""

import mmap
import sys
from dataclasses import dataclass

from sdmw.errors import Problem
from sdmw.sizes import shown
from sdmw.writing.output import IN_FLIGHT

MiB = 1 << 20
LARGEST_TILE = 1 << 21  # elements; measured: larger gains nothing
TILES = 24 * MiB  # of all inputs and the output in a worker; more only costs memory
SMALLEST_TILE = 1 << 16  # elements; measured: smaller tiles cost more calls than arithmetic
EDGES = 3 * mmap.PAGESIZE  # mapped of one input beside a tile: the rest of its first and last page, and the one behind
KERNELS = 130 * MiB  # measured: the compiler, the kernels loaded from their cache, safetensors, report
COUNTERS = 3 * MiB // 2  # a model's counters in a worker: histogram 0.8 and list 0.5; or low bits 1
STATISTIC = 3 * MiB  # at most, of one model and component: 32,640 bins of 18 bytes, list 1, low halves 1.3
RESULT = 5 * MiB // 4  # at most, of one model in a piece's result: histogram 0.6 and list 0.5; or low halves 1.3
STAGING = 8 * MiB  # what the driver, its events and the allocator hold beside
DECISION = 2560  # measured: of one model in one layer, as a decision, in the report and in its JSON
PIECE = 1024  # of one tensor: its first piece in the journal and the report; further ones are larger than this
ROOM = 8 * MiB  # added to the budget that a message asks for: what is resident differs a little from run to run
DEFAULT_CAP = 1 << 30
TIGHT = 256 * MiB  # where half of what is free is less, more than half may be taken


@dataclass(frozen=True, slots=True)
class Demand:
    """What a plan asks of memory, whatever the tile.

    Attributes:
        reserved: bytes resident before the run, and what is loaded in any case.
        element: bytes that one element takes in all inputs and the output, of the widest tensor.
        output: bytes that one element takes in the output, at most.
        working: bytes that a thread takes beside its tiles and counters.
        models: how many models are measured; 0 where nothing is.
        components: the most components in a layer.
    """

    reserved: int
    element: int
    output: int
    working: int
    models: int
    components: int


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits: threads, elements in a tile, and the bound that follows."""

    threads: int
    tile: int
    peak: int


def projected_peak(demand: Demand, tile: int, threads: int) -> int:
    """Bound on the resident memory of the process, in bytes.

    Each thread maps a tile of every input, holds one of output, and counts into its own arrays. Some tiles of output
    are on their way to the disk. The driver holds the statistics of one layer and of the pieces under way, twice as
    many as threads.
    """
    worker = tile * demand.element + demand.working + demand.models * COUNTERS
    statistics = demand.models * (STATISTIC * demand.components + RESULT * 2 * threads)
    written = IN_FLIGHT * tile * demand.output
    return demand.reserved + threads * worker + written + statistics + STAGING


def default_budget(resident: int, available: int) -> int:
    """What is resident, and of what is free half, at most 1 GiB: neighbours and page cache need room too.

    Where little is free, three quarters up to 256 MiB: a small control group should not be refused what fits.
    """
    return resident + min(DEFAULT_CAP, max(available // 2, min(available * 3 // 4, TIGHT)))


def kernels_to_load() -> int:
    """What the compiler and the kernels will add to the process: nothing where they are loaded already."""
    return 0 if "sdmw.kernels.tiles" in sys.modules else KERNELS


def fit(demand: Demand, budget: int, threads: int) -> Fit | Problem:
    """The largest tile that keeps within the budget; fewer threads only where the smallest tile does not."""
    for count in range(threads, 0, -1):
        tile = LARGEST_TILE
        while tile > SMALLEST_TILE and tile * demand.element > TILES:
            tile //= 2
        while tile >= SMALLEST_TILE:
            peak = projected_peak(demand, tile, count)
            if peak <= budget:
                return Fit(count, tile, peak)
            tile //= 2
    least = projected_peak(demand, SMALLEST_TILE, 1)
    mend = f"Set the budget to {-(-(least + ROOM) // MiB)}MiB or more"
    return Problem("budget", f"at least {shown(least)} of memory", shown(budget), mend)
