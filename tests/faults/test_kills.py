"""Runs ended by signals at random moments of their working phase."""

import os
import shutil
import signal

import pytest

from faults.worlds import ALL, command, finish, killed, moments, undisturbed, whole_or_absent, write_models

KILLS = 50 if ALL else 5
GONE_WITHIN = 2.0  # seconds of processors


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    recipe = write_models(folder)
    return folder, recipe, undisturbed(recipe, folder)


def test_killed_again_and_again_it_ends_with_the_right_bits(world):
    """Every kill is followed by a resumed run, which is killed as well, until one is whole."""
    folder, recipe, expected = world
    out = folder / "out"
    arguments = command(recipe, out)
    wholes = 0
    for moment in moments(KILLS, 0.5):
        killed(arguments, moment)
        if whole_or_absent(out, expected):
            wholes += 1
            shutil.rmtree(out)
    finish(arguments, out, expected)
    shutil.rmtree(out)
    assert wholes < KILLS  # else nothing was ended in its working phase


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", [0.05, 0.3, 0.6] if ALL else [0.3])
def test_asked_to_stop_it_is_gone_soon_and_goes_on(world, signum, moment):
    folder, recipe, expected = world
    out = folder / "out"
    arguments = command(recipe, out, pause=0.05)
    code, said, took = killed(arguments, moment, signum)
    assert took < GONE_WITHIN
    assert code == 128 + signum, said
    assert os.path.isdir(folder / ".out.sdmw")
    finish(arguments, out, expected)
    shutil.rmtree(out)
