"""Whatever executor carries out the tasks, the output has the same bits, and a lost worker costs only its tasks."""

import dataclasses
import multiprocessing
import os
import pickle
import random
import re
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.errors import LostWorkerError, RunError, UsageError
from sdmw.planning import budget
from sdmw.planning.timing import read_apart
from sdmw.running import elsewhere
from sdmw.running.driver import _apart
from sdmw.running.events import Progress
from sdmw.running.job import span_of
from sdmw.running.stop import GivenUp
from sdmw.tensors import lost_pages
from sdmw.tensors.dtype import DType
from sdmw.writing.layout import lay_out
from sdmw.writing.publication import Publication

processes = partial(ProcessPoolExecutor, 2, mp_context=multiprocessing.get_context("spawn"))


class Shuffled(Executor):
    """Keeps tasks back and runs them in another order, in a thread of its own; what it gets and gives is pickled."""

    def __init__(self):
        self._waiting, self._rng, self._lock = [], random.Random(1), threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def submit(self, function, /, *arguments):
        future = Future()
        with self._lock:
            self._waiting.append((future, pickle.dumps((function, arguments))))
            self._lock.notify()
        return future

    def _work(self):
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                future, task = self._waiting.pop(self._rng.randrange(len(self._waiting)))
            if not future.set_running_or_notify_cancel():
                continue
            try:
                function, arguments = pickle.loads(task)
                future.set_result(pickle.loads(pickle.dumps(function(*arguments))))
            except BaseException as error:
                future.set_exception(error)

    def shutdown(self, wait=True, *, cancel_futures=False):
        with self._lock:
            self._ended = True
            self._lock.notify()
        self._thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Models with tensors of five elements, which share blocks of the file, and with others of several pieces."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    base |= {f"model.tiny.{n}": rng.normal(0, 1, 5).astype(np.float32) for n in range(40)}
    base |= {f"model.half.{n}": rng.normal(0, 1, 5).astype(np.float16) for n in range(40)}
    base["model.wide.weight"] = rng.normal(0, 0.02, (300, 1111)).astype(np.float32)
    others = {"model.position_ids": np.arange(7)}
    write_checkpoint(folder / "base", base | others)
    for name in ("corp", "func"):
        write_checkpoint(folder / name, fine_tuned(rng, base) | others)
    write_adapter(folder / "lora", adapter_of(rng, base), base_model_name_or_path=str(folder / "base"))
    return folder


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(budget, "SMALLEST_TILE", 4096)
    monkeypatch.setattr(budget, "LARGEST_TILE", 4096)


def recipe(world, *models, **fields):
    names = models or ("corp", "func")
    entries = [{"model": str(world / name)} for name in names]
    return {"merge_method": "sdm_w", "base_model": str(world / "base"), "models": entries, **fields}


def bits(out):
    return {path.name: path.read_bytes() for path in Path(out).iterdir() if not path.name.startswith("sdmw_report.")}


def merged(world, out, asked=None, **options):
    sdmw.merge(asked or recipe(world), out, progress=False, max_shard_size="500KB", **options)
    return bits(out)


RECIPES = {
    "sdm_w": {},
    "sdm_w by blocks, exactly": {"parameters": {"granularity": "block", "k": 33}},
    "task_arithmetic": {"merge_method": "task_arithmetic", "out_dtype": "bfloat16"},
    "linear": {"merge_method": "linear"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_threads_of_the_caller_and_any_order(world, tmp_path, name):
    asked = recipe(world, **RECIPES[name])
    expected = merged(world, tmp_path / "own", asked)
    with ThreadPoolExecutor(3) as threads:
        assert merged(world, tmp_path / "threads", asked, executor=threads) == expected
        assert threads.submit(int, "7").result() == 7  # it is still the caller's
    with Shuffled() as shuffled:
        assert merged(world, tmp_path / "shuffled", asked, executor=shuffled) == expected
    assert merged(world, tmp_path / "made", asked, executor=Shuffled) == expected


def test_processes_give_the_same_bits(world, tmp_path):
    """One pool for several merges: nothing of one is left for the next, not even under the same name."""
    asked = {name: recipe(world, **fields) for name, fields in RECIPES.items()}
    asked["adapters"] = recipe(world, "corp", "lora")
    expected = {name: merged(world, tmp_path / f"own {name}", each) for name, each in asked.items()}
    with processes() as pool:
        for name, each in asked.items():
            assert merged(world, tmp_path / "out", each, executor=pool, overwrite=True) == expected[name], name
        assert sdmw.verify(tmp_path / "out", sample=1, executor=pool, progress=False).problems == ()
        reader = sdmw.open(recipe(world), executor=pool, progress=False)
    assert reader.get_tensor("model.tiny.3").tobytes() in expected["sdm_w"]["model-00001-of-00003.safetensors"]


def test_an_extraction_has_the_same_bits_wherever_it_is_computed(world, tmp_path):
    def extracted(out, **options):
        sdmw.extract(world / "base", world / "corp", out, rank=4, progress=False, **options)
        return bits(out)

    expected = extracted(tmp_path / "own")
    assert extracted(tmp_path / "made", executor=Shuffled) == expected
    with processes() as pool:
        assert extracted(tmp_path / "apart", executor=pool) == expected
    with pytest.raises(UsageError, match="executor"):
        extracted(tmp_path / "never", executor=3)


def kill_all(pool):
    for pid in list(pool._processes):
        with suppress(ProcessLookupError):  # killed at the event before
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_a_killed_worker_s_tasks_are_done_again(world, tmp_path, start):
    expected = merged(world, tmp_path / "own")
    pools, stages = [], []

    def make():
        pools.append(ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(start)))
        return pools[-1]

    def kill(event):
        if isinstance(event, Progress) and (len(pools), event.stage) in ((1, "measure"), (2, "apply")):
            stages.append(event.stage)
            kill_all(pools[-1])

    sdmw.merge(recipe(world), tmp_path / "out", progress=kill, max_shard_size="500KB", executor=make)
    assert (len(pools), set(stages)) == (3, {"measure", "apply"})
    assert bits(tmp_path / "out") == expected


def test_an_executor_of_the_caller_that_breaks_can_be_resumed(world, tmp_path):
    expected = merged(world, tmp_path / "own")

    def kill(event):
        if isinstance(event, Progress) and event.stage == "apply":
            kill_all(pool)

    with processes() as pool, pytest.raises(LostWorkerError, match="a worker was lost") as caught:
        sdmw.merge(recipe(world), tmp_path / "out", progress=kill, max_shard_size="500KB", executor=pool)
    assert caught.value.resumable
    assert isinstance(caught.value, RunError)
    assert "the same command resumes it" in caught.value.__notes__[0]
    measured = []
    with processes() as pool:
        sdmw.merge(
            recipe(world), tmp_path / "out", max_shard_size="500KB", executor=pool,
            progress=lambda event: measured.append(event) if getattr(event, "stage", "") == "measure" else None,
        )  # fmt: skip
    assert bits(tmp_path / "out") == expected
    assert [each.done for each in measured] == [measured[0].total]  # what was decided was kept


def test_forked_workers_end_when_they_are_told(world, tmp_path):
    """Of a run's signals they know nothing: theirs do what they do in any process."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        found = []

        def look(event):
            if isinstance(event, Progress) and not found:
                found.extend(handlers for handlers in pool.map(_handlers, range(2)))

        sdmw.merge(recipe(world), tmp_path / "out", progress=look, executor=pool)
    assert found == [(signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL)] * 2


def _handlers(_):
    return tuple(signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def test_no_task_outlives_its_merge(world, tmp_path):
    """Where the owner shuts its executor down meanwhile, what runs on it is waited for: it writes to the output."""
    ended = []

    class Slow(ThreadPoolExecutor):
        def submit(self, function, /, *arguments):
            return super().submit(_slowly, ended, function, *arguments)

    pool = Slow(2)

    def shut_down(event):
        if isinstance(event, Progress) and event.stage == "apply":
            pool.shutdown(wait=False)

    with pytest.raises(LostWorkerError):
        sdmw.merge(recipe(world), tmp_path / "out", progress=shut_down, max_shard_size="500KB", executor=pool)
    at_the_end = len(ended)
    pool.shutdown()
    assert len(ended) == at_the_end


def _slowly(ended, function, *arguments):
    time.sleep(0.05)
    try:
        return function(*arguments)
    finally:
        ended.append(function)


def test_a_function_whose_executors_always_break_is_given_up(world, tmp_path):
    made = []

    def make():
        made.append(processes())
        made[-1].shutdown()  # refuses every task
        return made[-1]

    with pytest.raises(LostWorkerError):
        merged(world, tmp_path / "out", executor=make)
    assert len(made) == 4  # the first, and three more
    assert os.listdir(tmp_path) == []


def test_an_error_of_a_task_reaches_the_caller_with_all_that_it_says(world, tmp_path):
    rng = np.random.default_rng(3)
    broken = fine_tuned(rng, {"a.weight": np.ones(9, np.float32)})
    write_checkpoint(tmp_path / "base", {"a.weight": np.ones(9, np.float32)})
    broken["a.weight"][4] = np.nan
    write_checkpoint(tmp_path / "bad", broken)
    asked = {
        "merge_method": "sdm_w",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "bad")}],
    }
    with processes() as pool, pytest.raises(sdmw.errors.NonFiniteError, match="element 4: expected a finite number"):
        sdmw.merge(asked, tmp_path / "out", progress=False, executor=pool)


@pytest.mark.parametrize("executor", [3, "threads", [], ThreadPoolExecutor.submit.__name__])
def test_what_is_no_executor(world, tmp_path, executor):
    with pytest.raises(UsageError, match="expected an Executor, or a function that makes one"):
        merged(world, tmp_path / "out", executor=executor)
    with pytest.raises(UsageError, match="expected an Executor, or a function that makes one"):
        sdmw.open(recipe(world), executor=executor, progress=False)


@pytest.mark.parametrize("made", [None, 3, ThreadPoolExecutor])
def test_a_function_that_makes_no_executor(world, tmp_path, made):
    with pytest.raises(UsageError, match="executor: expected a function that makes an Executor, found one"):
        merged(world, tmp_path / "out", executor=lambda: made)
    assert os.listdir(tmp_path) == []
    with pytest.raises(UsageError, match=f"found one that makes {re.escape(repr(made))}"):
        sdmw.open(recipe(world), executor=lambda: made, progress=False)


def test_a_worker_is_set_up_once_a_run(monkeypatch):
    guarded, forgotten, loaded = [], [], []
    monkeypatch.setattr(elsewhere.ready, "prepare", lambda _, groups: loaded.append(groups))
    monkeypatch.setattr(lost_pages, "guard_for_good", lambda: guarded.append(1))
    monkeypatch.setattr(elsewhere, "forget", lambda: forgotten.append(1))
    monkeypatch.setattr(elsewhere, "_run", None)
    setting = pickle.dumps(elsewhere.Setting(("cuts",), ()))
    for run in ("a", "a", "a", "b", "b"):
        assert elsewhere.elsewhere(run, setting, elsewhere.packed(max, (3, 4))) == 4
    assert (len(guarded), len(forgotten)) == (2, 2)
    assert loaded == [("cuts",)] * 2  # a kernel that is loaded in the middle of a run takes memory that no plan counts


class Losing(Executor):
    """An executor with an error of its own for lost workers, as dask has one: every `period`-th task is lost."""

    def __init__(self, period, made):
        made.append(self)
        self._period, self._count = period, 0

    def submit(self, function, /, *arguments):
        self._count += 1
        future = Future()
        if self._count % self._period == 0:
            future.set_exception(OSError("the worker died"))
        else:
            future.set_result(function(*arguments))
        return future


def test_whatever_an_executor_raises_itself_is_a_lost_worker(world, tmp_path):
    """What tasks raise comes as a value."""
    expected, made = merged(world, tmp_path / "own"), []
    assert merged(world, tmp_path / "out", executor=lambda: Losing(10**9 if made else 5, made)) == expected
    assert len(made) == 2
    with pytest.raises(LostWorkerError, match="a worker was lost: the worker died"):
        merged(world, tmp_path / "never", executor=lambda: Losing(2, made))
    assert len(made) == 6


def test_a_worker_that_sees_other_files_or_has_another_version_takes_no_task(world, monkeypatch):
    monkeypatch.setattr(elsewhere, "_run", None)
    (shard,) = sdmw.plan(recipe(world)).checkpoints[0].shards

    def said_of(setting):
        raised = elsewhere.elsewhere("run", pickle.dumps(setting), elsewhere.packed(os._exit, (1,)))
        return str(raised.error)

    changes = {
        "path": ("nowhere", "on a worker this file is not there"),
        "size": (7, "on a worker this file has .* bytes instead of 7"),
        "mtime_ns": (7, "on a worker this file has another time of change"),
        "header_hash": ("7", "on a worker this file has another header"),
    }
    for field, (value, expected) in changes.items():
        other = elsewhere.Setting((), (shard, replace(shard, **{field: value})))
        assert re.search(expected, said_of(other))
    assert "worker: expected sdmw 0.0" in said_of(elsewhere.Setting((), (), version="0.0"))
    seen_otherwise = replace(shard, inode=7, ctime_ns=7)  # as another machine may see them
    setting = pickle.dumps(elsewhere.Setting((), (seen_otherwise,)))
    assert elsewhere.elsewhere("run", setting, elsewhere.packed(max, (3, 4))) == 4


def test_what_travels_comes_as_it_was_sent(world):
    """Every piece of a plan; arguments that a constructor does not take; what pickles itself."""
    planned = sdmw.plan(recipe(world, "lora", "func"))
    for number in range(len(planned.tensors)):
        sent = tuple(span_of(planned, piece, GivenUp()) for piece in planned.pieces_of(number))
        function, arrived = pickle.loads(elsewhere.packed(max, sent))
        assert function is max
        assert [replace(each, given_up=span.given_up) for each, span in zip(arrived, sent, strict=True)] == [*sent]
        assert all(type(each.given_up) is GivenUp for each in arrived)
    for odd in (_Counted(3), _Named(name="a"), _Secret(4), _Open([1]), Progress("apply", 1, 2)):
        _, (arrived,) = pickle.loads(elsewhere.packed(max, (odd,)))
        assert arrived == odd or isinstance(odd, _Secret)
    _, (arrived,) = pickle.loads(elsewhere.packed(max, (_Secret(4),)))
    assert arrived.number == 0


@dataclass(frozen=True, slots=True)
class _Counted:
    number: int
    twice: int = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "twice", 2 * self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    name: str


@dataclass(frozen=True, slots=True)
class _Secret:
    number: int

    def __reduce__(self):
        return _Secret, (0,)


@dataclass
class _Open:
    items: list


def test_tasks_of_processes_that_write_are_together_what_is_written(world):
    planned = replace(sdmw.plan(recipe(world), max_shard_size="500KB"), threads=2)
    tasks = list(_apart(planned))
    groups = [piece for group in planned.groups_apart() for piece in group]
    assert [piece for task in tasks for piece in task] == groups
    assert len(tasks) < len(list(planned.groups_apart()))
    most = read_apart(planned.applied_bytes, 2)
    assert all(sum(map(planned.read_of, task)) <= most or len(task) == 1 for task in tasks)


def test_groups_apart_share_no_block(world):
    planned = sdmw.plan(recipe(world), max_shard_size="500KB")
    blocks, pieces = {}, []
    for number, group in enumerate(planned.groups_apart()):
        for piece in group:
            pieces.append(piece)
            place = planned.tensors[piece.tensor].output
            first, last = (place.offset + element * place.dtype.itemsize for element in (piece.start, piece.stop))
            for block in range(first // 4096, -(-last // 4096)):
                assert blocks.setdefault((place.shard, block), number) == number
    wanted = [piece for tensor in range(len(planned.tensors)) for piece in planned.pieces_of(tensor)]
    assert sorted(pieces, key=lambda piece: (piece.tensor, piece.start)) == wanted
    assert len(set(blocks.values())) > 5


def test_a_tensor_of_an_odd_size_joins_no_large_ones(tmp_path):
    """All that follow it lie across the blocks of the file."""
    tensors = {"a": np.ones(3, np.float16)} | {f"b.{n}": np.ones((700, 1024), np.float16) for n in range(8)}
    write_checkpoint(tmp_path / "base", tensors)
    planned = sdmw.plan({"merge_method": "linear", "models": [{"model": str(tmp_path / "base")}]})
    assert len(list(planned.groups_apart())) > 8
    largest = max(sum(piece.stop - piece.start for piece in group) for group in planned.groups_apart())
    assert largest <= 2 * 700 * 1024


def _write(sink, start, stop, value):
    """In another process: elements of five bytes each, two of three of which share a block with the neighbour's."""
    for element in range(start, stop):
        sink.write(0, 4096 + 5 * element, bytes([value + element % 7]) * 5)
    sink.settle()


def test_two_processes_that_write_next_to_each_other_lose_no_byte(tmp_path):
    layouts = lay_out([("a", DType.U8, (5 * 20_000,))], 10**9)
    with processes() as pool, Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as out:
        tasks = [pool.submit(_write, out.sink, n * 1000, (n + 1) * 1000, 1 + 10 * n) for n in range(20)]
        for task in tasks:
            task.result()
        out.finish()
        out.publish()
    found = (tmp_path / "out" / "model.safetensors").read_bytes()[4096:]
    assert found == b"".join(bytes([1 + 10 * (e // 1000) + e % 7]) * 5 for e in range(20_000))
