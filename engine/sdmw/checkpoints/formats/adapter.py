"""A PEFT adapter directory: adapter_config.json and adapter_model.safetensors. Its tensors are deltas, or values.

Source: peft 0.21's `get_peft_model_state_dict` for the names, LoRA (arXiv:2106.09685) for what they mean.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sdmw.addresses import absolute
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._adapter_config import ADAPTER_CONFIG, MOST_MATCHES, AdapterConfig, read_adapter_config
from sdmw.checkpoints.formats.safetensors.directory import SINGLE
from sdmw.checkpoints.formats.safetensors.header import read_header
from sdmw.checkpoints.formats.safetensors.index import INDEX
from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.storage.access import LEAST, Access
from sdmw.storage.files import listing, names_in
from sdmw.tensors.low_rank import PREFIX, LowRank, Sum
from sdmw.tensors.matrices import StoredMatrix
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Tensor

WEIGHTS = "adapter_model.safetensors"
MOST_RANKS = 1 << 16  # beyond, a block of rows would be a large one
LONGEST_MODULE = 1000  # characters; patterns are matched against it

__all__ = ["read", "read_matrices", "recognises"]


def recognises(path: str) -> bool:
    """Whether a path is an adapter's file by its name, or a directory with an adapter's files and no model's."""
    if os.path.basename(path) == WEIGHTS and not os.path.isdir(path):
        return True
    names = names_in(path)
    return bool(names & {ADAPTER_CONFIG, WEIGHTS}) and not names & {SINGLE, INDEX}


def read(path: str, access: Access = LEAST) -> Checkpoint:
    """Reads and checks config and header of an adapter; no tensor data.

    Its tensors bear the names of those that they change: deltas of the shape that they have there, float32; and values
    in their place (modules_to_save, biases, saved embeddings).

    Args:
        path: the directory.
        access: how far reading may go.

    Raises:
        CheckpointError: with all that is wrong with it, and all of it that sdmw cannot do exactly.
    """
    directory = absolute(path)
    names = listing(path)
    problems: list[Problem] = []
    if ADAPTER_CONFIG not in names:
        problems.append(Problem(directory, ADAPTER_CONFIG, f"{WEIGHTS} without it"))
    if WEIGHTS not in names:
        pickled = sorted(name for name in names if name.startswith("adapter_model"))
        found = f"only {quoted(pickled[0])}, which is never opened" if pickled else f"{ADAPTER_CONFIG} without it"
        mend = "Convert it: load it with peft, then save_pretrained" if pickled else "Copy the whole adapter"
        problems.append(Problem(directory, WEIGHTS, found, mend))
    if problems:
        raise CheckpointError(problems)
    config = read_adapter_config(directory, access)
    header = read_header(directory, WEIGHTS, access)
    modules, values, problems = _sorted(header.tensors)
    if config.patterns * len(modules) > MOST_MATCHES:
        found = f"{config.patterns:,} patterns for {len(modules):,} modules"
        raise CheckpointError([Problem(os.path.join(directory, ADAPTER_CONFIG), "fewer patterns", found)])
    tensors: dict[str, Tensor] = dict(values)
    for module, factors in modules.items():
        info = _delta(module, factors, config)
        if isinstance(info, Problem):
            problems.append(info)
        elif info.name in tensors:
            problems.append(Problem(f"{info.origin}: module {quoted(module)}", "matrices or values", "both"))
        else:
            tensors[info.name] = info
    if not problems and not tensors:
        problems.append(Problem(os.path.join(directory, WEIGHTS), "an adapter's tensors", "none"))
    if problems:
        raise CheckpointError(problems)
    return Checkpoint(
        directory, (header.shard,), tensors, None, header.warnings, adapts=config.base, ties=config.ties,
        follow_links=access.follow_links,
    )  # fmt: skip


def read_matrices(path: str, access: Access = LEAST) -> Checkpoint:
    """The matrices themselves, under their names in the file, without what they mean.

    Raises:
        CheckpointError: as `read`.
    """
    directory = absolute(path)
    header = read_header(directory, WEIGHTS, access)
    tensors = {info.name: info for info in header.tensors}
    return Checkpoint(directory, (header.shard,), tensors, None, header.warnings, follow_links=access.follow_links)


@dataclass(slots=True)
class _Factors:
    """What an adapter has of one module."""

    parts: dict[str, Stored] = field(default_factory=dict)  # A, B, embedding_A, embedding_B
    base_layer: Stored | None = None


_FACTORS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B",
}
_WITH_ITS_NAME = re.compile(r"\.lora_(?:[AB]\.\w+\.weight|embedding_[AB]\.\w+)\Z")
_NAMED = "Remove the adapter's name from its tensors' names (`.lora_A.default.weight`), as peft's save_pretrained does"
_UNSUPPORTED = {
    "lora_magnitude_vector": "DoRA",
    "lora_B.bias": "lora_bias",
    "lora_A.bias": "lora_bias",
    "token_adapter": "trainable tokens",
}


def _sorted(
    tensors: tuple[Stored, ...],
) -> tuple[Mapping[str, _Factors], dict[str, Stored], list[Problem]]:
    """Every module's matrices, the values by the name of what they replace, and what is neither."""
    modules: defaultdict[str, _Factors] = defaultdict(_Factors)
    values: dict[str, Stored] = {}
    copies: dict[str, Stored] = {}  # saved under the module's name and again under that of peft's wrapper
    base_layers: dict[str, Stored] = {}
    problems = []
    for info in tensors:
        name = info.name.removeprefix(PREFIX)
        suffix = next((suffix for suffix in _FACTORS if name.endswith(suffix)), None)
        odd = next((what for part, what in _UNSUPPORTED.items() if part in name), None)
        if name == info.name or odd or len(name) > LONGEST_MODULE or (suffix is None and ".lora_" in name):
            found = f"{odd}: sdmw cannot do this exactly" if odd else "a tensor that does not belong in a LoRA adapter"
            mend = _NAMED if _WITH_ITS_NAME.search(name) and not odd else ""
            problems.append(Problem(info.where, "LoRA matrices", found, mend))
        elif suffix:
            modules[name.removesuffix(suffix)].parts[_FACTORS[suffix]] = info
        elif name.endswith(".base_layer.weight"):
            base_layers[name.removesuffix(".base_layer.weight")] = info
        elif ".original_module." in name:
            continue  # the base's own, which peft keeps beside the trained copy
        else:
            into = copies if ".modules_to_save." in name else values
            name = name.replace(".modules_to_save.", ".").replace(".base_layer.bias", ".bias")
            if name in into:
                problems.append(Problem(info.where, "each tensor once", "twice"))
            into[name] = replace(info, name=name)
    for module, info in base_layers.items():
        if module in modules:
            modules[module].base_layer = info
        else:
            values[f"{module}.weight"] = replace(info, name=f"{module}.weight")
    return modules, {**copies, **values}, problems


def _delta(module: str, factors: _Factors, config: AdapterConfig) -> LowRank | Sum | Problem:
    """The delta of a module's weight, on the weight where that was saved too; or what is wrong with it."""
    parts = factors.parts
    embedding = "embedding_A" in parts or "embedding_B" in parts
    wanted = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    where = f"{next(iter(parts.values())).file}: module {quoted(module)}"
    if set(parts) != set(wanted):
        return Problem(where, f"lora_{wanted[0]} and lora_{wanted[1]}", ", ".join(f"lora_{part}" for part in parts))
    a, b = (parts[part] for part in wanted)
    rank = config.rank_of(module)
    if len(a.shape) != 2 or len(b.shape) != 2:
        return Problem(
            where, "matrices", f"shapes {list(a.shape)} and {list(b.shape)}: sdmw does not merge convolutions"
        )
    if rank > MOST_RANKS:
        return Problem(where, f"a rank of at most {MOST_RANKS:,}", f"{rank:,}")
    if not (a.shape[0] == b.shape[1] == rank):
        found = f"{list(a.shape)} and {list(b.shape)}"
        return Problem(where, f"shapes [{rank}, in] and [out, {rank}], as {ADAPTER_CONFIG} says", found)
    if not (a.dtype.merges and b.dtype.merges) or not (a.elements and b.elements):
        return Problem(where, "matrices of F32, F16 or BF16", f"{a.dtype.name} and {b.dtype.name}")
    # The product is (out, in); embeddings and Conv1D keep its transpose.
    transposed = embedding or config.fan_in_fan_out
    scaling = config.scaling_of(module, rank)
    delta = LowRank.of(module, StoredMatrix(a), StoredMatrix(b), scaling, transposed=transposed, embedding=embedding)
    if factors.base_layer is None:
        return delta
    if factors.base_layer.shape != delta.shape or not factors.base_layer.dtype.merges:
        found = f"{factors.base_layer.dtype.name} {list(factors.base_layer.shape)}"
        return Problem(where, f"a base_layer of F32, F16 or BF16 {list(delta.shape)}", found)
    return delta.on(factors.base_layer)
