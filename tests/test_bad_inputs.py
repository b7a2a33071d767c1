"""Every bad input: one message that names file, tensor or line, and the mend; nothing changed, nothing left behind."""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from command_line import everything_in, told
from reference.linear import linear
from reference.rounding import bits, rounded, widen
from reference.sdm_w import sdm_w
from reference.task_arithmetic import task_arithmetic
from sdmw.errors import DisagreementError, NonFiniteError, PlanError, RecipeError, UsageError

pytestmark = pytest.mark.usefixtures("tiny_tiles")

Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"
HUGE = 3.3e38
MODELS = ("base", "corp", "func")


class World:
    """A base and two fine-tunes in a folder of their own, which a case then spoils."""

    def __init__(self, path, dtype="F32"):
        rng = np.random.default_rng(11)
        self.path = str(path)
        self.base = llama_like(rng, dtype)
        self.corp, self.func = fine_tuned(rng, self.base), fine_tuned(rng, self.base, scale=1e-2)
        self.config = dict(CONFIG)
        self.recipe = {
            "merge_method": "sdm_w", "base_model": self.at("base"),
            "models": [{"model": self.at("corp")}, {"model": self.at("func")}],
        }  # fmt: skip

    def at(self, *parts):
        return os.path.join(self.path, *parts)

    @property
    def models(self):
        return self.base, self.corp, self.func

    def write(self):
        for name, tensors in (("base", self.base), ("corp", self.corp), ("func", self.func)):
            write_checkpoint(self.at(name), tensors, config=self.config)

    def write_recipe(self, recipe=None):
        """As YAML, which JSON is."""
        text = recipe if isinstance(recipe, str) else json.dumps({**self.recipe, **(recipe or {})}, indent=1)
        with open(self.at("recipe.yaml"), "w") as file:
            file.write(text.replace("HERE", self.path))
        return self.at("recipe.yaml")


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        name: of the test.
        error: the class of the exception, exactly.
        said: patterns, one for each problem, in order; HERE stands for the folder.
        tensors: changes the models before they are written.
        files: changes what was written.
        recipe: fields that replace the recipe's, or its whole text.
        out: the target.
        options: arguments of `merge`.
    """

    name: str
    error: type
    said: tuple[str, ...]
    tensors: Callable[[World], Any] = lambda world: None
    files: Callable[[World], Any] = lambda world: None
    recipe: Any = None
    out: str = "out"
    options: dict[str, Any] = field(default_factory=dict)


def refused(case, world, capsys, monkeypatch):
    """Builds the case, runs it by function and by command, and looks at what both left."""
    case.tensors(world)
    world.write()
    recipe, out = world.write_recipe(case.recipe), world.at(case.out)
    case.files(world)
    before = everything_in(world.path)
    with pytest.raises(sdmw.SdmwError) as caught:
        sdmw.merge(recipe, out, progress=False, **case.options)
    assert type(caught.value) is case.error
    flags = [part for name, value in case.options.items() for part in (f"--{name.replace('_', '-')}", value)]
    flags = [part for part in flags if part is not True]
    commanded = told(capsys, monkeypatch, "merge", recipe, out, *flags)
    assert commanded.code == case.error.exit_code
    assert commanded.out == ""
    assert steady(commanded.errors) == steady(str(caught.value).splitlines())
    assert len(commanded.errors) == len(case.said), commanded.errors
    for line, pattern in zip(commanded.errors, case.said, strict=True):
        assert re.search(pattern.replace("HERE", re.escape(world.path)), line), line
    assert everything_in(world.path) == before
    return commanded


def steady(lines):
    """Without what memory is asked for: what the process occupies differs a little from call to call."""
    return [re.sub(r"at least .* of memory|to \d+MiB", "so much", line) for line in lines]


def named(case):
    return case.name


SHORT = "merge_method: sdm_w\nbase_model: HERE/base\nmodels: [{model: HERE/corp}]\n"
BOMB = "a: &a [1, 1]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

RECIPES = [
    Case("unknown field", RecipeError, (r"recipe.yaml:4:1: paramters: unknown field\. Did you mean parameters\?",),
         recipe=SHORT + "paramters: {k: 10}\n"),
    Case("unknown parameter", RecipeError,
         (r"recipe.yaml:4:14: parameters.kk: unknown parameter of sdm_w\. Did you mean k\?",),
         recipe=SHORT + "parameters: {kk: 10}\n"),
    Case("duplicate field", RecipeError, (r"recipe.yaml:4:1: models: duplicate key\. It is also in line 3",),
         recipe=SHORT + "models: []\n"),
    Case("wrong type", RecipeError, (r"recipe.yaml:3:9: models: expected a list, found 3",),
         recipe="merge_method: sdm_w\nbase_model: a\nmodels: 3\n"),
    Case("tag", RecipeError, (r"recipe.yaml:4:17: parameters.k: expected no tag, found the tag '!!python/name:os'",),
         recipe=SHORT + "parameters: {k: !!python/name:os 1}\n"),
    Case("alias bomb", RecipeError, (r"more than 10000 values\. Is this a recipe\?",), recipe=BOMB + SHORT),
    Case("not YAML", RecipeError, (r"recipe.yaml:1:15: not YAML: a bracket", r"    merge_method: \[sdm_w", r" {18}\^"),
         recipe="merge_method: [sdm_w\n"),
    Case("empty", RecipeError, (r"recipe.yaml: expected a recipe, found an empty file",), recipe=""),
    Case("k below", RecipeError, (r"recipe.yaml:4:17: parameters.k: expected a number from 0 to 100, found -1",),
         recipe=SHORT + "parameters: {k: -1}\n"),
    Case("k above", RecipeError, (r"recipe.yaml:4:17: parameters.k: expected a number from 0 to 100, found 100.5",),
         recipe=SHORT + "parameters: {k: 100.5}\n"),
    Case("k NaN", RecipeError, (r"recipe.yaml:4:17: parameters.k: expected a number that is finite.*, found nan",),
         recipe=SHORT + "parameters: {k: .nan}\n"),
    Case("weight NaN", RecipeError, (r"recipe.yaml:4:41: models.0.parameters.weight: .*finite as float32, found nan",),
         recipe="merge_method: sdm_w\nbase_model: a\nmodels:\n- {model: b, parameters: {k: 1, weight: .NaN}}\n"),
    Case("no models", RecipeError, (r"models: expected at least one model, found an empty list",),
         recipe={"models": []}),
    Case("models missing", RecipeError, (r"recipe.yaml:1:1: models: missing\. Write for instance models: ",),
         recipe="merge_method: sdm_w\nbase_model: a\n"),
    Case("a model twice", RecipeError,
         (r"recipe.yaml:5:10: models.1.model: expected each model once, found 'HERE/./corp'\. It is also models.0",),
         recipe="merge_method: sdm_w\nbase_model: a\nmodels:\n- model: HERE/corp\n- model: HERE/./corp\n"),
    Case("weights for some", RecipeError, (r"models: expected weights for all fine-tunes or none, found none for 'b'",),
         recipe={"models": [{"model": "a", "parameters": {"weight": 1}}, {"model": "b"}]}),
    Case("no base", RecipeError, (r"base_model: missing\. Write base_model: sdm_w merges the changes",),
         recipe={"base_model": None}),
    Case("several at once", RecipeError,
         (r":2:18: merge_method: unknown merge method 'sdm'", r"models.0.model: missing", r"models.0.mdel: unknown",
          r"dtype: expected float32, .*int8"),
         recipe={"merge_method": "sdm", "models": [{"mdel": "x"}], "dtype": "int8"}),
    Case("recipe is not there", RecipeError, (r"recipe.yaml: no such file",),
         files=lambda w: os.unlink(w.at("recipe.yaml"))),
    Case("recipe is a folder", RecipeError, (r"recipe.yaml: a directory",),
         files=lambda w: (os.unlink(w.at("recipe.yaml")), os.mkdir(w.at("recipe.yaml")))),
    Case("recipe is a pipe", RecipeError, (r"recipe.yaml: not a regular file",),
         files=lambda w: (os.unlink(w.at("recipe.yaml")), os.mkfifo(w.at("recipe.yaml")))),
    Case("budget is no size", UsageError, (r"^budget: expected a number of bytes.*, found 'x'\. Write for instance",),
         options={"budget": "x"}),
    Case("header limit is no size", UsageError, (r"^header_limit: expected .*, found '-1'",),
         options={"header_limit": "-1"}),
]  # fmt: skip


@pytest.mark.parametrize("case", RECIPES, ids=named)
def test_a_recipe_at_fault_is_told_at_once(case, tmp_path, capsys, monkeypatch):
    refused(case, World(tmp_path), capsys, monkeypatch)


def replace_file(*parts, data):
    def act(world):
        with open(world.at(*parts), "wb") as file:
            file.write(data)

    return act


def edit_config(**fields):
    return lambda w: replace_file("corp", "config.json", data=json.dumps({**CONFIG, **fields}).encode())(w)


def header(entries, data=b""):
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def pickled_only(world):
    os.rename(world.at("corp", "model.safetensors"), world.at("corp", "pytorch_model.bin"))


def link_out(world):
    os.rename(world.at("corp", "model.safetensors"), world.at("elsewhere"))
    Path(world.at("corp", "model.safetensors")).symlink_to(world.at("elsewhere"))


def pipe(world):
    os.unlink(world.at("corp", "model.safetensors"))
    os.mkfifo(world.at("corp", "model.safetensors"))


def index(weight_map):
    text = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return replace_file("corp", "model.safetensors.index.json", data=text)


def larger_vocabulary(world):
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        world.func[name] = np.concatenate([world.func[name], world.func[name][:2]])


def twice_in_the_base(world):
    for side in "ab":
        world.base |= {f"{side}.{n}": world.base[n] for n in list(world.base) if n[:2] not in ("a.", "b.")}
    for name in [n for n in world.base if n[:2] not in ("a.", "b.")]:
        del world.base[name]
    world.func = dict(world.base)


def cast(model, name, dtype):
    def act(world):
        getattr(world, model)[name] = getattr(world, model)[name].astype(dtype)

    return act


def without(*names):
    return lambda w: [w.corp.pop(name) for name in names]


def also(name, array, *models):
    return lambda w: [getattr(w, model).update({name: array}) for model in models]


def both(*actions):
    return lambda w: [action(w) for action in actions]


def filter_within_block(k):
    return {"parameters": {"granularity": "block", "k": [{"filter": "mlp", "value": k}, {"value": 10}]}}


PLANNING = [
    Case("missing directories", PlanError,
         (r"'HERE/nobase': no such directory \(looked for 'HERE/nobase'\)", r"'HERE/gone': no such directory"),
         recipe={"base_model": "HERE/nobase", "models": [{"model": "HERE/gone"}, {"model": "HERE/corp"}]}),
    Case("a relative name", PlanError,
         (r"'./nobase': no such directory \(looked for '.*/nobase', relative to the current directory\)",),
         recipe={"base_model": "./nobase"}),
    Case("a colon that is missing", PlanError,
         (r"'model corp': no such directory .* Write `model: corp`, with a colon",),
         recipe={"models": ["model corp"]}),
    Case("a file for a directory", PlanError, (r"'HERE/recipe.yaml': a file, not a directory",),
         recipe={"base_model": "HERE/recipe.yaml"}),
    Case("pickled weights", PlanError,
         (r"HERE/corp: expected safetensors weights, found only pickled weights, which are never opened: "
          r"'pytorch_model.bin'\. Convert them",), files=pickled_only),
    Case("quantised", PlanError,
         (r"HERE/corp/config.json: expected weights that are not quantised, found quantization_config with "
          r"quant_method 'gptq'\. Give the checkpoint that was quantised",),
         files=edit_config(quantization_config={"quant_method": "gptq"})),
    Case("float8", PlanError,
         (rf"HERE/corp/model.safetensors: tensor '{NORM}': expected a dtype that is merged .*, found F8_E4M3. Convert",
          rf"model 'HERE/corp', HERE/corp/model.safetensors: tensor '{NORM}': expected dtype F32 as in the base"),
         tensors=cast("corp", NORM, ml_dtypes.float8_e4m3fn)),
    Case("complex", PlanError,
         tuple(rf"{name}/model.safetensors: tensor 'c': expected a dtype .*, found C64" for name in MODELS),
         tensors=also("c", np.zeros(3, np.complex64), *MODELS)),
    Case("no config", PlanError, (r"HERE/corp/config.json: no such file\. Copy it from the model's repository",),
         files=lambda w: os.unlink(w.at("corp", "config.json"))),
    Case("broken config", PlanError, (r"HERE/corp/config.json: not JSON: ",),
         files=replace_file("corp", "config.json", data=b"{")),
    Case("config is a pointer", PlanError, (r"corp/config.json: expected the file, found a Git LFS pointer",),
         files=replace_file("corp", "config.json", data=b"version https://git-lfs.github.com/spec/v1\n")),
    Case("config is a list", PlanError, (r"HERE/corp/config.json: expected an object, found list",),
         files=replace_file("corp", "config.json", data=b"[1]")),
    Case("no weights", PlanError, (r"HERE/corp: expected model.safetensors or .*, found no weights",),
         files=lambda w: os.unlink(w.at("corp", "model.safetensors"))),
    Case("cut off", PlanError, (r"HERE/corp/model.safetensors: expected .* bytes of data, found .*cut off\. The file",),
         files=lambda w: os.truncate(w.at("corp", "model.safetensors"), 5000)),
    Case("header bomb", PlanError, (r"HERE/corp/model.safetensors: expected a safetensors file, found .*declared",),
         files=replace_file("corp", "model.safetensors", data=struct.pack("<Q", 2**62) + b"{}")),
    Case("header above the limit", PlanError, (r"model.safetensors: expected a header of at most 10 bytes",) * 3,
         options={"header_limit": 10}),
    Case("Git LFS", PlanError, (r"HERE/corp/model.safetensors: .*a Git LFS pointer to one\. Run `git lfs pull`",),
         files=replace_file("corp", "model.safetensors", data=b"version https://git-lfs.github.com/spec/v1\n")),
    Case("key twice", PlanError, (r"corp/model.safetensors: the header cannot be used: the key 'a' appears twice",),
         files=replace_file("corp", "model.safetensors", data=header(b'{"a": {}, "a": {}}'))),
    Case("overlap", PlanError, (r"corp/model.safetensors: tensor 'b': expected data from byte 8, found .*overlaps",),
         files=replace_file("corp", "model.safetensors", data=header(
             {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
              "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)))),
    Case("unknown dtype", PlanError, (r"corp/model.safetensors: tensor 'a': unknown dtype 'F31'",),
         files=replace_file("corp", "model.safetensors", data=header(
             {"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)))),
    Case("a hostile name", PlanError, (r"corp/model.safetensors: tensor 'a\\x1b\[2J\\nerror: x': unknown dtype",),
         files=replace_file("corp", "model.safetensors", data=header(
             {"a\x1b[2J\nerror: x": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)))),
    Case("index to a shard that is not there", PlanError, (r"HERE/corp/a.safetensors: no such file\. Copy",),
         files=index({"a": "a.safetensors"})),
    Case("index out of the folder", PlanError,
         (r"index.json: weight_map: expected plain file names ending in .safetensors, found '../base/model",),
         files=index({"a": "../base/model.safetensors"})),
    Case("index and shard differ", PlanError,
         (r"index.json: 'model.safetensors' lacks tensors that weight_map places there, 1: 'a'. Index and shards come",
          r"index.json: 'model.safetensors' holds tensors that weight_map does not place there, 9: "),
         files=index({"a": "model.safetensors"})),
    Case("link out of the folder", PlanError,
         (r"HERE/corp/model.safetensors: expected a file of this directory, found a link that leaves it, to "
          r"'HERE/elsewhere'\. Copy the file",), files=link_out),
    Case("pipe", PlanError, (r"HERE/corp/model.safetensors: expected a regular file, found a named pipe",), files=pipe),
    Case("vocabularies", PlanError,
         tuple(rf"model 'HERE/func', HERE/func/model.safetensors: tensor '{name}': expected 40 rows as in the base, "
               r"found 42 rows\. If this is a vocabulary, write tokenizer_source: union"
               for name in ("lm_head.weight", "model.embed_tokens.weight")), tensors=larger_vocabulary),
    Case("another shape", PlanError,
         (rf"model 'HERE/func', .*tensor '{NORM}': expected shape \[16\] as in the base, found shape \[4, 4\]",),
         tensors=lambda w: w.func.update({NORM: w.func[NORM].reshape(4, 4)})),
    Case("missing tensors", PlanError,
         tuple(rf"model 'HERE/corp': expected tensor '{name}', found no such tensor\. Write `missing: base` in "
         r"the recipe"
               for name in (Q, NORM)), tensors=without(Q, NORM)),
    Case("extra tensors", PlanError,
         (r"model 'HERE/corp': tensor 'more' is not in the base\. Write `extra: take`",
          r"model 'HERE/func': tensor 'more' is not in the base"),
         tensors=also("more", np.zeros(3, np.float32), "corp", "func")),
    Case("another base altogether", PlanError,
         (r"model 'HERE/corp': expected tensors named as in HERE/base, found no name in common\. Merge fine-tunes of",),
         tensors=lambda w: setattr(w, "corp", {n.replace(".", "_"): a for n, a in w.corp.items()})),
    Case("a part under another prefix", PlanError,
         (r"model 'HERE/corp': expected tensors named as in HERE/base, found \d+ of \d+ are missing, but most "
         r"names match after "
          r"replacing the prefix 'inner\.' by 'model\.'\. Write `rename: \[{model: 'HERE/corp', from: "
          r"'inner\\\.\(\.\+\)', to: 'model\.\\1'}\]` in the recipe",),
         tensors=lambda w: setattr(w, "corp", {n.replace("model.l", "inner.l"): a for n, a in w.corp.items()})),
    Case("two prefixes that fit alike", PlanError,
         (r"model 'HERE/corp': expected one way to match its names with the base's, found as many matches after "
          r"adding the prefix '[ab]\.' as after adding the prefix '[ab]\.'\. Write "
          r"`rename: \[{model: 'HERE/corp', from: '\(\.\+\)', to: '[ab]\.\\1'}\]` in the recipe",),
         tensors=twice_in_the_base),
    Case("an integer for a float", PlanError,
         (rf"model 'HERE/corp', .*: tensor '{NORM}': expected dtype F32 as in the base, found I32\. F32, F16 and",),
         tensors=cast("corp", NORM, np.int32)),
    Case("two integers", PlanError, (r"tensor 'ids': expected I64 \[3\] as in the base, found I32 \[3\]",),
         tensors=both(also("ids", np.arange(3), *MODELS), cast("corp", "ids", np.int32))),
    Case("nothing to merge", PlanError, (r"HERE/base: expected tensors of F32, F16 or BF16 to merge, found none",),
         tensors=lambda w: [(model.clear(), model.update(ids=np.arange(3))) for model in w.models]),
    Case("k within a layer", PlanError,
         (r"recipe: k of model 'HERE/corp' in layer 'model.layers.0': expected one value, .*20 for 'model.layers.0.*'",
          r"recipe: k of model 'HERE/func' in layer 'model.layers.0'",
          r"recipe: k of model 'HERE/corp' in layer 'model.layers.1'",
          r"recipe: k of model 'HERE/func' in layer 'model.layers.1'"), recipe=filter_within_block(20)),
    Case("weights for some tensors", PlanError,
         (r"recipe: weight: expected a value for all models and tensors, or for none, found none for tensor "
          r"'lm_head.weight' of model 'HERE/corp', some for others\. Add a rule without a filter",),
         recipe={"parameters": {"weight": {"filter": "mlp", "value": 0.5}}}),
    Case("weights that add up to zero", PlanError,
         (r"recipe: tensor 'lm_head.weight': the weights 1, -1 add up to zero and normalize is true",),
         recipe={"merge_method": "linear", "models": [{"model": "HERE/corp", "parameters": {"weight": 1}},
                                                      {"model": "HERE/func", "parameters": {"weight": -1}}]}),
    Case("several at once", PlanError,
         (rf"model 'HERE/corp': expected tensor '{Q}'", r"model 'HERE/func', .*lm_head.weight': expected 40 rows",
          r"model 'HERE/func', .*embed_tokens.weight': expected 40 rows", r"recipe: k of model",
          r"recipe: k of model", r"recipe: k of model", r"recipe: k of model", r"out: it exists"),
         tensors=both(without(Q), larger_vocabulary), files=lambda w: os.mkdir(w.at("out")),
         recipe=filter_within_block(30)),
    Case("missing inputs and a target that is there", PlanError, (r"'HERE/gone': no such", r"out: it exists"),
         recipe={"models": [{"model": "HERE/gone"}]}, files=lambda w: os.mkdir(w.at("out"))),
    Case("too small a budget", PlanError,
         (r"budget: expected at least .* of memory, found 1.00 KB\. Set the budget to",),
         options={"budget": 1000}),
]  # fmt: skip


@pytest.mark.parametrize("case", PLANNING, ids=named)
def test_what_headers_tell_is_told_at_planning(case, tmp_path, capsys, monkeypatch):
    world = World(tmp_path)
    merged = refused(case, world, capsys, monkeypatch)
    flags = [part for name, value in case.options.items() for part in (f"--{name.replace('_', '-')}", value)]
    planned = told(capsys, monkeypatch, "plan", world.at("recipe.yaml"), world.at("out"), *flags)
    assert (planned.code, steady(planned.errors)) == (1, steady(merged.errors))
    as_json = told(capsys, monkeypatch, "plan", world.at("recipe.yaml"), world.at("out"), "--json", *flags)
    assert as_json.code == 1
    problems = json.loads(as_json.out)["problems"]
    assert len(problems) == len(merged.errors)
    assert all(set(problem) == {"where", "expected", "found", "mend", "excerpt"} for problem in problems)


def method(name, *models, base="base", **fields):
    """A recipe of another method; models as names, or as names with parameters."""
    pairs = [(each, {}) if isinstance(each, str) else each for each in models]
    given = [{"model": f"HERE/{model}", "parameters": parameters} for model, parameters in pairs]
    return {"merge_method": name, "base_model": base and f"HERE/{base}", "models": given, **fields}


def stack(*slices, name="passthrough", **fields):
    """A recipe of slices; each has sources as model, first layer, end."""
    given = [
        {"sources": [{"model": f"HERE/{model}", "layer_range": [first, end]} for model, first, end in sources]}
        for sources in slices
    ]
    return {"merge_method": name, "base_model": None, "models": None, "slices": given, **fields}


def wider(world):
    world.func = llama_like(np.random.default_rng(3), "F32", width=32)


def deeper(world):
    world.func |= {Q.replace("1", "2"): world.func[Q], Q.replace("1", "3"): world.func[Q]}


def shallower(world):
    world.func = {name: tensor for name, tensor in world.func.items() if ".1." not in name}


DRAWN = {"weight": 1, "density": 0.5}
METHODS = [
    Case("a seed with a fraction", RecipeError, (r"random_seed: expected a whole number, found 1\.5",),
         recipe=method("dare_ties", ("corp", DRAWN), random_seed=1.5)),
    Case("a seed that is text", RecipeError, (r"random_seed: expected a whole number, found 'lucky'",),
         recipe=method("dare_ties", ("corp", DRAWN), random_seed="lucky")),
    Case("a seed below 0", RecipeError, (r"random_seed: expected a whole number from 0, found -1",),
         recipe=method("dare_ties", ("corp", DRAWN), random_seed=-1)),
    Case("a seed that is no number but true", RecipeError, (r"random_seed: expected a whole number, found true",),
         recipe=method("dare_ties", ("corp", DRAWN), random_seed=True)),
    Case("density above 1", RecipeError, (r"density: expected a number from 0 to 1, found 53",),
         recipe=method("ties", ("corp", {"weight": 1, "density": 53}))),
    Case("density below 0 in a rule", RecipeError, (r"density\.0\.value: expected a number from 0 to 1, found -0\.1",),
         recipe=method("ties", ("corp", {"weight": 1, "density": [{"filter": "mlp", "value": -0.1}, {"value": 1}]}))),
    Case("density above 1 in a gradient", RecipeError, (r"density\.1: expected a number from 0 to 1, found 1\.5",),
         recipe=method("dare_linear", ("corp", {"weight": 1, "density": [0.5, 1.5]}))),
    Case("t of three models", RecipeError,
         (r"models: expected exactly 1 model besides base_model for slerp, found 2",),
         recipe=method("slerp", "corp", "func", parameters={"t": 0.5})),
    Case("t of the base alone", RecipeError, (r"models: expected at least one fine-tune, found only the base",),
         recipe=method("slerp", "base", parameters={"t": 0.5})),
    Case("t without a base", RecipeError, (r"base_model: missing\. Write base_model: slerp starts from its values",),
         recipe=method("slerp", "corp", "func", base=None, parameters={"t": 0.5})),
    Case("t in a slice of one", RecipeError, (r"slices\.0\.sources: expected at least one fine-tune, found only",),
         recipe=stack([("base", 0, 2)], name="slerp", base_model="HERE/base", parameters={"t": 0.5})),
    Case("no t", PlanError, (r"recipe: t: expected a value for every tensor, found none for 9 of 9 tensors",),
         recipe=method("slerp", "corp")),
    Case("t for some", PlanError, (r"t: expected a value for every tensor, found none for 7 of 9 tensors",),
         recipe=method("slerp", "corp", parameters={"t": {"filter": "mlp", "value": 0.5}})),
    Case("t under a model", PlanError, (r"t: expected a value for every tensor, found none for 9 of 9 tensors",),
         recipe=method("nearswap", ("corp", {"t": 0.5}))),
    Case("one model in model_stock", RecipeError, (r"expected at least 2 models besides base_model for model",),
         recipe=method("model_stock", "corp")),
    Case("steps with a fraction", RecipeError, (r"max_iter: expected a whole number from 0 to 10000, found 2\.5",),
         recipe=method("karcher", "corp", "func", base=None, parameters={"max_iter": 2.5})),
    Case("epsilon against density", PlanError,
         (r"tensor 'lm_head\.weight': density 0\.9 with epsilon 0\.15 keeps deltas .* from 0\.75 to 1\.05, not",),
         recipe=method("della", ("corp", {"weight": 1, "density": 0.9}))),
    Case("epsilon against a gradient of densities", PlanError,
         (r"density 0\.05 with epsilon 0\.1 keeps deltas with .*: choose an epsilon below 0\.05, or another density",),
         recipe=method("della_linear", ("corp", {"weight": 1, "density": [0.5, 0.05], "epsilon": 0.1}))),
    Case("weights that cancel", PlanError, (r"the weights 0\.5, -0\.5 add up to zero and normalize is true",),
         recipe=method("linear", ("corp", {"weight": 0.5}), ("func", {"weight": -0.5}), base=None)),
    Case("no slices", RecipeError, (r"slices: expected at least one slice, found an empty list",), recipe=stack()),
    Case("no sources", RecipeError, (r"slices\.0\.sources: expected at least one source, found an empty list",),
         recipe=stack([])),
    Case("an empty range", RecipeError, (r"layer_range: expected a first layer .*, found \[1, 1\]",),
         recipe=stack([("corp", 1, 1)])),
    Case("a range that is reversed", RecipeError, (r"an end after it, found \[2, 0\]\. Write \[0, 2\]",),
         recipe=stack([("corp", 2, 0)])),
    Case("a range beyond the model", PlanError,
         (r"layer_range of model 'HERE/corp' in slices\.1: expected at most 2 layers .* found \[1, 3\]",),
         recipe=stack([("corp", 0, 1)], [("corp", 1, 3)])),
    Case("slices of unlike lengths", RecipeError, (r"expected 2 layers, as the slice's source 0, found 1",),
         recipe=stack([("corp", 0, 2), ("func", 0, 1)], name="linear")),
    Case("sources of unlike shapes", PlanError,
         (r"'HERE/func', .* 'lm_head\.weight': expected shape \[40, 16\] as in the base, found .*; 5 other",),
         tensors=wider, recipe=stack([("corp", 0, 1), ("func", 0, 1)], name="linear")),
    Case("slices of unlike shapes", PlanError,
         (r"slices\.1, .*func.*'lm_head.weight': expected shape .40, 16. as in HERE/corp, found shape .40, 32",),
         tensors=wider, recipe=stack([("corp", 0, 2)], [("func", 0, 2)])),
    Case("models of unlike shapes", PlanError, (r"expected shape \[40, 16\] as in the base, .*; 8 other",),
         tensors=wider, recipe=method("linear", "corp", "func", base=None)),
    Case("a model with more layers", PlanError,
         (r"model 'HERE/func': expected 2 layers 'model\.layers' as in the base, found 4 layers\. .*`extra: drop`",),
         tensors=deeper, recipe=method("linear", "corp", "func", base=None)),
    Case("a model with fewer layers", PlanError,
         (r"model 'HERE/func': expected 2 layers 'model\.layers' as in the base, found 1 layer\. .*`missing: base`",),
         tensors=shallower, recipe=method("linear", "corp", "func", base=None)),
]  # fmt: skip


@pytest.mark.parametrize("case", METHODS, ids=named)
def test_what_a_method_cannot_take_is_told_before_anything_is_written(case, tmp_path, capsys, monkeypatch):
    refused(case, World(tmp_path), capsys, monkeypatch)


def in_place(make):
    return lambda w: make(w.at("out"))


TARGETS = [
    Case("exists", PlanError, (r"HERE/out: it exists\. Choose another name, or overwrite it \(--overwrite\)",),
         files=in_place(os.mkdir)),
    Case("is a file", PlanError, (r"HERE/out: it exists and is not a directory",),
         files=in_place(lambda p: open(p, "w").close()), options={"overwrite": True}),
    Case("is a link", PlanError, (r"HERE/out: it is a symbolic link\. Name the directory itself",),
         files=in_place(lambda p: Path(p).symlink_to("nowhere")), options={"overwrite": True}),
    Case("is a pipe", PlanError, (r"HERE/out: it exists and is not a directory",), files=in_place(os.mkfifo)),
    Case("is an input", PlanError, (r"HERE/corp: expected a directory separate from the inputs, found it is the",),
         out="corp", options={"overwrite": True}),
    Case("lies in an input", PlanError, (r"HERE/base/out: expected a directory separate.*it is inside the input "
    r"HERE/b",),
         out="base/out"),
    Case("lies around the inputs", PlanError,
         tuple(rf"HERE/: expected a directory separate from the inputs, found it contains the input HERE/{name}"
               for name in MODELS), out="", options={"overwrite": True}),
    Case("has a file above it", PlanError,
         (r"HERE/f/a/out: expected a directory to create it in, found HERE/f is not a directory\. Choose",),
         files=lambda w: Path(w.at("f")).write_text(""), out="f/a/out"),
    Case("too long", PlanError, (r": expected a place that can be written to, found a name that is too long",),
         out="x" * 255),
]  # fmt: skip


@pytest.mark.parametrize("case", TARGETS, ids=named)
def test_a_target_that_cannot_be_is_told_at_planning(case, tmp_path, capsys, monkeypatch):
    refused(case, World(tmp_path / "world"), capsys, monkeypatch)


def test_the_budget_that_the_message_asks_for_is_enough(tmp_path):
    world = World(tmp_path)
    world.write()
    with pytest.raises(PlanError) as caught:
        sdmw.merge(world.recipe, world.at("out"), budget=1, progress=False)
    enough = re.search(r"Set the budget to (\d+MB) or more", str(caught.value))[1]
    planned = sdmw.plan(world.recipe, budget=enough)
    assert planned.problems == ()
    assert planned.threads == 1
    sdmw.merge(world.recipe, world.at("out"), budget=enough, progress=False)


@pytest.mark.parametrize("given", [{"threads": 0}, {"threads": True}, {"threads": 1.5}, {"progress": "yes"},
                                   {"budget": 0}, {"max_shard_size": "5Q"}])  # fmt: skip
def test_arguments_are_checked(tmp_path, given):
    world = World(tmp_path)
    world.write()
    before = everything_in(tmp_path)
    with pytest.raises(UsageError, match=f"^{next(iter(given))}: expected"):
        sdmw.merge(world.recipe, world.at("out"), **given)
    assert everything_in(tmp_path) == before


def put(model, name, element, value):
    def act(world):
        array = getattr(world, model)[name].copy()
        array.flat[element] = value
        getattr(world, model)[name] = array

    return act


METHODS = {
    "sdm_w": {},
    "given weights": {"parameters": {"weight": 0.5, "k": 0}},
    "task_arithmetic": {"merge_method": "task_arithmetic"},
    "linear": {"merge_method": "linear"},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("model", ["base", "func"])
def test_what_is_not_finite_is_named_by_file_tensor_and_element(tmp_path, capsys, monkeypatch, method, value, model):
    if (method, model) == ("linear", "base"):
        model = "corp"
    said = (
        rf"HERE/{model}/model.safetensors: tensor '{Q}', element 77: expected a finite number, found {value}\. "
        r"Repair the checkpoint, or .*`nonfinite: pass`"
    )
    spoil = both(put(model, Q, 77, value), put(model, Q, 200, np.nan))
    case = Case("", NonFiniteError, (said,), tensors=spoil, recipe=METHODS[method])
    refused(case, World(tmp_path), capsys, monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_nan_everywhere_is_told(tmp_path, capsys, monkeypatch, method):
    """No delta, and yet the result is not finite."""
    spoil = both(*(put(model, Q, 95, np.nan) for model in MODELS))
    model = "corp" if method == "linear" else "base"
    said = rf"HERE/{model}/model.safetensors: tensor '{Q}', element 95: expected a finite number, found nan"
    refused(Case("", NonFiniteError, (said,), spoil, recipe=METHODS[method]), World(tmp_path), capsys, monkeypatch)


# Elements of the second tile: numbers are told from the tensor's beginning.
OVERFLOWS = [
    *(Case(f"a delta, {method}", NonFiniteError,
           (rf"HERE/func/model.safetensors: tensor '{Q}', element 99: expected a delta within the range of float32, "
            r"found -3.3e\+38 against 3.3e\+38 in HERE/base/model.safetensors",),
           both(put("base", Q, 99, HUGE), put("corp", Q, 99, HUGE), put("func", Q, 99, -HUGE)), recipe=recipe)
      for method, recipe in METHODS.items() if method != "linear"),
    *(Case(f"the result, {method}", NonFiniteError,
           (rf"HERE/{'corp' if method == 'linear' else 'base'}/model.safetensors: tensor '{Q}', element 99: expected a "
            r"merged value within the range of F16, found an overflow\. Choose a wider out_dtype",),
           both(*(put(model, Q, 99, 70000) for model in MODELS)),
           recipe={**recipe, "out_dtype": "float16"}) for method, recipe in METHODS.items()),
    Case("a sum of what is far apart, linear", NonFiniteError,
         (rf"corp/model.safetensors: tensor '{Q}', element 99: expected a merged value within the range of F32",),
         both(put("corp", Q, 93, HUGE), put("func", Q, 93, -HUGE), put("corp", Q, 99, HUGE), put("func", Q, 99, HUGE)),
         recipe={"merge_method": "linear"}),
    Case("an extra tensor", NonFiniteError,
         (r"HERE/func/model.safetensors: tensor 'more', element 1: expected a merged value within the range of F16",),
         also("more", np.array([1, 7e4], np.float32), "func"), recipe={"extra": "take", "out_dtype": "float16"}),
    Case("float64", NonFiniteError,
         (r"HERE/base/model.safetensors: tensor 'x', element 150: expected a finite number, found inf\. .*nonfinite",),
         also("x", np.array([1.0] * 150 + [np.inf]), *MODELS)),
]  # fmt: skip


@pytest.mark.parametrize("case", OVERFLOWS, ids=named)
def test_an_overflow_is_told(case, tmp_path, capsys, monkeypatch):
    refused(case, World(tmp_path), capsys, monkeypatch)


BUFFERS = [(np.arange(5), 3, "3", "9", 9), (np.arange(200), 150, "150", "9", 9),
           (np.array([True, False]), 1, "0", "1", True), (np.array([0.5, 0.25]), 0, "0.5", "0.125", 0.125),
           (np.arange(4, dtype=np.uint8), 2, "2", "7", 7)]  # fmt: skip


@pytest.mark.parametrize(("array", "element", "expected", "found", "value"), BUFFERS)
def test_buffers_that_differ_are_named(tmp_path, capsys, monkeypatch, array, element, expected, found, value):
    said = (
        rf"HERE/func/model.safetensors: tensor 'buffer', element {element}: expected {expected} as in "
        rf"HERE/base/model.safetensors, found {found}\. \w+ tensors are copied, not merged: make them equal"
    )
    spoil = both(also("buffer", array, *MODELS), put("func", "buffer", element, value))
    refused(Case("", DisagreementError, (said,), spoil), World(tmp_path), capsys, monkeypatch)


def merged(world, **recipe):
    """The output's tensors and the report; the inputs stay as they are."""
    world.write()
    before = everything_in(world.path)
    report = sdmw.merge({**world.recipe, **recipe}, world.at("out"), progress=False)
    after = everything_in(world.path)
    assert {path: after[path] for path in before} == before
    return load_file(world.at("out", "model.safetensors")), report


def assert_bits(found, expected):
    """NaN payloads are not specified; all else is."""
    nan = np.isnan(widen(expected))
    np.testing.assert_array_equal(np.isnan(widen(found)), nan)
    np.testing.assert_array_equal(bits(found)[~nan], bits(expected)[~nan])


@pytest.mark.parametrize("out", ["float32", "float16"])
@pytest.mark.parametrize("method", ["sdm_w", "given weights", "task_arithmetic", "linear"])
def test_nonfinite_pass_is_the_reference(tmp_path, method, out):
    world = World(tmp_path)
    values = [np.nan, np.inf, -np.inf, HUGE, 1.0]
    for model, shift in ((world.base, 0), (world.corp, 1), (world.func, 3)):
        for name in (Q, NORM):
            model[name].flat[:10] = np.roll(np.repeat(values, 2), shift)
    for model in world.models:
        model["x"] = np.array([np.nan, np.inf, 1.0])
    found, report = merged(world, nonfinite="pass", out_dtype=out, **METHODS[method])
    own = [world.corp, world.func]
    np.testing.assert_array_equal(found.pop("x"), world.base.pop("x"))
    for model in own:
        del model["x"]
    if method == "linear":
        expected = {name: linear([model[name] for model in own], [1, 1], True) for name in world.base}
    elif method == "task_arithmetic":
        expected = {
            name: task_arithmetic(world.base[name], [m[name] for m in own], [1, 1], False, 1) for name in world.base
        }
    else:
        given, k = ([0.5, 0.5], 0) if method == "given weights" else (None, 10)
        layers = {name: [name] for name in world.base}
        expected, magnitudes, *_ = sdm_w(world.base, own, layers, k=k, given=given)
        if not given:
            assert [model.facts["magnitude"] for model in report.models] == magnitudes
            assert all(np.isfinite(magnitudes))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_bits(found[name], rounded(array, {"float32": "F32", "float16": "F16"}[out]))
    odd = {name: int((~np.isfinite(widen(array))).sum()) for name, array in found.items()} | {"x": 2}
    elements = f"{sum(odd.values()):,} elements of "
    (passed,) = [warning for warning in report.warnings if "`nonfinite: pass` allows" in warning]
    card = Path(world.at("out", "README.md")).read_text()
    assert elements in passed
    assert all((f"`{name}`" in card) == (repr(name) in passed) == bool(count) for name, count in odd.items())
    assert f"- not finite: {elements}" in card


def test_where_all_is_finite_nothing_is_said_to_have_passed(tmp_path):
    world = World(tmp_path)
    _, report = merged(world, nonfinite="pass", merge_method="linear")
    assert report.warnings == ()
    assert "not finite" not in Path(world.at("out", "README.md")).read_text()


def test_a_model_whose_only_changes_are_infinite_takes_no_part(tmp_path):
    """Its weight is 0, and 0 times infinity would be NaN."""
    world = World(tmp_path)
    world.corp = {name: array.copy() for name, array in world.base.items()}
    world.corp[Q].flat[77] = np.inf
    found, report = merged(world, nonfinite="pass")
    expected, *_ = sdm_w(world.base, [world.func], {name: [name] for name in world.base})
    for name, array in expected.items():
        np.testing.assert_array_equal(bits(found[name]), bits(array), err_msg=name)
    assert [model.facts["weight"] for model in report.models] == [0, 1]
    assert report.warnings == ()


def test_where_nan_may_pass_nothing_is_said_to_be_equal(tmp_path):
    """No finite delta, and yet a fine-tune may differ from the base by what no count shows."""
    world = World(tmp_path)
    world.func = world.corp = {name: array.copy() for name, array in world.base.items()}
    world.corp[Q].flat[77] = np.nan
    _, report = merged(world, nonfinite="pass")
    assert report.warnings == ("no fine-tune has a finite change: the result is the base",)
    given = World(tmp_path / "given")
    given.func = given.corp = given.base
    _, report = merged(given, nonfinite="pass", parameters={"weight": 1})
    assert report.warnings == ()


def test_a_missing_tensor_may_be_the_base_s(tmp_path):
    world = World(tmp_path)
    gone = world.corp.pop(Q)
    for model in (world.base, world.func):
        model["ids"] = np.arange(4)
    found, report = merged(world, missing="base")
    full = {**world.corp, Q: world.base[Q]}
    floats = {name: array for name, array in world.base.items() if name != "ids"}
    expected, *_ = sdm_w(floats, [full, world.func], {name: [name] for name in floats})
    for name in floats:
        assert_bits(found[name], expected[name])
    np.testing.assert_array_equal(found["ids"], world.base["ids"])
    assert not np.array_equal(gone, world.base[Q])
    (layer,) = (layer for layer in report.layers if layer.name == Q)
    assert (layer.facts[0]["threshold"], layer.facts[0]["nonzero"]) == (None, 0)


def test_extra_tensors_come_from_the_first_model_that_has_them(tmp_path):
    world = World(tmp_path)
    world.corp |= {"a": np.array([1 / 3, -0.0], np.float32), "ids": np.array([1, 2])}
    world.func |= {"a": np.array([5, 5], np.float32), "ids": np.array([3, 4]), "b": np.array([1e-3], np.float16),
                   "x": np.array([0.1])}  # fmt: skip
    found, report = merged(world, extra="take", out_dtype="bfloat16")
    assert_bits(found["a"], world.corp["a"].astype(ml_dtypes.bfloat16))
    assert_bits(found["b"], world.func["b"].astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(found["ids"], [1, 2])
    assert found["ids"].dtype == np.int64
    np.testing.assert_array_equal(found["x"], [0.1])
    assert found[Q].dtype == ml_dtypes.bfloat16
    assert {"a", "b", "ids", "x"}.isdisjoint(layer.name for layer in report.layers)


def test_extra_tensors_come_in_the_order_of_the_recipe(tmp_path):
    world = World(tmp_path)
    world.corp["a"], world.func["a"] = np.float32([1]), np.float32([2])
    models = [{"model": world.at("func")}, {"model": world.at("corp")}]
    found, _ = merged(world, extra="take", models=models)
    np.testing.assert_array_equal(found["a"], [2])


def tied(world):
    """Base and corp tie their head; func stores it again."""
    world.config["tie_word_embeddings"] = True
    del world.base["lm_head.weight"], world.corp["lm_head.weight"]
    world.func["lm_head.weight"] = world.func["model.embed_tokens.weight"].copy()


@pytest.mark.parametrize("extra", ["error", "take"])
def test_a_tied_head_that_equals_its_embedding_is_dropped_with_a_warning(tmp_path, extra):
    world = World(tmp_path)
    tied(world)
    found, report = merged(world, extra=extra)
    assert "lm_head.weight" not in found
    assert report.warnings == (
        "'lm_head.weight' equals 'model.embed_tokens.weight', to which it is tied: it is not written",
    )


def test_a_tied_head_that_differs_is_written_and_the_config_unties_it(tmp_path):
    """Whoever stores no head stands for its own embedding."""
    world = World(tmp_path)
    tied(world)
    world.func["lm_head.weight"][3] += 1
    found, report = merged(world, merge_method="linear", models=[{"model": world.at(m)} for m in ("base", "func")])
    expected = linear(
        [widen(world.base["model.embed_tokens.weight"]), widen(world.func["lm_head.weight"])], [1, 1], True
    )
    assert_bits(found["lm_head.weight"], rounded(expected, "F32"))
    assert json.loads(Path(world.at("out", "config.json")).read_text())["tie_word_embeddings"] is False
    assert report.warnings[0] == ("'lm_head.weight' differs from the embedding: it is written and not tied")
    assert sdmw.verify(world.at("out"), sample=1, progress=False).problems == ()


def test_a_config_that_says_nothing_of_ties_unties_a_head_that_is_stored(tmp_path):
    """Even where it equals its embedding in all inputs: they are merged apart."""
    world = World(tmp_path)
    for model in world.models:
        model["lm_head.weight"] = model["model.embed_tokens.weight"].copy()
    found, report = merged(world)
    np.testing.assert_array_equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert report.warnings == ()


def test_a_config_that_says_nothing_ties_where_that_is_the_default(tmp_path):
    """As transformers does with Gemma's: a head that equals its embedding would be read in vain."""
    world = World(tmp_path)
    world.config["model_type"] = "gemma"
    world.config.pop("tie_word_embeddings", None)
    for model in world.models:
        model["lm_head.weight"] = model["model.embed_tokens.weight"].copy()
    found, report = merged(world)
    assert "lm_head.weight" not in found
    assert report.warnings == (
        "'lm_head.weight' equals 'model.embed_tokens.weight', to which it is tied: it is not written",
    )


def test_an_untied_head_is_an_extra_tensor(tmp_path, capsys, monkeypatch):
    spoil = both(tied, lambda w: w.config.update(tie_word_embeddings=False))
    case = Case("", PlanError, (r"model 'HERE/func': tensor 'lm_head.weight' is not in the base",), spoil)
    refused(case, World(tmp_path), capsys, monkeypatch)


@pytest.mark.parametrize("recipe", [{}, {"parameters": {"weight": 1}}], ids=["computed", "given"])
def test_fine_tunes_that_equal_the_base_are_a_warning(tmp_path, recipe):
    world = World(tmp_path)
    world.corp, world.func = dict(world.base), dict(world.base)
    found, report = merged(world, **recipe)
    for name, array in world.base.items():
        assert_bits(found[name], array)
    assert report.warnings == ("every fine-tune equals the base: so does the result",)


def test_the_base_among_the_models_is_a_note(tmp_path):
    world = World(tmp_path)
    base = {"model": world.at("base", ""), "parameters": {"weight": 3}}
    _, report = merged(world, models=[base, *world.recipe["models"]])
    assert [model.name for model in report.models] == [world.at("corp"), world.at("func")]
    assert report.notes == ("'base' among models is base_model: its weight and other parameters are ignored",)


def test_linear_does_not_average_a_base_that_is_not_listed(tmp_path):
    world = World(tmp_path)
    found, report = merged(world, merge_method="linear")
    for name in world.base:
        assert_bits(found[name], linear([world.corp[name], world.func[name]], [1, 1], True))
    assert len(report.notes) == 1
    assert "is not among models: it gives config, tokenizer and names and is not merged" in report.notes[0]


def test_one_problem_a_line_whatever_a_file_is_called(tmp_path, capsys, monkeypatch):
    world = World(tmp_path)
    world.write()
    os.rename(world.at("corp"), world.at("a\nerror: b\x1b[31m"))
    os.unlink(world.at("a\nerror: b\x1b[31m", "config.json"))
    recipe = world.write_recipe({"models": [{"model": world.at("a\nerror: b\x1b[31m")}]})
    commanded = told(capsys, monkeypatch, "merge", recipe, world.at("out"))
    assert commanded.errors == [
        f"{world.path}/a\\nerror: b\\x1b[31m/config.json: no such file. Copy it from the model's repository"
    ]
