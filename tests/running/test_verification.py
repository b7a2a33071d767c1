"""A merge is held against its report: what is equal passes, any wrong byte is found."""

import gc
import json
import math
import os
import shutil

import numpy as np
import pytest
import xxhash
from safetensors.numpy import load_file, save_file

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw.checkpoints.formats import read
from sdmw.errors import CheckpointError, InputChangedError, PlanError, UsageError
from sdmw.planning import budget
from sdmw.reporting import report
from sdmw.running import verification
from sdmw.running.events import Progress

pytestmark = pytest.mark.usefixtures("tiny_tiles")


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    buffer = {"model.position_ids": np.arange(7)}
    write_checkpoint(tmp_path / "base", base | buffer)
    for name in ("corp", "func"):
        write_checkpoint(tmp_path / name, fine_tuned(rng, base) | buffer)
    write_checkpoint(tmp_path / "same", base | buffer)
    return tmp_path


def merged(**fields):
    models = [{"model": "corp"}, {"model": "func"}]
    recipe = {"merge_method": "sdm_w", "base_model": "base", "models": models, **fields}
    sdmw.merge(recipe, "out", progress=False)


RECIPES = {
    "plain": {},
    "everything kept": {"parameters": {"k": 0}},
    "nothing but the largest kept": {"parameters": {"k": 100}},
    "approximate": {"parameters": {"percentile": "approximate"}},
    "whole model": {"parameters": {"granularity": "model", "lambda": 0.7}},
    "weights given": {"parameters": {"weight": 0.3}},
    "weights given, all kept": {"parameters": {"weight": 0.3, "k": 0}},
    "a model without changes": {"models": [{"model": "same"}, {"model": "corp"}]},
    "no changes at all": {"models": [{"model": "same"}]},
    "float32": {"out_dtype": "float32"},
    "linear": {"merge_method": "linear"},
    "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.5}},
}


def tiles_in(checkpoint):
    """Whole tiles of each tensor; what is left behind the last is part of it."""
    return sum(max(1, info.elements // budget.LARGEST_TILE) for info in checkpoint.tensors.values())


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_merged_is_equal(world, name):
    merged(**RECIPES[name])
    found = sdmw.verify("out", sample=1)
    assert found.problems == ()
    assert found.tiles == found.recomputed == tiles_in(read("out"))
    assert found.unseen == 0
    assert found.nbytes == sum(info.nbytes for info in read("out").tensors.values())


def shard_and(name):
    info = read("out").tensors[name]
    return info.file, info.offset


def spoil(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 4]))


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight", "model.position_ids"])
def test_any_changed_byte_is_found_by_its_checksum(world, name):
    merged()
    path, offset = shard_and(name)
    spoil(path, offset + 3)
    found = sdmw.verify("out").problems  # and by computing it, where the sample happens to hit its tile
    assert any(
        problem.where.startswith(f"{path}: tensor {name!r}, elements 0 to ")
        and problem.expected.startswith("checksum ")
        for problem in found
    )


def test_a_wrong_value_with_a_right_checksum_is_found_by_computing_it(world):
    """As a broken run would leave it: what it wrote is what it vouched for."""
    merged()
    path, offset = shard_and("lm_head.weight")
    info = read("out").tensors["lm_head.weight"]
    spoil(path, offset + 103 * info.dtype.itemsize)
    with open(path, "rb") as file:
        file.seek(offset)
        checksum = xxhash.xxh3_128_hexdigest(file.read(info.nbytes))
    with open("out/sdmw_report.json") as file:
        told = json.load(file)
    (piece,) = (each for each in told["pieces"] if each[0] == "lm_head.weight")
    piece[3] = checksum
    with open("out/sdmw_report.json", "w") as file:
        json.dump(told, file)
    (problem,) = sdmw.verify("out", sample=1).problems
    assert problem.where == f"{path}: tensor 'lm_head.weight', element 103"
    right, wrong = problem.expected.removeprefix("bits "), problem.found
    assert len(right) == len(wrong) == 4  # hex digits of a bfloat16
    assert int(right, 16) ^ int(wrong, 16) == 4  # what `spoil` flips


def test_a_report_that_vouches_for_less_is_told(world):
    merged()
    with open("out/sdmw_report.json") as file:
        told = json.load(file)
    del told["pieces"][2]
    with open("out/sdmw_report.json", "w") as file:
        json.dump(told, file)
    (problem,) = sdmw.verify("out").problems
    assert problem.found == "a gap"


def test_a_report_without_the_first_piece_of_a_tensor_is_told(world):
    shape = (50, 111)  # several pieces
    for name in ("base", "corp"):
        shutil.rmtree(name)
        write_checkpoint(name, {"w": np.full(shape, len(name), np.float32)})
    merged(models=[{"model": "corp"}])
    with open("out/sdmw_report.json") as file:
        told = json.load(file)
    first = min(told["pieces"], key=lambda piece: piece[1])
    assert len(told["pieces"]) > 1
    told["pieces"].remove(first)
    with open("out/sdmw_report.json", "w") as file:
        json.dump(told, file)
    problems = sdmw.verify("out").problems
    assert problems[0].expected == "a checksum of elements 0 on, to 5550 at most"


def test_a_sample_says_its_odds(world):
    merged()
    found = sdmw.verify("out", sample=0.3)
    assert found.recomputed == math.ceil(0.3 * tiles_in(read("out")))
    assert found.unseen == 1 - found.recomputed / found.tiles


def test_inputs_of_other_shapes_are_a_problem_of_the_plan(world):
    merged()
    shutil.rmtree("corp")
    write_checkpoint(world / "corp", {"model.norm.weight": np.ones(3, np.float32)})
    with pytest.raises(PlanError, match="corp"):
        sdmw.verify("out")


@pytest.mark.parametrize("header", [{"format": "np"}, {"format": "pt", "more": "text"}])
def test_inputs_that_are_others_are_named(world, monkeypatch, header):
    """By the hash of a header as long as before, or by the size: tensors are equal, and samples say nothing here."""
    monkeypatch.setattr(report, "sample_of", lambda path: "5" * 32)
    monkeypatch.setattr(verification, "sample_of", lambda path: "5" * 32)
    merged()
    path = "corp/model.safetensors"
    save_file(load_file(path), path, header)
    with pytest.raises(InputChangedError) as caught:
        sdmw.verify("out")
    (problem,) = caught.value.problems
    assert (problem.where, problem.expected) == (str(world / path), "the file that was merged")


def test_inputs_whose_values_changed_are_told_by_the_sample(world):
    merged()
    path = "corp/model.safetensors"
    spoil(path, os.path.getsize(path) - 2)
    with pytest.raises(InputChangedError, match=r"corp/model\.safetensors: expected the file that was merged"):
        sdmw.verify("out")


def test_inputs_that_changed_between_the_blocks_of_their_samples_are_told_by_computing(world, monkeypatch):
    monkeypatch.setattr(report, "sample_of", lambda path: "5" * 32)
    monkeypatch.setattr(verification, "sample_of", lambda path: "5" * 32)
    merged()
    path = "corp/model.safetensors"
    spoil(path, os.path.getsize(path) - 2)
    assert sdmw.verify("out", sample=1).problems


def test_other_tensors_are_told(world):
    merged()
    save_file({"model.norm.weight": np.zeros(3, np.float32)}, "out/model.safetensors", {"format": "pt"})
    problems = sdmw.verify("out").problems
    assert {problem.found for problem in problems} == {"none", "F32 [3]"}


@pytest.mark.parametrize("sample", [0, 1.1, -1, "1%", True, float("nan")])
def test_no_share(world, sample):
    with pytest.raises(UsageError, match="a share above 0"):
        sdmw.verify("out", sample=sample)


def test_what_sdmw_has_not_made(world):
    with pytest.raises(CheckpointError, match="the report of a merge"):
        sdmw.verify("base")
    (world / "base" / "sdmw_report.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a report of schema 2, or 1, found another"):
        sdmw.verify("base")


def test_the_command(world, capsys, monkeypatch):
    merged()
    done = told(capsys, monkeypatch, "verify", "out")
    assert done.code == 0
    assert "result      equal" in done.out
    assert f"1 of {tiles_in(read('out'))} tiles computed anew; one wrong tile" in done.out
    done = told(capsys, monkeypatch, "verify", "out", "--all", "--json")
    assert json.loads(done.out)["unseen"] == 0
    spoil(*shard_and("model.norm.weight"))
    done = told(capsys, monkeypatch, "verify", "out", "--sample", "50%")
    assert done.code == 1
    assert "result      different" in done.out
    assert "checksum" in done.errors[0]
    assert told(capsys, monkeypatch, "verify", "out", "--sample", "nought").code == 2


def test_progress_counts_the_bytes_that_are_compared(world):
    merged()
    events = []
    found = sdmw.verify("out", sample=1, progress=events.append)
    said = [event for event in events if isinstance(event, Progress)]
    assert {event.total for event in said} == {found.nbytes}
    assert 0 <= said[0].done < said[-1].done == found.nbytes
    assert sorted(event.done for event in said) == [event.done for event in said]


def test_nothing_stays_mapped(world):
    merged()
    assert sdmw.verify("out", sample=1).problems == ()
    with open("/proc/self/maps") as maps:
        assert [line for line in maps if str(world) in line] == []


def test_the_process_holds_no_more_after_many_runs(world):
    """Of mappings: what is loaded once, as the kernels are, is not loaded again."""

    def again():
        shutil.rmtree("out", ignore_errors=True)
        merged()
        assert sdmw.verify("out", sample=1).problems == ()
        gc.collect()
        with open("/proc/self/maps") as maps:
            return len(maps.readlines())

    before = [again() for _ in range(4)][-1]
    assert [again() for _ in range(12)][-1] < before + 12  # a stack or an arena may come; one a run may not
