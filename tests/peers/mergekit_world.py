"""Tiny Llamas on disk, and what mergekit's own command makes of recipes over them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from checkpoints_on_disk import fine_tuned, write_checkpoint
from reference.rounding import STORED

RUNNER = os.path.join(os.path.dirname(__file__), "run_mergekit.py")


def llama(layers, **fields):
    return transformers.LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=36, num_hidden_layers=layers, num_attention_heads=3,
        num_key_value_heads=1, architectures=["LlamaForCausalLM"], **{"tie_word_embeddings": False, **fields},
    )  # fmt: skip


def shapes(config):
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def write_family(folder, names, config, dtype="F32", *, seed=7):
    """A base and fine-tunes of it; the first name is the base's."""
    rng = np.random.default_rng(seed)
    start = {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes(config).items()}
    for number, name in enumerate(names):
        tensors = fine_tuned(rng, start, dtype) if number else {n: a.astype(STORED[dtype]) for n, a in start.items()}
        write_checkpoint(folder / name, tensors, config=config.to_dict())


def run_mergekit(folder, recipes):
    """Writes each recipe as `NAME.yaml` and lets mergekit make `NAME-mergekit` of it, all in one process."""
    arguments = []
    for name, text in recipes.items():
        Path(folder, f"{name}.yaml").write_text(text)
        arguments += [f"{name}.yaml", f"{name}-mergekit"]
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, RUNNER, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
