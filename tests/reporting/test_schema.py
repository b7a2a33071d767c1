"""report.schema.json says what every merge leaves, and no path of the machine is in it."""

import dataclasses
import json
from importlib.resources import files

import jsonschema
import pytest

import sdmw
from recipes_of_all_methods import RECIPES, SDM_W
from sdmw.reporting import reading, report

SCHEMA = json.loads(files("sdmw.reporting").joinpath("report.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def texts(merges):
    """What stands in the report of each merge."""
    return {name: (path / "sdmw_report.json").read_text() for name, path in merges.items()}


@pytest.fixture(params=RECIPES)
def text(request, texts):
    return texts[request.param]


def of_another_type(value):
    return "text" if not isinstance(value, str) else 1.5


def test_every_method_is_here():
    from sdmw.methods import all_methods

    assert {recipe["merge_method"] for recipe in RECIPES.values()} == all_methods().keys()


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_report_is_valid(text):
    VALIDATOR.validate(json.loads(text))


def test_each_field_is_needed_and_of_its_type(text):
    told = json.loads(text)
    assert told.keys() == SCHEMA["properties"].keys()
    for name in told:
        without = {key: value for key, value in told.items() if key != name}
        assert VALIDATOR.is_valid(without) == (name in reading.LATER), name
        assert not VALIDATOR.is_valid({**told, name: of_another_type(told[name])}), name
    assert not VALIDATOR.is_valid({**told, "more": 1})


def test_no_path_of_the_machine_is_in_it(text, folder):
    assert str(folder) not in text
    assert str(folder.parent) not in text


def test_the_merges_tell_what_they_should(texts):
    """Warnings and notes that name a path occur among the recipes, else the test above shows nothing."""
    told = {name: json.loads(text) for name, text in texts.items()}
    warnings = "\n".join(warning for each in told.values() for warning in each["warnings"])
    assert "func: model.safetensors lies beside shards" in warnings
    assert "of-copy: an adapter of 'base-copy', put on 'base'" in warnings
    assert told["the base among models"]["notes"]
    assert told["missing"]["missing"] == {"less": 3}
    assert told["extra"]["extra"] == {"more": 2}


def test_a_recipe_named_by_an_absolute_path(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "r.yaml").write_text(json.dumps({**SDM_W, "wrong": 1, "parameters": {"neither": 2}}))
    found = sdmw.merge(folder / "r.yaml", folder / "named", progress=False, ignore_unknown=True)
    text = (folder / "named" / "sdmw_report.json").read_text()
    assert str(folder) not in text
    assert "r.yaml:1:" in " ".join(found.notes)
    VALIDATOR.validate(json.loads(text))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (report.Report, ()),
        (report.ModelReport, ("models", "items")),
        (report.LayerReport, ("layers", "items")),
        (report.FilesReport, ("files",)),
        (report.InputReport, ("inputs", "items")),
        (report.RunReport, ("run",)),
    ],
)
def test_every_field_of_the_classes_is_described(kind, names):
    told = SCHEMA if not names else SCHEMA["properties"][names[0]]
    told = told["items"] if "items" in names else told
    assert list(told["properties"]) == [field.name for field in dataclasses.fields(kind) if field.name != "path"]
    later = {report.Report: reading.LATER, report.RunReport: reading.LATER_OF_RUN}.get(kind, {})
    assert told["required"] == [name for name in told["properties"] if name not in later]
    assert told["additionalProperties"] is False
    assert all(each["description"].endswith(".") for each in told["properties"].values())
