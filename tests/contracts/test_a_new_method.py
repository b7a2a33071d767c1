"""A new method is one file that touches no other: this one lies in a folder of its own and does all that others do."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw import methods
from sdmw.errors import CheckpointError
from sdmw.methods import all_methods
from sdmw.planning import budget
from sdmw.running.events import Progress

FILE = '''
"""In each layer the fine-tune that changed most elements is added, and the others are not."""

from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sdmw.codec import Count, tagged
from sdmw.methods.method import Destination, Facts, Method, Settings
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Look, LookMemory, Measured, Tile


@tagged
@dataclass(frozen=True, slots=True)
class BusiestParams:
    scale: float


@tagged
@dataclass(frozen=True, slots=True)
class Busiest:
    model: Count
    changed: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class ChangedLook(Look[tuple[int, ...]]):
    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 20, result=1 << 10, kept=1 << 10)

    def counter(self, models: int) -> "ChangedCounter":
        return ChangedCounter(models)

    def nothing(self, models: int) -> tuple[int, ...]:
        return (0,) * models

    def add(self, one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a + b for a, b in zip(one, other, strict=True))


class ChangedCounter:
    def __init__(self, models: int) -> None:
        self._counts = [0] * models

    def add(self, tile: Tile) -> None:
        from sdmw.kernels.tiles import decode

        for start in range(0, tile.count, 1 << 12):
            size = min(1 << 12, tile.count - start)
            arrays = np.empty((tile.addresses.size, size), np.float32)
            for array, address, code in zip(arrays, tile.addresses, tile.codes, strict=True):
                decode(address, code, start, size, array)
            for model in range(len(self._counts)):
                self._counts[model] += int(np.count_nonzero(arrays[0] != arrays[1 + model]))

    def result(self) -> tuple[int, ...]:
        found, self._counts = tuple(self._counts), [0] * len(self._counts)
        return found


class BusiestMethod(Method[BusiestParams, Busiest, tuple[int, ...]]):
    """Winner takes all."""

    name = "busiest"
    paper = "none"
    takes = "deltas"
    parameters = (
        Parameter("lambda", "number", 1.0, varies=True),
        Parameter("granularity", "choice", "tensor", choices=("tensor", "block")),
    )
    looks = (ChangedLook,)
    columns: ClassVar[Mapping[str, str]] = {"won": ",d"}

    def params(self, settings: Settings) -> BusiestParams:
        return BusiestParams(settings.top["lambda"])

    def granularity(self, top):
        return str(top.get("granularity", "tensor"))

    def needs(self, params: BusiestParams, have: Measured):
        return ChangedLook() if have.of(ChangedLook) is None else None

    def decide_layer(self, params: BusiestParams, have: Measured) -> Busiest:
        changed = tuple(map(sum, zip(*have.of(ChangedLook).values(), strict=True)))
        return Busiest(int(np.argmax(changed)), changed)

    def decide_model(self, layers: Sequence[tuple[BusiestParams, Busiest]]) -> tuple[int, ...]:
        won = Counts(layer.model for _, layer in layers)
        return tuple(won[model] for model in range(len(layers[0][1].changed)))

    def apply(self, tile, params, layer, model, destination: Destination) -> bool:
        from sdmw.kernels.tiles import merge_deltas

        one = np.float32(1)
        inputs = np.array([0, 1 + layer.model])
        return bool(
            merge_deltas(
                tile.addresses[inputs], tile.codes[inputs], tile.count, np.zeros(1, np.float32),
                np.ones(1, np.float32), one, np.float32(params.scale), True, destination.address, destination.code,
            )
        )

    def layer_facts(self, layer: Busiest, model: tuple[int, ...]) -> tuple[Facts, ...]:
        return tuple({"changed": count} for count in layer.changed)

    def model_facts(self, params: Iterable[BusiestParams], layers: Sequence[Busiest], model) -> tuple[Facts, ...]:
        return tuple({"won": count} for count in model)

    def facts(self, params, layers, model) -> Facts:
        return {"layers": len(layers)}

    def describe(self, facts: Facts):
        yield f"busiest in {facts['won']} layers"

    def warnings(self, layers, model, *, strict: bool) -> tuple[str, ...]:
        return ("a model won nowhere",) if 0 in model else ()


METHODS = (BusiestMethod(),)
'''
# The same without a base: in each layer the model with most elements above 0.02 is taken.
OF_VALUES = (
    FILE.replace('takes = "deltas"', 'takes = "values"')
    .replace("arrays[0] != arrays[1 + model]", "np.abs(arrays[model]) > 0.02")
    .replace("np.array([0, 1 + layer.model])", "np.array([layer.model] * 2)")
)


@pytest.fixture
def engine_as_it_was():
    """Every file of the engine; none may change."""
    folder = Path(methods.__path__[0]).parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.py")}
    yield
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.py")} == before


@pytest.fixture
def busiest(request, tmp_path, monkeypatch, engine_as_it_was):
    """The method, found beside the others."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "busiest.py").write_text(getattr(request, "param", FILE))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "mine")])
    all_methods.cache_clear()
    yield all_methods()["busiest"]
    all_methods.cache_clear()
    del sys.modules["sdmw.methods.busiest"]


@pytest.fixture
def world(busiest, tmp_path, monkeypatch):
    """Base and two models; the second changed more elements of all tensors but the head."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng) | {"model.wide.weight": rng.normal(0, 0.02, (150, 111)).astype(np.float32)}
    tunes = {"corp": fine_tuned(rng, base, share=0.5), "func": fine_tuned(rng, base, share=0.7)}
    tunes["corp"]["lm_head.weight"] = base["lm_head.weight"] + base["lm_head.weight"]
    for name, tensors in {"base": base, **tunes}.items():
        write_checkpoint(name, tensors)
    return base, tunes


RECIPE = {"merge_method": "busiest", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}]}


def expected(world):
    """In plain NumPy; with lambda 1 each tensor is the winner's, up to rounding."""
    base, tunes = world
    merged = {}
    for name, below in base.items():
        changed = [np.count_nonzero(tune[name] != below) for tune in tunes.values()]
        delta = list(tunes.values())[int(np.argmax(changed))][name].astype("f4") - below.astype("f4")
        merged[name] = (below.astype("f4") + delta).astype(below.dtype)
    return merged


def bits(out="out"):
    return Path(out, "model.safetensors").read_bytes()


def test_it_merges_by_recipe_and_is_verified(world):
    report = sdmw.merge(RECIPE, "out", progress=False)
    found = load_file("out/model.safetensors")
    for name, tensor in expected(world).items():
        np.testing.assert_array_equal(found[name].view(np.uint8), tensor.view(np.uint8), err_msg=name)
    assert [model.facts for model in report.models] == [{"won": 1}, {"won": 9}]
    assert report.facts == {"layers": 10}
    assert sdmw.Report.load("out") == report
    assert "busiest in 9 layers" in Path("out/README.md").read_text()
    verified = sdmw.verify("out", sample=1, progress=False)
    assert verified.problems == ()
    assert verified.recomputed == verified.tiles


@pytest.mark.parametrize("busiest", [OF_VALUES], indirect=True)
def test_one_that_looks_at_values_needs_no_base(world):
    _, tunes = world
    asked = {name: value for name, value in RECIPE.items() if name != "base_model"}
    sdmw.merge(asked, "out", progress=False)
    found = load_file("out/model.safetensors")
    for name, tensor in found.items():
        large = [np.count_nonzero(np.abs(tune[name].astype("f4")) > np.float32(0.02)) for tune in tunes.values()]
        np.testing.assert_array_equal(tensor, list(tunes.values())[int(np.argmax(large))][name], err_msg=name)
    assert sdmw.verify("out", sample=1, progress=False).problems == ()


def test_a_damaged_report_of_it_is_told(world):
    sdmw.merge(RECIPE, "out", progress=False)
    report = json.loads(Path("out/sdmw_report.json").read_text())
    head = next(number for number, layer in enumerate(report["layers"]) if layer["name"] == "lm_head.weight")
    assert report["layers"][head]["decision"]["model"] == 0
    for field, value in {
        "model": ["x", -1, 1],
        "changed": [[1], [0, 0], None],
        "type": [3, "methods.busiest.BusiestParams"],
    }.items():
        for each in value:
            damaged = json.loads(json.dumps(report))
            damaged["layers"][head]["decision"][field] = each
            Path("out/sdmw_report.json").write_text(json.dumps(damaged))
            assert told_problems(), (field, each)


def told_problems():
    try:
        return sdmw.verify("out", sample=1, progress=False).problems
    except CheckpointError as error:
        return error.problems


def test_tiles_threads_and_parameters(world, monkeypatch):
    recipe = {
        **RECIPE,
        "parameters": {"granularity": "block", "lambda": [{"filter": "mlp", "value": 0.5}, {"value": 1}]},
    }
    sdmw.merge(recipe, "out", progress=False)
    for elements in (97, 1000):
        monkeypatch.setattr(budget, "LARGEST_TILE", elements)
        monkeypatch.setattr(budget, "SMALLEST_TILE", elements)
        sdmw.merge(recipe, f"out{elements}", progress=False, threads=3)
        assert bits(f"out{elements}") == bits()
    assert [layer.name for layer in sdmw.Report.load("out").layers if len(layer.tensors) > 1] == [
        "model.layers.0", "model.layers.1"
    ]  # fmt: skip


class EndedError(Exception):
    """Ends a run from its progress."""


@pytest.mark.parametrize(("stage", "after"), [("measure", 3), ("apply", 1), ("apply", 5)])
def test_it_is_resumed(world, stage, after):
    sdmw.merge(RECIPE, "other", progress=False)
    left = after

    def end(event):
        nonlocal left
        left -= isinstance(event, Progress) and event.stage == stage
        if not left:
            raise EndedError

    with pytest.raises(EndedError):
        sdmw.merge(RECIPE, "out", progress=end, threads=1)
    measured = []
    report = sdmw.merge(RECIPE, "out", progress=measured.append, threads=1)
    assert bits() == bits("other")
    assert report.layers == sdmw.Report.load("other").layers
    again = [event for event in measured if isinstance(event, Progress) and event.stage == "measure"]
    assert len(again[1:]) == (10 - after if stage == "measure" else 0)  # the first tells what was kept


def test_its_table_plan_and_mistakes(world, capsys, monkeypatch):
    Path("recipe.yaml").write_text(json.dumps(RECIPE))
    done = told(capsys, monkeypatch, "merge", "recipe.yaml", "out")
    assert (done.code, done.errors) == (0, [])
    assert [line.split() for line in done.out.splitlines()[:3]] == [["model", "won"], ["corp", "1"], ["func", "9"]]
    assert told(capsys, monkeypatch, "verify", "out", "--all").code == 0
    assert told(capsys, monkeypatch, "plan", "recipe.yaml", "--json").code == 0
    Path("wrong.yaml").write_text("merge_method: busyest\nbase_model: base\nmodels: [{model: corp}]\n")
    assert "Did you mean busiest?" in told(capsys, monkeypatch, "plan", "wrong.yaml").errors[0]
    wrong = {**RECIPE, "parameters": {"k": 1}}
    with pytest.raises(sdmw.errors.RecipeError, match="unknown parameter of busiest"):
        sdmw.plan(wrong)


def test_it_is_opened_without_being_written(world):
    reader = sdmw.open(RECIPE, progress=False)
    for name, tensor in expected(world).items():
        np.testing.assert_array_equal(reader.get_tensor(name).view(np.uint8), tensor.view(np.uint8), err_msg=name)


def test_its_warnings_are_shown(world, capsys, monkeypatch):
    write_checkpoint("same", world[0])
    Path("recipe.yaml").write_text(json.dumps({**RECIPE, "models": [{"model": "func"}, {"model": "same"}]}))
    done = told(capsys, monkeypatch, "merge", "recipe.yaml", "out", "--quiet")
    assert done.err == "warning: a model won nowhere\n"
    assert sdmw.Report.load("out").warnings == ("a model won nowhere",)


def test_a_class_of_it_may_be_named_as_one_of_another_method(world, tmp_path):
    (tmp_path / "mine" / "namesake.py").write_text(FILE.replace('name = "busiest"', 'name = "namesake"'))
    all_methods.cache_clear()
    try:
        for name in ("busiest", "namesake"):
            sdmw.merge({**RECIPE, "merge_method": name}, name, progress=False)
            assert sdmw.verify(name, sample=1, progress=False).problems == ()
    finally:
        del sys.modules["sdmw.methods.namesake"]


@pytest.mark.parametrize("decision", ["Busiest", "tuple[Busiest, ...]", "Busiest | None"])
def test_a_decision_that_could_not_be_read_again_is_refused_at_once(decision):
    untagged = FILE.replace(
        "@tagged\n@dataclass(frozen=True, slots=True)\nclass Busiest:", "@dataclass\nclass Busiest:"
    )
    named = untagged.replace("Method[BusiestParams, Busiest,", f"Method[BusiestParams, {decision},")
    with pytest.raises(TypeError, match="Busiest, which BusiestMethod names as its own, must be `tagged`"):
        exec(named, {"__name__": "untagged"})


def test_another_generic_class_beside_the_method_does_not_hide_what_it_decides():
    mixed = FILE.replace(
        "class BusiestMethod(Method[", "class Named(Generic[T]):\n    pass\n\n\nclass BusiestMethod(Named[int], Method["
    )
    mixed = mixed.replace(
        "from typing import ClassVar\n", 'from typing import ClassVar, Generic, TypeVar\n\nT = TypeVar("T")\n'
    )
    untagged = mixed.replace(
        "@tagged\n@dataclass(frozen=True, slots=True)\nclass Busiest:", "@dataclass\nclass Busiest:"
    )
    assert untagged != mixed != FILE
    with pytest.raises(TypeError, match="Busiest, which BusiestMethod names as its own, must be `tagged`"):
        exec(untagged, {"__name__": "untagged"})
