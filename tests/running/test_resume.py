"""A run that was ended goes on where it was, and gives the bits of one that was not."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import everything_in, told
from sdmw.errors import InputChangedError, NonFiniteError, ResumeError
from sdmw.planning import budget
from sdmw.running import identity, journal, work
from sdmw.running.events import Progress, Resuming
from sdmw.writing.journal import Journal, read
from sdmw.writing.streamed import StreamedFile

pytestmark = pytest.mark.usefixtures("no_bundles")


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint(tmp_path / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(tmp_path / name, fine_tuned(rng, base))
    return tmp_path


RECIPE = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}]}


class EndedError(Exception):
    """Ends a run from its progress."""


def end(recipe, stage, after, **options):
    """A run that is ended when so many events of a stage have come."""
    count = 0

    def receive(event):
        nonlocal count
        if isinstance(event, Progress) and event.stage == stage:
            count += 1
            if count == after:
                raise EndedError

    with pytest.raises(EndedError):
        sdmw.merge(recipe, "out", progress=receive, threads=1, **options)


def changed(recipe, **options):
    """What is told of a run that cannot be resumed, the first line aside, which says where it is kept."""
    with pytest.raises(ResumeError) as caught:
        sdmw.merge(recipe, "out", progress=False, **options)
    return [str(problem) for problem in caught.value.problems[1:]]


def bits(out="out"):
    """What the output holds, but for the report, which tells times."""
    return {path: content for path, (_, _, content) in everything_in(out).items() if "report" not in path}


@pytest.fixture
def undisturbed(world):
    sdmw.merge(RECIPE, "other", progress=False)
    return bits("other")


@pytest.fixture
def looks(monkeypatch):
    """How often each thing was done."""
    done = []
    for name in ("measure", "apply", "holds"):
        real = getattr(work, name)
        monkeypatch.setattr(work, name, lambda *a, name=name, real=real: done.append(name) or real(*a))
    return done


@pytest.mark.parametrize(("stage", "after"), [("measure", 1), ("measure", 5), ("apply", 1), ("apply", 9)])
def test_it_goes_on(world, undisturbed, looks, stage, after):
    end(RECIPE, stage, after)
    first = {name: looks.count(name) for name in ("measure", "apply")}
    looks.clear()
    sdmw.merge(RECIPE, "out", progress=False)
    assert bits() == undisturbed
    assert sorted(os.listdir(world)) == ["base", "corp", "func", "other", "out"]
    layers = len(sdmw.plan(RECIPE).layers)
    if stage == "measure":
        assert looks.count("measure") <= layers - first["measure"] + 3  # those under way, and not waited for
    else:
        assert looks.count("measure") == 0
        assert looks.count("holds") >= after - 1
        assert looks.count("apply") == layers - looks.count("holds")
    assert sdmw.verify("out", sample=1, progress=False).problems == ()  # its report vouches for what was kept, too


@pytest.mark.parametrize(("stage", "after"), [("measure", 5), ("apply", 1), ("apply", 9)])
def test_it_says_from_where_it_goes_on_and_counts_what_is_kept(world, stage, after):
    end(RECIPE, stage, after)
    events = []
    report = sdmw.merge(RECIPE, "out", progress=events.append)
    plan = events[0].plan
    resuming = events[1]
    assert isinstance(resuming, Resuming)
    assert 0 < resuming.done <= resuming.total == plan.bytes_read
    progress = [each for each in events if isinstance(each, Progress)]
    first = {stage: next(each.done for each in progress if each.stage == stage) for stage in ("measure", "apply")}
    last = {each.stage: each for each in progress}
    assert all(each.done == each.total for each in last.values())
    assert (last["measure"].total, last["apply"].total) == (plan.measured_bytes, plan.applied_bytes)
    assert ("check" in last) == (stage != "measure")
    if stage != "measure":
        assert first["measure"] == plan.measured_bytes
    if (stage, after) == ("apply", len(plan.tensors)):  # everything was done
        assert (resuming.done, first["apply"], report.run.bytes_read) == (plan.bytes_read, plan.applied_bytes, 0)


def test_ended_again_and_again(world, undisturbed):
    for stage, after in [("measure", 2), ("measure", 2), ("apply", 2), ("apply", 2), ("apply", 2)]:
        end(RECIPE, stage, after)
    sdmw.merge(RECIPE, "out", progress=False)
    assert bits() == undisturbed


@pytest.mark.parametrize("after", [1, 9])
def test_what_an_earlier_run_let_through_is_counted(world, after):
    base = load_file("base/model.safetensors")
    for array in base.values():
        array.flat[:3] = np.nan
    save_file(base, "corp/model.safetensors")
    passing = {**RECIPE, "merge_method": "linear", "nonfinite": "pass"}
    end(passing, "apply", after)
    report = sdmw.merge(passing, "out", progress=False)
    found = load_file("out/model.safetensors")
    assert any(f"{3 * len(found)} elements of " in warning for warning in report.warnings)


def test_other_threads_and_another_budget_go_on_as_well(world, undisturbed, monkeypatch):
    end(RECIPE, "apply", 5)
    monkeypatch.setattr(budget, "LARGEST_TILE", budget.SMALLEST_TILE)
    sdmw.merge(RECIPE, "out", progress=False, threads=3)
    assert bits() == undisturbed


def test_pieces_that_another_budget_cuts_otherwise_are_written_again(world, monkeypatch):
    """Else the report would vouch for some elements twice."""
    rng = np.random.default_rng(9)
    wide = {"model.wide.weight": rng.normal(0, 1, (100, 111)).astype(np.float32)}
    write_checkpoint("wide", wide)
    write_checkpoint("tune", fine_tuned(rng, wide))
    recipe = {"merge_method": "task_arithmetic", "base_model": "wide", "models": [{"model": "tune"}]}
    sdmw.merge(recipe, "other", progress=False)
    for name in ("SMALLEST_TILE", "LARGEST_TILE"):
        monkeypatch.setattr(budget, name, 128)
    end(recipe, "apply", 3)
    for name in ("SMALLEST_TILE", "LARGEST_TILE"):
        monkeypatch.setattr(budget, name, 256)
    report = sdmw.merge(recipe, "out", progress=False)
    assert bits() == bits("other")
    borders = [(start, stop) for _, start, stop, _ in report.pieces]
    assert [start for start, _ in borders] == [0, *(stop for _, stop in borders[:-1])]
    assert len(borders) > 1
    assert sdmw.verify("out", sample=1, progress=False).problems == ()


def test_a_run_that_ends_before_it_did_anything_keeps_what_the_one_before_did(world, looks):
    end(RECIPE, "apply", 5)

    def fail(event):
        if isinstance(event, Resuming):
            raise EndedError

    with pytest.raises(EndedError):
        sdmw.merge(RECIPE, "out", progress=fail)
    looks.clear()
    sdmw.merge(RECIPE, "out", progress=False)
    assert looks.count("measure") == 0
    assert looks.count("holds") >= 4


def test_work_whose_writes_are_only_queued_is_not_lost_at_a_stop(world, monkeypatch, looks):
    """The run waits for its writers before it notes what they have written."""
    write = StreamedFile.write

    def slowly(self, *arguments):
        time.sleep(0.1)
        write(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StreamedFile, "write", slowly)
        end(RECIPE, "apply", 3)
    looks.clear()
    sdmw.merge(RECIPE, "out", progress=False)
    assert looks.count("holds") >= 3
    assert looks.count("apply") == len(sdmw.plan(RECIPE).tensors) - looks.count("holds")


def test_without_resuming_it_begins_anew(world, undisturbed, looks):
    end(RECIPE, "apply", 5)
    looks.clear()
    sdmw.merge(RECIPE, "out", progress=False, resume=False)
    assert looks.count("holds") == 0
    assert looks.count("measure") == len(sdmw.plan(RECIPE).layers)
    assert bits() == undisturbed


def test_a_damaged_piece_is_found_and_written_again(world, undisturbed):
    end(RECIPE, "apply", 8)
    shard = world / ".out.sdmw" / "out" / "model.safetensors"
    records, _ = read(str(world / ".out.sdmw" / "journal"))
    assert sum("piece" in record for record in records) >= 7
    size = shard.stat().st_size
    with open(shard, "r+b") as file:
        for offset in range(4096, size, 997):
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))
    sdmw.merge(RECIPE, "out", progress=False)
    assert bits() == undisturbed


@pytest.mark.parametrize("fate", ["gone", "shorter", "longer", "a link", "a directory"])
def test_a_shard_that_is_not_what_it_was_is_made_anew(world, undisturbed, fate):
    end(RECIPE, "apply", 8)
    shard = world / ".out.sdmw" / "out" / "model.safetensors"
    if fate in ("shorter", "longer"):
        os.truncate(shard, 5000 if fate == "shorter" else shard.stat().st_size + 5000)
    else:
        shard.unlink()
    if fate == "a link":
        shard.symlink_to(world / "base" / "model.safetensors")
    elif fate == "a directory":
        shard.mkdir()
    before = everything_in(world / "base")
    sdmw.merge(RECIPE, "out", progress=False)
    assert bits() == undisturbed
    assert everything_in(world / "base") == before


def test_strange_files_in_the_work_directory_are_not_published(world, undisturbed):
    end(RECIPE, "apply", 5)
    (world / ".out.sdmw" / "out" / "model-00002-of-00002.safetensors").write_bytes(b"old")
    (world / ".out.sdmw" / "out" / "old.json").write_text("{}")
    sdmw.merge(RECIPE, "out", progress=False)
    assert bits() == undisturbed


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.7, 0.99])
def test_a_damaged_journal_costs_work_and_no_bits(world, undisturbed, cut):
    end(RECIPE, "apply", 9)
    path = world / ".out.sdmw" / "journal"
    os.truncate(path, int(path.stat().st_size * cut))
    sdmw.merge(RECIPE, "out", progress=False)
    assert bits() == undisturbed


def test_another_recipe_is_refused_and_named_and_what_is_done_stays(world, undisturbed):
    end(RECIPE, "apply", 5)
    before = everything_in(world / ".out.sdmw")
    with pytest.raises(ResumeError) as caught:
        sdmw.merge({**RECIPE, "parameters": {"k": 20}}, "out", progress=False)
    first, *lines = map(str, caught.value.problems)
    assert first == (
        f"{world}/.out.sdmw: an interrupted run is kept here and cannot be resumed, because of the "
        "changes listed below. Restore it, or start over (--restart, resume=False)"
    )
    assert lines == ["parameters.k: not set → 20"]
    after = everything_in(world / ".out.sdmw")
    assert {name: what[2] for name, what in after.items() if name != "pid"} == {
        name: what[2] for name, what in before.items() if name != "pid"
    }
    sdmw.merge(RECIPE, "out", progress=False)
    assert bits() == undisturbed


def test_another_layout_is_refused(world):
    end(RECIPE, "apply", 5)
    assert changed(RECIPE, max_shard_size=2_000) == ["max_shard_size: '5,000,000,000 bytes' → '2,000 bytes'"]


def test_another_size_of_shards_with_the_same_layout_is_resumed(world, undisturbed, looks):
    end(RECIPE, "apply", 5)
    looks.clear()
    sdmw.merge(RECIPE, "out", progress=False, max_shard_size="1GB")
    assert looks.count("measure") == 0
    assert bits() == undisturbed


@pytest.mark.parametrize(
    ("before", "now", "lines"),
    [
        ({"parameters": {"k": 10}}, {"parameters": {"k": 20}}, ["parameters.k: 10 → 20"]),
        ({"parameters": {"k": 10, "lambda": 0.5}}, {"parameters": {"k": 10}}, ["parameters.lambda: 0.5 → not set"]),
        ({}, {"merge_method": "linear"}, ["merge_method: 'sdm_w' → 'linear'"]),
        ({}, {"models": [{"model": "corp"}, {"model": "copy"}]}, ["models.1.model: 'func' → 'copy'"]),
        ({}, {"models": [{"model": "corp"}]},
         ['models: [{"model": "corp"}, {"model": "func"}] → [{"model": "corp"}]']),
        ({"models": [{"model": "corp", "parameters": {"weight": 1}}, {"model": "func", "parameters": {"weight": 2}}]},
         {"models": [{"model": "corp", "parameters": {"weight": 1}}, {"model": "func", "parameters": {"weight": 3}}]},
         ["models.1.parameters.weight: 2 → 3"]),
        ({"parameters": {"k": [0, 20]}, "out_dtype": "float32"}, {"parameters": {"k": [0, 30]}},
         ["parameters.k: [0, 20] → [0, 30]", "out_dtype: 'float32' → not set"]),
    ],
)  # fmt: skip
def test_what_changed_in_the_recipe_is_told(world, before, now, lines):
    shutil.copytree("func", "copy")
    end({**RECIPE, **before}, "measure", 5)
    assert changed({**RECIPE, **now}) == lines
    sdmw.merge({**RECIPE, **now}, "out", progress=False, resume=False)


def test_a_remark_in_the_recipe_changes_nothing(world, looks):
    Path("recipe.yaml").write_text("merge_method: sdm_w\nbase_model: base\nmodels:\n- model: corp\n- model: func\n")
    end("recipe.yaml", "apply", 5)
    Path("recipe.yaml").write_text("# new\n" + Path("recipe.yaml").read_text())
    looks.clear()
    sdmw.merge("recipe.yaml", "out", progress=False)
    assert looks.count("measure") == 0
    assert Path("out/sdmw_recipe.yaml").read_text().startswith("# new\n")


def test_a_changed_input_is_refused_and_named(world):
    end(RECIPE, "measure", 5)
    os.utime(world / "corp" / "model.safetensors")
    assert changed(RECIPE) == [f"{world}/corp/model.safetensors: changed"]
    write_checkpoint(
        world / "larger", fine_tuned(np.random.default_rng(3), llama_like(np.random.default_rng(8)), "F32")
    )
    before, after = (os.path.getsize(f"{name}/model.safetensors") for name in ("corp", "larger"))
    (world / "larger" / "model.safetensors").rename(world / "corp" / "model.safetensors")
    assert changed(RECIPE) == [f"{world}/corp/model.safetensors: bytes: {before} → {after}"]
    sdmw.merge(RECIPE, "out", progress=False, resume=False)


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"rope_theta": 5}, ["rope_theta: not set → 5"]),
        ({"model_type": "mistral", "text_config": {"a": 1}}, ["model_type: 'llama' → 'mistral'",
                                                              "text_config.a: not set → 1"]),
    ],
)  # fmt: skip
def test_a_changed_config_of_the_base_is_told(world, change, lines):
    end(RECIPE, "measure", 5)
    path = world / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert changed(RECIPE) == [f"{path}: {line}" for line in lines]


def test_a_config_that_says_the_same_in_other_bytes_is_told_as_changed(world):
    end(RECIPE, "measure", 5)
    path = world / "base" / "config.json"
    path.write_text(path.read_text() + "\n")
    assert changed(RECIPE) == [f"{path}: changed"]


def test_long_and_many_values_of_a_config_are_told_in_short(world):
    path = world / "base" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "long": ["x" * 300]}))
    end(RECIPE, "measure", 5)
    path.write_text(json.dumps({**config, "long": ["y" * 300]}))
    (line,) = changed(RECIPE)
    assert re.fullmatch(rf"{path}: long: 'checksum [0-9a-f]{{32}}' → 'checksum [0-9a-f]{{32}}'", line)
    path.write_text(json.dumps({**config, **dict.fromkeys(map(str, range(1001)), 0)}))
    assert changed(RECIPE)[0] == f'{path}: architectures: ["LlamaForCausalLM"] → not set'


def test_differences_are_listed_up_to_fifty(world):
    path = world / "base" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **{f"key {n}": n for n in range(60)}}))
    end(RECIPE, "measure", 5)
    path.write_text(json.dumps(config))
    lines = changed(RECIPE)
    assert len(lines) == 51
    assert lines[-1] == f"{world}/.out.sdmw: and 10 more differences"


def test_a_journal_of_another_version_is_refused_clearly(world):
    """Version 0.1.0 of the spring had other notes."""
    end(RECIPE, "measure", 5)
    Path(".out.sdmw/journal").unlink()
    head = {"version": "0.1.0", "recipe": "00", "plan": "11", "inputs": {}}
    Journal.begin(".out.sdmw/journal", head).close()
    with pytest.raises(ResumeError, match=r"\.out\.sdmw: an interrupted run of another version .*--restart"):
        sdmw.merge(RECIPE, "out", progress=False)
    sdmw.merge(RECIPE, "out", progress=False, resume=False)


def test_restart_begins_anew_after_another_recipe(world, capsys, monkeypatch):
    end(RECIPE, "measure", 5)
    Path("r.yaml").write_text(json.dumps({**RECIPE, "parameters": {"k": 20}}))
    done = told(capsys, monkeypatch, "merge", "r.yaml", "out")
    assert (done.code, done.errors[1:]) == (1, ["parameters.k: not set → 20"])
    assert told(capsys, monkeypatch, "merge", "r.yaml", "out", "--restart").code == 0


def test_another_version_is_refused(world, monkeypatch):
    end(RECIPE, "measure", 5)
    monkeypatch.setattr(identity, "__version__", "99.0")
    assert changed(RECIPE) == [f"version of sdmw: {sdmw.__version__!r} → '99.0'"]


def test_a_fault_of_the_inputs_removes_the_work_directory(world):
    end(RECIPE, "measure", 5)

    def touch(event):
        if isinstance(event, Progress) and event.stage == "apply":
            os.utime(world / "corp" / "model.safetensors")

    with pytest.raises(InputChangedError):
        sdmw.merge(RECIPE, "out", progress=touch)
    assert ".out.sdmw" not in os.listdir(world)
    write_checkpoint(world / "bad", {"model.norm.weight": np.full(4, np.nan, np.float32)})
    write_checkpoint(world / "good", {"model.norm.weight": np.ones(4, np.float32)})
    with pytest.raises(NonFiniteError):
        sdmw.merge({**RECIPE, "base_model": "good", "models": [{"model": "bad"}]}, "out", progress=False)
    assert ".out.sdmw" not in os.listdir(world)


def test_at_most_five_seconds_are_lost(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    notes = journal.Notes(object(), ())
    notes.note("done")
    now[0] += 4.9
    assert notes.commit() is None
    now[0] += 0.1
    task = notes.commit()
    assert task.arguments[1] == ["done"]
    notes.note("more")
    now[0] += 5
    assert notes.commit() is None  # the first is still under way
    task.then(None)
    assert notes.commit() is None
    now[0] += 5
    assert notes.commit().arguments[1] == ["more"]


def test_what_is_done_is_vouched_for_every_few_seconds(world, undisturbed, monkeypatch):
    """Here at once: a copy of the work directory as it is while the run goes on is what a power cut would leave."""
    monkeypatch.setattr(journal, "COMMIT_EVERY", 0.0)
    count = 0

    def copy(event):
        nonlocal count
        if isinstance(event, Progress) and event.stage == "apply":
            count += 1
            if count == 8:
                shutil.copytree(world / ".out.sdmw", world / "copy")

    sdmw.merge(RECIPE, "out", progress=copy, threads=1)
    shutil.rmtree("out")
    records, _ = read(str(world / "copy" / "journal"))
    assert sum("layer" in record for record in records) == len(sdmw.plan(RECIPE).layers)
    assert sum("piece" in record for record in records) >= 4
    (world / "copy").rename(world / ".out.sdmw")
    sdmw.merge(RECIPE, "out", progress=False)
    assert bits() == undisturbed


def test_a_run_of_another_target_is_left_alone(world, undisturbed):
    end(RECIPE, "apply", 5)
    sdmw.merge(RECIPE, "another", progress=False)
    assert Path(".out.sdmw").is_dir()
    assert bits("another") == undisturbed
