"""What a merge costs beside arithmetic, where memory is short: bytes are read once in each pass, in little time.

Neither depends on what else the machine does, as wall time does.
"""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import write_checkpoint
from faults.test_memory_limits import MB, limited, run
from faults.worlds import needs_root

COLUMNS, LAYERS = 4096, 6
ROWS = 2048  # 16.8 MB in bfloat16

MERGE = """
import json, os, resource, sys
import sdmw
asked = json.loads(sys.argv[1])
def forgotten(event):
    if getattr(event, "stage", "") == "measure" and event.done == event.total:
        for path in asked["shards"]:
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
sdmw.merge(asked["recipe"], asked["out"], progress=forgotten, threads=asked["threads"])
lines = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([int(lines["read_bytes"]), used.ru_utime + used.ru_stime]))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and two fine-tunes of 100 MB each, on a disk."""
    folder = tmp_path_factory.mktemp("read")
    rng = np.random.default_rng(0)
    base = {f"model.layers.{n}.w": rng.normal(0, 0.02, (ROWS, COLUMNS)).astype(np.float32) for n in range(LAYERS)}
    for name, moved in (("base", 0), ("corp", 1e-3), ("func", 2e-3)):
        noise = rng.normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
        tensors = {key: (value + np.float32(moved) * noise).astype(ml_dtypes.bfloat16) for key, value in base.items()}
        write_checkpoint(folder / name, tensors)
    shards = [str(folder / name / "model.safetensors") for name in ("base", "corp", "func")]
    for shard in shards:
        fd = os.open(shard, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    recipe = {"merge_method": "sdm_w", "base_model": str(folder / "base"),
              "models": [{"model": str(folder / "corp")}, {"model": str(folder / "func")}]}  # fmt: skip
    return folder, recipe, shards


def merged(models, threads, size):
    """Bytes that a merge read from the disk in a control group, and processor seconds."""
    folder, recipe, shards = models
    asked = {"recipe": recipe, "out": str(folder / f"out{threads}"), "shards": shards, "threads": threads}
    for path in shards:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    with limited(size) as group:
        done = run([sys.executable, "-c", MERGE, json.dumps(asked)], group)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_root
@pytest.mark.parametrize("threads", [2, 8])
def test_each_byte_is_read_once_in_a_pass(models, threads):
    """By however many workers: with a place each to read at, eight read 2.2 times what they need."""
    read, _ = merged(models, threads, 400 * MB)
    needed = 2 * sum(map(os.path.getsize, models[2]))
    if read < needed // 2:
        pytest.skip("the files lie in memory, or the kernel does not say what is read")
    assert read <= 1.05 * needed


PASS = """
import numpy as np, resource, sys
base, *models = (np.memmap(path, np.uint16, "r", 8192) for path in sys.argv[1:])
def wide(words):
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
before = resource.getrusage(resource.RUSAGE_SELF)
for start in range(0, base.size, 1 << 18):
    part = wide(base[start : start + (1 << 18)])
    for model in models:
        np.abs(wide(model[start : start + (1 << 18)]) - part).sum()
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime)
"""


@needs_root
def test_a_merge_takes_few_times_the_processor_time_of_a_plain_pass(models, tmp_path):
    """It reads cold files twice, counts, decides, merges and writes; NumPy adds up cached magnitudes. Measured: 3."""
    _, recipe, shards = models
    small = {name: str(tmp_path / name) for name in ("base", "corp", "func")}
    for path in small.values():
        write_checkpoint(path, {"w": np.ones(10, np.float32)})
    tiny = {**recipe, "base_model": small["base"], "models": [{"model": small[name]} for name in ("corp", "func")]}
    sdmw.merge(recipe, tmp_path / "warm", progress=False)  # kernels are compiled
    _, start = merged((tmp_path, tiny, [f"{path}/model.safetensors" for path in small.values()]), 1, 400 * MB)
    _, seconds = merged(models, 1, 400 * MB)
    plain = subprocess.run([sys.executable, "-c", PASS, *shards], capture_output=True, text=True, check=True)
    assert seconds - start < 6 * float(plain.stdout) + 0.2
