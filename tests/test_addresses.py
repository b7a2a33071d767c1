"""What is read as files is no address: said at once, and nothing is written."""

import os

import pytest

import sdmw
from sdmw.errors import UsageError

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
