"""Writes tiny PEFT adapters for tests, as save_pretrained lays them out."""

import json
import os

import numpy as np
from safetensors.numpy import save_file

from reference.rounding import STORED

PREFIX = "base_model.model."


def write_adapter(path, tensors, **config):
    """Tensors by their full names in the file; what of the config is not given is as peft writes it."""
    os.makedirs(path)
    whole = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False, "fan_in_fan_out": False, "bias": "none",
        "use_dora": False, "init_lora_weights": True, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None,
        "megatron_core": "megatron.core", "loftq_config": {}, "qalora_group_size": 16, "target_modules": ["q_proj"],
        "base_model_name_or_path": "base", "task_type": "CAUSAL_LM", **config,
    }  # fmt: skip
    with open(os.path.join(path, "adapter_config.json"), "w") as file:
        json.dump(whole, file)
    save_file(tensors, os.path.join(path, "adapter_model.safetensors"), metadata={"format": "pt"})
    return path


def factors(rng, module, shape, rank=4, dtype="F32", scale=0.05):
    """A and B of one module whose weight is (out, in)."""
    a = rng.normal(0, scale, (rank, shape[1])).astype(np.float32).astype(STORED[dtype])
    b = rng.normal(0, scale, (shape[0], rank)).astype(np.float32).astype(STORED[dtype])
    return {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}


def adapter_of(rng, base, *, modules=("q_proj", "up_proj"), rank=4, dtype="F32", scale=0.05):
    """Matrices for every weight of the base whose module has one of these names."""
    tensors = {}
    for name, weight in base.items():
        module = name.removesuffix(".weight")
        if module.endswith(tuple(modules)):
            tensors |= factors(rng, module, weight.shape, rank, dtype, scale)
    return tensors
