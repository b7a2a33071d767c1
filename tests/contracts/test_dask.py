"""A merge on a dask cluster of processes has the bits of one on threads, within the memory that the plan names.

What becomes of it when workers and drivers are killed: tests/faults/test_clusters.py.
"""

import socket
import sys
import threading

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw.errors import LostWorkerError, MissingExtraError
from sdmw.running import dask_cluster

pytest.importorskip("distributed")
from clusters import cluster


@pytest.fixture
def world(tmp_path):
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    base["model.wide.weight"] = rng.normal(0, 0.02, (900, 1111)).astype(np.float32)
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "corp", fine_tuned(rng, base))
    (tmp_path / "recipe.yaml").write_text("merge_method: sdm_w\nbase_model: base\nmodels: [corp]\n")
    return tmp_path


def bits(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if "report" not in path.name}


def test_dask_gives_the_same_bits(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    with cluster(world / "cluster") as found:
        said = told(capsys, monkeypatch, "plan", "recipe.yaml", "out", "--dask", found.address)
        assert "workers      2, with 2 threads in all" in said.out
        said = told(capsys, monkeypatch, "merge", "recipe.yaml", "out", "--quiet", "--dask", found.address)
        assert (said.code, said.errors) == (0, [])
        dask = sdmw.dask_cluster(found.address)
        planned = sdmw.plan("recipe.yaml", executor=dask)
        peaks = [_peak(process) for process in found.workers]
        too_small = sdmw.plan("recipe.yaml", executor=dask, budget="150MB")
        assert sdmw.verify("out", sample=1, executor=dask, progress=False).problems == ()
    sdmw.merge("recipe.yaml", "own", progress=False)
    assert bits(world / "out") == bits(world / "own")
    assert (planned.workers, planned.threads) == (2, 2)
    assert max(peaks) < planned.worker_bytes
    assert any("memory of a worker: expected at least" in str(problem) for problem in too_small.problems)
    monkeypatch.setattr(dask_cluster, "PATIENCE", 0.5)
    with pytest.raises(LostWorkerError, match="no scheduler answers"):
        dask()  # it is gone


def test_a_scheduler_without_workers(tmp_path):
    lacking = pytest.raises(LostWorkerError, match="expected a scheduler with workers, found one without")
    with cluster(tmp_path / "cluster", workers=0) as found, lacking:
        sdmw.dask_cluster(found.address)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tls://127.0.0.1:1", "no scheduler answers: TLS expects"),
        ("tcp://me:hidden@127.0.0.1:1", "expected the address of a scheduler, found an address with a user name"),
        ("nowhere", "no scheduler answers: missing port number"),
    ],
)
def test_addresses_of_no_scheduler(address, said):
    with pytest.raises(LostWorkerError, match=said) as caught:
        sdmw.dask_cluster(address)
    assert "hidden" not in str(caught.value)


def test_a_server_of_another_kind_is_no_scheduler():
    """Such as a dashboard, whose port is the next one: dask takes what it answers for the size of a message."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(LostWorkerError, match="expected a scheduler, found a server of another kind"):
            sdmw.dask_cluster(f"tcp://127.0.0.1:{server.getsockname()[1]}")


def test_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        sdmw.dask_cluster("tcp://127.0.0.1:1")


def _peak(process):
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
