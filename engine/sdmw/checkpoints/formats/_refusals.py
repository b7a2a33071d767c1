"""What a directory is that no format can read."""

import os

from sdmw.checkpoints.formats._config import read_config
from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.storage.files import listing

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# Written by trainers beside the weights; a directory with only these has no weights.
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state")
_SHOWN = 5  # names in one message


def refusal(path: str) -> CheckpointError:
    """The error for a directory without weights that can be read: none, pickled ones, GGUF; with config's problems.

    Raises:
        CheckpointError: the directory is missing, not a directory, or not readable.
    """
    names = listing(path)
    pickled = sorted(n for n in names if n.endswith(_PICKLED) and not n.startswith(_NO_WEIGHTS))
    gguf = sorted(n for n in names if n.endswith(".gguf"))
    if gguf and not pickled:
        return CheckpointError(
            [
                Problem(
                    path, "safetensors weights", f"only GGUF: {some(gguf)}", "Give the safetensors they were made from"
                )
            ]
        )
    if pickled:
        found = f"only pickled weights, which are never opened: {some(pickled)}"
        mend = "Convert them to safetensors: load with transformers, then save_pretrained"
        problem = Problem(path, "safetensors weights", found, mend)
    else:
        problem = Problem(
            path, "model.safetensors or model.safetensors.index.json", "no weights", "Give a checkpoint directory"
        )
    return CheckpointError([problem, *read_config(os.path.abspath(path))[1]])


def some(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    shown = ", ".join(quoted(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
