"""A checkpoint directory in safetensors: which of its files are the weights, and whether they fit together."""

import os
import re
from collections.abc import Iterable, Mapping

from sdmw.addresses import absolute
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._config import read_config
from sdmw.checkpoints.formats._quantised import DEQUANTISE, quantised_by_names
from sdmw.checkpoints.formats._refusals import refusal
from sdmw.checkpoints.formats.safetensors.header import Header, read_header
from sdmw.checkpoints.formats.safetensors.index import (
    INDEX,
    Index,
    check_agreement,
    read_index,
    tied_heads,
    total_size_warnings,
)
from sdmw.errors import CheckpointError, Problem, some
from sdmw.storage.access import LEAST, Access
from sdmw.storage.files import listing, names_in
from sdmw.tensors.tensor import Tensor

SINGLE = "model.safetensors"
SUFFIX = ".safetensors"
_PART = re.compile(r"-\d+-of-\d+\.safetensors\Z")


def recognises(path: str) -> bool:
    """Whether a path is a safetensors file by its name, or a directory with such files or their index."""
    if path.endswith(SUFFIX) and not os.path.isdir(path):
        return True
    return any(name.endswith(SUFFIX) or name == INDEX for name in names_in(path))


def read(path: str, access: Access = LEAST) -> Checkpoint:
    """Reads and checks index, headers and config of a checkpoint directory; no tensor data.

    The weights are what transformers loads: `model.safetensors`, or the shards of `model.safetensors.index.json`.

    Args:
        path: the directory.
        access: how far reading may go; the format ends at headers of 100,000,000 bytes.

    Raises:
        CheckpointError: with all that is wrong with all files.
    """
    directory = absolute(path)
    names = listing(path)
    files = {name for name in names if name.endswith(SUFFIX)}
    if not files and INDEX not in names:
        raise refusal(path, access)
    if SINGLE not in files and INDEX not in names:
        raise CheckpointError(_other_files(directory, sorted(files), access))

    config, problems = read_config(directory, access)
    warnings: list[str] = []
    index = None
    if INDEX in names:
        try:
            index = read_index(directory, access)
        except CheckpointError as error:
            problems.extend(error.problems)
    shards = index.shards if index else [name for name in (SINGLE,) if name in files]
    headers, found = _headers(directory, shards, access)
    problems.extend(found)
    if index:
        tied = tied_heads(index, headers, config)
        problems.extend(check_agreement(directory, index, headers, {*tied, *_aliased(headers.values())}))
        if tied:
            absent = f"{some(sorted(tied))}, which no shard stores: the embedding is used instead"
            warnings.append(f"{directory}: {INDEX} names {absent}")
        warnings.extend(total_size_warnings(directory, index, list(headers.values())))
        if SINGLE in files and SINGLE not in shards:
            single, found = _headers(directory, [SINGLE], access)
            problems.extend(found or _single_beside_shards(directory, single[SINGLE], index, headers))
            warnings.append(
                f"{directory}: {SINGLE} lies beside shards with the same tensors; {SINGLE} is read, the shards are not"
            )
            headers = single
    if unread := sorted(files - set(shards) - set(headers)):
        warnings.append(f"{directory}: not part of the checkpoint, not read: {some(unread)}")
    ordered = [headers[name] for name in sorted(headers)]
    tensors = {tensor.name: tensor for header in ordered for tensor in header.tensors}
    if packed := quantised_by_names(names, tensors):
        raise CheckpointError([Problem(directory, "weights that are not quantised", packed, DEQUANTISE)])
    if not problems and not tensors:
        problems.append(Problem(directory, "", f"{some(sorted(headers))} holds no tensors"))
    if problems:
        raise CheckpointError(problems)
    warnings.extend(warning for header in ordered for warning in header.warnings)
    shards_read = tuple(header.shard for header in ordered)
    return Checkpoint(
        directory, shards_read, tensors, config, tuple(warnings), follow_links=access.follow_links,
        aliases=_aliases(ordered, tensors),
    )  # fmt: skip


def _aliased(headers: Iterable[Header]) -> dict[str, str]:
    """The names that headers say are another tensor's, which one of them stores."""
    return _aliases(headers, {tensor.name: tensor for header in headers for tensor in header.tensors})


def _aliases(headers: Iterable[Header], stored: Mapping[str, Tensor]) -> dict[str, str]:
    """The names that headers say are another tensor's: believed where that is stored, and nothing under the name."""
    return {
        alias: name
        for header in headers
        for alias, name in header.metadata.items()
        if name in stored and alias not in stored
    }


def _headers(directory: str, shards: Iterable[str], access: Access) -> tuple[dict[str, Header], list[Problem]]:
    """The headers that can be used, by file name, and the problems of the others."""
    headers: dict[str, Header] = {}
    problems: list[Problem] = []
    for name in shards:
        try:
            headers[name] = read_header(directory, name, access)
        except CheckpointError as error:
            problems.extend(error.problems)
    return headers, problems


def _single_beside_shards(directory: str, single: Header, index: Index, headers: dict[str, Header]) -> list[Problem]:
    """Whether both are one checkpoint as far as headers tell: transformers reads the single file, others the shards."""
    if set(headers) != set(index.shards):
        return []
    sharded = {tensor.name: tensor for header in headers.values() for tensor in header.tensors}
    alone = {tensor.name: tensor for tensor in single.tensors}
    differing = sorted(
        name for name in sharded.keys() | alone.keys() if _kind(sharded.get(name)) != _kind(alone.get(name))
    )
    if not differing:
        return []
    found = f"{SINGLE} and the shards of {INDEX} differ in {len(differing):,} tensors: {some(differing)}"
    return [Problem(directory, "one set of weights", found, "Remove the set that you do not want")]


def _kind(tensor: Tensor | None) -> object:
    return None if tensor is None else (tensor.dtype, tensor.shape)


def _other_files(directory: str, files: list[str], access: Access) -> list[Problem]:
    """What to say of safetensors files under names that transformers does not load."""
    expected = f"{SINGLE} or {INDEX}"
    if not (others := [name for name in files if not name.lower().startswith("consolidated")]):
        found = f"only weights in Mistral's own format, with other tensor names: {some(files)}"
        return [
            Problem(directory, expected, found, "Get the model in the format of transformers, with its config.json")
        ]
    if _PART.search(others[0]):
        mend = f"Copy or download {INDEX} too, and every shard"
    else:
        mend = f"Rename the file to {SINGLE}" if len(others) == 1 else f"Write the {INDEX} that belongs to them"
    return [Problem(directory, expected, f"neither, but {some(files)}", mend), *read_config(directory, access)[1]]
