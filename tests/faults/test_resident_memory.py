"""Resident memory against the plan's bound where pages of the inputs are mapped in large pieces: wholly cached inputs,
file systems with large folios, huge pages. And against the size of the model, for everything that reads one."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import write_checkpoint
from faults.disks import mounted
from faults.worlds import ALL, needs_root, write_models
from reference.rounding import STORED

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
BUDGET = "256MiB"  # little: small tiles have many edges
FLAT = 5_000_000  # bytes that a peak may differ from run to run

# Prints the peak of a process that does one thing, and what it returns.
CHILD = """
import json, sys
import sdmw
what, arguments, options = json.loads(sys.argv[1])
done = getattr(sdmw, what)(*arguments, **options)
with open("/proc/self/status") as file:  # ru_maxrss would be our own, from before this program was begun
    peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
print(json.dumps([peak, done.run.planned_peak if what == "merge" else None]))
"""


def peak_of(what, *arguments, **options):
    """Bytes that a process of its own has resident at most, and the bound that it was told."""
    told = json.dumps([what, list(arguments), options])
    done = subprocess.run([sys.executable, "-c", CHILD, told], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def write_cached(folder, rows, models=2):
    """A base and fine-tunes of one sparse matrix of 1,000 columns, wholly cached; edges of tiles lie within pages."""
    rng, size, paths = np.random.default_rng(8), 2 * rows * 1000, []
    entry = {"dtype": "BF16", "shape": [rows, 1000], "data_offsets": [0, size]}
    header = json.dumps({"model.layers.0.mlp.up_proj.weight": entry}).encode()
    for number in range(models + 1):
        path = folder / f"model{number}"
        path.mkdir(parents=True)
        (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        with open(path / "model.safetensors", "w+b") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.write((rng.standard_normal(1000, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())
            file.truncate(8 + len(header) + size)
            file.seek(0)
            while file.read(1 << 22):
                pass
        paths.append(str(path))
    return paths


def recipe(paths):
    return {"merge_method": "sdm_w", "base_model": paths[0], "models": [{"model": path} for path in paths[1:]]}


@contextlib.contextmanager
def huge_pages(setting):
    """The system's setting, put back afterwards; None leaves it alone."""
    if setting is None:
        yield
        return
    try:
        before = HUGE_PAGES.read_text().split("[")[1].split("]")[0]
        HUGE_PAGES.write_text(setting)
    except OSError as error:
        pytest.skip(f"huge pages cannot be set here: {error}")
    try:
        yield
    finally:
        HUGE_PAGES.write_text(before)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Compiled, and in their cache: compiling is not what is measured."""
    folder = tmp_path_factory.mktemp("kernels")
    peak_of("merge", write_models(folder), str(folder / "out"), progress=False)


@contextlib.contextmanager
def disk(kind, folder):
    """A fresh file system of a kind."""
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"needs mkfs.{kind}")
    try:
        with mounted(kind, 2 << 30, folder / kind, image=folder / "image") as at:
            yield at
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no {kind} can be mounted here: {error.stderr}")


CASES = [(kind, setting) for kind in ("ext4", "xfs", "btrfs") for setting in ("always", "never")]


@needs_root
@pytest.mark.parametrize(("kind", "setting"), CASES if ALL else [("xfs", None)])
def test_a_merge_of_cached_inputs_keeps_to_the_plan(kernels, tmp_path, kind, setting):
    with huge_pages(setting), disk(kind, tmp_path) as at:
        paths = write_cached(at, 100_000)
        for options in [{"budget": BUDGET}, {}][: 2 if ALL else 1]:
            peak, planned = peak_of("merge", recipe(paths), str(at / "out"), progress=False, overwrite=True, **options)
            assert peak <= planned, f"{kind}, huge pages {setting}, {options or 'default budget'}"


ROW = 4_500_000  # elements: more than a tile
BY_VECTOR = {
    "della": ("della", {"weight": 1, "density": 0.5}),
    "arcee_fusion": ("arcee_fusion", {}),
    "model_stock": ("model_stock", {"filter_wise": True}),
    "nuslerp": ("nuslerp", {"weight": 1, "nuslerp_flatten": False}),
    "nuslerp by column": ("nuslerp", {"weight": 1, "nuslerp_flatten": False, "nuslerp_row_wise": True}),
}


def by_vector(folder, name, shape):
    """A recipe of a tensor of some shape, and how many bytes its inputs have."""
    method, parameters = BY_VECTOR[name]
    names = ("base", "one") if method == "arcee_fusion" else ("base", "one", "other")
    rng = np.random.default_rng(8)
    for each in names:
        values = rng.normal(0, 0.02, shape).astype(np.float32).astype(STORED["BF16"])
        write_checkpoint(folder / each, {"w": values})
    models = [{"model": str(folder / each)} for each in names[1:]]
    recipe = {"merge_method": method, "parameters": parameters, "base_model": str(folder / "base"), "models": models}
    return recipe, len(names) * values.nbytes


@pytest.mark.parametrize("name", BY_VECTOR)
def test_rows_longer_than_a_tile_and_many_columns_keep_to_the_plan(kernels, tmp_path, name):
    """What does not fit in the default budget is refused, with the number that does."""
    asked, size = by_vector(tmp_path, name, (2, ROW))
    least = sdmw.plan(asked, budget=1).problems[0]
    assert least.where == "budget"
    peak, planned = peak_of("merge", asked, str(tmp_path / "out"), progress=False, budget="4GB", threads=1)
    assert peak <= planned
    assert planned >= size


@pytest.mark.parametrize("name", BY_VECTOR if ALL else ["della"])
def test_a_single_long_row_is_merged_in_the_least_budget(kernels, tmp_path, name):
    """In tiles of the smallest size, of which it has more than a hundred."""
    asked, _ = by_vector(tmp_path, name, 2 * ROW)
    with pytest.raises(AssertionError, match="Set the budget to") as refused:
        peak_of("merge", asked, str(tmp_path / "out"), progress=False, budget=1)
    least = re.search(r"Set the budget to (\d+MB)", str(refused.value))[1]
    peak, planned = peak_of("merge", asked, str(tmp_path / "out"), progress=False, budget=least)
    assert peak <= planned


@pytest.mark.skipif(not ALL, reason="half a minute: scripts/faults")
def test_whatever_reads_a_model_takes_no_more_for_a_longer_one(kernels, tmp_path):
    peaks = []
    for rows in 100_000, 400_000:
        base, tune = write_cached(tmp_path / str(rows), rows, models=1)
        out, archive = str(tmp_path / str(rows) / "out"), str(tmp_path / str(rows) / "archive")
        steps = {
            "merge": ((recipe([base, tune]), out), {"progress": False}),
            "verify": ((out,), {"sample": 1}),
            "pack": ((base, tune, archive), {"progress": False}),
            "apply": ((base, archive, out), {"progress": False, "overwrite": True}),
            "revert": ((tune, archive, out), {"progress": False, "overwrite": True}),
        }
        peaks.append({what: peak_of(what, *arguments, **options)[0] for what, (arguments, options) in steps.items()})
    shorter, longer = peaks
    assert {what: (longer[what] - peak) // FLAT for what, peak in shorter.items() if longer[what] > peak + FLAT} == {}
