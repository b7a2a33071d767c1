"""What becomes of a merge on a dask cluster when workers, the driver or the scheduler are killed, slow or astray."""

import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, write_checkpoint
from faults.worlds import ALL, bits, needs_root
from sdmw.errors import LostWorkerError, OtherFilesError, OutputError
from sdmw.running import dask_cluster
from sdmw.running.events import Progress, Resuming
from sdmw.tensors.dtype import DType
from sdmw.writing.layout import lay_out
from sdmw.writing.publication import Publication

pytest.importorskip("distributed")
from clusters import cluster, hosts

everything = pytest.mark.skipif(not ALL, reason="long: SDMW_FAULTS=all")

# Makes the tasks of a worker slow, and tells how many it has done.
SLOW = """
import time
from sdmw.running import elsewhere
def slow(*arguments, real=elsewhere.elsewhere):
    time.sleep({pause})
    with open({log!r}, "a") as file:
        file.write("{name}\\n")
    return real(*arguments)
if elsewhere.elsewhere.__name__ != "slow":  # dask loads a preload twice
    elsewhere.elsewhere = slow
"""

DRIVER = """
import os, signal, sys
import sdmw
from sdmw.running import journal
from sdmw.running.events import Progress
journal.COMMIT_EVERY = 0.05
recipe, out, address, stage = sys.argv[1:]
def progress(event):
    if isinstance(event, Progress) and event.stage == stage and event.done > event.total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
sdmw.merge(recipe, out, progress=progress, max_shard_size="6MB", executor=sdmw.dask_cluster(address))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(8)
    base = {f"model.layers.{n}.w": rng.normal(0, 0.02, (700, 1024)).astype(np.float16) for n in range(40)}
    write_checkpoint(folder / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(folder / name, fine_tuned(rng, base))
    models = f"[{folder / 'corp'}, {folder / 'func'}]"
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"merge_method: sdm_w\nbase_model: {folder / 'base'}\nmodels: {models}\n")
    sdmw.merge(recipe, folder / "undisturbed", progress=False, max_shard_size="6MB")
    return folder


def merged(world, out, found, progress=False, **options):
    executor = sdmw.dask_cluster(found.address)
    return sdmw.merge(world / "recipe.yaml", out, progress=progress, max_shard_size="6MB", executor=executor, **options)


def slow(folder, name, pause):
    return SLOW.format(pause=pause, log=str(folder / "log"), name=name)


@everything
@pytest.mark.parametrize("stage", ["measure", "apply"])
def test_a_killed_worker_s_pieces_are_done_again(world, tmp_path, stage):
    with cluster(tmp_path / "cluster", workers=3) as found:
        killed = []

        def kill(event):
            if isinstance(event, Progress) and event.stage == stage and not killed:
                killed.append(found.workers[0].pid)
                found.workers[0].kill()

        merged(world, tmp_path / "out", found, progress=kill)
    assert killed
    assert bits(tmp_path / "out") == bits(world / "undisturbed")


@everything
def test_a_cluster_without_workers_is_an_error_that_can_be_resumed(world, tmp_path, monkeypatch):
    """Dask keeps the tasks, and would wait for ever."""
    monkeypatch.setattr(dask_cluster, "ALONE", 3.0)
    with cluster(tmp_path / "cluster") as found:

        def kill(event):
            if isinstance(event, Progress) and event.stage == "apply":
                for worker in found.workers:
                    worker.kill()

        with pytest.raises(LostWorkerError, match="has had no workers for 3 seconds") as caught:
            merged(world, tmp_path / "out", found, progress=kill)
        assert caught.value.resumable
        found.add_worker()
        merged(world, tmp_path / "out", found)
    assert bits(tmp_path / "out") == bits(world / "undisturbed")


@everything
def test_a_scheduler_that_is_gone_is_an_error_that_can_be_resumed(world, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_cluster, "PATIENCE", 1)
    with cluster(tmp_path / "cluster") as found:

        def kill(event):
            if isinstance(event, Progress) and event.stage == "apply":
                found.scheduler.kill()

        with pytest.raises(LostWorkerError):
            merged(world, tmp_path / "out", found, progress=kill)
    assert not (tmp_path / "out").exists()
    resumed = []
    with cluster(tmp_path / "another") as found:
        merged(world, tmp_path / "out", found, progress=resumed.append)
    assert any(isinstance(event, Resuming) for event in resumed)
    assert bits(tmp_path / "out") == bits(world / "undisturbed")


@everything
@pytest.mark.parametrize("stage", ["measure", "apply"])
def test_a_killed_driver_is_resumed_while_its_tasks_still_run(world, tmp_path, stage):
    with cluster(tmp_path / "cluster", workers=0) as found:
        for number in range(2):
            found.add_worker(preload=slow(tmp_path, f"worker {number}", 0.1))
        arguments = [str(world / "recipe.yaml"), str(tmp_path / "out"), found.address, stage]
        driver = subprocess.run([sys.executable, "-c", DRIVER, *arguments], check=False)
        assert driver.returncode == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
        events = []
        merged(world, tmp_path / "out", found, progress=events.append)
        time.sleep(0.5)  # for the tasks of the killed one
    assert any(isinstance(event, Resuming) for event in events)
    assert bits(tmp_path / "out") == bits(world / "undisturbed")


@everything
def test_a_slow_worker_does_not_hold_the_rest(world, tmp_path):
    with cluster(tmp_path / "cluster", workers=0) as found:
        found.add_worker(preload=slow(tmp_path, "slow", 1.0))
        found.add_worker(preload=slow(tmp_path, "quick", 0.01))
        merged(world, tmp_path / "out", found)
    assert bits(tmp_path / "out") == bits(world / "undisturbed")
    done = Counter((tmp_path / "log").read_text().splitlines())
    assert done["slow"] >= 1
    assert done["quick"] > 5 * done["slow"], done


@everything
@needs_root
def test_a_worker_that_sees_another_file_is_found(world, tmp_path):
    """A mount of its own over a model's file: as a client of a network file system has it that shows an old state."""
    stale, file = tmp_path / "stale.safetensors", world / "corp" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    stale.write_bytes(content)
    mount = f'mount --bind {stale} {file} && exec "$@"'
    with cluster(tmp_path / "cluster", workers=1) as found:
        found.add_worker(before=["unshare", "-m", "sh", "-c", mount, "sh"])
        with pytest.raises(OtherFilesError, match="on a worker this file has another time of change"):
            merged(world, tmp_path / "out", found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster", "stale.safetensors"]


@everything
@needs_root
def test_workers_in_namespaces_of_their_own_are_as_separate_hosts(world, tmp_path):
    """The scheduler in one network, each worker in another; they share nothing but the file system."""
    with hosts(2) as (bridge, before), cluster(tmp_path / "cluster", workers=0, host=bridge) as found:
        for each in before:
            found.add_worker(before=each)
        merged(world, tmp_path / "out", found)
    assert bits(tmp_path / "out") == bits(world / "undisturbed")


def test_a_task_of_a_run_that_has_ended_writes_nothing(tmp_path):
    """Its driver was killed, and another run has begun in its place."""
    layouts = lay_out([("a", DType.U8, (5000,))], 10**9)
    ended = Publication.begin(str(tmp_path / "out"), layouts, overwrite=False)
    sink = ended.sink
    ended.__exit__(None, None, None)
    del ended
    with Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as output:
        output.sink.write(0, 4096, b"\1" * 5000)
        with pytest.raises(OutputError, match="the run that this task belongs to has ended"):
            sink.write(0, 4096, b"\2" * 5000)
        output.finish()
        output.publish()
    assert (tmp_path / "out" / "model.safetensors").read_bytes()[4096:] == b"\1" * 5000
