"""report.schema.json says what every merge leaves, and no path of the machine is in it."""

import dataclasses
import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import save_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.reporting import reading, report

SCHEMA = json.loads(files("sdmw.reporting").joinpath("report.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, two fine-tunes, one that lacks tensors, one that has others, three adapters, one of them of a copy."""
    folder = tmp_path_factory.mktemp("world") / "machine"
    folder.mkdir()
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    for name in ("base", "base-copy", "same"):
        write_checkpoint(folder / name, base)
    write_checkpoint(folder / "corp", fine_tuned(rng, base))
    func = fine_tuned(rng, base, "F16")
    write_checkpoint(folder / "func", func, shards=[sorted(base)[:4], sorted(base)[4:]])
    save_file(func, folder / "func" / "model.safetensors", {"format": "pt"})
    write_checkpoint(folder / "less", {name: tensor for name, tensor in base.items() if "norm" not in name})
    write_checkpoint(folder / "more", {**base, "extra.weight": base["model.norm.weight"], "extra.ids": np.arange(3)})
    write_adapter(folder / "one", adapter_of(rng, base))
    write_adapter(folder / "two", adapter_of(rng, base, modules=("q_proj",)))
    write_adapter(folder / "of-copy", adapter_of(rng, base), base_model_name_or_path=str(folder / "base-copy"))
    return folder


def models(*names):
    return {"models": [{"model": name} for name in names]}


SDM_W = {"merge_method": "sdm_w", "base_model": "base", **models("corp", "func")}
LORA = {"merge_method": "lora", "base_model": "base", **models("one", "two")}
TRIMMED = ("ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della_linear", "della")
RECIPES = {
    "sdm_w": SDM_W,
    "approximate": SDM_W | {"parameters": {"percentile": "approximate"}},
    **{name: SDM_W | {"parameters": {"granularity": name}} for name in ("module", "block", "component", "model")},
    "power": SDM_W | {"parameters": {"normalization": {"power": 5.5}, "lambda": 0.5}, "out_dtype": "float32"},
    "squares by layer": SDM_W | {"parameters": {"normalization": {"power": -1, "norm": 2, "scope": "layer"}}},
    "norms preserved": SDM_W | {"parameters": {"lambda": "preserve_norm"}},
    "norms of layers preserved": SDM_W
    | {"merge_method": "task_arithmetic", "parameters": {"lambda": {"preserve_norm": "layer"}}},
    "weights given": SDM_W | {"parameters": {"weight": 0.3}},
    "nothing measured": SDM_W | {"parameters": {"weight": [0.1, 0.9], "k": 0}},
    "rules and gradients": SDM_W | {"parameters": {"k": [{"filter": "mlp", "value": [0, 20]}, {"value": 10}]}},
    "nothing changed": SDM_W | models("same"),
    "linear": {"merge_method": "linear", **models("corp", "func")},
    "linear with a base": {"merge_method": "linear", "base_model": "base", **models("corp", "func")},
    "task_arithmetic": {**SDM_W, "merge_method": "task_arithmetic", "parameters": {"normalize": True}},
    **{name: SDM_W | {"merge_method": name, "parameters": {"weight": 0.5, "density": 0.6}} for name in TRIMMED},
    **{name: SDM_W | {"merge_method": name, "parameters": {"weight": 0.5}} for name in ("nuslerp", "multislerp")},
    **{name: SDM_W | {"merge_method": name} for name in ("model_stock", "karcher", "sce", "ram", "ramplus_tl")},
    **{
        name: SDM_W | models("corp") | {"merge_method": name, "parameters": {"t": 0.5}}
        for name in ("slerp", "nearswap")
    },
    "arcee_fusion": SDM_W | models("corp") | {"merge_method": "arcee_fusion"},
    "passthrough": {"merge_method": "passthrough", **models("corp")},
    "lora": LORA,
    "lora to an adapter": LORA | {"parameters": {"output": "adapter", "combination_type": "cat"}},
    "missing": SDM_W | models("less", "corp") | {"missing": "base"},
    "extra": SDM_W | models("more", "corp") | {"extra": "take"},
    "adapters": SDM_W | models("one", "corp", "base+two"),
    "an adapter of a copy": SDM_W | models("of-copy"),
    "the base among models": SDM_W | {"models": [{"model": "base", "parameters": {"k": 5}}, {"model": "corp"}]},
}


@pytest.fixture(scope="module")
def texts(folder):
    """What stands in the report of each merge."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for name, recipe in RECIPES.items():
            sdmw.merge(recipe, f"{name} merged", progress=False)
    return {name: (folder / f"{name} merged" / "sdmw_report.json").read_text() for name in RECIPES}


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
    assert "func: model.safetensors stands beside shards" in warnings
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
    later = reading.LATER if kind is report.Report else {}
    assert told["required"] == [name for name in told["properties"] if name not in later]
    assert told["additionalProperties"] is False
    assert all(each["description"].endswith(".") for each in told["properties"].values())
