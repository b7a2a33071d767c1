import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import sdmw.errors
from sdmw import linux
from sdmw.errors import OutputError
from sdmw.tensors.dtype import DType
from sdmw.writing import shard_writer, streamed
from sdmw.writing.failure import FirstFailure
from sdmw.writing.layout import lay_out
from sdmw.writing.publication import Publication

WANTED = [("a", DType.F32, (3, 5)), ("b", DType.BF16, (7,)), ("c", DType.U8, ()), ("d", DType.F16, (0, 2))]
PACKAGE = str(Path(sdmw.errors.__file__).parents[1])


def data_of(shard):
    """All data of a shard, random but the same each time."""
    return random.Random(shard.name).randbytes(shard.size - len(shard.header))


def written(target, layouts=None, overwrite=False):
    out = Publication.begin(str(target), layouts or lay_out(WANTED, 64), overwrite=overwrite)
    for number, shard in enumerate(out.layouts):
        out.sink.write(number, len(shard.header), data_of(shard))
    return out


def published(target, layouts=None, overwrite=False):
    with written(target, layouts, overwrite) as out:
        out.finish()
        out.publish()


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def expected(layouts):
    return {shard.name: shard.header + data_of(shard) for shard in layouts}


CHILD = (
    "import resource, time\n"
    "from sdmw.writing.layout import lay_out\n"
    "from sdmw.writing.publication import Publication\n"
    "from sdmw.tensors.dtype import DType\n"
)
ENVIRONMENT = os.environ | {"PYTHONPATH": PACKAGE}


def child(code, cwd):
    """Starts code in another process, in whose working directory targets are named."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + code],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


BEGIN = "out = Publication.begin('out', lay_out([('a', DType.U8, (100_000,))], 10**9), overwrite=False)\n"

numpy_dtypes = st.sampled_from(
    [("F32", np.float32), ("F16", np.float16), ("I64", np.int64), ("U8", np.uint8), ("BOOL", np.bool_)]
)
tensors = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter("__metadata__".__ne__),
    st.tuples(numpy_dtypes, st.lists(st.integers(0, 6), max_size=3).map(tuple)),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(tensors=tensors, size=st.integers(1, 400), seed=st.integers(0, 2**32))
def test_what_is_written_in_any_order_safetensors_loads(tmp_path_factory, tensors, size, seed):
    rng = random.Random(seed)
    target = tmp_path_factory.mktemp("t") / "out"
    arrays = {
        name: np.frombuffer(rng.randbytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), np.uint8) % 2
        for name, ((_, dtype), shape) in tensors.items()
    }
    layouts = lay_out([(name, DType[code], shape) for name, ((code, _), shape) in tensors.items()], size)
    cuts = []
    for number, shard in enumerate(layouts):
        for tensor in shard.tensors:
            middle = rng.randint(0, tensor.nbytes)
            cuts += [
                (number, tensor.offset + at, arrays[tensor.name][at:to])
                for at, to in ((0, middle), (middle, tensor.nbytes))
            ]
    rng.shuffle(cuts)

    with Publication.begin(str(target), layouts, overwrite=False) as out:
        for cut in cuts:
            out.sink.write(*cut)
        out.finish()
        out.publish()

    loaded = {}
    for shard in layouts:
        loaded |= load_file(target / shard.name)
    assert loaded.keys() == tensors.keys()
    for name, ((_, dtype), shape) in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (dtype, shape)
        assert loaded[name].tobytes() == arrays[name].tobytes()
    assert (target / "model.safetensors.index.json").exists() == (len(layouts) > 1)


def test_one_shard_is_safetensors_own_file_but_for_blanks(tmp_path):
    arrays = {"b": np.arange(4, dtype=np.float16), "a": np.arange(3, dtype=np.float32), "c": np.array(True)}
    save_file(arrays, tmp_path / "own.safetensors", {"format": "pt"})
    layouts = lay_out([("c", DType.BOOL, ()), ("b", DType.F16, (4,)), ("a", DType.F32, (3,))], 100)
    with Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as out:
        for tensor in layouts[0].tensors:
            out.sink.write(0, tensor.offset, arrays[tensor.name])
        out.finish()
        out.publish()
    ours, theirs = (tmp_path / "out" / "model.safetensors").read_bytes(), (tmp_path / "own.safetensors").read_bytes()
    assert ours[8:4096].rstrip() == theirs[8 : 8 + int.from_bytes(theirs[:8], "little")].rstrip()
    assert ours[4096:] == theirs[8 + int.from_bytes(theirs[:8], "little") :]


@pytest.mark.parametrize("backwards", [False, True])
def test_threads_write_one_shard(tmp_path, monkeypatch, backwards):
    monkeypatch.setattr(streamed, "_BEHIND", 2**20)
    monkeypatch.setattr(streamed, "_STEP", 2**18)
    layouts = lay_out([("a", DType.U8, (8 * 2**20 + 13,))], 10**9)
    (shard,) = layouts
    data = np.frombuffer(data_of(shard), np.uint8)
    starts = range(0, len(data), 100_003)
    with Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as out, ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda at: out.sink.write(0, len(shard.header) + at, data[at : at + 100_003]),
                list(starts)[:: -1 if backwards else 1],
            )
        )
        out.finish()
        out.publish()
    assert files(tmp_path) == {f"out/{name}": content for name, content in expected(layouts).items()}


def test_more_shards_than_descriptors(tmp_path):
    layouts = lay_out([(f"t{i}", DType.U8, (10,)) for i in range(150)], 10)
    with Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as out, ThreadPoolExecutor(4) as pool:
        assert len(layouts) == 150
        before = len(os.listdir("/proc/self/fd"))
        halves = [(n, half) for half in (slice(0, 5), slice(5, 10)) for n in range(150)]
        list(pool.map(lambda h: out.sink.write(h[0], 4096 + h[1].start, data_of(layouts[h[0]])[h[1]]), halves))
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * (shard_writer._MOST_OPEN + 5)
        out.finish()
        out.publish()
    found = files(tmp_path / "out")
    assert found.pop("model.safetensors.index.json")
    assert found == expected(layouts)


def test_written_pages_are_let_go(tmp_path, monkeypatch):
    """Counts what the kernel is asked: behind 1 MiB, every page is waited for and dropped, once."""
    asked = []
    real = linux.sync_file_range
    monkeypatch.setattr(streamed, "_BEHIND", 2**20)
    monkeypatch.setattr(streamed, "_STEP", 2**18)
    monkeypatch.setattr(linux, "sync_file_range", lambda *call: asked.append(call) or real(*call))
    layouts = lay_out([("a", DType.U8, (8 * 2**20,))], 10**9)
    with Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as out:
        for at in range(0, 8 * 2**20, 2**16):
            out.sink.write(0, 4096 + at, bytes(2**16))
        out.sync()
    started = sum(length for _, _, length, flags in asked if flags == linux.SYNC_WRITE)
    waited = sum(length for _, _, length, flags in asked if flags != linux.SYNC_WRITE)
    assert (started, waited) == (8 * 2**20, 7 * 2**20)


def test_nothing_is_at_the_target_before_publish_and_only_that_after(tmp_path):
    target = tmp_path / "out"
    with written(target) as out:
        out.finish()
        assert os.listdir(tmp_path) == [".out.sdmw"]
        assert (tmp_path / ".out.sdmw").stat().st_mode & 0o777 == 0o700
        out.add("config.json", b"{}")
        (Path(out.path) / "sub").mkdir()
        (Path(out.path) / "sub" / "x").write_text("x")
        out.publish()
        assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path) == ["out"]
    found = files(target)
    assert found.pop("config.json") == b"{}"
    assert found.pop("sub/x") == b"x"
    assert found.pop("model.safetensors.index.json")
    assert found == expected(lay_out(WANTED, 64))
    assert target.stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_discard_leaves_nothing_and_may_be_repeated(tmp_path):
    out = written(tmp_path / "out")
    out.discard()
    out.discard()
    assert os.listdir(tmp_path) == []
    with pytest.raises(OutputError, match="abandoned"):
        out.sink.write(0, 4096, b"x")


def test_leaving_the_context_discards_what_nothing_vouches_for(tmp_path):
    with pytest.raises(KeyError), written(tmp_path / "out"):
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_discard_removes_links_not_what_they_point_to(tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "kept").write_text("kept")
    out = written(tmp_path / "out")
    (Path(out.path) / "link").symlink_to(tmp_path / "input")
    (Path(out.path).parent / "link").symlink_to(tmp_path / "input")
    out.discard()
    assert files(tmp_path) == {"input/kept": b"kept"}


@pytest.mark.parametrize("fallback", [False, True])
def test_overwriting_replaces_a_directory_whole(tmp_path, monkeypatch, fallback):
    if fallback:
        monkeypatch.setattr("sdmw.writing.work_directory.renameat2", lambda *_: False)
    target = tmp_path / "out"
    (target / "sub").mkdir(parents=True)
    (target / "sub" / "old").write_text("old")
    with written(target, overwrite=True) as out:
        out.finish()
        assert files(target) == {"sub/old": b"old"}
        out.publish()
    assert os.listdir(tmp_path) == ["out"]
    assert files(target).keys() == {*expected(out.layouts), "model.safetensors.index.json"}


def test_overwriting_what_is_not_there(tmp_path):
    published(tmp_path / "out", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


def make_directory(path):
    path.mkdir()


def make_file(path):
    path.write_text("x")


def make_link(path):
    path.symlink_to("nowhere")


def make_link_to_directory(path):
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere")


def identity(path):
    """What tells whether it is the same and unchanged; a link's time of reading may move."""
    status = path.lstat()
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns


@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize(
    ("make", "overwrite"),
    [(make_directory, False), (make_file, False), (make_link, False), (make_file, True), (make_link, True),
     (make_link_to_directory, True)],
)  # fmt: skip
def test_what_appears_at_the_target_meanwhile_is_not_replaced(tmp_path, monkeypatch, fallback, make, overwrite):
    if fallback:
        monkeypatch.setattr("sdmw.writing.work_directory.renameat2", lambda *_: False)
    target = tmp_path / "out"
    with written(target, overwrite=overwrite) as out:
        out.finish()
        make(target)
        before = target.lstat()
        with pytest.raises(OutputError, match="File exists"):
            out.publish()
    assert target.lstat() == before
    assert sorted(os.listdir(tmp_path)) in (["out"], ["elsewhere", "out"])


def test_a_target_that_exists_at_the_beginning_is_refused_then(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match=r"it exists\. Choose another name"):
        Publication.begin(str(tmp_path / "out"), lay_out(WANTED, 64), overwrite=False)
    assert os.listdir(tmp_path) == ["out"]


def test_one_run_a_target(tmp_path):
    with written(tmp_path / "out") as out:
        with pytest.raises(OutputError, match=rf"another run \(pid {os.getpid()}\) is writing it"):
            Publication.begin(str(tmp_path / "out"), lay_out(WANTED, 64), overwrite=False)
        out.finish()  # the other one's end took nothing away
        out.publish()
    assert os.listdir(tmp_path) == ["out"]


def test_ten_runs_at_once(tmp_path):
    code = f"try:\n    {BEGIN}\nexcept Exception as e: print(e)\nelse: print('working', flush=True); time.sleep(60)"
    runs = [child(code, tmp_path)]
    first = runs[0].stdout.readline()
    assert first == "working\n"
    runs += [child(code, tmp_path) for _ in range(9)]
    said = [run.communicate(timeout=60)[0] for run in runs[1:]]
    runs[0].kill()
    runs[0].communicate()
    assert all(f"another run (pid {runs[0].pid}) is writing" in line for line in said), said


def test_a_lock_on_a_removed_file_is_none(tmp_path, monkeypatch):
    """A run that opened the lock file just before another removed it must not believe that it holds the output."""
    first, flock = written(tmp_path / "out"), fcntl.flock

    def late(fd, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        first.discard()
        (tmp_path / ".out.sdmw").mkdir()
        (tmp_path / ".out.sdmw" / "lock").write_text("")
        flock(fd, how)  # what is locked here is gone

    monkeypatch.setattr(fcntl, "flock", late)
    with written(tmp_path / "out"), open(tmp_path / ".out.sdmw" / "lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # so what stands at the path is what it holds


def test_the_work_directory_is_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.sdmw").symlink_to("elsewhere")
    with pytest.raises(OutputError, match="expected a work directory, found something else"):
        written(tmp_path / "out")
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of forking with threads
def test_a_forked_child_does_not_hold_the_lock(tmp_path):
    """A worker may outlive the process that drives the merge."""
    first = written(tmp_path / "out")
    child_waits, parent_tells = os.pipe()
    parent_waits, child_tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(parent_tells)
        os.write(child_tells, b"1")
        os.read(child_waits, 1)
        os._exit(0)
    try:
        os.read(parent_waits, 1)  # it may start late
        os.close(first._work._lock)  # as a kill does
        first._work._lock = None
        with written(tmp_path / "out") as out:
            out.finish()
            out.publish()
    finally:
        os.close(parent_tells)
        os.waitpid(pid, 0)
        for end in (child_waits, parent_waits, child_tells):
            os.close(end)
    assert os.listdir(tmp_path) == ["out"]


def keeps_folders(monkeypatch):
    """Folders that cannot be removed: files of them are open elsewhere, on NFS or FUSE."""
    rmtree = shutil.rmtree

    def half(path):
        for file in Path(path).iterdir():
            file.unlink()
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr(shutil, "rmtree", half)
    monkeypatch.setattr("sdmw.writing.work_directory._PAUSE", 0)
    return rmtree


@pytest.mark.parametrize("fallback", [False, True])
def test_what_cannot_be_removed_of_the_replaced_is_a_warning(tmp_path, monkeypatch, fallback):
    """The output is there; what is left is neither put back nor in the way of the next run."""
    if fallback:
        monkeypatch.setattr("sdmw.writing.work_directory.renameat2", lambda *_: False)
    published(tmp_path / "out")
    with monkeypatch.context() as patched:
        keeps_folders(patched)
        for _ in range(2):
            with written(tmp_path / "out", overwrite=True) as out:
                out.finish()
                out.publish()
            assert len(out.warnings) == 1
            assert f"{tmp_path}/.out.sdmw cannot be removed: Directory not empty" in out.warnings[0]
    shutil.rmtree(tmp_path / "out")
    published(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_what_cannot_be_removed_does_not_hide_the_error(tmp_path, monkeypatch):
    keeps_folders(monkeypatch)
    with pytest.raises(sdmw.errors.NonFiniteError) as caught, written(tmp_path / "out"):
        raise sdmw.errors.NonFiniteError([sdmw.errors.Problem("x", "", "nan")])
    assert [problem.found.split(":")[0] for problem in caught.value.problems] == ["nan", "cannot be removed"]


def test_what_a_killed_run_left_is_removed(tmp_path):
    run = child(BEGIN + "out.add('sdmw_report.json', b'x')\nprint('working', flush=True)\ntime.sleep(60)", tmp_path)
    assert run.stdout.readline() == "working\n", run.stderr.read()
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert os.listdir(tmp_path) == [".out.sdmw"]  # the target is absent
    assert (tmp_path / ".out.sdmw" / "out" / "sdmw_report.json").exists()
    published(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert "sdmw_report.json" not in files(tmp_path / "out")


@pytest.mark.parametrize("call", ["fsync", "renameat2", "flock", "unlinkat", "rmdir"])
def test_killed_at_each_call_of_publishing(tmp_path, call):
    """The target holds the old or the new, whole; the next run works."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    code = (
        "layouts = lay_out([('a', DType.U8, (5000,)), ('b', DType.U8, (5000,))], 5000)\n"
        "out = Publication.begin('out', layouts, overwrite=True)\n"
        "out.sink.write(0, 4096, b'1' * 5000); out.sink.write(1, 4096, b'2' * 5000)\n"
        "out.finish(); out.publish()\nprint('whole')"
    )
    layouts = lay_out([("a", DType.U8, (5000,)), ("b", DType.U8, (5000,))], 5000)
    new = {s.name: s.header + data * 5000 for s, data in zip(layouts, (b"1", b"2"), strict=True)}
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace")
    for number in range(1, 40):
        inject = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
        ended = subprocess.run([*inject, sys.executable, "-c", CHILD + code], cwd=tmp_path, capture_output=True,
                               env=ENVIRONMENT, check=False)  # fmt: skip
        found = files(target)
        found.pop("model.safetensors.index.json", None)
        assert found in ({"old": b"old"}, new)
        if b"whole" in ended.stdout:
            break
    assert number > 1  # at least one was killed
    assert found == new
    assert os.listdir(tmp_path) == ["out"]


def test_everything_is_durable_before_it_has_its_name_and_the_name_before_the_old_goes(tmp_path, monkeypatch):
    told = []

    def noted(name, real):
        def call(*arguments):
            told.append((name, os.path.relpath(arguments[0], tmp_path)))
            return real(*arguments)

        return call

    (tmp_path / "out").mkdir()
    with written(tmp_path / "out", lay_out(WANTED, 10**9), overwrite=True) as out:
        out.add("config.json", b"{}")
        monkeypatch.setattr(linux, "fsync_path", noted("fsync", linux.fsync_path))
        monkeypatch.setattr("sdmw.writing.work_directory.renameat2", noted("rename", linux.renameat2))
        monkeypatch.setattr(shutil, "rmtree", noted("remove", shutil.rmtree))
        out.finish()
        assert told == [("fsync", ".out.sdmw/out/model.safetensors")]
        out.publish()
    before, after = told[: told.index(("rename", ".out.sdmw/out"))], told[told.index(("rename", ".out.sdmw/out")) + 1 :]
    assert {path for _, path in before} == {
        f".out.sdmw/out{name}" for name in ("", "/model.safetensors", "/config.json")
    }
    assert before[-1] == ("fsync", ".out.sdmw/out")
    assert [name for name, _ in after] == ["fsync", "remove"]
    assert after[0][1] == "."


def test_an_old_checkpoint_moved_aside_by_a_killed_run_comes_back(tmp_path):
    aside = tmp_path / ".out.sdmw" / "replaced"
    aside.mkdir(parents=True)
    (aside / "old").write_text("old")
    with pytest.raises(OutputError, match=r"it exists\. Choose another name"):
        written(tmp_path / "out")
    assert files(tmp_path) == {"out/old": b"old"}


def test_an_empty_file_where_a_shard_was_is_not_published(tmp_path):
    with written(tmp_path / "out") as out:
        out.sync()
        (Path(out.path) / out.layouts[0].name).write_bytes(b"")
        with pytest.raises(OutputError, match="a shard that safetensors opens"):
            out.finish()
        with pytest.raises(ValueError, match="finished before"):
            out.publish()
    assert os.listdir(tmp_path) == []


def test_another_shard_in_its_place_is_not_published(tmp_path):
    with written(tmp_path / "out") as out:
        out.sync()
        save_file({"z": np.zeros(1)}, Path(out.path) / out.layouts[0].name)
        with pytest.raises(OutputError, match="planned tensors"):
            out.finish()


def test_a_stray_shard_is_not_published(tmp_path):
    with written(tmp_path / "out") as out:
        out.finish()
        out.add("stray.safetensors", b"x")
        with pytest.raises(OutputError, match=r"only its own shards, found 'stray\.safetensors'"):
            out.publish()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("offset", "data"), [(4095, b"x"), (-1, b"x"), (4096, bytes(61)), (10**6, b"")])
def test_a_write_outside_the_data_is_refused(tmp_path, offset, data):
    with written(tmp_path / "out") as out, pytest.raises(ValueError, match="outside the data"):
        out.sink.write(0, offset, data)


@pytest.mark.parametrize("name", ["", ".", "..", "../b", "a/../../b", "a//b", "/etc/x"])
def test_a_file_beside_the_shards_stays_in_the_output(tmp_path, name):
    with written(tmp_path / "out") as out, pytest.raises(ValueError, match="no path of a file"):
        out.add(name, b"")


def test_no_write_follows_finish(tmp_path):
    with written(tmp_path / "out") as out:
        out.finish()
        with pytest.raises(ValueError, match="no write may follow"):
            out.sink.write(0, 4096, b"x")


def test_a_file_system_that_cannot_reserve(tmp_path, monkeypatch):
    monkeypatch.setattr(linux, "fallocate", lambda *_: False)
    published(tmp_path / "out")
    found = files(tmp_path / "out")
    assert {n: c for n, c in found.items() if "index" not in n} == expected(lay_out(WANTED, 64))


def test_short_writes_go_on(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: max(1, len(data) // 2)], at))
    published(tmp_path / "out")
    assert {n: c for n, c in files(tmp_path / "out").items() if "index" not in n} == expected(lay_out(WANTED, 64))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("ENOSPC", r"the disk is full, 40 bytes more are needed"),
        ("EDQUOT", r"the disk quota is used up, .* more are needed"),
        ("EFBIG", r"larger than the file system allows, 40 bytes more are needed"),
        ("EIO", r"cannot be written: Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["pwrite", "sync_file_range"])
def test_the_first_failure_to_write_is_the_last_word(tmp_path, monkeypatch, call, error, said):
    def fails(*_):
        raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))

    layouts = lay_out([("a", DType.F32, (10,)), ("b", DType.F32, (1,))], 40)
    with Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as out:
        with monkeypatch.context() as patch:
            patch.setattr(*((os, "pwrite") if call == "pwrite" else (linux, "sync_file_range")), fails)
            patch.setattr(streamed, "_STEP", 1)
            out.sink.write(0, 4096, bytes(40))  # taken, and written by another thread
            with pytest.raises(OutputError, match=said) as first:
                out.sync()
        assert layouts[0].name in str(first.value)
        for again in (lambda: out.sink.write(1, 4096, bytes(4)), lambda: out.add("x", b""), out.finish):
            with pytest.raises(OutputError) as later:
                again()
            assert later.value is first.value
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")])
def test_whatever_goes_wrong_while_writing_is_told(tmp_path, monkeypatch, error):
    """By another thread than that which gave the data; even where the disk cannot say how full it is."""

    def fails(*_):
        raise error

    def no_answer(*_):
        raise OSError(116, "Stale file handle")

    layouts = lay_out([("a", DType.F32, (10,))], 40)
    monkeypatch.setattr(streamed.StreamedFile, "write", fails)
    monkeypatch.setattr(FirstFailure, "_missing", no_answer)
    with Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as out:
        out.sink.write(0, 4096, bytes(40))
        for later in (out.sync, out.finish):
            with pytest.raises(OutputError, match="cannot be written"):
                later()
    assert os.listdir(tmp_path) == []


def test_a_thread_that_cannot_be_started_is_told(tmp_path, monkeypatch):
    layouts = lay_out([("a", DType.F32, (10,))], 40)
    with Publication.begin(str(tmp_path / "out"), layouts, overwrite=False) as out:

        def fails(*_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(out._writer._writing, "submit", fails)
        with pytest.raises(OutputError, match="can't start new thread"):
            out.sink.write(0, 4096, bytes(40))
    assert os.listdir(tmp_path) == []


def test_a_failed_fsync_is_not_retried(tmp_path, monkeypatch):
    calls = []

    def fails(fd):
        calls.append(fd)
        raise OSError(5, "Input/output error")

    with written(tmp_path / "out") as out:
        monkeypatch.setattr(os, "fsync", fails)
        for _ in range(2):
            with pytest.raises(OutputError, match="Input/output error"):
                out.finish()
        with pytest.raises(ValueError, match="finished"):
            out.publish()
        assert len(calls) == 1
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    """Four MiB of tmpfs."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_told_before_anything_is_read(small_disk):
    layouts = lay_out([("a", DType.U8, (3 * 2**20,)), ("b", DType.U8, (3 * 2**20,))], 3 * 2**20)
    with pytest.raises(OutputError, match=r"model-00002-of-00002.*the disk is full, 2\.\d\d MB more are needed"):
        Publication.begin(str(small_disk / "out"), layouts, overwrite=False)
    assert os.listdir(small_disk) == []
    assert linux.free(str(small_disk)) == 4 * 2**20


def test_a_disk_that_fills_up_later(small_disk, monkeypatch):
    monkeypatch.setattr(linux, "fallocate", lambda *_: False)
    layouts = lay_out([("a", DType.U8, (3 * 2**20,))], 10**9)
    with Publication.begin(str(small_disk / "out"), layouts, overwrite=False) as out:
        (small_disk / "other").write_bytes(bytes(3 * 2**20))
        out.sink.write(0, 4096, bytes(3 * 2**20))
        with pytest.raises(OutputError, match=r"the disk is full, 2\.\d\d MB more are needed"):
            out.sync()
    assert os.listdir(small_disk) == ["other"]


@pytest.mark.parametrize("late", [False, True])
def test_a_limit_of_file_sizes(tmp_path, late):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
    then = "try: out.sink.write(0, 4096, bytes(100_000)); out.sync()\nexcept Exception as e: print(e)\nout.discard()\n"
    code = BEGIN + limit + then if late else f"{limit}try:\n    {BEGIN}\nexcept Exception as e: print(e)\n"
    said, error = child(code, tmp_path).communicate(timeout=60)
    assert "larger than `ulimit -f` (50.0 KB) allows, 54.1 KB more are needed" in said, (said, error)
    assert os.listdir(tmp_path) == []


def test_reads_as_its_consumers_read_it(tmp_path):
    published(tmp_path / "out", lay_out(WANTED, 10**9))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert sorted(file.keys()) == ["a", "b", "c", "d"]


def test_directories_above_the_target_come_and_go_with_it(tmp_path):
    with written(tmp_path / "a" / "b" / "out"):
        assert (tmp_path / "a" / "b" / ".out.sdmw").is_dir()  # it ends without being published
    assert os.listdir(tmp_path) == []
    published(tmp_path / "a" / "b" / "out")
    assert os.listdir(tmp_path / "a" / "b") == ["out"]


def test_directories_above_the_target_stay_where_another_uses_them(tmp_path):
    (tmp_path / "a").mkdir()
    with written(tmp_path / "a" / "b" / "out"):
        (tmp_path / "a" / "b" / "of another").write_text("")
    assert os.listdir(tmp_path / "a" / "b") == ["of another"]
