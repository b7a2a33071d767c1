"""The bound on memory: each of its terms, what a plan asks for, and what fits into a budget."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.errors import Problem
from sdmw.methods import all_methods
from sdmw.methods.long_rows import Chance
from sdmw.planning import budget
from sdmw.planning.budget import Demand, default_budget, fit, projected_peak
from sdmw.statistics.columns import COLUMN_BYTES
from sdmw.statistics.look import LookMemory
from sdmw.statistics.ranges import OPEN_RANGE, RANGE_BYTES
from sdmw.tensors import low_rank
from sdmw.tensors.mapping import WINDOWS

MIB = 2**20
LOOKS = budget.memory_of(all_methods()["sdm_w"])
SDM_W = Demand(
    reserved=100 * MIB, loading=90 * MIB, element=8, output=2, working=0, models=2, components=1, looks=LOOKS
)


def test_each_term_of_the_bound(monkeypatch):
    monkeypatch.setattr(budget, "STAGING", 19)
    looks_of = LookMemory(counter=11, kept=13, result=17)
    demand = Demand(reserved=23, loading=47, element=5, output=37, working=43, models=3, components=7, looks=looks_of)
    monkeypatch.setattr(budget, "in_flight", lambda threads: threads + 10)
    monkeypatch.setattr(budget, "MOST_EARLY", 3)
    written = (41 + 31 * 3) * 29 * 37
    looks = 3 * (13 * (7 + 1) + 17 * 2 * 31)
    assert projected_peak(demand, tile=29, threads=31) == 23 + 31 * (29 * 5 + 43 + 3 * 11) + written + looks + 19
    loading = replace(demand, loading=10**9)
    assert projected_peak(loading, tile=29, threads=31) == 10**9
    widened = replace(demand, beside=53)
    more = 31 * 53 * 5 + (41 + 31 * 3) * 53 * 37
    assert projected_peak(widened, tile=29, threads=31) == projected_peak(demand, tile=29, threads=31) + more
    unmeasured = replace(demand, models=0)
    assert projected_peak(unmeasured, tile=29, threads=31) == 23 + 31 * (29 * 5 + 43) + written + 19


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base of two blocks, two fine-tunes, and two adapters of all its matrices in the blocks."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint(folder / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(folder / name, fine_tuned(rng, base))
    for name in ("lora", "other"):
        write_adapter(folder / name, adapter_of(rng, base, modules=("q_proj", "up_proj")))
    return folder


def demand(models, *names, method="sdm_w", **fields):
    """What a merge asks of memory in a process that occupies nothing."""
    recipe = {"merge_method": method, "base_model": str(models / "base"),
              "models": [{"model": str(models / name)} for name in names], **fields}  # fmt: skip
    planned = sdmw.plan(recipe)
    assert planned.problems == ()
    return budget.demand_of(planned, all_methods()[method], 0)


@pytest.mark.parametrize(
    ("granularity", "layers", "components"), [("tensor", 9, 1), ("block", 5, 3), ("component", 6, 1), ("model", 1, 6)]
)
def test_a_plan_counts_its_layers_their_components_and_its_tensors(models, granularity, layers, components):
    """Components of a layer are kept apart until it is decided; decisions and pieces to the end."""
    asked = demand(models, "corp", "func", parameters={"granularity": granularity})
    assert asked.components == components
    assert asked.reserved == budget.kernels_to_load().stay + 2 * layers * budget.DECISION + 9 * budget.PIECE
    assert asked.loading == budget.kernels_to_load().most
    assert (asked.models, asked.looks) == (2, LOOKS)


def test_a_plan_counts_an_element_of_every_input_and_of_the_output(models):
    asked = demand(models, "corp", "func")
    assert (asked.element, asked.output, asked.working) == (2 + 2 + 2 + 2, 2, 3 * budget.EDGES + WINDOWS)
    asked = demand(models, "corp", out_dtype="float32")
    assert (asked.element, asked.output, asked.working) == (2 + 2 + 4, 4, 2 * budget.EDGES + WINDOWS)


def test_a_plan_counts_the_rows_that_a_method_needs_whole(models):
    """The longest, beside a tile's own elements; and what ranks take of each of its elements."""
    for method, row in (("dare_ties", 0), ("della", 16)):
        asked = demand(models, "corp", "func", method=method, parameters={"weight": 1, "density": 0.5})
        assert asked.beside == 2 * row
        assert asked.working == 3 * budget.EDGES + WINDOWS + row * (16 + 4 * 2)


def test_a_plan_counts_columns_that_are_decided_by_themselves(models):
    """The sums of the most, and what the decision on each takes to the end."""
    by_column = {"weight": 1, "nuslerp_flatten": False, "nuslerp_row_wise": True}
    whole, asked = (
        demand(models, "corp", "func", method="nuslerp", parameters=each) for each in ({"weight": 1}, by_column)
    )
    assert asked.working == whole.working + 16 * COLUMN_BYTES
    columns = 2 * 16 + 1 + 2 * (16 + 16 + 1)  # embedding, head and norm; of each block two matrices and a norm
    assert asked.reserved == whole.reserved + columns * budget.APART
    by_row = demand(models, "corp", "func", method="nuslerp", parameters={"weight": 1, "nuslerp_flatten": False})
    assert (by_row.beside, by_row.working) == (2 * 16, whole.working + 16)


def test_a_plan_counts_the_ranges_of_a_row_that_is_not_held_whole(models, monkeypatch):
    """What the decision on each takes to the end; of the most what a worker counts, and the driver decides by."""
    parameters = {"weight": 1, "density": 0.5}
    whole = demand(models, "corp", "func", method="della", parameters=parameters)
    monkeypatch.setattr("sdmw.methods.method.LONG_ROW", 15)
    asked = demand(models, "corp", "func", method="della", parameters=parameters)
    ranges, norms = 2 * Chance(0.5, 0.15, 16).ranges, 3
    assert asked.reserved == whole.reserved + norms * ranges * budget.APART + ranges * OPEN_RANGE
    assert asked.working == whole.working + ranges * RANGE_BYTES
    assert asked.beside == whole.beside  # of the matrices


TWO_BILLION = [(2_000_000_000,), (44_722, 44_722)]
OF_VECTORS = {"density": 0.5, "nuslerp_flatten": False, "filter_wise": True}


@pytest.fixture(scope="module", params=TWO_BILLION, ids=["one row", "matrix"])
def large(tmp_path_factory, request):
    """Models of one such tensor, of holes, and its size in each."""
    folder, size = tmp_path_factory.mktemp("large"), 2 * math.prod(request.param)
    header = json.dumps({"w": {"dtype": "BF16", "shape": request.param, "data_offsets": [0, size]}}).encode()
    for name in ("base", "one", "other"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        with open(folder / name / "model.safetensors", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)
    return folder, size


@pytest.mark.parametrize("name", sorted(all_methods().keys() - {"lora"}))
def test_a_tensor_of_two_billion_elements_fits_in_a_twentieth_of_its_size(large, name):
    """Beside what the process has resident before."""
    folder, size = large
    method = all_methods()[name]
    given = {"weight": 1, "t": 0.5, **OF_VECTORS}
    parameters = {each.name: given[each.name] for each in method.parameters if each.name in given}
    of_model = {each.name: parameters.pop(each.name) for each in method.parameters if each.name == "weight"}
    names = ("one", "other")[: method.most]
    recipe = {"merge_method": name, "base_model": str(folder / "base"), "parameters": parameters,
              "models": [{"model": str(folder / each), "parameters": of_model} for each in names]}  # fmt: skip
    if name in ("karcher", "passthrough", "linear"):
        del recipe["base_model"]
    planned = sdmw.plan(recipe, budget="16GiB")
    assert planned.problems == ()
    inputs = size * len(planned.tensors[0].inputs)
    assert budget.least_peak(budget.demand_of(planned, method, 0)) <= inputs / 20


def test_a_plan_counts_what_adapters_are_computed_in(models):
    """Beside their tiles; and a merge that measures nothing counts no model."""
    asked = demand(models, "lora", method="task_arithmetic")
    assert asked.element == 2 + 4 + 2
    assert asked.working >= low_rank.WORKING + 2 * budget.EDGES
    assert asked.models == 0


def test_a_plan_counts_what_is_kept_of_every_adapter(models):
    """Of each input of a tensor, as they are all open; what tiles are made in is used by one after the other."""
    working = low_rank.WORKING + 8 * 16 * 4  # of rank 4
    one, two = (demand(models, *names, method="task_arithmetic") for names in (("lora",), ("lora", "other")))
    kept = one.working - working - 2 * budget.EDGES - WINDOWS
    assert kept > 0
    assert two.working == working + 2 * kept + 3 * budget.EDGES + WINDOWS


def test_the_largest_tile_where_there_is_room():
    found = fit(SDM_W, 2**40, 5)
    assert (found.threads, found.tile) == (5, budget.LARGEST_TILE)
    assert found.peak == projected_peak(SDM_W, budget.LARGEST_TILE, 5)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_tiles_shrink_first_then_threads_go(threads):
    """Whatever is allowed: it fits, and neither a larger tile nor more threads would."""
    least = projected_peak(SDM_W, budget.SMALLEST_TILE, 1)
    seen = set()
    for allowed in range(least, projected_peak(SDM_W, budget.LARGEST_TILE, threads) + MIB, MIB):
        found = fit(SDM_W, allowed, threads)
        assert found.peak == projected_peak(SDM_W, found.tile, found.threads) <= allowed
        if found.threads < threads:
            assert projected_peak(SDM_W, budget.SMALLEST_TILE, found.threads + 1) > allowed
        if found.tile < budget.LARGEST_TILE:
            assert projected_peak(SDM_W, found.tile * 2, found.threads) > allowed
        seen.add((found.threads, found.tile))
    assert {(threads, budget.LARGEST_TILE), (1, budget.SMALLEST_TILE)} <= seen


def test_below_the_least_the_number_is_named():
    least = projected_peak(SDM_W, budget.SMALLEST_TILE, 1)
    assert fit(SDM_W, least, 3).threads == 1
    refused = fit(SDM_W, least - 1, 3)
    assert isinstance(refused, Problem)
    assert refused.mend == f"Set the budget to {-(-(least + budget.ROOM) // 10**6)}MB or more"


@pytest.mark.parametrize(
    ("available", "taken"),
    [(0, 0), (96 * MIB, 84 * MIB), (400 * MIB, 256 * MIB), (600 * MIB, 300 * MIB), (2**40, 2**30)],
)
def test_the_default_leaves_room_for_others(available, taken):
    assert default_budget(7, available) == 7 + taken


def test_kernels_count_once(monkeypatch):
    for state, most, stay in [
        ("missing", budget.LOADING, budget.LOADED),
        ("kept", budget.LOADING, budget.LOADED),
        ("here", budget.COMPILING, budget.COMPILING),
        ("loaded", 0, 0),
    ]:
        monkeypatch.setattr(budget.ready, "state", lambda _groups=(), state=state: state)
        assert budget.kernels_to_load() == budget.Kernels(most, stay)
