"""Every kernel belongs to a group that is compiled before a run, and every method names the groups that it calls."""

import importlib
from pathlib import Path

import pytest

from sdmw.kernels import calls
from sdmw.methods import all_methods

FOLDER = Path(calls.__file__).parent
# Functions that kernels call, and no kernels: what is inlined into others is compiled with them.
INLINED = {"voting", "elementary"}


def kernels_in(module):
    found = vars(importlib.import_module(f"sdmw.kernels.{module}")).values()
    return [each for each in found if hasattr(each, "py_func") and each.py_func.__module__.endswith(f".{module}")]


def test_every_module_with_kernels_is_in_a_group():
    grouped = {one.py_func.__module__.rpartition(".")[2] for group in calls.CALLS.values() for one, _ in group()}
    with_kernels = {path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__" and kernels_in(path.stem)}
    assert with_kernels - INLINED <= grouped


@pytest.mark.parametrize("name", all_methods())
def test_a_method_names_groups_that_exist(name):
    method = all_methods()[name]
    assert {*method.uses, *method.may_use} <= calls.CALLS.keys() - {calls.ALWAYS}
