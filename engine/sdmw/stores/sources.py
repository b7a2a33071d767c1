"""What a store says of its inputs, so that it is known whether a merge has the same."""

import json
from collections.abc import Collection, Iterable
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

File = tuple[int, str, str]  # bytes, the header's hash, the sample's

DOCUMENTS = "documents"  # in what a store says of its recipe: those that it uses


def store_of(plan: Plan, path: str) -> Store:
    """The store that measuring a plan makes in a directory."""
    return Store(
        version=__version__,
        path=path,
        models=plan.models,
        tensors=tuple(StoredTensor(tensor.name, tensor.output.shape) for tensor in plan.tensors),
        fingerprints=fingerprints_of(plan, {name for name, _ in plan.sources}),
        states=states_of(plan),
        recipe=recipe_of(plan),
    )


def recipe_of(plan: Plan) -> str:
    """What a store says of the recipe that it was measured for, as JSON."""
    return json.dumps(_said(plan.recipe), sort_keys=True)


def _said(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, and the documents that it uses."""
    documents = {DOCUMENTS: [plain(each, Findings()) for each in recipe.documents]} if recipe.documents else {}
    return {**plain(recipe, Findings()), **documents}


def fingerprints_of(plan: Plan, names: Collection[str]) -> dict[str, str]:
    """What tells the files of models from others, wherever they lie, and whatever their time is.

    Args:
        plan: of a merge.
        names: of those whose files a sample is read of: 4 MiB of each.
    """
    asked = ((name, checkpoint) for name, checkpoint in plan.sources if name in names)
    return {name: content_of(_files(checkpoint), _config(checkpoint)) for name, checkpoint in asked}


def states_of(plan: Plan) -> dict[str, str]:
    """What headers and times tell of the files of each model, and what changes with any change of them."""
    recipe = plan.recipe
    aligned = any(each.tokenizer is not None for each in (recipe, *recipe.documents))
    return {name: _state(checkpoint, aligned) for name, checkpoint in plan.sources}


def _files(checkpoint: Checkpoint) -> list[File]:
    return [(shard.size, shard.header_hash, sample_of(shard.path)) for shard in checkpoint.shards]


def _config(checkpoint: Checkpoint) -> str | None:
    """Of an adapter, whose scales and ranks are in no shard."""
    if checkpoint.adapts is None:
        return None
    return hash_of_config(checkpoint.path, follow_links=checkpoint.follow_links)


def content_of(files: list[File], config: str | None) -> str:
    """The fingerprint of a model.

    Args:
        files: what is known of each that holds tensors.
        config: the hash of an adapter's config; None for a model alone.
    """
    parts = [f"{size} {header} {sample}" for size, header, sample in sorted(files)]
    return _hash(parts if config is None else [*parts, config])


def _state(checkpoint: Checkpoint, aligned: bool) -> str:
    """Of one model.

    Args:
        checkpoint: it.
        aligned: rows of vocabularies are put beside one another by their tokens.
    """
    shards = sorted(checkpoint.shards, key=lambda shard: shard.path)
    # Of an object in a store the time may be told in whole seconds, or not at all; its version is.
    parts = [f"{shard.size} {shard.header_hash} {shard.mtime_ns} {shard.version or ''}" for shard in shards]
    parts += [config] if (config := _config(checkpoint)) is not None else []
    return _hash([*parts, digest_of(checkpoint).hex()] if aligned else parts)


def _hash(parts: Iterable[str]) -> str:
    return hash_of(part.encode() for part in parts)
