"""Inputs that somebody truncates, fills again, touches or replaces while they are read: an error, and no signal."""

import os
import random
import shutil
import subprocess
import time

import pytest

from faults.worlds import ALL, bits, command, undisturbed, write_models

ROUNDS = 40 if ALL else 4


def truncate(path, rng):
    os.truncate(path, rng.randrange(os.stat(path).st_size))


def fill_again(path, rng):
    size = os.stat(path).st_size
    truncate(path, rng)
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(bytes(size - file.tell()))


def touch(path, _rng):
    os.utime(path)


def replace(path, _rng):
    shutil.copy(path, f"{path}.new")
    os.replace(f"{path}.new", path)


WAYS = (truncate, fill_again, touch, replace)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("changing")
    recipe = write_models(folder)
    shutil.copytree(folder / "corp", folder / "whole")
    return folder, recipe, undisturbed(recipe, folder)


def test_inputs_that_change_while_they_are_read(world):
    folder, recipe, expected = world
    rng = random.Random(4)
    shard = folder / "corp" / "model.safetensors"
    named = 0
    for number in range(ROUNDS):
        change = WAYS[number % len(WAYS)]
        arguments = command(recipe, folder / "out")
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout.readline() == "working\n"
            time.sleep(rng.uniform(0, 0.3))
            change(shard, rng)
            said = process.stdout.read()
        if process.returncode:
            assert process.returncode == 1, said
            assert f"{shard}" in said, said
            assert "Traceback" not in said, said
            named += 1
        else:  # it had looked for the last time
            assert bits(folder / "out") == expected
            shutil.rmtree(folder / "out")
        assert not os.path.lexists(folder / "out")
        assert not os.path.lexists(folder / ".out.sdmw")
        shutil.copy(folder / "whole" / "model.safetensors", shard)
    assert named >= ROUNDS // 4  # else nothing was changed in its working phase
