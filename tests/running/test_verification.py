"""A merge is held against its report: what is equal passes, any wrong byte is found."""

import gc
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xxhash
from safetensors.numpy import load_file, save_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from faults.worlds import ALL
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
    assert found.problems == found.not_found == ()
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


def test_a_changed_side_file_does_not_keep_the_tensors_from_being_compared(world, capsys, monkeypatch):
    merged()
    Path("out/config.json").write_text("{}")
    spoil(*shard_and("lm_head.weight"))
    found = sdmw.verify("out")
    assert found.recomputed > 0
    assert found.nbytes > 0
    wrong = [problem.where for problem in found.problems]
    assert any("lm_head.weight" in where for where in wrong)
    assert wrong[-1] == os.path.abspath("out/config.json")


def test_of_a_checkpoint_with_other_tensors_none_is_read_and_that_is_said(world, capsys, monkeypatch):
    merged()
    changed = load_file("out/model.safetensors")
    del changed["lm_head.weight"]
    save_file(changed, "out/model.safetensors")
    found = sdmw.verify("out")
    assert (found.pieces, found.nbytes, found.recomputed) == (0, 0, 0)
    assert found.problems
    said = told(capsys, monkeypatch, "verify", "out")
    assert said.code == 1
    assert said.out.count("none: no tensor was read, because of the errors below") == 2


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
    assert problems[0].expected == "a checksum from element 0 to 5550 at most"


def test_a_sample_says_its_odds(world):
    merged()
    found = sdmw.verify("out", sample=0.3)
    assert found.recomputed == math.ceil(0.3 * tiles_in(read("out")))
    assert found.unseen == 1 - found.recomputed / found.tiles


def test_inputs_of_other_shapes_are_others(world):
    merged()
    shutil.rmtree("corp")
    write_checkpoint(world / "corp", {"model.norm.weight": np.ones(3, np.float32)})
    with pytest.raises(InputChangedError, match=r"corp/model\.safetensors: expected the file that was merged"):
        sdmw.verify("out")


def test_inputs_that_are_damaged_are_told(world):
    merged()
    os.truncate("corp/model.safetensors", 100)
    with pytest.raises(PlanError, match="corp"):
        sdmw.verify("out")


def test_an_adapter_whose_config_changed_is_told_and_not_the_output(world):
    rng = np.random.default_rng(4)
    write_adapter(world / "one", adapter_of(rng, llama_like(rng)))
    merged(models=[{"model": "one"}])
    path = world / "one" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "lora_alpha": 99}))
    with pytest.raises(InputChangedError, match=r"one/adapter_config\.json: expected the file that was merged with"):
        sdmw.verify("out")
    path.write_text(json.dumps(config, indent=3))  # it is known by its bytes
    with pytest.raises(InputChangedError, match=r"adapter_config\.json"):
        sdmw.verify("out")
    told = json.loads(Path("out/sdmw_report.json").read_text())
    assert told.pop("configs").keys() == {"one"}
    Path("out/sdmw_report.json").write_text(json.dumps(told))  # as an earlier version left it
    assert sdmw.verify("out").problems == ()


def test_by_default_a_small_model_is_computed_again_as_a_whole_and_of_others_a_sample(world, monkeypatch):
    merged()
    found = sdmw.verify("out")
    assert (found.recomputed, found.unseen) == (found.tiles, 0)
    size = sdmw.plan("out/sdmw_recipe.yaml").bytes_written
    monkeypatch.setattr(verification, "SMALL", size)
    assert sdmw.verify("out").recomputed == found.tiles
    monkeypatch.setattr(verification, "SMALL", size - 1)
    assert sdmw.verify("out").recomputed == 1


def lost(found):
    """The inputs that were not found, as the recipe names them."""
    return [problem.where.split(": ")[-1] for problem in found.not_found]


@pytest.mark.parametrize("text", [b"merge_method: sdm_w\n", b"a: ["])
def test_a_recipe_that_was_changed_is_told_and_not_the_report(world, capsys, monkeypatch, text):
    """Nothing can be computed again from another recipe, nor the report be held against it."""
    merged()
    path = Path("out/sdmw_recipe.yaml")
    path.write_bytes(path.read_bytes() + text)
    done = told(capsys, monkeypatch, "verify", "out")
    assert done.code == 1
    assert "none: the recipe was changed, so nothing was computed again" in done.out
    (problem,) = sdmw.verify("out", progress=False).problems
    assert problem.where == str(world / "out" / "sdmw_recipe.yaml")
    assert problem.mend == "The file was changed after the merge"


FOREIGN = ("extra.safetensors", "pytorch_model.bin", "adapter_config.json", "consolidated.00.pth")


@pytest.mark.parametrize("away", [False, True])
def test_weights_that_were_added_are_told(world, away):
    merged()
    for name in (*FOREIGN, "model-Q4.gguf", "notes.txt", "training_args.bin"):
        Path("out", name).write_bytes(b"x")
    if away:
        (world / "corp").rename("gone")
    found = sdmw.verify("out", progress=False)
    assert [problem.where for problem in found.problems] == [f"{world}/out/{name}" for name in sorted(FOREIGN)]
    assert bool(found.not_found) == away


class TestInputsThatAreElsewhere:
    @pytest.fixture(autouse=True)
    def moved(self, world):
        merged()
        (world / "store").mkdir()
        for name in ("base", "corp", "func"):
            (world / name).rename(world / "store" / name)

    def test_checksums_alone_are_compared_and_the_result_says_so(self, world):
        found = sdmw.verify("out", progress=False)
        assert found.problems == ()
        assert lost(found) == ["'base'", "'corp'", "'func'"]
        assert found.not_found[0].where == "sdmw_recipe.yaml:2:13: base_model: 'base'"
        assert (found.tiles, found.recomputed, found.unseen) == (0, 0, 1)
        assert found.nbytes == sum(info.nbytes for info in read("out").tensors.values())
        assert "nothing computed again: 3 inputs not found" in repr(found)
        assert [each["where"] for each in found.to_dict()["not_found"]] == [each.where for each in found.not_found]

    def test_one_that_is_missing_is_enough(self, world):
        (world / "store" / "base").rename("base")
        (world / "store" / "corp").rename("corp")
        assert lost(sdmw.verify("out")) == ["'func'"]

    def test_a_changed_byte_is_found(self, world):
        path, offset = shard_and("lm_head.weight")
        spoil(path, offset + 3)
        (problem,) = sdmw.verify("out").problems
        assert problem.where.startswith(f"{path}: tensor 'lm_head.weight'")

    def test_a_changed_header_is_found(self, world):
        """Here: a matrix that is told to be of another shape, and a shard that the report does not know."""
        path = "out/model.safetensors"
        content = Path(path).read_bytes()
        assert content.count(b"[48,16]") == 2
        Path(path).write_bytes(content.replace(b"[48,16]", b"[16,48]"))
        (problem,) = sdmw.verify("out").problems
        assert problem.where == os.path.abspath(path) + ": header"
        assert problem.expected.startswith("checksum ")

    def test_one_folder_is_not_two_inputs(self, world):
        """Models of one last part, of which one is there under that alone."""
        for name in ("corp", "func"):
            (world / name).mkdir()
            shutil.copytree(world / "store" / name, world / name / "ckpt")
        shutil.copytree(world / "store" / "base", "base")
        shutil.rmtree("out")
        models = [{"model": "corp/ckpt"}, {"model": "func/ckpt"}]
        sdmw.merge({"merge_method": "linear", "base_model": "base", "models": models}, "out", progress=False)
        shutil.copytree("corp/ckpt", "store/ckpt")
        found = sdmw.verify("out", inputs=world / "store", progress=False)
        assert (found.problems, lost(found)) == ((), ["'corp/ckpt'", "'func/ckpt'"])
        assert found.not_found[1].mend == f"Keep the folder above it: {world}/store/func/ckpt"
        for name, source in (("store/corp", "corp"), ("store/ckpt", "func/ckpt")):
            shutil.rmtree(name)
            shutil.copytree(source, name)
        assert lost(sdmw.verify("out", inputs=world / "store", progress=False)) == []  # the other by its last part
        shutil.rmtree("store/ckpt")
        assert lost(sdmw.verify("out", inputs=world / "store", progress=False)) == ["'func/ckpt'"]

    def test_a_changed_file_is_found(self, world):
        Path("out/config.json").write_text("{}")
        (problem,) = sdmw.verify("out").problems
        assert problem.where == str(world / "out" / "config.json")

    def test_a_report_of_an_earlier_version_knows_no_headers(self, world):
        told = json.loads(Path("out/sdmw_report.json").read_text())
        del told["headers"]
        Path("out/sdmw_report.json").write_text(json.dumps(told))
        found = sdmw.verify("out")
        assert (found.problems, len(found.not_found)) == ((), 3)

    @pytest.mark.parametrize("folder", ["store", "deep"])
    def test_they_are_looked_for_in_another_folder(self, world, folder):
        """By their relative paths; what does not lie there by the last part."""
        if folder == "deep":
            (world / "deep").mkdir()
            recipe = {"merge_method": "linear", "base_model": "store/base", "models": [{"model": "store/corp"}]}
            shutil.rmtree("out")
            sdmw.merge(recipe, "out", progress=False)
            (world / "store").rename(world / "deep" / "store")
            (world / "deep" / "store" / "corp").rename(world / "deep" / "corp")
        found = sdmw.verify("out", inputs=world / folder)
        assert found.problems == found.not_found == ()
        assert found.recomputed == found.tiles > 0

    def test_others_of_their_names_are_others(self, world):
        write_checkpoint(world / "corp", {"model.norm.weight": np.zeros(16, np.float32)})  # not looked at
        assert sdmw.verify("out", inputs="store").not_found == ()
        shutil.rmtree("store/func")
        shutil.copytree("store/corp", "store/func")
        with pytest.raises(
            InputChangedError, match=r"store/func/model\.safetensors: expected the file that was merged"
        ):
            sdmw.verify("out", inputs="store")

    def test_an_absolute_path_that_is_gone_is_looked_for_by_its_last_part(self, world):
        shutil.rmtree("out")
        store = world / "store"
        models = [{"model": str(store / "corp")}, {"model": str(store / "func")}]
        sdmw.merge({"merge_method": "sdm_w", "base_model": str(store / "base"), "models": models}, "out")
        (world / "empty").mkdir()
        assert sdmw.verify("out", inputs="empty").not_found == ()  # where they were
        store.rename(world / "moved")
        assert len(sdmw.verify("out", inputs="empty").not_found) == 3
        assert sdmw.verify("out", inputs="moved").recomputed > 0

    def test_an_adapter_s_merge(self, world):
        rng = np.random.default_rng(4)
        for name in ("one", "two"):
            write_adapter(world / name, adapter_of(rng, llama_like(rng)))
        (world / "store" / "base").rename("base")
        recipe = {"merge_method": "lora", "base_model": "base", "models": [{"model": "one"}, {"model": "two"}]}
        sdmw.merge({**recipe, "parameters": {"output": "adapter"}}, "adapter", progress=False)
        (world / "two").rename("store/two")
        assert lost(sdmw.verify("adapter")) == ["'two'"]
        assert sdmw.verify("adapter").problems == ()

    def test_no_folder(self, world):
        with pytest.raises(UsageError, match="inputs: expected a directory, found 'nowhere'"):
            sdmw.verify("out", inputs="nowhere")

    def test_the_command(self, world, capsys, monkeypatch):
        done = told(capsys, monkeypatch, "verify", "out")
        assert done.code == 0
        assert "result      equal by checksum; nothing was computed again" in done.out
        assert "sample      none: 3 inputs not found" in done.out
        assert "models.0.model: 'corp': no " in done.err
        assert "note: --inputs FOLDER" in done.err
        done = told(capsys, monkeypatch, "verify", "out", "--inputs", "store")
        assert (done.code, "computed again" in done.out, "note: " in done.err) == (0, True, False)
        spoil(*shard_and("model.norm.weight"))
        done = told(capsys, monkeypatch, "verify", "out")
        assert (done.code, "result      different" in done.out) == (1, True)


@pytest.mark.parametrize("header", [{"format": "np"}, {"format": "pt", "more": "text"}])
def test_inputs_are_told_apart_by_header_and_size(world, monkeypatch, header):
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
    count = tiles_in(read("out"))
    assert f"sample      {count} of {count} tiles computed again\n" in done.out
    done = told(capsys, monkeypatch, "verify", "out", "--sample", "1%")
    assert f"1 of {count} tiles computed again; one wrong tile" in done.out
    done = told(capsys, monkeypatch, "verify", "out", "--all", "--json")
    assert json.loads(done.out)["unseen"] == 0
    spoil(*shard_and("model.norm.weight"))
    done = told(capsys, monkeypatch, "verify", "out", "--sample", "50%")
    assert done.code == 1
    assert "result      different" in done.out
    assert any("checksum" in error for error in done.errors)  # the sample may have the tile that is wrong too
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


@pytest.mark.skipif(not ALL, reason="takes many runs; scripts/test --all")
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


def test_inputs_that_were_swapped_are_others(world):
    """Fine-tunes of one base have equal headers; by their samples they are told apart."""
    tensors = load_file("corp/model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + tensors["model.norm.weight"]
    write_checkpoint(world / "twin", tensors)
    merged(models=[{"model": "corp"}, {"model": "twin"}])
    (world / "corp").rename("third")
    (world / "twin").rename("corp")
    (world / "third").rename("twin")
    with pytest.raises(InputChangedError) as caught:
        sdmw.verify("out", progress=False)
    assert [os.path.dirname(problem.where) for problem in caught.value.problems] == [
        str(world / "corp"), str(world / "twin")
    ]  # fmt: skip
