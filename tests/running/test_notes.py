"""What a run that fails says of its inputs."""

import os

import numpy as np
import pytest

from checkpoints_on_disk import write_checkpoint
from sdmw.errors import InputChangedError, OutputError, Problem, RunError, StoppedError
from sdmw.planning.inputs import open_model
from sdmw.recipes.model_ref import ModelRef
from sdmw.running.journal import Notes
from sdmw.storage.access import Access

UNREADABLE = RunError([Problem("base: tensor 'w'", "", "read error at byte 8 of the file")])


@pytest.fixture
def inputs(tmp_path):
    for name in ("base", "corp"):
        write_checkpoint(tmp_path / name, {"w": np.ones(4, np.float32)})
    return [open_model(ModelRef.parse(str(tmp_path / name)), Access()) for name in ("base", "corp")]


def test_a_read_error_is_told_of_the_input_that_changed(inputs):
    """Lost pages say of no file that they were its own."""
    path = inputs[1].shards[0].path
    os.utime(path)
    with pytest.raises(InputChangedError) as caught, Notes(None, inputs).kept():
        raise UNREADABLE
    assert [problem.where for problem in caught.value.problems] == [path]
    assert caught.value.__cause__ is UNREADABLE


def test_a_read_error_of_inputs_as_they_were_is_what_it_is(inputs):
    with pytest.raises(RunError) as caught, Notes(None, inputs).kept():
        raise UNREADABLE
    assert caught.value is UNREADABLE


@pytest.mark.parametrize("error", [StoppedError(2), OutputError([Problem("out", "", "full")])])
def test_other_errors_stay(inputs, error):
    os.utime(inputs[1].shards[0].path)
    with pytest.raises(type(error)) as caught, Notes(None, inputs).kept():
        raise error
    assert caught.value is error
