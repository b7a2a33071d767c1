"""What every merge method must do. A method brings its recipes and its reference in SAMPLES; one without fails here."""

import functools
import importlib
import inspect
import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

import sdmw
from adapters_on_disk import PREFIX, adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from reference import (
    arcee_fusion,
    breadcrumbs,
    breadcrumbs_ties,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    karcher,
    linear,
    lora,
    low_rank,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    preserve_norm,
    ram,
    ramplus_tl,
    sce,
    sdm_w,
    slerp,
    task_arithmetic,
    ties,
)
from reference.rounding import STORED, bits, rounded, widen
from sdmw import codec, methods
from sdmw.errors import NonFiniteError
from sdmw.methods import all_methods
from sdmw.methods.method import decision_type, own_types
from sdmw.planning import budget
from sdmw.running.context import working
from sdmw.running.driver import Run
from sdmw.running.job import Decisions
from sdmw.views.layers import layer_of

Arrays = Mapping[str, NDArray[Any]]
ENGINE = Path(inspect.getfile(methods)).parent
REFERENCES = Path(sdm_w.__file__).parent


@dataclass(frozen=True)
class Sample:
    """What a method is tried with.

    Attributes:
        models: names in the world below.
        parameters: of each recipe. Together they must lead to every look that the method declares.
        reference: the merge in plain NumPy, in float32 before the last rounding: of base, models and parameters.
    """

    models: tuple[str, ...]
    parameters: tuple[Mapping[str, Any], ...]
    reference: Callable[[Arrays, Sequence[Arrays], Mapping[str, Any]], Arrays]


def preserve_of(parameters: Mapping[str, Any]) -> str | None:
    """Over what lambda preserves norms."""
    given = parameters.get("lambda", 1.0)
    return given["preserve_norm"] if isinstance(given, Mapping) else "model" if given == "preserve_norm" else None


def sdm_w_of(base: Arrays, models: Sequence[Arrays], parameters: Mapping[str, Any]) -> Arrays:
    layers: dict[str, list[str]] = {}
    for name in base:
        layers.setdefault(layer_of(name, parameters.get("granularity", "tensor")), []).append(name)
    given = [parameters["weight"]] * len(models) if "weight" in parameters else None
    law = parameters.get("normalization", "linear")
    law = {"linear": {"power": 1}, "square": {"power": 2}}[law] if isinstance(law, str) else law
    preserve = preserve_of(parameters)
    merged, *_ = sdm_w.sdm_w(
        base, models, layers, k=parameters.get("k", 10.0), power=law["power"], norm=law.get("norm", 1),
        by_layer=law.get("scope") == "layer", scale=1.0 if preserve else parameters.get("lambda", 1.0),
        given=given, preserve=preserve,
        approximate=parameters.get("percentile") == "approximate",
    )  # fmt: skip
    return merged


def linear_of(base: Arrays, models: Sequence[Arrays], parameters: Mapping[str, Any]) -> Arrays:
    weights = [parameters.get("weight", 1.0)] * len(models)
    normalize = parameters.get("normalize", True)
    return {name: linear.linear([model[name] for model in models], weights, normalize) for name in base}


def task_arithmetic_of(base: Arrays, models: Sequence[Arrays], parameters: Mapping[str, Any]) -> Arrays:
    weights = [parameters.get("weight", 1.0)] * len(models)
    normalize, scale = parameters.get("normalize", False), parameters.get("lambda", 1.0)
    scales = dict.fromkeys(base, scale)
    if preserve := preserve_of(parameters):
        deltas = [{name: sdm_w.deltas(base[name], model[name]) for name in base} for model in models]
        for name in base:
            over = [name] if preserve == "layer" else [*base]
            scales[name] = preserve_norm.preserve_norm(weights, [[each[one] for one in over] for each in deltas])
    return {
        name: task_arithmetic.task_arithmetic(
            base[name], [model[name] for model in models], weights, normalize, scales[name]
        )
        for name in base
    }


def each_tensor(merge: Callable[..., NDArray[Any]], *, of_base: bool = True) -> Callable[..., Arrays]:
    """A reference that merges tensor by tensor: of the base, if asked, the list of models, and parameters."""

    def merged_of(base: Arrays, models: Sequence[Arrays], parameters: Mapping[str, Any]) -> Arrays:
        return {
            name: merge(*([base[name]] if of_base else []), [model[name] for model in models], **parameters)
            for name in base
        }

    return merged_of


def of_deltas_or_values(merge: Callable[..., NDArray[Any]]) -> Callable[..., Arrays]:
    """A reference of weights and, unless the sample says that there is none, of a base."""

    def merged_of(base: Arrays, models: Sequence[Arrays], parameters: Mapping[str, Any]) -> Arrays:
        others = {name: value for name, value in parameters.items() if name not in ("weight", "base")}
        weights = [parameters["weight"]] * len(models)
        below = base if parameters.get("base", True) else {}
        return {
            name: merge([model[name] for model in models], weights, base=below.get(name), **others) for name in base
        }

    return merged_of


def trimmed_of(merge: Callable[..., NDArray[Any]], **of_model: float) -> Callable[..., Arrays]:
    """A reference of weights, densities and other numbers that each model has its own of, by their defaults."""

    def merged_of(base: Arrays, models: Sequence[Arrays], parameters: Mapping[str, Any]) -> Arrays:
        names = {"weight": 1.0, "density": 1.0, **of_model}
        own = [[parameters.get(name, default)] * len(models) for name, default in names.items()]
        others = {name: value for name, value in parameters.items() if name not in (*names, "lambda")}
        scale = parameters.get("lambda", 1.0)
        return {
            name: merge(base[name], [model[name] for model in models], *own, scale=scale, **others) for name in base
        }

    return merged_of


def by_chance_of(merge: Callable[..., NDArray[Any]]) -> Callable[..., Arrays]:
    """A reference that takes the tensor's name, weights, densities and a seed."""

    def merged_of(base: Arrays, models: Sequence[Arrays], parameters: Mapping[str, Any]) -> Arrays:
        own = [[parameters.get(name, 1.0)] * len(models) for name in ("weight", "density")]
        others = {name: parameters[name] for name in ("normalize", "rescale", "epsilon") if name in parameters}
        more = {"scale": parameters.get("lambda", 1.0), "seed": parameters.get("random_seed", 0)}
        return {
            name: merge(name, base[name], [model[name] for model in models], *own, **more, **others) for name in base
        }

    return merged_of


def one_of(merge: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """The same of a reference that takes a single model."""
    return lambda *given, **parameters: merge(*given[:-1], *given[-1], **parameters)


def lora_of(base: Arrays, models: Sequence[Arrays], parameters: Mapping[str, Any]) -> Arrays:
    merged = {}
    weights = [parameters.get("weight", 1.0)] * len(models)
    for name, below in base.items():
        keys = [f"{PREFIX}{name.removesuffix('.weight')}.lora_{side}.weight" for side in "AB"]
        parts = [(*(widen(model[key]) for key in keys), low_rank.scaling(8, 4)) for model in models if keys[0] in model]
        merged[name] = below
        if parts:
            kind = parameters["combination_type"]
            rank = 8 if kind == "cat" else 4
            a, b = (x.astype(np.float32) for x in lora.combined(kind, parts, weights[: len(parts)], rank))
            delta = low_rank.product(b, a)
            merged[name] = np.where(delta == 0, below, below + delta)
    return merged


SAMPLES = {
    "sdm_w": Sample(
        ("corp", "func"),
        (
            {},
            {"k": 30, "granularity": "block", "normalization": "square"},
            {"granularity": "component", "percentile": "approximate"},
            {"weight": 0.4, "lambda": 0.5},
            {"weight": 0.4, "k": 0},
            {"normalization": {"power": 2, "norm": 2}, "granularity": "module"},
            {"normalization": {"power": -1.5, "norm": 2, "scope": "layer"}, "k": 40},
            {"normalization": {"power": 1, "scope": "layer"}, "percentile": "approximate"},
            {"lambda": "preserve_norm", "normalization": {"power": 2, "norm": 2}, "k": 60},
            {"lambda": {"preserve_norm": "layer"}, "granularity": "module"},
            {"lambda": {"preserve_norm": "layer"}, "weight": 0.4, "k": 0},
        ),
        sdm_w_of,
    ),
    "linear": Sample(("corp", "func"), ({}, {"weight": 0.3, "normalize": False}), linear_of),
    "task_arithmetic": Sample(
        ("corp", "func"), (
            {},
            {"weight": 0.3, "normalize": True, "lambda": 0.7},
            {"weight": 0.3, "lambda": "preserve_norm"},
            {"weight": 0.5, "normalize": True, "lambda": {"preserve_norm": "layer"}},
        ), task_arithmetic_of
    ),
    "slerp": Sample(("corp",), ({"t": 0.25}, {"t": 1.5}), each_tensor(one_of(slerp.slerp))),
    "model_stock": Sample(("corp", "func", "third"), ({}, {"filter_wise": True}), each_tensor(model_stock.model_stock)),
    "karcher": Sample(
        ("corp", "func", "far"), ({}, {"max_iter": 2, "tol": 1e-3}), each_tensor(karcher.karcher, of_base=False)
    ),
    "nuslerp": Sample(
        ("corp", "func"),
        (
            {"weight": 0.5},
            {"weight": 2.0, "base": False},
            {"weight": 0.5, "nuslerp_flatten": False},
            {"weight": 1.0, "nuslerp_flatten": False, "base": False},
            {"weight": 0.5, "nuslerp_flatten": False, "nuslerp_row_wise": True},
            {"weight": 1.0, "nuslerp_flatten": False, "nuslerp_row_wise": True, "base": False},
        ),
        of_deltas_or_values(nuslerp.nuslerp),
    ),
    "multislerp": Sample(
        ("corp", "func", "third"),
        ({"weight": 1.0}, {"weight": 0.25, "normalize_weights": False, "eps": 1e-6, "base": False}),
        of_deltas_or_values(multislerp.multislerp),
    ),
    "ties": Sample(
        ("corp", "func", "third"),
        (
            {"weight": 0.5, "density": 0.4},
            {"weight": 1.0, "density": 0.93, "rescale": True, "normalize": False, "lambda": 0.7},
            {"weight": -0.3},
            {"weight": 1.0, "density": 0.0},
            {"weight": 0.5, "density": 0.4, "trim": "nonzero"},
        ),
        trimmed_of(ties.ties),
    ),
    "breadcrumbs": Sample(
        ("corp", "third"),
        (
            {"weight": 0.5, "density": 0.4, "gamma": 0.1},
            {"weight": 1.0, "density": 0.95, "gamma": 0.3, "rescale": True, "normalize": True},
            {"weight": 0.5, "density": 0.7, "gamma": 0.05, "trim": "nonzero"},
        ),
        trimmed_of(breadcrumbs.breadcrumbs, gamma=0.01),
    ),
    "breadcrumbs_ties": Sample(
        ("corp", "func"), ({"weight": 0.5, "density": 0.8},), trimmed_of(breadcrumbs_ties.breadcrumbs_ties, gamma=0.01)
    ),
    "dare_linear": Sample(
        ("corp", "func"),
        ({"weight": 0.5, "density": 0.4}, {"weight": 1.0, "density": 0.7, "rescale": False, "random_seed": 7}),
        by_chance_of(dare_linear.dare_linear),
    ),
    "dare_ties": Sample(
        ("corp", "third"),
        ({"weight": 0.5, "density": 0.6, "normalize": True, "lambda": 0.9}, {"weight": 1.0}),
        by_chance_of(dare_ties.dare_ties),
    ),
    "della_linear": Sample(
        ("corp", "func"),
        (
            {"weight": 0.5, "density": 0.5, "epsilon": 0.4},
            {"weight": 1.0, "density": 0.7, "rescale": False, "random_seed": 7},
            {"weight": 0.3},
        ),
        by_chance_of(della_linear.della_linear),
    ),
    "della": Sample(
        ("corp", "third"),
        ({"weight": 0.5, "density": 0.6, "normalize": False, "lambda": 0.9}, {"weight": 1.0, "density": 0.3}),
        by_chance_of(della.della),
    ),
    "sce": Sample(
        ("corp", "func", "third"),
        ({}, {"select_topk": 0.4}, {"select_topk": 0.83}, {"select_topk": 0}),
        each_tensor(sce.sce),
    ),
    "arcee_fusion": Sample(("func",), ({},), each_tensor(one_of(arcee_fusion.arcee_fusion))),
    "nearswap": Sample(("corp",), ({"t": 0.0005}, {"t": 1}), each_tensor(one_of(nearswap.nearswap))),
    "passthrough": Sample(
        ("corp",), ({}, {"scale": 0.5}), each_tensor(one_of(passthrough.passthrough), of_base=False)
    ),
    "ram": Sample(("corp", "func", "third"), ({}, {"epsilon": 1e-3}), each_tensor(ram.ram)),
    "ramplus_tl": Sample(
        ("corp", "func"), ({}, {"epsilon": 1e-3, "r": 0.5, "alpha": 0.7}), each_tensor(ramplus_tl.ramplus_tl)
    ),
    "lora": Sample(
        ("one", "two"), ({"combination_type": "cat"}, {"combination_type": "linear", "weight": 0.5}), lora_of
    ),
}  # fmt: skip


# The world: a base of bfloat16, full models and adapters of other dtypes; one tensor has several pieces, and one is a
# single row that is not held whole


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where they lie, and the tensors of each."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(8)
    base = llama_like(rng) | {"model.wide.weight": rng.normal(0, 0.02, (150, 111)).astype(STORED["BF16"])}
    contents = {
        "base": base, "corp": fine_tuned(rng, base), "func": fine_tuned(rng, base, "F32"),
        "third": fine_tuned(rng, base, "F16"), "far": fine_tuned(rng, base, scale=0.05),
        "one": adapter_of(rng, base), "two": adapter_of(rng, base, modules=("q_proj",), dtype="BF16"),
    }  # fmt: skip
    row = {"model.long.weight": rng.normal(0, 0.02, 3001).astype(STORED["BF16"])}
    contents["base"] |= row
    for name, dtype in {"corp": "BF16", "func": "F32", "third": "F16", "far": "BF16"}.items():
        contents[name] |= fine_tuned(rng, row, dtype)
    for name, tensors in contents.items():
        (write_adapter if name in ("one", "two") else write_checkpoint)(folder / name, tensors)
    return folder, contents


@pytest.fixture
def world(models, monkeypatch):
    """Their tensors; the working directory is where they lie."""
    folder, contents = models
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sdmw.methods.method.LONG_ROW", 3000)
    return contents


CASES = [pytest.param(name, given, id=f"{name}-{number}") for name, sample in SAMPLES.items()
         for number, given in enumerate(sample.parameters)]  # fmt: skip


def recipe_of(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of values stand under each model: at the top the base would take part too, as in mergekit."""
    own = {"weight": parameters["weight"]} if name == "linear" and "weight" in parameters else {}
    models = [{"model": model, "parameters": own} for model in SAMPLES[name].models]
    parameters = {key: value for key, value in parameters.items() if key not in own}
    recipe = {"merge_method": name, "base_model": "base", "models": models, "parameters": dict(parameters)}
    recipe["random_seed"] = recipe["parameters"].pop("random_seed", 0)
    if not recipe["parameters"].pop("base", True) or name == "karcher":
        del recipe["base_model"]
    return recipe


def merged(recipe: Mapping[str, Any], **options: Any) -> sdmw.Report:
    return sdmw.merge(recipe, "out", progress=False, overwrite=True, **options)


def weights() -> bytes:
    return Path("out/model.safetensors").read_bytes()


def test_every_method_has_a_sample():
    assert SAMPLES.keys() == all_methods().keys()


# Bits


@pytest.fixture
def tiles(monkeypatch, no_bundles):
    """Sets the number of elements in a tile, whatever the budget."""

    def set_to(elements):
        monkeypatch.setattr(budget, "LARGEST_TILE", elements)
        monkeypatch.setattr(budget, "SMALLEST_TILE", elements)

    return set_to


class Shuffled(ThreadPoolExecutor):
    """Runs the tasks that wait in a random order, one at a time, so that results are added in that order too."""

    def __init__(self, seed: int) -> None:
        super().__init__(1)
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._chance, self._lock = random.Random(seed), threading.Lock()
        self.order: list[int] = []
        self._count = 0

    def submit(self, function, /, *arguments, **keywords):
        future: Future[Any] = Future()
        with self._lock:
            self._count += 1
            self._waiting.append((future, self._count, functools.partial(function, *arguments, **keywords)))
        super().submit(self._run_one)
        return future

    def _run_one(self):
        time.sleep(0.001)  # so that more than one waits
        with self._lock:
            future, number, call = self._waiting.pop(self._chance.randrange(len(self._waiting)))
            self.order.append(number)
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_the_bits_depend_on_neither_tiles_nor_threads_nor_budget_nor_order(world, tiles, name, parameters):
    """Of a matrix and of a single row that are each larger than 20 of the smallest tiles, too."""
    recipe = recipe_of(name, parameters)
    report = merged(recipe)
    expected, facts, layers = weights(), report.models, report.layers
    for elements, options in (
        (97, {"threads": 1}),
        (1000, {"threads": 3}),  # whole rows
        (4096, {"threads": 2, "budget": "4GiB"}),
        (1 << 21, {"threads": 2, "budget": "8GiB"}),
    ):
        tiles(elements)
        again = merged(recipe, **options)
        assert weights() == expected, elements
        assert (again.models, again.layers) == (facts, layers), elements
    tiles(97)
    for seed in range(2):
        with Shuffled(seed) as executor:
            again = merged(recipe, threads=8, executor=executor)
        assert executor.order != sorted(executor.order)
        assert weights() == expected
        assert (again.models, again.layers) == (facts, layers)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_it_is_the_reference(world, name, parameters):
    assert (REFERENCES / f"{name}.py").is_file()
    merged(recipe_of(name, parameters))
    base = {key: widen(tensor) for key, tensor in world["base"].items()}
    models = [
        {key: widen(tensor) for key, tensor in world[model].items()} if model not in ("one", "two") else world[model]
        for model in SAMPLES[name].models
    ]
    expected = SAMPLES[name].reference(base, models, parameters)
    with safe_open("out/model.safetensors", "np") as file:
        for key, tensor in expected.items():
            np.testing.assert_array_equal(bits(file.get_tensor(key)), bits(rounded(tensor, "BF16")), err_msg=key)


# What it decides


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_parameters_and_decisions_survive_json(world, name, parameters):
    method, plan = all_methods()[name], sdmw.plan(recipe_of(name, parameters))
    kind, *_ = own_types(method)
    for tensor in plan.tensors:
        again = codec.decode(kind, json.loads(json.dumps(codec.encode(tensor.params))))
        assert (again, hash(again)) == (tensor.params, hash(tensor.params))
        assert codec.decode(object, json.loads(json.dumps(codec.encode(tensor.params)))) == tensor.params
    with working(lambda event: None, 2) as context:
        decisions = Run(plan, context).decide()
    assert decisions.layers
    written = json.loads(json.dumps(codec.encode(decisions), allow_nan=False))
    assert codec.decode(Decisions, written) == decisions
    for layer, data in zip(decisions.layers, written["layers"], strict=True):
        assert codec.decode(decision_type(method), data) == layer
    assert codec.decode(own_types(method)[2], written["model"]) == decisions.model


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_the_report_holds_all_that_it_decided(world, name, parameters):
    merged(recipe_of(name, parameters))
    found = sdmw.verify("out", sample=1, progress=False)
    assert found.problems == ()
    assert found.recomputed == found.tiles


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_what_it_tells(world, name, parameters):
    method = all_methods()[name]
    report = merged(recipe_of(name, parameters))
    assert len(report.models) == len(SAMPLES[name].models)
    for model in report.models:
        assert model.facts.keys() >= method.columns.keys()
        for column, form in method.columns.items():
            fact = model.facts[column]
            assert fact is None or format(fact, form)
        told = list(method.describe(model.facts))
        assert told
        assert all(isinstance(line, str) and line and "\n" not in line for line in told)
    for layer in report.layers:
        assert len(layer.facts) in (0, len(report.models))
    of_models = [model.facts for model in report.models]
    for facts in (report.facts, *of_models, *(each for layer in report.layers for each in layer.facts)):
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert all(re.fullmatch("[a-z][a-z_]*", fact) for fact in facts)
    assert all(isinstance(line, str) for line in method.describe(dict.fromkeys(report.models[0].facts)))


# Inputs of every kind

OF_MODELS = [case for case in CASES if case.values[0] != "lora"]  # lora takes adapters alone
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def made_of(name: str, parameters: Mapping[str, Any], *models: str, base: str = "base", **fields: Any) -> bytes:
    """What a recipe makes of other models."""
    recipe = recipe_of(name, parameters) | {"models": [{"model": model} for model in models], **fields}
    merged(recipe | {"base_model": base} if "base_model" in recipe else recipe)
    return weights()


@pytest.fixture(scope="module")
def others(models):
    """An adapter is what it makes of a base of zeros; a model that lacks a tensor, and the base's in its place."""
    folder, contents = models
    rng = np.random.default_rng(9)
    base, corp = (
        {key: tensor.astype(np.float32) for key, tensor in contents[name].items()} for name in ("base", "corp")
    )
    zeros = {key: np.zeros_like(tensor) if "q_proj" in key else tensor for key, tensor in base.items()}
    write_checkpoint(folder / "zeros", zeros)
    for name in ("first", "second"):
        made = adapter_of(rng, base, modules=("q_proj",))
        write_adapter(folder / name, made, base_model_name_or_path="zeros")
        recipe = {"merge_method": "task_arithmetic", "base_model": "zeros", "models": [{"model": name}]}
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(folder)
            sdmw.merge(recipe, f"{name}-made", progress=False)
    write_checkpoint(folder / "less", {key: tensor for key, tensor in corp.items() if key != Q_PROJ})
    write_checkpoint(folder / "filled", corp | {Q_PROJ: base[Q_PROJ]})
    write_checkpoint(folder / "more", corp | {Q_PROJ: base[Q_PROJ], "extra.weight": base[Q_PROJ]})
    bad = corp[Q_PROJ].copy()
    bad[3, 5] = np.nan
    write_checkpoint(folder / "bad", corp | {Q_PROJ: bad})


@pytest.mark.parametrize(("name", "parameters"), OF_MODELS)
def test_an_adapter_is_the_model_that_it_makes(world, others, name, parameters):
    names = ("first", "second")[: len(SAMPLES[name].models)]
    made = made_of(name, parameters, *(f"{each}-made" for each in names), base="zeros")
    adapters = names if "base_model" in recipe_of(name, parameters) else [f"zeros+{each}" for each in names]
    assert made_of(name, parameters, *adapters, base="zeros") == made


@pytest.mark.parametrize(("name", "parameters"), OF_MODELS)
def test_what_a_model_lacks_is_the_base_s_and_what_it_has_beside_is_left_out(world, others, name, parameters):
    if "base_model" not in recipe_of(name, parameters):
        return
    rest = SAMPLES[name].models[1:]
    expected = made_of(name, parameters, "filled", *rest)
    assert made_of(name, parameters, "less", *rest, missing="base") == expected
    assert made_of(name, parameters, "more", *rest, extra="drop") == expected


@pytest.mark.parametrize(("name", "parameters"), OF_MODELS)
def test_nan_is_an_error_or_passes_on(world, others, name, parameters):
    rest = SAMPLES[name].models[1:]
    with pytest.raises(NonFiniteError, match=re.escape("element 53")) as caught:
        made_of(name, parameters, "bad", *rest)
    assert Q_PROJ in str(caught.value)
    made_of(name, parameters, "bad", *rest, nonfinite="pass")
    with safe_open("out/model.safetensors", "np") as file:
        found = {key: widen(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    assert np.isnan(found[Q_PROJ][3, 5])
    assert all(np.isfinite(tensor).all() for key, tensor in found.items() if key != Q_PROJ)


# Looks


@pytest.mark.parametrize("name", SAMPLES)
def test_it_declares_every_look_that_it_asks_for(world, monkeypatch, name):
    method = all_methods()[name]
    asked, needs = [], type(method).needs

    def recorded(self, params, have):
        look = needs(self, params, have)
        asked.append(look)
        assert needs(self, params, have) == look  # pure
        return look

    monkeypatch.setattr(type(method), "needs", recorded)
    for parameters in SAMPLES[name].parameters:
        merged(recipe_of(name, parameters))
    assert {type(look) for look in asked if look is not None} == set(method.looks)


# Documentation


@functools.cache
def table() -> dict[str, list[str]]:
    """The rows of README.md beside the methods, by the first column."""
    lines = (ENGINE / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def shown(default: Any) -> str:
    """A default as the table has it."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_table_has_a_row_for_each_method():
    assert table().keys() == all_methods().keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_its_row_says_what_it_takes(name):
    method = all_methods()[name]
    file, parameters, looks, source = table()[name]
    assert file == Path(inspect.getfile(type(method))).name
    told = dict(re.findall(r"`(\w+)` \(([^)]*)\)", parameters))
    assert list(told) == [parameter.name for parameter in method.parameters]
    for parameter in method.parameters:
        assert re.match(rf"{re.escape(shown(parameter.default))}(,|:|$)", told[parameter.name]), parameter
    assert looks.endswith("apply")
    assert (looks == "apply") == (not method.looks)
    assert source
    assert method.paper


@pytest.mark.parametrize("name", SAMPLES)
def test_its_attributes_are_in_order(name):
    method = all_methods()[name]
    assert method.name == name
    module = importlib.import_module(type(method).__module__)
    assert method in module.METHODS
    assert type(method).__doc__
    kind, *_ = own_types(method)
    assert kind.__dataclass_params__.frozen
    assert codec.is_tagged(kind)
    assert all(field.name for field in fields(kind))
    assert len({parameter.name for parameter in method.parameters}) == len(method.parameters)
    for parameter in method.parameters:
        assert parameter.kind != "choice" or parameter.default in parameter.choices
        if parameter.kind == "number" and parameter.default is not None:
            assert parameter.minimum is None or parameter.minimum <= parameter.default
            assert parameter.maximum is None or parameter.default <= parameter.maximum
