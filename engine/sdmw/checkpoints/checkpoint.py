"""A model directory whose headers were read and checked."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdmw.addresses import is_remote
from sdmw.checkpoints.alike import once
from sdmw.errors import Problem
from sdmw.storage import hub_address, hub_cache
from sdmw.storage.shard import Shard
from sdmw.tensors.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory as its headers and config tell it; no file is open, so it pickles.

    Attributes:
        path: of the directory, absolute.
        shards: fingerprints of the files that hold its tensors, by file name.
        tensors: by name, in the order of shard name, then offset. Not to be changed.
        config: config.json, parsed; None only where a format has none.
        warnings: what is odd but harmless, one sentence each.
        adapts: what an adapter was trained on, as it says, perhaps empty; None for a model that stands alone.
        ties: of an adapter: its head is its embedding where the model ties them (peft's `ensure_weight_tying`).
        follow_links: links of its folder are followed that leave it.
        config_text: config.json of a merge that is not written; None where it lies in the folder.
        files: of a merge that is not written, files that it has otherwise than the folder; None for one that it lacks.
        aliases: names of tensors that are stored under another, with that name (views/aliases.py).
    """

    path: str
    shards: tuple[Shard, ...]
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None
    warnings: tuple[str, ...] = field(default=())
    adapts: str | None = None
    ties: bool = False
    follow_links: bool = False
    config_text: bytes | None = None
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def written(self) -> bool:
        """Whether it lies in the folder, and is no merge that is not written, whose folder is its base's."""
        return self.config_text is None

    @property
    def place(self) -> tuple[str, int]:
        """The folder; with the files of a merge that is not written it is another place."""
        return self.path, id(self.files) if self.files else 0

    @property
    def commit(self) -> str | None:
        """The commit, where it is on the Hub or a snapshot in its cache; else None."""
        return hub_address.commit_of(self.path) or hub_cache.commit_of(self.path)


def input_folders(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """Every folder of this machine that an input lies in: its own, and those that its shards are links into.

    Links that lead anywhere may lead to a file in a folder of many things: then it is the file that counts.
    """
    folders: dict[str, None] = {}
    for checkpoint in checkpoints:
        if is_remote(checkpoint.path):
            continue
        folders[checkpoint.path] = None
        files = [os.path.realpath(shard.path) for shard in checkpoint.shards]
        if checkpoint.follow_links:
            folders |= dict.fromkeys((*files, *_led_to(checkpoint.path)))
        else:
            folders |= dict.fromkeys(map(os.path.dirname, files))
    return list(folders)


def input_addresses(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """Every address of a folder that inputs lie in."""
    paths = (path for each in checkpoints for path in (each.path, *(os.path.dirname(s.path) for s in each.shards)))
    return list(dict.fromkeys(filter(is_remote, paths)))


def _led_to(folder: str) -> Iterator[str]:
    """What the links in a folder lead to."""
    for above, _, names in os.walk(folder):
        paths = (os.path.join(above, name) for name in names)
        yield from (os.path.realpath(path) for path in paths if os.path.islink(path))


def unmergeable(checkpoint: Checkpoint) -> list[Problem]:
    """The tensors whose dtype can be neither merged nor copied (small floats, complex): one problem for names alike."""
    return once(
        (name, Problem(
            tensor.where,
            "a dtype that is merged (F32, F16, BF16) or copied (integers, BOOL, F64)",
            tensor.dtype.name,
            "Convert the checkpoint to BF16 first",
        ))
        for name, tensor in checkpoint.tensors.items()
        if not (tensor.dtype.merges or tensor.dtype.copies)
    )  # fmt: skip
