"""What would stop a merge from scaling to 64 workers: the real driver, and workers that take no time but the clock's.

python benchmarks/simulation.py [--folder FOLDER] [--workers 8,16,32,64] [--shapes NAME ...] [--wire NAME ...]

The driver is ours: tasks, pickles, results, journal, and its processor time is what it takes. Workers are simulated: a
task ends when its arithmetic would (results/costs.json), on a core of its own, with a disk that is never waited for.
Results are those of real tiles. What an executor's own threads take of the driver's process for a task is measured
first, with the real one and tasks that do nothing; Python's lock lets one thread of a process run at a time, so all of
it counts as one. Threads of a merge wait for each other's Python too: `python s` adds it up, and a merge by threads
takes no less. Models are headers and sparse files. Writes results/simulation.json.
"""

import argparse
import heapq
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from queue import Empty
from typing import Any
from unittest.mock import patch

import processes
import psutil
import scale
import synthetic

import sdmw
from sdmw.kernels import ready
from sdmw.planning.build import kernels_of
from sdmw.planning.limits import Apart
from sdmw.planning.plan import Plan
from sdmw.running import journal as journal_module
from sdmw.running import pool as pool_module
from sdmw.running import work
from sdmw.running.context import Context
from sdmw.running.deal import Deal, Written
from sdmw.running.driver import Run
from sdmw.running.elsewhere import Setting
from sdmw.running.pool import Pool
from sdmw.running.span import Span
from sdmw.running.stop import StopSignals
from sdmw.tensors.tile_memory import tile_memory
from sdmw.writing.layout import index_bytes, lay_out
from sdmw.writing.sink import Sink

STAND_IN = 1 << 22  # elements: of real tiles that give the results
MEASURE_NS, APPLY_NS = 0.34, 0.274  # of a byte that is read; sdm_w, BF16 (costs.py)
TILE_S = 1.0e-4  # of Python in a worker for a tile
DECIDE_S = 2.5e-4  # likewise, to decide a layer
SETTLE_S = 5e-3  # until what a task of another process wrote is durable
PAYLOAD = (1700, 13_000)  # bytes of a task and of a result, as scale.py counts them
CALIBRATING = 600  # tasks

Shapes = dict[str, tuple[int, ...]]


def llama_70b() -> Shapes:
    """723 tensors."""
    width, inner, keys, vocabulary = 8192, 28672, 1024, 128256
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for block in range(80):
        prefix = f"model.layers.{block}"
        for name, rows in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (rows, width)
        for name in ("gate", "up"):
            shapes[f"{prefix}.mlp.{name}_proj.weight"] = (inner, width)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (width, inner)
        shapes[f"{prefix}.input_layernorm.weight"] = (width,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (width,)
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def experts() -> Shapes:
    """20,352 tensors of 108 blocks with 60 experts: 56 B parameters."""
    width, inner = 2048, 1408
    shapes: Shapes = {"model.embed_tokens.weight": (151936, width)}
    for block in range(108):
        prefix = f"model.layers.{block}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (width, width)
        for expert in range(60):
            for name in ("gate", "up"):
                shapes[f"{prefix}.mlp.experts.{expert}.{name}_proj.weight"] = (inner, width)
            shapes[f"{prefix}.mlp.experts.{expert}.down_proj.weight"] = (width, inner)
        shapes[f"{prefix}.mlp.gate.weight"] = (60, width)
        shapes[f"{prefix}.input_layernorm.weight"] = (width,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (width,)
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (151936, width)}


SHAPES: dict[str, Callable[[], Shapes]] = {"70b": llama_70b, "experts": experts}


class Clock:
    """The driver's processor time, and the time that it waits for workers.

    Attributes:
        waited: seconds of waiting.
    """

    def __init__(self) -> None:
        self._began, self._left_out, self.waited = time.thread_time(), 0.0, 0.0
        self.spent = 0.0  # by threads of the executor in the driver's process

    def now(self) -> float:
        """Seconds since the clock was made."""
        return time.thread_time() - self._began - self._left_out + self.waited + self.spent

    def wait_until(self, moment: float) -> None:
        """Let the driver wait."""
        self.waited += max(0.0, moment - self.now())

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """A block that stands for what others do."""
        before = time.thread_time()
        yield
        self._left_out += time.thread_time() - before


class Workers(ThreadPoolExecutor):
    """Workers of the clock: as threads of the driver's process, which is what they look like to the pool.

    Attributes:
        tasks: number of tasks.
        busy: seconds that all of them worked.
    """

    def __init__(self, workers: int, clock: Clock, results: "Results", wire: float) -> None:
        super().__init__(1)
        self._free = [0.0] * workers
        self._clock, self._results, self._wire = clock, results, wire
        self._ending: list[tuple[float, int, Future[Any], Any]] = []
        self._ended: deque[Future[Any]] = deque()
        self.tasks, self.busy = 0, 0.0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """As of any executor; what belongs to the driver's process is done at once."""
        future: Future[Any] = Future()
        try:
            if function.__name__ == "_commit":
                future.set_result(function(*arguments))
                return future
            with self._clock.stopped():
                seconds, result = self._results.of(function, arguments)
        except Exception as error:  # as an executor says it; nothing else would end the run
            future.set_exception(error)
            return future
        start = max(self._clock.now(), heapq.heappop(self._free))
        heapq.heappush(self._free, start + seconds)
        self.tasks += 1
        self.busy += seconds
        self._clock.spent += self._wire
        heapq.heappush(self._ending, (start + seconds, self.tasks, future, result))
        return future

    def next_ended(self) -> Future[Any]:
        """The future that ends next; `Empty` where none is under way."""
        if not self._ended:
            if not self._ending:
                raise Empty
            self._clock.wait_until(self._ending[0][0])
            self._end()
        return self._ended.popleft()

    def put(self, future: Future[Any]) -> None:
        """A future ended."""
        self._ended.append(future)

    def _end(self) -> None:
        while self._ending and self._ending[0][0] <= self._clock.now():
            _, _, future, result = heapq.heappop(self._ending)
            future.set_result(pickle.loads(result) if isinstance(result, bytes) else result)


class WorkersApart(Executor):
    """The same as another executor's, whose tasks travel."""

    def __init__(self, real: Workers) -> None:
        self._real = real

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """As of any executor."""
        return self._real.submit(function, *arguments)


class Queue:
    """What the driver waits at."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def get(self, timeout: float) -> Future[Any]:
        """The next future that ended."""
        return self._workers.next_ended()

    def put(self, future: Future[Any]) -> None:
        """A future ended."""
        self._workers.put(future)


class Results:
    """What workers would find, and how long they would take: looks are those of real tiles."""

    def __init__(self, stand_in: Plan) -> None:
        self._tensor = stand_in.tensors[0]
        self._known: dict[object, Any] = {}
        self._taken: dict[int, int] = {}  # of a deal, how many shares were handed over
        self.shares_of: Callable[[Span], int] = lambda span: 1
        self.python = 0.0  # seconds of workers in Python

    def of(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, Any]:
        """Seconds, and the result: pickled, where the task was."""
        if function.__name__ == "elsewhere":
            seconds, result = self.of(*pickle.loads(arguments[2]))
            return seconds + SETTLE_S, pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
        if function is work.measure_all:
            parts = [self._looked(each) for each in arguments[0]]
        elif function is work.write_portions:
            parts = [self._written(each) for each in arguments[0]]
        else:
            return TILE_S, function(*arguments)
        return sum(seconds for seconds, _ in parts), tuple(found for _, found in parts)

    def _share(self, share: Span | Deal, ns: float) -> tuple[float, bool]:
        """Seconds of a share, and whether it is the last one of its piece."""
        span = share.span if isinstance(share, Deal) else share
        tiles = len(list(span.borders()))
        shares = self.shares_of(span) if isinstance(share, Deal) else 1
        self.python += tiles * TILE_S / shares
        if isinstance(share, Span):
            return span.nbytes * ns * 1e-9 + tiles * TILE_S, True
        handed = self._taken[id(share)] = self._taken.get(id(share), 0) + 1
        if last := handed == shares:
            del self._taken[id(share)]
        return (span.nbytes * ns * 1e-9 + tiles * TILE_S) / shares, last

    def _looked(self, looking: work.Looking) -> tuple[float, Any]:
        seconds, found = self._share(looking.share, MEASURE_NS)[0], self._look(looking)
        decides = DECIDE_S if isinstance(found, work.Decided) else 0.0
        self.python += decides
        return seconds + decides, found

    def _written(self, portion: work.Portion) -> tuple[float, Written | None]:
        seconds, last = self._share(portion.share, APPLY_NS)
        return seconds, Written("0" * 32) if last else None

    def _look(self, looking: work.Looking) -> Any:
        span = looking.share.span if isinstance(looking.share, Deal) else looking.share
        elements = min(span.stop - span.start, STAND_IN)
        key = (looking.look, elements, looking.decides is None)
        if key not in self._known:
            own = Span(self._tensor, 0, elements, min(span.tile, elements), True)
            with tile_memory():
                (self._known[key],) = work.measure_all([replace(looking, share=own)])
        return self._known[key]


class Outputs:
    """An output whose journal is real, and whose shards are not there."""

    def __init__(self, plan: Plan, journal: str) -> None:
        self.records: list[object] = []
        self._file = open(journal, "wb")  # noqa: SIM115
        self.sink = Sink.of(os.path.dirname(journal), plan.shards, "simulated")

    def sync(self) -> None:
        """There is nothing to sync."""

    def settle(self) -> None:
        """Likewise."""

    def vouch(self, records: Any) -> None:
        """Write them, durably."""
        for record in records:
            self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where headers and sparse files lie")
    parser.add_argument("--workers", default="8,16,32,64")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--wire", nargs="*", default=["threads", *scale.KINDS], choices=["threads", *scale.KINDS])
    arguments = parser.parse_args()
    print(processes.machine())
    wires = {name: calibrated(name) if name in scale.KINDS else 0.0 for name in arguments.wire}
    print(f"{'case':22} {'tasks':>7} {'wall s':>8} {'at best':>8} {'driver s':>8} {'python s':>8} {'workers busy':>12}")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        small = synthetic.write_models(os.path.join(folder, "stand-in"), {"model.layers.0.w": (4096, 1024)}, 2)
        results = Results(sdmw.plan(synthetic.recipe(small)))
        for shape in arguments.shapes:
            paths = write_headers(os.path.join(folder, shape), SHAPES[shape](), 3)
            for wire, seconds in wires.items():
                for workers in map(int, arguments.workers.split(",")):
                    row = simulated(synthetic.recipe(paths), workers, wire, seconds, results, folder)
                    rows.append({"shape": shape, "wire": wire, "workers": workers, **row})
                    show(f"{shape}, {wire}, {workers}", row)
    processes.write_json("simulation", {"machine": processes.machine(), "wire_s": wires, "rows": rows})


def show(name: str, row: dict[str, Any]) -> None:
    best = row["busy_s"] / row["of"]
    print(
        f"{name:22} {row['tasks']:7} {row['wall_s']:8.2f} {best:8.2f} {row['driver_s']:8.2f} "
        f"{row['python_s']:8.2f} {best / row['wall_s']:12.0%}",
        flush=True,
    )


def write_headers(folder: str, shapes: Shapes, models: int) -> list[str]:
    """Checkpoints of these shapes: headers, and files of their length without a block; taken as they are if there."""
    paths = [os.path.join(folder, f"model{number}") for number in range(models)]
    if all(map(os.path.exists, paths)):
        return paths
    layouts = lay_out(((name, synthetic.STORED["BF16"], shape) for name, shape in shapes.items()), 5 * 10**9)
    for number, path in enumerate(paths):
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "config.json"), "w") as file:
            json.dump(synthetic.configuration(shapes), file)
        with open(os.path.join(path, "model.safetensors.index.json"), "wb") as index:
            index.write(index_bytes(layouts))
        for layout in layouts:
            with open(os.path.join(path, layout.name), "wb") as weights:
                weights.write(layout.header)
                weights.truncate(layout.size)
            os.utime(os.path.join(path, layout.name), (number, number))
    return paths


def nothing(task: bytes) -> bytes:
    """A task that takes no time."""
    return bytes(PAYLOAD[1])


def calibrated(name: str) -> float:
    """Seconds of the driver's process that an executor takes for a task, all of its threads there together.

    Of dask those of its scheduler, which is a process, if they are more.
    """
    with ExitStack() as stack:
        scheduler = None
        if name == "dask":
            executor, scheduler = stack.enter_context(a_cluster())
        else:
            executor = stack.enter_context(scale.KINDS[name](1))
        for future in [executor.submit(nothing, bytes(PAYLOAD[0])) for _ in range(20)]:
            future.result()
        began, there = time.process_time(), sum(scheduler.cpu_times()[:2]) if scheduler else 0.0
        for future in [executor.submit(nothing, os.urandom(PAYLOAD[0])) for _ in range(CALIBRATING)]:
            future.result()
        taken = time.process_time() - began
        return max(taken, sum(scheduler.cpu_times()[:2]) - there if scheduler else 0.0) / CALIBRATING


@contextmanager
def a_cluster() -> Iterator[tuple[Executor, psutil.Process]]:
    """A connection to a dask cluster on loopback of one worker, and its scheduler."""
    from distributed import Client

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = os.path.join(folder, "scheduler.json")
        commands = (
            ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file),
            ("worker", "--scheduler-file", file, "--nworkers", "1", "--nthreads", "1", "--no-dashboard"),
        )
        started, environment = [], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        for command in commands:
            program = [sys.executable, "-m", "dask", *command]
            quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen(program, cwd=folder, env=environment, **quiet))
            stack.callback(started[-1].wait)
            stack.callback(started[-1].terminate)
        while not os.path.exists(file):
            time.sleep(0.1)
        client = stack.enter_context(Client(scheduler_file=file))
        client.wait_for_workers(1)
        yield client.get_executor(pure=False), psutil.Process(started[0].pid)


def simulated(
    recipe: dict[str, Any], workers: int, wire: str, seconds: float, results: Results, folder: str
) -> dict[str, Any]:
    """A merge on so many workers of the clock."""
    out = os.path.join(folder, "simulated")
    maker: Any = None
    if wire != "threads":
        maker = lambda: None  # noqa: E731
        maker.apart = Apart(workers, workers, 1)
    planned = sdmw.plan(recipe, threads=workers, executor=maker, budget="64GiB")
    assert not planned.problems, planned.problems
    ready.prepare(lambda _: None, groups=kernels_of(planned))
    clock = Clock()
    made = Workers(workers, clock, results, seconds)
    executor = made if wire == "threads" else WorkersApart(made)
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        pool = Pool(executor, workers, signals, Setting(kernels_of(planned), ()))
        pool._here = made
        stack.enter_context(patch.object(pool_module, "SimpleQueue", lambda: Queue(made)))
        stack.enter_context(patch.object(journal_module.time, "monotonic", clock.now))
        stack.enter_context(pool)
        began = clock.now()
        output: Any = Outputs(planned, out)  # as much of one as a run needs until it ends
        run = Run(planned, Context(lambda _: None, signals, pool))
        results.shares_of, results.python = run._shares, 0.0
        run.carry_out(output)
    wall = clock.now() - began
    driver = wall - clock.waited
    python = driver + results.python if wire == "threads" else driver  # of one process, one thread at a time
    return {
        "wall_s": max(wall, python), "driver_s": driver, "python_s": python, "busy_s": made.busy, "of": workers,
        "tasks": made.tasks, "tile": planned.tile,
    }  # fmt: skip


if __name__ == "__main__":
    main()
