"""Checkpoints written by hand, byte by byte, so that they can be wrong."""

import json
from pathlib import Path

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def entry(dtype="F32", shape=(1,), start=0, stop=4, **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop], **more}


def shard(header, data=b"", length=None):
    """The bytes of a file: `header` is an object or the JSON itself, `length` what the first eight bytes claim."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def checkpoint(directory: Path, files, config=b"{}", index=None) -> str:
    """Writes files (bytes by name), config.json and an index (an object or bytes) into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    if config is not None:
        (directory / "config.json").write_bytes(config)
    if index is not None:
        (directory / INDEX).write_bytes(index if isinstance(index, bytes) else json.dumps(index).encode())
    return str(directory)


def sharded(directory: Path, *shards, config=b"{}") -> str:
    """Writes shards, each a list of names of F32 scalars, and the index that belongs to them."""
    files, weight_map = {}, {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header = {name: entry(shape=(), start=4 * i, stop=4 * i + 4) for i, name in enumerate(names)}
        files[file] = shard(header, bytes(4 * len(names)))
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 4 * len(weight_map)}, "weight_map": weight_map}
    return checkpoint(directory, files, config, index)
