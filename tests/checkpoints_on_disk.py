"""Writes tiny checkpoints for tests, as save_pretrained lays them out."""

import json
import os

import numpy as np
from safetensors.numpy import save_file

from reference.rounding import STORED

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32"}


def write_checkpoint(path, tensors, *, shards=None, config=None):
    """One file, or shards given as lists of names, with an index."""
    os.makedirs(path)
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump(CONFIG if config is None else config, file)
    if shards is None:
        save_file(tensors, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
        return path
    weight_map = {}
    for number, names in enumerate(shards, 1):
        shard = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: tensors[name] for name in names}, os.path.join(path, shard), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, shard))
    size = sum(tensor.nbytes for tensor in tensors.values())
    with open(os.path.join(path, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {"total_size": size}, "weight_map": weight_map}, file)
    return path


def llama_like(rng, dtype="BF16", *, blocks=2, width=16, scale=0.02):
    """A few tensors with a decoder's names."""
    shapes = {"model.embed_tokens.weight": (40, width), "lm_head.weight": (40, width), "model.norm.weight": (width,)}
    for block in range(blocks):
        prefix = f"model.layers.{block}"
        shapes |= {
            f"{prefix}.self_attn.q_proj.weight": (width, width),
            f"{prefix}.mlp.up_proj.weight": (3 * width, width),
            f"{prefix}.input_layernorm.weight": (width,),
        }
    return {n: rng.normal(0, scale, shape).astype(np.float32).astype(STORED[dtype]) for n, shape in shapes.items()}


def fine_tuned(rng, base, dtype=None, *, scale=2e-3, share=0.8):
    """The base with a share of its elements moved, rounded to a dtype."""
    out = {}
    for name, tensor in base.items():
        moved = tensor.astype(np.float32) + rng.normal(0, scale, tensor.shape).astype(np.float32)
        kept = rng.random(tensor.shape) < share
        out[name] = np.where(kept, moved, tensor.astype(np.float32)).astype(STORED[dtype] if dtype else tensor.dtype)
    return out
