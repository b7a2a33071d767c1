"""A merge on a dask cluster of processes has the bits of one on threads, within the memory that the plan names.

What becomes of it when workers and drivers are killed: tests/faults/test_clusters.py.
"""

import sys

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


def test_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        sdmw.dask_cluster("tcp://127.0.0.1:1")


def _peak(process):
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
