"""What a store says of its inputs, so that it is known whether a merge has the same."""

import json
from typing import cast

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.planning.plan import Plan
from sdmw.recipes.findings import Findings
from sdmw.recipes.tree import plain
from sdmw.running.identity import hash_of
from sdmw.stores.store import Store, StoredTensor
from sdmw.version import __version__


def store_of(plan: Plan, path: str) -> Store:
    """The store that measuring a plan makes in a directory."""
    return Store(
        version=__version__,
        path=path,
        models=plan.models,
        tensors=tuple(StoredTensor(tensor.name, tensor.output.shape) for tensor in plan.tensors),
        fingerprints={name: fingerprint(checkpoint) for name, checkpoint in plan.sources},
        recipe=json.dumps(cast("object", plain(plan.recipe, Findings())), sort_keys=True),
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """What tells the files of a model from others, and from themselves after a change, wherever they lie."""
    shards = sorted(checkpoint.shards, key=lambda shard: shard.path)
    parts = ((shard.header_hash, str(shard.size), str(shard.mtime_ns)) for shard in shards)
    return hash_of(str(part).encode() for each in parts for part in each)
