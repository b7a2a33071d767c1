"""pack, apply, revert: from either model to the other by what differs, exact to the bit, or not at all."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from command_line import everything_in, told
from reference import sdm_w
from reference.rounding import STORED, bits, widen
from sdmw.archives import planning, runs, shards
from sdmw.errors import ArchiveError, InputChangedError, OtherModelError, PlanError, StoppedError, UsageError
from sdmw.running.events import Progress, Published

pytestmark = pytest.mark.usefixtures("tiny_tiles")

DTYPES = {**STORED, "I64": np.int64, "I8": np.int8, "BOOL": np.bool_, "F64": np.float64}
FLOATS = tuple(STORED)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A base and a fine-tune, in the working directory."""
    rng = np.random.default_rng(8)
    monkeypatch.chdir(tmp_path)
    base = llama_like(rng)
    tune = fine_tuned(rng, base)
    names = list(base)
    write_checkpoint("base", base)
    write_checkpoint("tune", tune, shards=[names[:4], names[4:]])
    for name in ("tokenizer.json", "LICENSE", "sub/only.txt", "README.md"):
        Path("base", name).parent.mkdir(exist_ok=True)
        Path("base", name).write_text(f"{name} of the base")
    shutil.copy("base/LICENSE", "tune/LICENSE")
    Path("tune/tokenizer.json").write_text("tokenizer.json of the fine-tune")
    Path("tune/README.md").write_text("README.md of the fine-tune")
    Path("tune/chat_template.jinja").write_text("of the fine-tune")
    Path("tune/config.json").write_text(json.dumps({**CONFIG, "eos_token_id": 7}))
    return tmp_path


def tensors_of(folder):
    """Dtype, shape and bytes of every tensor, by hand."""
    found = {}
    for file in Path(folder).glob("*.safetensors"):
        raw = file.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            found[name] = entry["dtype"], entry["shape"], raw[8 + length + start : 8 + length + stop]
    return found


def others_of(folder):
    """The files beside the weights."""
    files = (f for f in Path(folder).rglob("*") if f.is_file())
    return {
        str(f.relative_to(folder)): f.read_text() for f in files if not f.name.endswith((".safetensors", ".index.json"))
    }


def pack(*arguments, **options):
    return sdmw.pack(*arguments, progress=False, **options)


def apply(*arguments, **options):
    return sdmw.apply(*arguments, progress=False, **options)


def revert(*arguments, **options):
    return sdmw.revert(*arguments, progress=False, **options)


@st.composite
def pairs_of_tensors(draw):
    """Two tensors of random bits (NaN of any payload among them), of which some differ."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(st.sampled_from([(), (0,), (3, 0), (1,), (7,), (8, 8), (5, 31), (3, 4, 25)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, itemsize = int(np.prod(shape)), np.dtype(dtype).itemsize
    high = 2 if dtype is np.bool_ else 256
    base, tune = rng.integers(0, high, (2, count, itemsize), np.uint8)
    differing = rng.random(count) < draw(st.sampled_from([0, 0.05, 0.5, 1]))
    tune = np.where(differing[:, None], tune, base)
    return tuple(each.reshape(-1).view(dtype).reshape(shape) for each in (base, tune))


@settings(max_examples=25)
@given(
    pairs=st.lists(pairs_of_tensors(), min_size=1, max_size=5),
    k=st.sampled_from([0, 10, 50, 99.5, 100]),
    small=st.booleans(),
)
def test_there_and_back_is_where_it_began(tmp_path_factory, pairs, k, small):
    path = tmp_path_factory.mktemp("there")
    base = {f"t{number}": pair[0] for number, pair in enumerate(pairs)}
    tune = {f"t{number}": pair[1] for number, pair in enumerate(pairs)}
    write_checkpoint(path / "base", base)
    write_checkpoint(path / "tune", tune)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            for where, name, size in (
                (runs, "BLOCK", 8), (shards, "CHUNK", 8), (shards, "SHARD", 32), (planning, "TILE", 24),
            ):  # fmt: skip
                patch.setattr(where, name, size)
        pack(path / "base", path / "tune", path / "archive", k=k)
        apply(path / "base", path / "archive", path / "there")
        revert(path / "there", path / "archive", path / "back", max_shard_size=64)
    assert tensors_of(path / "back") == tensors_of(path / "base")
    if k == 0:
        assert tensors_of(path / "there") == tensors_of(path / "tune")
        return
    found = tensors_of(path / "there")
    for name, before in base.items():
        after = tune[name]
        if before.dtype in map(np.dtype, STORED.values()):
            with np.errstate(invalid="ignore"):
                after = kept_by_reference(before, after, k)
        assert found[name][2] == after.tobytes()


def kept_by_reference(base, tune, k):
    """The fine-tune where the reference keeps its delta, the base elsewhere."""
    wide, wide_tune = widen(base.reshape(-1)), widen(tune.reshape(-1))
    same = bits(base.reshape(-1)) == bits(tune.reshape(-1))
    delta = np.where(same, np.float32(0), sdm_w.deltas(wide, wide_tune))
    keeps = sdm_w.kept(delta, sdm_w.threshold([delta], k)) != 0
    return np.where(keeps, bits(tune.reshape(-1)), bits(base.reshape(-1))).view(base.dtype).reshape(base.shape)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_thresholds_are_those_of_the_method(tmp_path, usual_tiles, dtype):
    """Several blocks, ties at the threshold, two tensors with thresholds of their own."""
    rng = np.random.default_rng(9)
    base = {f"layers.{n}.w": rng.normal(0, 0.02, (300, 700)).astype(np.float32).astype(STORED[dtype]) for n in (0, 1)}
    tune = fine_tuned(rng, base, scale=3e-3, share=0.3)
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tune", tune)
    report = pack(tmp_path / "base", tmp_path / "tune", tmp_path / "archive", k=80)
    apply(tmp_path / "base", tmp_path / "archive", tmp_path / "there")
    found = tensors_of(tmp_path / "there")
    differing = 0
    for name, before in base.items():
        expected = kept_by_reference(before, tune[name], 80)
        assert found[name][2] == expected.tobytes()
        differing += int((bits(expected) != bits(before)).sum())
    assert report.kept == differing
    assert 0.05 < report.share == differing / 420_000 < 0.07


@pytest.mark.parametrize("k", [0, 50])
def test_nan_and_negative_zero_survive(tmp_path, k):
    base = np.array([0x0000, 0x7FC1, 0x3F80, 0x7F80, 0x8000, 0x3F80], np.uint16)
    tune = np.array([0x8000, 0x7FC2, 0xFFAB, 0xFF80, 0x8000, 0x4000], np.uint16)
    write_checkpoint(tmp_path / "base", {"w": base.view(ml_dtypes.bfloat16)})
    write_checkpoint(tmp_path / "tune", {"w": tune.view(ml_dtypes.bfloat16)})
    pack(tmp_path / "base", tmp_path / "tune", tmp_path / "archive", k=k)
    apply(tmp_path / "base", tmp_path / "archive", tmp_path / "there")
    found = np.frombuffer(tensors_of(tmp_path / "there")["w"][2], np.uint16)
    expected = tune.copy()
    if k:
        expected[0] = 0  # a change of a zero's sign is no delta
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("k", [0, 60])
def test_files_beside_the_weights_go_along(world, k):
    pack("base", "tune", "archive", k=k)
    report = apply("base", "archive", "there")
    revert("there", "archive", "back")
    assert others_of("there") == others_of("tune")
    assert others_of("back") == others_of("base")
    assert tensors_of("back") == tensors_of("base")
    assert (tensors_of("there") == tensors_of("tune")) == (k == 0)
    assert (report.files, report.warnings) == (5, ())


def test_a_merge_goes_along_with_all_that_tells_of_it(world):
    """Card, recipe, report: what `sdmw verify` asks for."""
    recipe = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "tune"}]}
    sdmw.merge(recipe, "merged", progress=False)
    pack("base", "merged", "archive")
    apply("base", "archive", "there")
    assert others_of("there") == others_of("merged")
    assert sdmw.verify("there", sample=1, progress=False).problems == ()


def test_weights_in_folders_of_their_own_go_along(world):
    """A sentence transformer's module, in either form, of the base alone or of both."""
    for path, data in (("base/2_Dense/pytorch_model.bin", b"old"), ("base/3/model.safetensors", b"1"),
                       ("tune/3/model.safetensors", b"2"), ("tune/3/model.safetensors.index.json", b"{}")):  # fmt: skip
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(data)
    pack("base", "tune", "archive")
    apply("base", "archive", "there")
    revert("there", "archive", "back")
    assert Path("there/3/model.safetensors").read_bytes() == b"2"
    assert Path("there/3/model.safetensors.index.json").read_bytes() == b"{}"
    assert not Path("there/2_Dense").exists()
    assert Path("back/3/model.safetensors").read_bytes() == b"1"
    assert Path("back/2_Dense/pytorch_model.bin").read_bytes() == b"old"


def test_what_an_archive_does_not_keep_is_told(world):
    """At packing, and when the other side is made again."""
    with open("tune/large.dat", "wb") as file:
        file.truncate(64 * 2**20 + 1)
    Path("base/leaves.txt").symlink_to("/etc/hostname")
    Path("base/optimizer.pt").touch()  # nobody misses it
    packed = pack("base", "tune", "archive")
    assert packed.warnings == (
        f"{os.getcwd()}/base: 'leaves.txt' is not in the archive: a link that leaves the folder",
        f"{os.getcwd()}/tune: 'large.dat' is not in the archive: larger than 64 MiB",
    )
    assert apply("base", "archive", "there").warnings == (
        "archive: 'large.dat' of the model is neither in the archive nor in the output: larger than 64 MiB",
    )
    assert revert("tune", "archive", "back").warnings == (
        "archive: 'leaves.txt' of the base is neither in the archive nor in the output: a link that leaves the folder",
    )


def test_files_of_the_model_that_are_others_now_are_told(world):
    Path("base/vocab.txt").write_text("the same")
    shutil.copy("base/vocab.txt", "tune/vocab.txt")
    pack("base", "tune", "archive")
    Path("base/vocab.txt").write_text("another")
    Path("base/notes.txt").write_text("new")
    os.unlink("base/LICENSE")
    report = apply("base", "archive", "there")
    base = f"{os.getcwd()}/base"
    assert report.warnings == (
        f"{base}: 'LICENSE' belongs to both models and is not copied: no such file",
        f"{base}: 'vocab.txt' has changed since the archive was packed; it is copied",
        f"{base}: 'notes.txt' was not there when the archive was packed; it is not copied",
    )
    found = others_of("there")
    assert found["vocab.txt"] == "another"
    assert not {"LICENSE", "notes.txt"} & found.keys()


def test_the_report(world):
    report = pack("base", "tune", "archive")
    base, tune = tensors_of("base"), tensors_of("tune")
    elements = sum(len(data) // 2 for _, _, data in base.values())
    kept = sum(int((np.frombuffer(base[n][2], "u2") != np.frombuffer(tune[n][2], "u2")).sum()) for n in base)
    files = [f for f in Path("archive").rglob("*") if f.is_file()]
    assert (report.version, report.path, report.k, report.tensors) == (sdmw.__version__, "archive", 0, len(base))
    assert (report.elements, report.kept, report.share) == (elements, kept, kept / elements)
    assert report.archive_bytes == sum(f.stat().st_size for f in files)
    assert report.checkpoint_bytes == sum(f.stat().st_size for f in Path("tune").glob("*.safetensors"))
    assert report.ratio == report.archive_bytes / report.checkpoint_bytes
    told_by_archive = apply("base", "archive", "there")
    assert (told_by_archive.path, told_by_archive.kept, told_by_archive.archive_bytes) == (
        "there", kept, report.archive_bytes
    )  # fmt: skip


def test_the_same_models_give_the_same_archive(world):
    pack("base", "tune", "one")
    pack("base", "tune", "two", k=0.0)
    pack("base", "tune", "two", overwrite=True)
    files = {f.relative_to("one") for f in Path("one").rglob("*")}
    assert files == {f.relative_to("two") for f in Path("two").rglob("*")}
    assert all(Path("one", f).read_bytes() == Path("two", f).read_bytes() for f in files if Path("one", f).is_file())


def test_shards_do_not_matter(world):
    pack("base", "tune", "archive")
    apply("base", "archive", "there", max_shard_size=1000)
    assert len(list(Path("there").glob("*.safetensors"))) > 3
    revert("there", "archive", "back")
    assert tensors_of("there") == tensors_of("tune")
    assert tensors_of("back") == tensors_of("base")


def test_a_fine_tune_of_few_elements_is_small(tmp_path, usual_tiles):
    rng = np.random.default_rng(10)
    base = {"w": rng.normal(0, 0.02, (512, 1024)).astype(np.float32).astype(ml_dtypes.bfloat16)}
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tune", fine_tuned(rng, base, share=0.05))
    assert pack(tmp_path / "base", tmp_path / "tune", tmp_path / "archive").ratio < 0.06


def test_events(world):
    events = []
    sdmw.pack("base", "tune", "archive", k=10, progress=events.append)
    assert [event.stage for event in events[:-1]] == sorted(event.stage for event in events[:-1])
    last = {event.stage: event for event in events[:-1]}
    size = 2 * sum(len(data) for _, _, data in tensors_of("base").values())
    assert last == {stage: Progress(stage, size, size) for stage in ("measure", "pack")}
    assert events[-1] == Published("archive")
    events.clear()
    sdmw.apply("base", "archive", "there", progress=events.append)
    assert events[-2:] == [Progress("apply", size // 2, size // 2), Published("there")]


def refused(error, function, *arguments, **options):
    """The message; nothing on disk is another than before."""
    before = everything_in(".")
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    assert everything_in(".") == before
    return str(caught.value)


def test_another_model_is_refused(world):
    pack("base", "tune", "archive")
    base = llama_like(np.random.default_rng(8))
    changed = {name: tensor.copy() for name, tensor in base.items()}
    changed["model.norm.weight"][3] += 1
    write_checkpoint("other", changed)
    said = refused(OtherModelError, apply, "other", "archive", "out")
    assert "other/model.safetensors: tensor 'model.norm.weight': expected the bytes with XXH3-128" in said
    assert "this is not the model that the archive belongs to. Give the base that archive was packed with" in said
    assert "This is its model: use `sdmw revert`" in refused(OtherModelError, apply, "tune", "archive", "out")
    assert "This is its base: use `sdmw apply`" in refused(OtherModelError, revert, "base", "archive", "out")
    pack("base", "tune", "archive", k=50, overwrite=True)
    said = refused(OtherModelError, revert, "tune", "archive", "out")
    assert "packed with k = 50: give what `sdmw apply` made, not the fine-tune" in said


def test_what_does_not_fit_is_told_at_once(world):
    pack("base", "tune", "archive")
    base = llama_like(np.random.default_rng(8))
    base["model.norm.weight"] = base["model.norm.weight"].astype(np.float32)
    base["lm_head.weight"] = base["lm_head.weight"][:20]
    base["more"] = base.pop("model.embed_tokens.weight")
    write_checkpoint("other", base)
    for said, origin in (
        (refused(PlanError, pack, "base", "other", "base/out"), f"the base {os.getcwd()}/base"),
        (refused(PlanError, apply, "other", "archive", "archive/out"), "the archive archive"),
    ):
        lines = said.splitlines()
        assert len(lines) == 5
        assert f"tensor 'lm_head.weight': expected BF16 [40, 16] as in {origin}, found BF16 [20, 16]" in said
        assert f"tensor 'model.norm.weight': expected BF16 [16] as in {origin}, found F32 [16]" in said
        assert f"expected tensor 'model.embed_tokens.weight' as in {origin}, found no such tensor" in said
        assert f"tensor 'more' is not in {origin}" in said
        assert "it is inside the input" in lines[-1]
    assert "expected a fine-tune, found the base itself" in refused(PlanError, pack, "base", "base/.", "out")
    Path("out").mkdir()
    for function, arguments in ((pack, ("base", "tune")), (apply, ("base", "archive")), (revert, ("tune", "archive"))):
        assert "it exists" in refused(PlanError, function, *arguments, "out")


def test_an_adapter_is_refused(world):
    rng = np.random.default_rng(12)
    write_adapter("adapter", adapter_of(rng, llama_like(rng)))
    pack("base", "tune", "archive")
    for function, arguments in ((pack, ("base", "adapter")), (apply, ("adapter", "archive"))):
        said = refused(PlanError, function, *arguments, "out")
        assert "adapter: expected a complete model, found an adapter. Merge it into a model first" in said


@pytest.mark.parametrize("k", [-1, 101, float("nan"), True, "10", None])
def test_k_is_a_percentage(world, k):
    assert "k: expected a number from 0 to 100" in refused(UsageError, pack, "base", "tune", "out", k=k)


def test_a_damaged_archive_is_refused(world):
    pack("base", "tune", "archive")
    opened = zarr.open_array("archive/xor16", mode="r+")
    opened[opened.shape[0] - 1] ^= 1
    said = refused(ArchiveError, apply, "base", "archive", "out")
    assert "archive: tensor '" in said
    assert "the archive is damaged. Copy or make the archive again" in said
    whole = Path("archive/xor16/c/0").read_bytes()
    for size in (0, 100, len(whole) - 1):
        Path("archive/xor16/c/0").write_bytes(whole[:size])
        assert "xor16" in refused(ArchiveError, revert, "tune", "archive", "out")
    assert "no such directory" in refused(ArchiveError, apply, "base", "none", "out")
    assert "zarr.json" in refused(ArchiveError, apply, "base", "tune", "out")


def test_the_archives_own_files_are_not_believed(world):
    pack("base", "tune", "archive")
    Path("archive/files/model/chat_template.jinja").write_text("another")
    assert "chat_template.jinja" in refused(ArchiveError, apply, "base", "archive", "out")
    os.unlink("archive/files/model/chat_template.jinja")
    assert "chat_template.jinja" in refused(ArchiveError, apply, "base", "archive", "out")
    Path("archive/files/model/chat_template.jinja").symlink_to("/etc/hostname")
    assert "chat_template.jinja" in refused(ArchiveError, apply, "base", "archive", "out")


def test_what_was_not_packed_is_not_copied(world):
    """A file that somebody put into the archive, or that is never copied, whatever the archive says of it."""
    pack("base", "tune", "archive")
    Path("archive/files/model/evil.py").write_text("evil")
    apply("base", "archive", "there")
    assert "evil.py" not in others_of("there")
    node = json.loads(Path("archive/zarr.json").read_text())
    Path("archive/files/model/pytorch_model.bin").write_text("")
    node["attributes"]["files"]["model"]["pytorch_model.bin"] = (
        "99aa06d3014798d86001c324468d497f"  # XXH3-128 of nothing
    )
    Path("archive/zarr.json").write_text(json.dumps(node))
    assert "pytorch_model.bin" in refused(ArchiveError, apply, "base", "archive", "out")


def test_an_input_that_changes_meanwhile(world):
    def touch(event):
        if isinstance(event, Progress):
            os.utime("base/model.safetensors")

    with pytest.raises(InputChangedError, match="was modified"):
        sdmw.pack("base", "tune", "out", progress=touch)
    assert not list(world.glob("*out*"))


@pytest.mark.parametrize(("function", "arguments"), [("pack", ("base", "tune")), ("apply", ("base", "archive"))])
def test_a_signal_leaves_nothing(world, function, arguments):
    pack("base", "tune", "archive")
    before = sorted(os.listdir("."))
    with pytest.raises(StoppedError, match="SIGTERM"):
        getattr(sdmw, function)(*arguments, "out", progress=lambda event: os.kill(os.getpid(), signal.SIGTERM))
    assert sorted(os.listdir(".")) == before


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit of file sizes stands for it: the kernel tells both in the same way."""
    rng = np.random.default_rng(11)
    base = {"w": rng.normal(0, 0.02, (400, 1000)).astype(np.float32)}
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tune", fine_tuned(rng, base))
    program = (
        "import resource, sdmw\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try: sdmw.pack('base', 'tune', 'out', progress=False)\n"
        "except sdmw.errors.OutputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "the file is larger than `ulimit -f`" in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["base", "tune"]


def test_what_is_overwritten_is_told(world):
    lost = "{}: it is overwritten, and these files in it are lost: 'mine.txt'"
    sdmw.pack("base", "tune", "archive", progress=False)
    sdmw.apply("base", "archive", "there", progress=False)
    assert sdmw.pack("base", "tune", "archive", progress=False, overwrite=True).warnings == ()
    assert sdmw.apply("base", "archive", "there", progress=False, overwrite=True).warnings == ()
    Path("archive/mine.txt").touch()
    Path("there/mine.txt").touch()
    assert sdmw.pack("base", "tune", "archive", progress=False, overwrite=True).warnings == (lost.format("archive"),)
    assert sdmw.apply("base", "archive", "there", progress=False, overwrite=True).warnings == (lost.format("there"),)


def test_the_commands(world, capsys, monkeypatch):
    packed = told(capsys, monkeypatch, "pack", "base", "tune", "archive", "--k", "25")
    assert (packed.code, packed.err) == (0, "")
    assert "k = 25" in packed.out
    assert "of the checkpoint's" in packed.out
    applied = told(capsys, monkeypatch, "apply", "base", "archive", "there", "--json")
    assert (applied.code, applied.err) == (0, "")
    assert json.loads(applied.out)["path"] == "there"
    reverted = told(capsys, monkeypatch, "revert", "there", "archive", "back", "--max-shard-size", "1KB")
    assert (reverted.code, reverted.err) == (0, "")
    assert tensors_of("back") == tensors_of("base")
    wrong = told(capsys, monkeypatch, "revert", "tune", "archive", "no")
    assert (wrong.code, wrong.out) == (1, "")
    assert "this is not the model that the archive belongs to" in wrong.errors[0]
    assert told(capsys, monkeypatch, "pack", "base", "tune", "no", "--k", "101").code == 2
