"""What an extraction asks of memory and threads, from headers alone."""

import os

import numpy as np
import pytest

from checkpoints_on_disk import write_checkpoint
from sdmw.checkpoints import formats
from sdmw.planning import budget, extraction
from sdmw.planning.extraction import extraction_tasks, plan_extraction, working_bytes
from sdmw.planning.limits import Limits
from sdmw.writing.shard_writer import in_flight


@pytest.fixture
def planned(tmp_path):
    """The plan of a model with two matrices, a vector, and a tensor that the base lacks; limits as given."""
    base = {"a.weight": np.ones((5, 7), np.float16), "b.weight": np.ones((3, 11), np.float32), "c": np.ones(13, "f4")}
    for name, tensors in (("base", base), ("tune", base | {"d": np.ones(17, np.float64)})):
        write_checkpoint(tmp_path / name, tensors)
    models = [formats.read(str(tmp_path / name)) for name in ("base", "tune")]
    return lambda rank=2, **options: plan_extraction(
        *models, rank, str(tmp_path / "out"), Limits(**options.pop("limits", {})), overwrite=False, **options
    )


def test_each_term_of_what_it_asks_for(planned):
    plan = planned(rank=2)
    found = extraction_tasks(plan.weights, plan.rest, 2, resident=1000)
    kernels, blas = budget.kernels_to_load(), extraction.BLAS * len(os.sched_getaffinity(0))
    matrices = 4 * 2 * (3 + 11)  # of the weight with the longest sides
    assert found.waiting == matrices
    assert found.loading == 1000 + kernels.most
    assert found.reserved == (
        1000 + kernels.stay + extraction.ALGEBRA + blas + 4 * extraction.NUMBER + in_flight(1) * matrices
    )
    of_weights = [working_bytes((5, 7), 2, 2), working_bytes((3, 11), 2, 4)]
    of_others = [13 * (4 + 4 + extraction.COMPARED), 17 * (8 + extraction.COMPARED)]
    assert sorted(found.each) == sorted(of_weights + of_others)


def test_where_the_algebra_has_threads_of_its_own_one_is_enough(planned, monkeypatch):
    """They keep all cores busy; executors' processes have their own."""
    cores = len(os.sched_getaffinity(0))
    for threaded, options, threads in [
        (True, {}, 1),
        (True, {"limits": {"threads": 3}}, 3),
        (True, {"apart": True}, cores),
        (False, {}, cores),
        (False, {"limits": {"threads": 3}}, 3),
    ]:
        monkeypatch.setattr(extraction, "algebra_is_threaded", lambda threaded=threaded: threaded)
        plan = planned(**options)
        assert (plan.problems, plan.threads) == ((), threads)


def test_the_environment_says_whether_it_has(monkeypatch):
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert extraction.algebra_is_threaded()
    for name in names:
        with monkeypatch.context() as patched:
            patched.setenv(name, "1")
            assert not extraction.algebra_is_threaded()
            patched.setenv(name, "2")
            assert extraction.algebra_is_threaded()


def test_an_output_in_memory_must_fit_beside_what_the_run_takes(planned, monkeypatch):
    asked = []
    monkeypatch.setattr(extraction.memory, "resident", lambda: 1000)
    monkeypatch.setattr(extraction.memory, "check_output", lambda *arguments: asked.append(arguments) or [])
    plan = planned()
    ((target, size, growth),) = asked
    assert target.endswith("/out")
    assert size == sum(shard.size for shard in plan.shards)
    assert growth == plan.peak_bytes - 1000


def test_all_matrices_lie_in_one_file(planned):
    (shard,) = planned(rank=2).shards
    assert {(place.name.removeprefix("base_model.model."), place.shape) for place in shard.tensors} == {
        ("a.lora_A.weight", (2, 7)), ("a.lora_B.weight", (5, 2)),
        ("b.lora_A.weight", (2, 11)), ("b.lora_B.weight", (3, 2)),
    }  # fmt: skip
