"""SIGBUS in earnest: pages are taken away between looking and reading, in processes of their own."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint


def run(tmp_path, program):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    return subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120)


@pytest.fixture
def world(tmp_path):
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    base["big"] = rng.standard_normal((64, 1024), np.float32)
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "corp", fine_tuned(rng, base))
    return tmp_path


PRELUDE = """
    import faulthandler, os, signal
    import sdmw
    from sdmw.tensors import mapping
    RECIPE = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}]}
    shard = os.path.abspath("corp/model.safetensors")
    looked = mapping.MappedBytes.populate
    def taken_away(self):
        found = looked(self)
        if TAKE and self.nbytes > 100_000:  # between looking and reading
            self.release()
            os.truncate(shard, 5000)
        return found
    mapping.MappedBytes.populate = taken_away
    TAKE = True
"""


def test_a_file_truncated_between_looking_and_reading_is_an_error(world):
    done = run(
        world,
        PRELUDE
        + """
    faulthandler.enable()  # has the signal before us
    try:
        sdmw.merge(RECIPE, "out", progress=False)
    except sdmw.SdmwError as error:
        print(type(error).__name__, error)
    print(sorted(os.listdir(".")))
    """,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("InputChangedError")
    assert "corp/model.safetensors" in first
    assert "is 5.00 KB now" in first
    assert second == "['base', 'corp', 'program.py']"


def test_zeros_are_not_read_again_once_the_file_is_whole(world):
    done = run(
        world,
        PRELUDE
        + """
    content = open(shard, "rb").read()
    for TAKE in (True, False):
        try:
            sdmw.merge(RECIPE, "out", progress=False)
        except sdmw.SdmwError as error:
            print(type(error).__name__)
            with open(shard, "r+b") as file:
                file.write(content)
    sdmw.merge(RECIPE, "other", progress=False)
    same = [open(f"{out}/model.safetensors", "rb").read() for out in ("out", "other")]
    print(same[0] == same[1])
    """,
    )
    assert done.stdout.split() == ["InputChangedError", "True"], done.stderr


@pytest.mark.parametrize("when", ["while a merge runs", "after it"])
def test_other_memory_still_kills(world, when):
    done = run(
        world,
        PRELUDE
        + f"""
    import ctypes, mmap
    from sdmw.running.events import Progress
    TAKE = False
    def die(*_):
        with open("own", "w+b") as file:
            file.truncate(4096)
            own = mmap.mmap(file.fileno(), 4096)
            file.truncate(0)
        own[0]
    sdmw.merge(RECIPE, "out", progress=die if {when == "while a merge runs"} else False)
    die()
    """,
    )
    assert done.returncode == -7, done.stderr


def test_another_handler_is_put_back(world):
    done = run(
        world,
        PRELUDE
        + """
    TAKE = False
    signal.signal(signal.SIGBUS, lambda *_: print("mine"))
    sdmw.merge(RECIPE, "out", progress=False)
    os.kill(os.getpid(), signal.SIGBUS)
    """,
    )
    assert done.stdout == "mine\n", done.stderr
