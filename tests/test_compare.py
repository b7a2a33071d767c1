"""compare: what plain NumPy says, of each tensor and of all, in one read and bounded memory."""

import dataclasses
import json
import os
import pickle
import re
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from command_line import told
from kernels.inputs import STORED, codes, kinds, stored, tile_of, values
from reference.comparison import change
from reference.rounding import STORED as DTYPES
from sdmw.errors import CheckpointError, InputChangedError, PlanError, StoppedError, UsageError
from sdmw.kernels.blocks import GRAIN
from sdmw.kernels.codes import F32
from sdmw.planning import comparison
from sdmw.planning.inputs import open_model
from sdmw.planning.limits import Limits
from sdmw.recipes.model_ref import ModelRef
from sdmw.reporting import terminal
from sdmw.running.events import Progress
from sdmw.statistics.change import change_of
from sdmw.statistics.difference import COUNTER, RESULT, Difference, DifferenceCounter
from sdmw.storage.access import LEAST

compare = partial(sdmw.compare, progress=False)
NORM, HEAD = "model.norm.weight", "lm_head.weight"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A base and a fine-tune in the working directory, which differ in all that can differ."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "TILE", GRAIN)
    rng = np.random.default_rng(9)
    base = llama_like(rng) | {"long": rng.normal(0, 1, (3, GRAIN)).astype(np.float32)[:, :-5].copy()}
    base |= {"ids": np.arange(9), "same": np.arange(3.0), "gone": np.ones(2, np.float32), "none": np.ones((0, 4))}
    tune = fine_tuned(rng, {name: base[name] for name in [*llama_like(rng), "long"]})
    tune |= {"ids": base["ids"][::-1].copy(), "same": base["same"], "new": np.ones(2, np.float32), "none": base["none"]}
    tune |= {NORM: base[NORM], HEAD: tune[HEAD][:8].copy(), "z": np.ones(3, np.float16)}
    write_checkpoint("base", base | {"z": np.ones(3, ml_dtypes.bfloat16)})
    write_checkpoint("tune", tune)
    return base, tune


def same(found, expected):
    """The numbers of a change are a reference's: sums to the bit, norms to the last digits."""
    for name, number in expected.items():
        assert getattr(found, name) == (pytest.approx(number, rel=1e-12) if isinstance(number, float) else number), name
    for name in ("sum", "largest"):
        assert getattr(found, name) == expected[name]


def test_each_tensor(world):
    base, tune = world
    found = compare("base", "tune")
    rows = {row.name: row for row in found.rows}
    assert list(rows) == sorted(base.keys() & tune.keys() - {HEAD, "z"})
    for name, row in rows.items():
        assert row.shape == base[name].shape
        if base[name].dtype in DTYPES.values():
            same(row.change, change(base[name], tune[name]))
    assert rows["long"].dtype == "F32"
    assert rows["ids"].change == dataclasses.replace(rows["none"].change, elements=9, changed=8)
    assert rows["same"].change.changed == rows[NORM].change.changed == 0
    assert found.tensors == type(found.tensors)(compared=12, equal=3, only_a=1, only_b=1, unlike=2)
    assert [(each.name, each.a, each.b) for each in found.unmatched] == [
        ("gone", "F32 [2]", None), (HEAD, "BF16 [40, 16]", "BF16 [8, 16]"), ("new", None, "F32 [2]"),
        ("z", "BF16 [3]", "F16 [3]"),
    ]  # fmt: skip


def test_all_of_them(world):
    base, tune = world
    found = compare("base", "tune")
    floats = [name for name in base.keys() & tune.keys() - {HEAD} if base[name].dtype in DTYPES.values()]
    of_all = [np.concatenate([side[name].astype(np.float32).ravel() for name in floats]) for side in (base, tune)]
    expected = change(*of_all)
    same(found.total, expected | {"elements": expected["elements"] + 12, "changed": expected["changed"] + 8})


def test_nothing_depends_on_threads_or_tiles(world, monkeypatch):
    found = compare("base", "tune", threads=1)
    monkeypatch.setattr(comparison, "TILE", 4 * GRAIN)
    assert compare("base", "tune", threads=4, budget="4GiB") == found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_two_tensors(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    code, count = data.draw(codes), data.draw(st.sampled_from([1, 17, 1024, 5000, GRAIN + 3]))
    a, b = (stored(values(rng, count, data.draw(kinds)), code) for _ in range(2))
    b = np.where(rng.random(count) < data.draw(st.sampled_from([0.0, 0.5, 1.0])), a, b)
    for side in (a, b) if data.draw(st.booleans()) else ():
        side[rng.integers(0, count, 3)] = rng.choice(np.array([np.nan, np.inf, -np.inf]), 3).astype(STORED[code])
    counter = DifferenceCounter()
    expected = change(a, b)
    for _ in range(2):  # counting begins again
        parts = []
        for start in range(0, count, GRAIN):
            tile = tile_of([side[start : start + GRAIN] for side in (a, b)], [code] * 2)
            counter.add(dataclasses.replace(tile, first=start))
            parts.append(counter.result())
        same(change_of(sum(reversed(parts), Difference()), count, floats=True), expected)


def test_bits_that_differ_are_counted_in_every_dtype():
    """float32 patterns of all halves are as many as the halves themselves."""
    words = np.arange(1 << 16, dtype=np.uint16)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        code = next(code for code, each in STORED.items() if each is dtype)
        for turned in (1, 1 << 15, 0):
            counter = DifferenceCounter()
            sides = [words.view(dtype), (words ^ np.uint16(turned)).view(dtype)]
            counter.add(tile_of(sides, [code] * 2))
            assert counter.result().changed == (words.size if turned else 0)


def test_a_result_takes_what_it_declares():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, (2, 3 * GRAIN), np.uint32).view(np.float32)
    counter = DifferenceCounter()
    counter.add(tile_of(list(words), [F32] * 2))
    found = counter.result()
    ints = [found.total, found.squares, *found.products]
    assert sum(map(sys.getsizeof, ints)) + found.exponents.nbytes < RESULT
    assert len(pickle.dumps(found)) < RESULT
    assert COUNTER < 1 << 22


def test_each_term_of_the_bound(world):
    pairs = comparison.plan_comparison(*opened("base", "tune"), None, Limits()).pairs
    tasks = comparison.comparison_tasks(pairs, 1000)
    assert comparison.comparison_tasks(pairs, 1017).reserved == tasks.reserved + 17
    assert comparison.comparison_tasks(pairs[:-3], 1000).reserved == tasks.reserved - 3 * comparison.ROW
    assert max(tasks.each) >= 2 * 4 * GRAIN
    with pytest.raises(PlanError, match=r"budget: expected at least .* of memory"):
        compare("base", "tune", budget="1MB")


def opened(*names):
    return [open_model(ModelRef.parse(name), LEAST) for name in names]


# What is chosen


def names(found):
    return [row.name for row in found.rows]


@pytest.mark.parametrize("sort", ["changed", "sum", "largest", "ratio"])
def test_rows_are_sorted_by_a_number(world, sort):
    found = compare("base", "tune", sort=sort)
    numbers = [row.change.changed / max(1, row.change.elements) if sort == "changed" else getattr(row.change, sort)
               for row in found.rows]  # fmt: skip
    known = [number for number in numbers if number is not None]
    assert known == sorted(known, reverse=True)
    if sort != "changed":
        assert found.rows[0].name == "ids"  # of integers that changed no number is known: they are not hidden
    assert sorted(names(found)) == names(compare("base", "tune"))


def test_rows_are_chosen(world):
    every = compare("base", "tune")
    changed, equal, missing = (compare("base", "tune", only=each) for each in ("changed", "equal", "missing"))
    assert names(equal) == [NORM, "none", "same"]
    assert sorted(names(changed) + names(equal)) == names(every)
    assert changed.unmatched == equal.unmatched == missing.rows == ()
    assert missing.unmatched == every.unmatched
    for each in (changed, equal, missing):
        assert (each.total, each.tensors, each.left_out) == (every.total, every.tensors, 0)
    top = compare("base", "tune", top=2, sort="name")
    assert (names(top), top.left_out, len(top.unmatched)) == (names(every)[:2], 10, 2)
    assert compare("base", "tune", only="missing", top=3).left_out == 1


@pytest.mark.parametrize(("word", "count"), [("q_proj", 2), ("layers.1.", 3), ("layers.*.mlp", 2), ("l[!o]ng", 0)])
def test_a_filter_is_part_of_names(world, word, count):
    if count:
        found = compare("base", "tune", filter=word)
        assert (len(found.rows), found.tensors.compared, found.unmatched) == (count, count, ())
        assert found.total.elements == sum(row.change.elements for row in found.rows)
    else:
        with pytest.raises(UsageError, match="filter: expected a part of a tensor's name"):
            compare("base", "tune", filter=word)


@pytest.mark.parametrize(
    "options", [{"sort": "size"}, {"only": "odd"}, {"top": 0}, {"top": True}, {"top": 1.5}, {"filter": "selfattn"}]
)
def test_wrong_arguments(world, options):
    (name,) = options
    with pytest.raises(UsageError, match=rf"^{name}: expected ") as caught:
        compare("base", "tune", **options)
    assert caught.value.exit_code == 2


# What is compared


def test_a_checkpoint_with_itself(world):
    found = compare("base", "base")
    assert found.tensors.compared == found.tensors.equal == 15
    assert (found.total.changed, found.total.sum, found.total.counts) == (0, 0, ())
    assert found.total.cosine == pytest.approx(1)
    assert repr(found) == (
        "Comparison('base', 'base', 15 tensors compared, 15 equal, 0 unmatched, 0 of 199,986 elements changed)"
    )


def test_nothing_in_common(world):
    write_checkpoint("other", {"x": np.ones(3, np.float32)})
    found = compare("base", "other")
    assert (found.rows, found.total.elements, found.total.sum, len(found.unmatched)) == ((), 0, None, 16)


def test_adapters(world):
    base, _ = world
    rng = np.random.default_rng(3)
    for name in ("lora", "other"):
        write_adapter(name, adapter_of(rng, {each: base[each] for each in base if "layers" in each}))
    found = compare("base", "base+lora")
    changed = [row.name for row in found.rows if row.change.changed]
    assert changed == [row.name for row in found.rows if "q_proj" in row.name or "up_proj" in row.name]
    assert {row.dtype for row in found.rows if row.name in changed} == {"BF16"}
    assert compare("base", "lora").total == found.total
    assert compare("lora", "base").total.norm == found.total.norm
    assert compare("base+lora", "base+lora").total.changed == 0
    matrices = compare("lora", "other")
    assert (matrices.tensors.compared, matrices.tensors.equal, {row.dtype for row in matrices.rows}) == (8, 0, {"F32"})
    with pytest.raises(PlanError, match=r"expected an adapter in model\+adapter"):
        compare("base", "base+tune")


def test_tensors_under_several_names(world):
    """Each is compared under the names that one of them stores it by."""
    weight = {"embed": np.ones(5, np.float32)}
    for name, stored_as, other in (("one", "embed", "head"), ("two", "head", "embed"), ("three", "embed", "head")):
        write_checkpoint(name, {})
        metadata = {"format": "pt", other: stored_as}
        save_file({stored_as: weight["embed"]}, f"{name}/model.safetensors", metadata=metadata)
    assert names(compare("one", "three")) == ["embed"]
    both = compare("one", "two")
    assert (names(both), both.unmatched) == (["embed", "head"], ())


def test_dtypes_without_arithmetic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"F8_E4M3": 1, "F8_E5M2": 1, "C64": 8, "U16": 2, "BOOL": 1, "F64": 8}
    for folder, value in (("a", 0), ("b", 1)):
        header, data = {}, b""
        for name, size in sizes.items():
            header[name] = {"dtype": name, "shape": [5], "data_offsets": [len(data), len(data) + 5 * size]}
            data += bytes(4 * size) + bytes([value] * size)
        text = json.dumps(header).encode()
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(json.dumps(CONFIG))
        Path(folder, "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    found = compare("a", "b")
    numbers = {row.name: (row.change.elements, row.change.changed, row.change.sum) for row in found.rows}
    assert numbers == dict.fromkeys(sizes, (5, 1, None))
    assert found.total.norm is None


def test_all_that_is_wrong_with_both(world):
    for name in ("base", "tune"):
        Path(name, "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        compare("base", "tune")
    assert len(caught.value.problems) == 2


def test_an_input_that_is_written_to_meanwhile(world):
    def receive(event):
        if isinstance(event, Progress):
            os.utime("tune/model.safetensors", (1, 1))

    with pytest.raises(InputChangedError):
        sdmw.compare("base", "tune", progress=receive)


def test_progress_counts_every_byte_once(world):
    told_of = []
    sdmw.compare("base", "tune", progress=told_of.append)
    progress = [each for each in told_of if isinstance(each, Progress)]
    base, tune = world
    both = sum(2 * base[name].nbytes for name in base.keys() & tune.keys() - {HEAD})
    assert {(each.stage, each.total) for each in progress} == {("compare", both)}
    assert [each.done for each in progress] == sorted(each.done for each in progress)
    assert progress[-1].done == both


def test_a_signal_ends_it(world):
    def receive(event):
        if isinstance(event, Progress):
            os.kill(os.getpid(), 2)

    with pytest.raises(StoppedError):
        sdmw.compare("base", "tune", progress=receive, threads=1)


# The command


def test_the_command(world, capsys, monkeypatch):
    done = told(capsys, monkeypatch, "compare", "base", "tune", "--top", 2, "--sort", "name")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:6] == [
        "a          base",
        "b          tune",
        "tensors    12 compared, 3 of them equal to the bit",
        "only in a  1 tensor: gone",
        "only in b  1 tensor",
        "unlike     2 tensors: lm_head.weight (BF16 [40, 16] and BF16 [8, 16])",
    ]
    assert lines[-4].split() == ["tensor", "changed", "sum", "largest", "ratio"]
    assert lines[-3].split() == ["ids", "88.89%", "–", "–", "–"]
    assert lines[-1] == "and 10 more tensors: see --top, --sort, --only, --filter"
    as_json = told(capsys, monkeypatch, "compare", "base", "tune", "--json", "--sort", "ratio")
    assert json.loads(as_json.out) == sdmw.compare("base", "tune", sort="ratio", progress=False).to_dict()
    missing = told(capsys, monkeypatch, "compare", "base", "tune", "--only", "missing")
    assert [re.split("  +", line) for line in missing.out.splitlines()[-5:]] == [
        ["tensor", "in a", "in b"], ["gone", "F32 [2]", "–"], ["lm_head.weight", "BF16 [40, 16]", "BF16 [8, 16]"],
        ["new", "–", "F32 [2]"], ["z", "BF16 [3]", "F16 [3]"],
    ]  # fmt: skip
    wrong = told(capsys, monkeypatch, "compare", "base", "tune", "--sort", "size")
    assert (wrong.code, wrong.errors) == (
        2, ["sort: expected changed or sum or largest or ratio or name, found 'size'"]
    )  # fmt: skip


def test_it_fits_on_a_screen(world, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(terminal, "Console", partial(terminal.Console, force_terminal=True, color_system=None))
    lines = told(capsys, monkeypatch, "compare", "base", "tune").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24


def test_memory_is_bounded(tmp_path):
    """Two checkpoints of 400 MB in the plan's bound, by the kernel's own account."""
    header = json.dumps({"t": {"dtype": "F32", "shape": [10**8], "data_offsets": [0, 4 * 10**8]}}).encode()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(CONFIG))
        with open(tmp_path / name / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 4 * 10**8)
    code = (
        "import sdmw\n"
        "sdmw.compare('a', 'b', threads=2, budget='256MiB', progress=False)\n"
        # Of this program alone: ru_maxrss begins with what the one that started it had.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert int(done.stdout) * 1024 < 256 << 20
