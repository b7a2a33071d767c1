"""What one worker does with a piece: tiles are let go of in turn, lost pages are told, a stop counts at each tile."""

import itertools
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdmw
from checkpoints_on_disk import fine_tuned, write_checkpoint
from sdmw.errors import RunError
from sdmw.methods import all_methods
from sdmw.planning.plan import SMALLEST, TensorPlan
from sdmw.running import work
from sdmw.running.events import Progress
from sdmw.running.span import Span, read_tiles, tile_borders
from sdmw.statistics.look import Measured
from sdmw.tensors import lost_pages
from sdmw.tensors.dtype import DType
from sdmw.tensors.tile_memory import tile_memory
from sdmw.writing.layout import Place

pytestmark = pytest.mark.usefixtures("tiny_tiles")


class Watched:
    """A tensor of the numbers from 0 on, and its own source, which notes what is asked of it."""

    def __init__(self):
        self.asked = []

    def open(self):
        return self

    def tile(self, start, stop):
        self.asked.append(("tile", start, stop))
        return np.arange(start, stop)

    def release(self, start, stop):
        self.asked.append(("release", start, stop))

    def lost(self):
        return None


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Of two models with one tensor of one piece and 64 tiles."""
    monkeypatch.chdir(tmp_path)
    base = {"w": np.zeros((64, 64), np.uint8).astype(np.float32)}
    write_checkpoint("base", base)
    write_checkpoint("corp", fine_tuned(np.random.default_rng(8), base))
    return {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "corp"}]}


def test_each_tile_is_let_go_of_before_the_next():
    """A mapped page is resident until then: else memory grows with the inputs."""
    tensors = [Watched(), Watched()]
    for start, arrays in read_tiles(tensors, 0, 10, 4, lambda: None):
        assert all(array[0] == start for array in arrays)
    # What is left behind the last whole tile goes with it.
    wanted = [(what, *tile) for tile in [(0, 4), (4, 10)] for what in ("tile", "release")]
    assert [tensor.asked for tensor in tensors] == [wanted, wanted]


@pytest.mark.parametrize(
    ("start", "stop", "tile", "borders"),
    [
        (0, 12, 4, [(0, 4), (4, 8), (8, 12)]),
        (0, 11, 4, [(0, 4), (4, 11)]),
        (3, 12, 4, [(3, 4), (4, 8), (8, 12)]),
        (0, 3, 4, [(0, 3)]),
        (5, 5, 4, []),
    ],
)
def test_tiles_end_at_multiples_within_the_tensor(start, stop, tile, borders):
    assert list(tile_borders(start, stop, tile)) == borders


def test_a_long_rest_is_a_tile_of_its_own():
    assert list(tile_borders(0, 3 * 4096 - 1, 2 * 4096)) == [(0, 3 * 4096 - 1)]
    assert list(tile_borders(0, 3 * 4096, 2 * 4096)) == [(0, 2 * 4096), (2 * 4096, 3 * 4096)]


def test_pages_that_are_lost_during_a_tile_end_the_merge(recipe, monkeypatch):
    """Their place was zeros. A file that changed is told by its times; a disk that fails is told by this alone."""
    losses = itertools.count()
    monkeypatch.setattr(lost_pages, "lost", lambda: next(losses))
    with pytest.raises(RunError, match=r"model\.safetensors: .*Input/output error"):
        sdmw.merge(recipe, "out", progress=False)
    assert sorted(os.listdir(".")) == ["base", "corp"]


def test_an_error_ends_the_pieces_that_are_under_way(recipe, monkeypatch, no_bundles):
    """At their next tile: a stop does not wait for whole pieces."""
    read, begun, halfway = work.read_ranges, [], threading.Event()

    def slow(*arguments):
        for tile in read(*arguments):
            begun.append(1)
            if len(begun) > 1:
                halfway.set()
                time.sleep(0.1)
            yield tile

    def fail(event):
        if isinstance(event, Progress):
            assert halfway.wait(10)
            raise KeyError

    monkeypatch.setattr(work, "read_ranges", slow)
    base = {"a": np.ones(1, np.float32), "w": np.ones((64, 64), np.float32)}
    write_checkpoint("two", base)
    with pytest.raises(KeyError):
        sdmw.merge({"merge_method": "linear", "models": [{"model": "two"}]}, "out", progress=fail, threads=2)
    assert len(begun) < 14  # a piece has 16 tiles


WHOLE = TensorPlan("w", "merge", (), (), None, "w", Place("w", DType.BF16, (7, 100), 0, 0), whole_rows=True)


@given(start=st.integers(0, 700), size=st.integers(0, 700), most=st.integers(1, 1000))
def test_a_tile_of_whole_rows_is_read_with_all_that_it_touches(start, size, most):
    """And with no more elements than the plan counts beside its own, those of a tensor's last tile apart."""
    stop = min(start + size, 700)
    assert WHOLE.tile(most) % 100 == 0
    for border in tile_borders(start, stop, WHOLE.tile(most)):
        first, last = WHOLE.read_for(*border)
        assert (first % 100, last % 100) == (0, 0)
        assert first <= border[0] < border[1] <= last
        assert border[0] - first < 100
        assert last - border[1] < 100
        assert last - first <= most + WHOLE.beside + min(SMALLEST, WHOLE.tile(most))
    assert WHOLE.read_for(150, 150) == (150, 150)
    apart = replace(WHOLE, whole_rows=False)
    assert apart.read_for(150, 250) == (150, 250)
    assert apart.beside == 0
    assert apart.tile(90) == 90


@pytest.fixture
def layers(tmp_path, monkeypatch):
    """SDM-W of tensors of one tile and of several, and of one that is nearly as it was."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    rows = (1, 30, 200)
    base = {f"model.layers.{n}.w": rng.normal(0, 1, (each, 40)).astype(np.float32) for n, each in enumerate(rows)}
    write_checkpoint("base", base)
    write_checkpoint("corp", fine_tuned(rng, base))
    write_checkpoint("func", fine_tuned(rng, base, share=0.01))
    return {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}]}


@pytest.mark.parametrize(("normalization", "decided"), [("linear", True), ({"power": 1, "norm": 2}, False)])
def test_a_layer_that_is_one_share_is_decided_where_it_was_looked_at(layers, normalization, decided):
    """As the driver decides it from what a look finds; where another look is needed that is what comes."""
    planned = sdmw.plan({**layers, "parameters": {"normalization": normalization}}, threads=1)
    method = all_methods()["sdm_w"]
    for tensor in planned.tensors[:2]:
        look = method.needs(tensor.params, Measured())
        looking = work.Looking(Span(tensor, 0, tensor.elements, tensor.elements, strict=True), look, 2)
        with tile_memory():
            found, at_once = work.measure_all([looking, replace(looking, decides=method)])
        have = Measured().with_look(type(look), {tensor.component: look.add(look.nothing(2), found)})
        assert (method.needs(tensor.params, have) is None) == decided
        assert at_once == (work.Decided(method.decide_layer(tensor.params, have)) if decided else found)


def test_many_threads_write_the_same_bits(layers):
    """Eight and more threads share a piece otherwise than two do."""
    sdmw.merge(layers, "two", progress=False, threads=2)
    expected = (Path("two") / "model.safetensors").read_bytes()
    for threads in (9, 17, 40):
        sdmw.merge(layers, f"out{threads}", progress=False, threads=threads)
        assert (Path(f"out{threads}") / "model.safetensors").read_bytes() == expected


def test_a_layer_with_an_empty_tensor_is_decided_with_all_its_components(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"model.layers.0.mlp.w": np.ones((1, 8), np.float32), "model.layers.0.mlp.b": np.ones(0, np.float32)}
    write_checkpoint("base", base)
    write_checkpoint("corp", {name: 2 * tensor for name, tensor in base.items()})
    asked = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}]}
    report = sdmw.merge({**asked, "parameters": {"granularity": "module"}}, "out", progress=False)
    assert report.models[0].facts["magnitude_by_component"] == {"model.layers.mlp.w": 8.0, "model.layers.mlp.b": 0.0}
