"""model.safetensors.index.json: which shard holds which tensor, and whether the shards agree."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdmw.checkpoints.formats._json import most_values, parse, told, width
from sdmw.checkpoints.formats.safetensors.header import Header
from sdmw.checkpoints.heads import stands_in
from sdmw.errors import CheckpointError, Problem, quoted, some
from sdmw.storage.access import LEAST, Access
from sdmw.storage.files import read_bounded
from sdmw.storage.pointers import FETCH, IS_POINTER, is_pointer

INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 16 * 2**20  # bytes
_MOST_VALUES = LARGEST_INDEX // 64  # an entry is one value and takes some 80 bytes, parsed 300
_MEND = "Index and shards come from different saves: copy or download the whole checkpoint again"


@dataclass(frozen=True, slots=True)
class Index:
    """A checked index.

    Attributes:
        weight_map: tensor name to file name; at least one.
        total_size: bytes of all tensors as `metadata` tells it, whatever it is; None where it does not.
    """

    weight_map: Mapping[str, str]
    total_size: object

    @property
    def shards(self) -> list[str]:
        """The file names, sorted."""
        return sorted(set(self.weight_map.values()))


def read_index(directory: str, access: Access = LEAST) -> Index:
    """Reads and checks the index of a checkpoint by itself.

    Raises:
        CheckpointError: missing, too large, not JSON as meant, or `weight_map` does not map names to plain file names.
    """
    where = os.path.join(directory, INDEX)
    raw = read_bounded(directory, INDEX, LARGEST_INDEX, follow_links=access.follow_links)
    if is_pointer(raw):
        raise CheckpointError([Problem(where, "the file", IS_POINTER, FETCH)])
    if (values := most_values(raw)) > _MOST_VALUES:
        raise CheckpointError([Problem(where, f"at most {_MOST_VALUES:,} tensors", f"up to {values:,}")])
    if len(raw) * width(raw) > 2 * LARGEST_INDEX:
        most = f"at most {2 * LARGEST_INDEX // width(raw):,} bytes where characters take {width(raw)} bytes"
        raise CheckpointError([Problem(where, most, f"{len(raw):,} bytes with such characters")])
    try:
        index = parse(raw)
    except ValueError as error:
        raise CheckpointError([Problem(where, "", f"cannot be used: {error}")]) from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(index, dict) or not isinstance(weight_map, dict):
        raise CheckpointError([Problem(where, 'an object with "weight_map", an object', told(index))])
    if not weight_map:
        raise CheckpointError([Problem(where, "", "weight_map names no tensors")])
    plain = {file for file in {file for file in weight_map.values() if isinstance(file, str)} if _is_plain(file)}
    bad = [name for name, file in weight_map.items() if not isinstance(file, str) or file not in plain]
    if bad:
        found = f"{told(weight_map[bad[0]])} for tensor {quoted(bad[0])}" + (
            f", and {len(bad) - 1:,} more" if bad[1:] else ""
        )
        raise CheckpointError([Problem(f"{where}: weight_map", "plain file names ending in .safetensors", found)])
    metadata = index.get("metadata")
    return Index(weight_map, metadata.get("total_size") if isinstance(metadata, dict) else None)


def _is_plain(file: str) -> bool:
    return file.endswith(".safetensors") and not set(file) & set("/\\\0")


def tied_heads(index: Index, headers: Mapping[str, Header], config: Mapping[str, Any] | None) -> set[str]:
    """The heads that the index names and no shard stores, since the embedding stands for them: loaders tie them."""
    stored = {tensor.name for header in headers.values() for tensor in header.tensors}
    return {
        name
        for name, file in index.weight_map.items()
        if file in headers and name not in stored and stands_in(name, stored, config)
    }


def check_agreement(
    directory: str, index: Index, headers: Mapping[str, Header], tied: Collection[str] = ()
) -> list[Problem]:
    """Whether the index and the headers that could be read tell the same, both ways.

    Args:
        directory: the checkpoint.
        index: its index.
        headers: by file name.
        tied: tensors that the index may name though no shard stores them.
    """
    where = os.path.join(directory, INDEX)
    promised: dict[str, set[str]] = {file: set() for file in headers}
    for name, file in index.weight_map.items():
        if file in promised:
            promised[file].add(name)
    problems, twice = _held_twice(directory, headers)
    for file, header in headers.items():
        held = {tensor.name for tensor in header.tensors}
        if lacking := sorted(promised[file] - held - set(tied)):
            found = f"{quoted(file)} lacks tensors that weight_map places there, {len(lacking):,}: {some(lacking)}"
            problems.append(Problem(where, "", found, _MEND))
        if extra := sorted(held - promised[file] - twice):
            found = f"{quoted(file)} holds tensors that weight_map does not place there, {len(extra):,}: {some(extra)}"
            problems.append(Problem(where, "", found, _MEND))
    return problems


def _held_twice(directory: str, headers: Mapping[str, Header]) -> tuple[list[Problem], set[str]]:
    """The names that several shards hold, one problem for each set of shards: a reader could take either."""
    owners: dict[str, tuple[str, ...]] = {}
    for file, header in headers.items():
        for tensor in header.tensors:
            owners[tensor.name] = (*owners.get(tensor.name, ()), file)
    shared: dict[tuple[str, ...], list[str]] = {}
    for name, files in owners.items():
        if len(files) > 1:
            shared.setdefault(files, []).append(name)
    problems = [
        Problem(directory, "each tensor in one shard", f"{some(names)} in each of {some(list(files))}", _MEND)
        for files, names in shared.items()
    ]
    return problems, {name for names in shared.values() for name in names}


def total_size_warnings(directory: str, index: Index, headers: Sequence[Header]) -> list[str]:
    """What to say where `total_size` is not what the tensors take in bytes: consumers only estimate by it."""
    actual = sum(tensor.nbytes for header in headers for tensor in header.tensors)
    if index.total_size is None or index.total_size == actual:
        return []
    where = os.path.join(directory, INDEX)
    return [f"{where}: total_size is {told(index.total_size)}, but the tensors take {actual} bytes"]
