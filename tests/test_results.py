"""What public functions return: frozen, picklable, and by `to_dict` plain data for JSON, which commands print."""

import dataclasses
import inspect
import json
import pickle
from collections.abc import Mapping

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw.errors import CheckpointError

RECIPE = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}]}
ARGUMENTS = {
    "merge": (RECIPE, "merged"),
    "plan": (RECIPE, "base"),  # with a problem
    "explain": (RECIPE, "model.norm.weight"),
    "inspect": ("base",),
    "verify": ("merged",),
    "compare": ("base", "corp"),
    "extract": ("base", "corp", "adapter"),
    "pack": ("base", "corp", "archive"),
    "apply": ("base", "archive", "applied"),
    "revert": ("corp", "archive", "reverted"),
    "measure": (RECIPE, "store"),
    "open_store": ("store",),
    "sweep": ("store",),
    "doctor": (RECIPE,),
}
KINDS = {
    "merge": sdmw.Report, "plan": sdmw.Plan, "explain": sdmw.Explanation, "inspect": sdmw.Inspection,
    "verify": sdmw.Verification, "compare": sdmw.Comparison,
    "extract": sdmw.ExtractionReport, "pack": sdmw.PackReport, "apply": sdmw.PackReport, "revert": sdmw.PackReport,
    "measure": sdmw.Store, "open_store": sdmw.Store, "sweep": sdmw.Sweep,
    "doctor": sdmw.Diagnosis,
}  # fmt: skip
OPTIONS = {"doctor": {"statistics": "store"}}
NO_RESULT = {"open", "report"}  # a reader, as of safetensors; the path of a page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint(folder / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(folder / name, fine_tuned(rng, base))
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """What each function returned, in the order of ARGUMENTS."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        found = {}
        for name, arguments in ARGUMENTS.items():
            quiet = {"progress": False} if "progress" in inspect.signature(getattr(sdmw, name)).parameters else {}
            found[name] = getattr(sdmw, name)(*arguments, **quiet, **OPTIONS.get(name, {}))
        return found


@pytest.fixture(params=ARGUMENTS)
def result(request, results):
    return results[request.param]


def test_every_public_function_is_here(results):
    functions = {name for name in sdmw.__all__ if inspect.isfunction(getattr(sdmw, name))}
    assert functions - NO_RESULT == ARGUMENTS.keys()
    assert {name: type(result) for name, result in results.items()} == KINDS


def parts_of(value):
    """A value and all that it is made of."""
    yield value
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name != "config":  # JSON as it was found
                yield from parts_of(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from parts_of(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from parts_of(item)


def test_it_is_frozen(result):
    for part in parts_of(result):
        if dataclasses.is_dataclass(part):
            (first, *_) = dataclasses.fields(part)
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, first.name, None)
        assert not isinstance(part, list | set | bytearray | np.ndarray)


def test_it_pickles(result):
    assert pickle.loads(pickle.dumps(result)) == result


def test_it_is_plain_data_for_json(result):
    plain = result.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert type(result).to_dict.__doc__
    if not isinstance(result, sdmw.Plan):  # a plan's is its summary
        fields = {field.name for field in dataclasses.fields(result)}
        assert plain.keys() == fields - ({"path"} if isinstance(result, sdmw.Report) else set())


def test_a_command_prints_it(folder, results, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("plan", "inspect", "compare", "verify"):
        arguments = ["merged/sdmw_recipe.yaml", "base"] if name == "plan" else ARGUMENTS[name]
        printed = json.loads(told(capsys, monkeypatch, name, *arguments, "--json").out)
        assert printed.keys() == results[name].to_dict().keys()
    assert printed == results["verify"].to_dict()


def test_a_report_is_loaded_again(folder, results, monkeypatch):
    monkeypatch.chdir(folder)
    for path in ("merged", folder / "merged"):
        loaded = sdmw.Report.load(path)
        assert loaded == results["merge"]
        assert loaded.to_dict() == results["merge"].to_dict()
        assert loaded.path == str(path)
    for path in ("base", "nothing", "adapter"):
        with pytest.raises(CheckpointError, match=r"sdmw_report\.json: expected"):
            sdmw.Report.load(path)


def test_reports_on_disk_name_no_path(folder, results):
    for name in ("merged", "adapter"):
        told = json.loads((folder / name / "sdmw_report.json").read_text())
        assert "path" not in told
        assert str(folder) not in json.dumps(told)
