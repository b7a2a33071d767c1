"""Models that take a second to merge, a slow merge in a process of its own, and what must hold after it was ended."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, write_checkpoint
from command_line import everything_in
from ending import processor_seconds, seconds_to_its_end

ALL = os.environ.get("SDMW_FAULTS") == "all"  # scripts/faults: everything; else what ordinary tests have time for
TENSORS, SHAPE = 16, (256, 1024)

# Slowed down, so that there is a working phase to be ended in; commits often, so that there is something to keep.
SLOW = """
import json, sys, time
import sdmw
from sdmw.running import journal, work
from sdmw.running.events import Progress
recipe, out, pause, every, synced = json.loads(sys.argv[1])
journal.COMMIT_EVERY = every
for name in ("measure", "apply"):
    real = getattr(work, name)
    setattr(work, name, lambda *a, real=real: (time.sleep(pause), real(*a))[1])
if not synced:  # a mutant that must be caught
    import os
    from sdmw import linux
    os.fsync = os.fdatasync = lambda fd: None
    linux.sync_file_range = lambda *a: True
said = False
def progress(event):
    global said
    if isinstance(event, Progress) and not said:
        said = True
        print("working", flush=True)
try:
    sdmw.merge(recipe, out, progress=progress, max_shard_size="6MB", overwrite=False)
except sdmw.SdmwError as error:
    print("refused", error, flush=True)
    sys.exit(error.exit_code)
print("published", flush=True)
"""


def write_models(folder):
    """A base and two fine-tunes, 8 MB each."""
    rng = np.random.default_rng(8)
    base = {f"model.layers.{n}.w": rng.normal(0, 0.02, SHAPE).astype(np.float16) for n in range(TENSORS)}
    write_checkpoint(folder / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(folder / name, fine_tuned(rng, base))
    return {
        "merge_method": "sdm_w",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / "corp")}, {"model": str(folder / "func")}],
    }


def command(recipe, out, *, pause=0.01, every=0.05, synced=True):
    """The slow merge as a command."""
    return [sys.executable, "-c", SLOW, json.dumps([recipe, str(out), pause, every, synced])]


def bits(out):
    """What a merge holds, but for the report, which tells times."""
    return {path: content for path, (_, _, content) in everything_in(out).items() if "report" not in path}


def undisturbed(recipe, folder):
    """The bits of a merge that nothing disturbs."""
    sdmw.merge(recipe, folder / "undisturbed", progress=False, max_shard_size="6MB")
    return bits(folder / "undisturbed")


def killed(arguments, seconds, signum=signal.SIGKILL):
    """Run it, and end it so many seconds after it began to work.

    Returns:
        How it ended, what it said, and the processor seconds that it took once it was asked to end.
    """
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        first, took = process.stdout.readline(), 0.0
        if first == "working\n":
            time.sleep(seconds)
            since = processor_seconds(process)
            os.kill(process.pid, signum)  # Popen's own would wait for it where it has ended
            took = seconds_to_its_end(process, since)
        said = first + process.stdout.read()
    return process.returncode, said, took


def whole_or_absent(out, expected):
    """A directory that looks complete is complete."""
    if os.path.lexists(out):
        assert bits(out) == expected
        return True
    return False


def finish(arguments, out, expected):
    """The same command again, to its end."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bits(out) == expected
    assert not os.path.lexists(Path(out).parent / f".{Path(out).name}.sdmw")


def moments(count, longest, seed=1):
    """Random moments of the working phase."""
    rng = random.Random(seed)
    return [rng.uniform(0, longest) for _ in range(count)]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount file systems")
