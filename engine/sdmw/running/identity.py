"""What a merge is known by: a kept run is resumed only by a run of the same identity."""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import xxhash

from sdmw import codec
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats import _adapter_config, _config
from sdmw.planning.plan import Plan, TensorPlan
from sdmw.recipes.findings import Findings
from sdmw.recipes.tree import plain
from sdmw.storage.files import read_bounded
from sdmw.version import __version__
from sdmw.writing.kept_run import OPAQUE, Identity

MOST_KEYS = 1000  # of a config; one with more is reported as a whole
LONGEST_VALUE = 200  # characters; a longer value is shown as its checksum


def identity_of(plan: Plan) -> Identity:
    """Of version, recipe, plan, configs, and the fingerprint of each input.

    Threads, budget and tile may differ: the bits do not depend on them. Nor do they on the size of shards, where the
    layout is the same: it is only told.

    Raises:
        CheckpointError: a config can no longer be read.
    """
    layout = (shard.header for shard in plan.shards)
    steps = (part for step in map(_step, plan.tensors, _digests(t.params for t in plan.tensors)) for part in step)
    layers = (codec.digest((layer.name, layer.tensors)) for layer in plan.layers)
    facts = {"": plain(plan.recipe, Findings()), **dict(_configs(plan)), **facts_of(plan.checkpoints)}
    found = identity(facts, [*layout, *steps, *layers])
    said = {**found.facts[""], "max_shard_size": f"{plan.max_shard_size:,} bytes"}
    return Identity(found.digest, {**found.facts, "": said})


def identity(facts: Mapping[str, Any], parts: Iterable[bytes]) -> Identity:
    """Of a run of this version, by its facts and by what nobody can read."""
    told = {**facts, "": {**facts[""], "version of sdmw": __version__}}
    return Identity(hash_of([codec.digest(told), *parts]), told)


def facts_of(checkpoints: Iterable[Checkpoint]) -> dict[str, dict[str, Any]]:
    """What tells the files of inputs from others, and from themselves after a change, by their paths.

    Without their inodes: a file system that is mounted again may give them others.
    """
    return {
        shard.path: {"bytes": shard.size, OPAQUE: [shard.mtime_ns, shard.ctime_ns, shard.header_hash]}
        for checkpoint in checkpoints
        for shard in checkpoint.shards
    }


def hash_of(parts: Iterable[bytes]) -> str:
    """XXH3-128 of the parts and of where each ends, in hex."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _digests(values: Iterable[Hashable]) -> Iterator[bytes]:
    """Of each; most tensors are merged with the same parameters."""
    known: dict[Hashable, bytes] = {}
    for value in values:
        if value not in known:
            known[value] = codec.digest(value)
        yield known[value]


def _step(tensor: TensorPlan, params: bytes) -> Iterator[bytes]:
    yield f"{tensor.name}\n{tensor.action}".encode(errors="surrogatepass")
    yield params
    for each in tensor.inputs:
        yield each.fingerprint()


def _configs(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """The facts of the config that the output gets, and of those that say what adapters are scaled by."""
    if plan.base is not None and not plan.makes_adapter:
        yield _config_of(plan.base, _config.CONFIG, _config.LARGEST_CONFIG)
    for _, checkpoint in plan.sources:
        if checkpoint.adapts is not None:
            yield _config_of(checkpoint, _adapter_config.ADAPTER_CONFIG, _adapter_config.LARGEST)


def _config_of(checkpoint: Checkpoint, name: str, most: int) -> tuple[str, dict[str, Any]]:
    text = checkpoint.config_text or read_bounded(checkpoint.path, name, most, follow_links=checkpoint.follow_links)
    try:
        config = json.loads(text)
        values = {key: _brief(value) for key, value in _flat(config)} if isinstance(config, dict) else {}
    except (ValueError, RecursionError):
        values = {}
    told = values if len(values) <= MOST_KEYS else {}
    return f"{checkpoint.path}/{name}", {**told, OPAQUE: hash_of([text])}


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of a config and of the configs in it, such as `text_config`."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", each) for inner, each in value.items())
        else:
            yield key, value


def _brief(value: Any) -> Any:
    """A value of JSON as it is shown."""
    text = json.dumps(value)
    return value if len(text) <= LONGEST_VALUE else f"checksum {hash_of([text.encode()])}"
