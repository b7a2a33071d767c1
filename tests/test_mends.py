"""A mend is tried: each row builds a fault, gets the message, does what it says, and gets the right result."""

import re

import pytest

import sdmw
from mends import adapters, checkpoints, recipes, runs, scan
from mends.scene import Row, Scene, plain
from sdmw.writing import work_directory

ROWS: list[Row] = [*recipes.ROWS, *checkpoints.ROWS, *adapters.ROWS, *runs.ROWS]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        yield Scene(patch)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_mend_mends(row, scene):
    scene.call, scene.expected = row.call, row.expected
    row.fault(scene)
    with pytest.raises(sdmw.SdmwError) as caught:
        scene.run()
    scene.said = str(caught.value)
    assert row.mend in [plain(problem.mend) for problem in caught.value.problems], scene.said
    row.follow(scene)
    if row.then:
        with pytest.raises(sdmw.SdmwError) as caught:
            scene.run()
        assert re.search(row.then, str(caught.value)), str(caught.value)
        assert row.mend not in str(caught.value)
    else:
        scene.run()
        scene.check()


# Mends without a row, and why.
WITHOUT = {
    "Stack layers of one shape: the output has one config": "needs models of two widths: tests/test_slices.py",
    "Stack layers of one kind: the output has one config": "needs models of two kinds: tests/test_slices.py",
    "pip install 'sdmw[dask]'": "needs an environment without dask: tests/contracts/test_dask.py",
    "Start one for each machine: dask worker ADDRESS": "needs a scheduler: tests/contracts/test_dask.py",
    "Start one (dask scheduler), or correct the address, as in tcp://10.0.0.1:8786": "needs a cluster: "
    "tests/contracts/test_dask.py",
    "Start workers (dask worker ADDRESS) and run the same command: it goes on": "needs a cluster: "
    "tests/faults/test_clusters.py",
    "Let each run write to its own folder": "needs a store: tests/test_remote_output.py",
    "Install the same version on all machines": "needs another version: tests/contracts/test_executors.py",
    "Give the workers the same files under the same paths": "needs a mount: tests/faults/test_clusters.py",
    "pip install 'sdmw[remote]'": "needs an environment without obstore: tests/test_remote_inputs.py",
    "Write to a folder of this machine, and copy the result there": "another place: tests/test_remote_inputs.py",
    "Write to s3://, gs:// or az://, or to a folder of this machine": "needs a store: tests/test_remote_output.py",
    "Name a folder in it, as in s3://bucket/folder": "needs a store: tests/test_remote_output.py",
    "Leave it out (--dask), or write to a folder that all workers see": "needs a store: tests/test_remote_output.py",
    "State it, as in --bandwidth 200MB": "needs a store: tests/running/test_probe.py",
    "Write for instance 2GB or measured": "said by plan alone: tests/test_plan_times.py",
    "Accept the terms on the model's page, and use a token that may read it (hf auth login, or HF_TOKEN)": "needs a "
    "Hub: "
    "tests/test_hub_inputs.py",
    "Rename the object": "needs a store that takes such names: tests/test_remote_inputs.py",
    "pip install 'sdmw[hub]'": "needs an environment without huggingface_hub: tests/storage/test_locate.py",
    "pip install 'sdmw[hub,remote]'": "needs an environment without huggingface_hub: tests/test_hub_inputs.py",
    "Check the name and the network; a gated or private model needs a token (hf auth login, or HF_TOKEN)": "needs "
    "a Hub: tests/test_hub_inputs.py",
    "Write it as in hf://org/name or hf://org/name@revision": "needs a Hub: tests/test_hub_inputs.py",
    "pip install 'sdmw[arrow]'": "needs an environment without pyarrow: tests/stores/test_sweep_exchange.py",
    "pip install 'sdmw[plots]'": "needs an environment without matplotlib: tests/stores/test_sweep_exchange.py",
    "Copy the file into the directory": "said of results, whose readers have mends of their own: test_links.py",
    "Change a weight, or leave one of them out": "needs models that cancel each other: tests/methods/test_sphere.py",
    "Choose another source of the tokenizer": "needs numbers with gaps: tests/test_vocabularies.py",
    "Add it in the recipe, under tokenizer, beside its source: tokens: HERE": "needs a model with a token for images: "
    "tests/test_vocabularies.py",
    "Choose another random_seed": "needs deltas made for the words of a seed: tests/methods/test_long_rows.py",
    "Check the network": "needs the network to fail: tests/storage/test_locate.py",
    "Free that space, or write elsewhere": "needs a full disk: tests/faults/test_disks.py",
    "Free that space or raise the quota (see `quota -s`), or write elsewhere": "needs a quota: "
    "tests/writing/test_publication.py",
    "Raise the limit": "the limit is the process's own: tests/test_pack.py",
    "Write to a disk, or raise the memory limit": "needs a memory group and a memory disk: tests/faults",
    "Write to another file system, and move the result": "needs a file system that cannot rename: tests/faults",
    "Choose another folder": "needs a user who may not write, or a read-only disk: tests/writing/test_target.py",
    "Name a directory inside it": "needs a mount point: tests/faults/test_places.py",
    "Remove it first, or choose another name": "needs an overlay: tests/faults/test_places.py",
    "Finish it with that version, or start over (--restart, resume=False)": "needs that version: test_resume.py",
    "Keep the folder above it: HERE/store/func/ckpt": "said of inputs that are not found, by a result: "
    "tests/running/test_verification.py",
    "Remove it by hand": "needs a directory that cannot be removed: tests/writing/test_publication.py",
    work_directory._LOCKS: "needs a file system without locks: tests/faults/test_places.py",
}


def test_every_mend_of_the_source_has_a_row():
    lacking = {
        pattern: module
        for pattern, module in scan.mends().items()
        if not any(re.fullmatch(pattern, row.mend) for row in ROWS)
    }
    explained = {pattern for pattern in lacking if any(re.fullmatch(pattern, words) for words in WITHOUT)}
    assert {pattern: module for pattern, module in lacking.items() if pattern not in explained} == {}
    assert [words for words in WITHOUT if not any(re.fullmatch(pattern, words) for pattern in lacking)] == []
