"""What is read as files is no address: said at once, and nothing is written."""

import os

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import write_checkpoint
from sdmw.errors import PlanError, UsageError

ADDRESS = "s3://models/merged"


@pytest.mark.parametrize(
    ("name", "arguments", "argument"),
    [
        ("verify", (ADDRESS,), "out"),
        ("report", (ADDRESS,), "of"),
        ("report", ("out", ADDRESS), "to"),
        ("open_store", (ADDRESS,), "path"),
        ("sweep", (ADDRESS,), "path"),
    ],
)
def test_an_address_is_no_folder(tmp_path, monkeypatch, name, arguments, argument):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"{argument}: expected a folder of this machine"):
        getattr(sdmw, name)(*arguments)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("address", ["S3://bucket/out", "gcs://b/out", "http://host/out", "file:///out", "hdfs://x/y"])
def test_an_address_of_another_kind_is_no_folder_of_this_machine(tmp_path, monkeypatch, address):
    """It would be written to a folder called `S3:`."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "one", {"w": np.zeros(4, np.float32)})
    recipe = {"merge_method": "linear", "models": [{"model": "./one", "parameters": {"weight": 1.0}}]}
    for call in (
        lambda: sdmw.merge(recipe, address, progress=False),
        lambda: sdmw.pack("./one", "./one", address, progress=False),
        lambda: sdmw.inspect(address),
    ):
        with pytest.raises(sdmw.SdmwError, match=r"found an address of another kind\. Write s3:// in small letters"):
            call()
    assert os.listdir(tmp_path) == ["one"]


def test_what_another_kind_of_address_holds_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = {"merge_method": "linear", "models": [{"model": "http://me:hidden@host/x", "parameters": {"weight": 1}}]}
    with pytest.raises(PlanError) as caught:
        sdmw.merge(recipe, "out", progress=False)
    assert "hidden" not in str(caught.value)
