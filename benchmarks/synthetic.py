"""Synthetic checkpoints of a decoder's shape, written in pieces: random bytes of real size, in bounded memory."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.tensors.dtype import DType
from sdmw.writing.layout import index_bytes, lay_out

Shapes = dict[str, tuple[int, ...]]
PIECE = 1 << 22  # elements made at once
STORED = {"BF16": DType.BF16, "F16": DType.F16, "F32": DType.F32}


def decoder(parameters: int, *, vocabulary: int = 32000) -> Shapes:
    """Names and shapes of a Llama-like decoder of about so many parameters."""
    width = 2048
    per_block = 4 * width * width + 3 * width * 5632 + 2 * width
    blocks = max(1, round((parameters - 2 * vocabulary * width) / per_block))
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for block in range(blocks):
        prefix = f"model.layers.{block}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (width, width)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (5632, width)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (5632, width)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (width, 5632)
        shapes[f"{prefix}.input_layernorm.weight"] = (width,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (width,)
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def write_models(folder: str, shapes: Shapes, models: int, dtype: str = "BF16", *, seed: int = 1) -> list[str]:
    """A base and fine-tunes of it; the first moves gently (9 to 20 % of deltas are zero), each next one further.

    Returns:
        Their directories, the base's first. What is there already is taken as it is.
    """
    paths = [os.path.join(folder, "base"), *(os.path.join(folder, f"tune{n}") for n in range(1, models + 1))]
    if all(os.path.exists(os.path.join(path, "done")) for path in paths):
        return paths
    layouts = lay_out(((name, STORED[dtype], shape) for name, shape in shapes.items()), 5 * 10**9)
    for path in paths:
        os.makedirs(path, exist_ok=True)
        config = configuration(shapes)
        with open(os.path.join(path, "config.json"), "w") as file:
            json.dump(config, file)
        if len(layouts) > 1:
            with open(os.path.join(path, "model.safetensors.index.json"), "wb") as index:
                index.write(index_bytes(layouts))
    for layout in layouts:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(os.path.join(path, layout.name), "wb")) for path in paths]
            for file in files:
                file.write(layout.header)
            for tensor in layout.tensors:
                for pieces in _pieces(tensor.elements, models, seed + hash_of(tensor.name)):
                    for file, piece in zip(files, pieces, strict=True):
                        file.write(stored(piece, dtype).tobytes())
    for path in paths:
        with open(os.path.join(path, "done"), "w") as file:
            file.write("")
    return paths


def configuration(shapes: Shapes) -> dict[str, Any]:
    """What transformers and mergekit want to know of the shapes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_hidden_layers": sum(name.endswith("input_layernorm.weight") for name in shapes),
        "tie_word_embeddings": False,
    }


def hash_of(name: str) -> int:
    """A number that a name always gives."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**31


def _pieces(elements: int, models: int, seed: int) -> Iterator[list[NDArray[np.float32]]]:
    rng = np.random.default_rng(seed)
    for start in range(0, elements, PIECE):
        count = min(PIECE, elements - start)
        base = rng.standard_normal(count, np.float32) * np.float32(0.02)
        # At most a fifth of the weights: a fine-tune that moves further is another model.
        moves = [rng.standard_normal(count, np.float32) * np.float32(min(4e-4 * 3**n, 4e-3)) for n in range(models)]
        yield [base, *(base + move for move in moves)]


def stored(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """As a dtype keeps them: bfloat16 as uint16 patterns, rounded to nearest even."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_sparse(folder: str, elements: int, models: int, *, islands: int = 64, seed: int = 1) -> list[str]:
    """One bfloat16 matrix of any size as sparse files: islands of 4,096 random elements, zeros between.

    Takes almost no disk; what reads it reads every byte all the same. The header is as short as can be, so that the
    edges of tiles lie within pages, as in most files of others.
    """
    rows, columns = (elements // 10**4, 10**4) if elements % 10**4 == 0 else (1, elements)
    header = _shortest_header("model.layers.0.mlp.up_proj.weight", "BF16", (rows, columns), 2 * elements)
    rng = np.random.default_rng(seed)
    places = sorted(rng.integers(0, max(1, elements - 4096), islands).tolist())
    paths = []
    for number in range(models + 1):
        path = os.path.join(folder, f"sparse{number}")
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "config.json"), "w") as file:
            json.dump({"architectures": ["LlamaForCausalLM"]}, file)
        with open(os.path.join(path, "model.safetensors"), "wb") as weights:
            weights.write(header)
            weights.truncate(len(header) + 2 * elements)
            for place in places:
                values = rng.standard_normal(min(4096, elements), np.float32)
                weights.seek(len(header) + 2 * place)
                weights.write(stored(values, "BF16").tobytes())
        paths.append(path)
    return paths


def _shortest_header(name: str, dtype: str, shape: tuple[int, ...], nbytes: int) -> bytes:
    """That of a file of one tensor, not padded to whole pages as `lay_out` does."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, nbytes]}
    text = json.dumps({name: entry}, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text


def recipe(paths: list[str], method: str = "sdm_w", **fields: Any) -> dict[str, Any]:
    """A recipe that merges what `write_models` wrote."""
    entries = [{"model": path} for path in paths[1:]]
    return {"merge_method": method, "base_model": paths[0], "models": entries, **fields}
