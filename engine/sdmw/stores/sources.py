"""What a store says of its inputs, so that it is known whether a merge has the same."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._adapter_config import hash_of_config
from sdmw.checkpoints.tokens import digest_of
from sdmw.planning.plan import Plan
from sdmw.recipes.findings import Findings
from sdmw.recipes.recipe import Recipe
from sdmw.recipes.tree import plain
from sdmw.running.identity import hash_of
from sdmw.storage.shard import sample_of
from sdmw.stores.store import Store, StoredTensor
from sdmw.version import __version__

DOCUMENTS = "documents"  # in what a store says of its recipe: those that it uses


def store_of(plan: Plan, path: str) -> Store:
    """The store that measuring a plan makes in a directory."""
    recipe = plan.recipe
    aligned = any(each.tokenizer is not None for each in (recipe, *recipe.documents))
    return Store(
        version=__version__,
        path=path,
        models=plan.models,
        tensors=tuple(StoredTensor(tensor.name, tensor.output.shape) for tensor in plan.tensors),
        fingerprints=_fingerprints(plan, aligned),
        recipe=json.dumps(_said(recipe), sort_keys=True),
    )


def _said(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, and the documents that it uses."""
    documents = {DOCUMENTS: [plain(each, Findings()) for each in recipe.documents]} if recipe.documents else {}
    return {**plain(recipe, Findings()), **documents}


def _fingerprints(plan: Plan, aligned: bool) -> dict[str, str]:
    """What tells the files of each model from others, and from themselves after a change, wherever they lie.

    Fine-tunes of one base differ in the time of their files alone. Where an archive or an image gave all the same time,
    a sample of the data tells them apart.

    Args:
        plan: of a merge.
        aligned: rows of vocabularies are put beside one another by their tokens.
    """
    found = {name: _hash(_parts(checkpoint, aligned)) for name, checkpoint in plan.sources}
    times = Counter(found.values())
    alike = {name: checkpoint for name, checkpoint in plan.sources if times[found[name]] > 1}
    return {**found, **{name: _hash((found[name], *_samples(checkpoint))) for name, checkpoint in alike.items()}}


def _hash(parts: Iterable[str]) -> str:
    return hash_of(part.encode() for part in parts)


def _samples(checkpoint: Checkpoint) -> Iterator[str]:
    for shard in sorted(checkpoint.shards, key=lambda shard: shard.path):
        yield sample_of(shard.path)


def _parts(checkpoint: Checkpoint, aligned: bool) -> Iterator[str]:
    for shard in sorted(checkpoint.shards, key=lambda shard: shard.path):
        # Of an object in a store the time may be told in whole seconds, or not at all; its version is.
        yield from (shard.header_hash, str(shard.size), str(shard.mtime_ns), shard.version or "")
    if checkpoint.adapts is not None:
        # Scales and ranks are in no shard.
        yield hash_of_config(checkpoint.path, follow_links=checkpoint.follow_links)
    if aligned:
        yield digest_of(checkpoint).hex()
