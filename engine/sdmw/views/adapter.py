"""Puts adapters on models: which tensor each of their deltas belongs to, and whether it fits."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sdmw.checkpoints import formats
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, SdmwError, quoted
from sdmw.recipes.model_ref import ModelRef
from sdmw.storage.locate import hub_id
from sdmw.tensors.low_rank import LowRank
from sdmw.tensors.tensor import Tensor
from sdmw.views.conv1d import is_conv1d


def adapted(adapter: Checkpoint, on: Checkpoint, *, deltas: bool) -> Checkpoint | list[Problem]:
    """A model with an adapter on it, or all that does not fit.

    Args:
        adapter: as its format reads it.
        on: the model.
        deltas: what the adapter changes by a product of matrices is that delta, not the sum.

    Returns:
        The model's tensors, those that the adapter changes replaced; of both files.
    """
    problems = []
    tensors = dict(on.tensors)
    changed: dict[str, str] = {}
    for info in adapter.tensors.values():
        found = _fitted(info, adapter, on)
        if isinstance(found, Problem):
            problems.append(found)
        elif (other := changed.setdefault(found.name, info.name)) != info.name:
            where = info.where
            problems.append(Problem(where, "a tensor of the model for each", f"that of {quoted(other)} again"))
        else:
            if isinstance(found, LowRank) and not deltas:
                found = found.on(on.tensors[found.name])
            tensors[found.name] = found
    warnings = (*adapter.warnings, *_tied(adapter, on))
    shards = (*adapter.shards, *on.shards)
    return problems or replace(adapter, shards=shards, tensors=tensors, config=on.config, warnings=warnings)


def wrong_base(
    adapter: Checkpoint, on: Checkpoint, called: ModelRef, *, meant: bool
) -> tuple[list[Problem], list[str]]:
    """Whether the adapter says that it was trained on another model: problems, or warnings.

    Args:
        adapter: as its format reads it.
        on: the model that it is put on.
        called: that model in the recipe.
        meant: the recipe names both together.
    """
    trained_on = adapter.adapts or ""
    name = quoted(str(called))
    same = _same(ModelRef(trained_on), on, called)
    if same:
        return [], []
    said = f"{adapter.path}: an adapter of {quoted(trained_on)}, put on {name}"
    if same is None or meant:
        return [], [said]
    mend = "Give it with the model that it belongs to, model+adapter, or with the right base_model"
    found = f"base_model_name_or_path {quoted(trained_on)}"
    return [Problem(adapter.path, f"an adapter of {name}", found, mend)], []


def _same(trained_on: ModelRef, on: Checkpoint, called: ModelRef) -> bool | None:
    """Whether two models are one; None where nobody can tell."""
    name = trained_on.path.rstrip("/")
    if not name or name == called.path.rstrip("/"):
        return True
    if trained_on.directory is not None:
        if trained_on.identity() == ModelRef(on.path).identity():
            return True
        try:
            other = formats.read(trained_on.directory)
        except SdmwError:
            return None
        alike = {(s.size, s.header_hash) for s in other.shards} == {(s.size, s.header_hash) for s in on.shards}
        return None if alike else False  # a copy, or a fine-tune
    there, here = hub_id(trained_on), hub_id(called)
    if there and here:
        return there.lower() == here.lower()
    return True if os.path.basename(name).lower() == os.path.basename(on.path).lower() else None


def _fitted(info: Tensor, adapter: Checkpoint, on: Checkpoint) -> Tensor | Problem:
    """The tensor under the name that the model has for it, and in its shape."""
    where = info.where
    trained_on = f"It was trained on {quoted(adapter.adapts)}: put it on that" if adapter.adapts else ""
    name = _name_in(on.tensors, info.name)
    if name is None:
        tied = info.name.endswith("lm_head.weight")
        mend = "The model ties its head to its embedding: untie it first (store lm_head.weight, and say so in config)"
        return Problem(where, f"a tensor that {on.path} has", "none", mend if tied else trained_on)
    below = on.tensors[name]
    if not below.dtype.merges:
        return Problem(where, "weights of F32, F16 or BF16 below the adapter", below.dtype.name, "Dequantise the model")
    if not info.dtype.merges:
        return Problem(where, "values of F32, F16 or BF16", info.dtype.name, trained_on)
    if isinstance(info, LowRank) and _lies_otherwise(info, below, on):
        info = info.flipped()
    if info.shape != below.shape:
        return Problem(where, f"shape {list(below.shape)} as in {on.path}", f"{list(info.shape)}", trained_on)
    return replace(info, name=name)


def _lies_otherwise(delta: LowRank, below: Tensor, on: Checkpoint) -> bool:
    """Whether the weight lies the other way round than the adapter's config says.

    As in peft, which goes by the module's type: its `fan_in_fan_out` is one for all, and that of the last module.
    """
    if delta.shape != below.shape:
        return delta.shape[::-1] == below.shape
    square, model_type = delta.shape[0] == delta.shape[1], (on.config or {}).get("model_type")
    return square and not delta.embedding and bool(model_type) and delta.transposed != is_conv1d(on, delta.module)


def _name_in(tensors: Mapping[str, Tensor], name: str) -> str | None:
    """Models may be stored below another prefix than they have in memory: GPT-2's without `transformer.`, say."""
    parts = name.split(".")
    for shorter in (".".join(parts[start:]) for start in range(len(parts) - 1)):
        if shorter in tensors:
            return shorter
    longer = [other for other in tensors if other.endswith(f".{name}")]
    return longer[0] if len(longer) == 1 else None


def _tied(adapter: Checkpoint, on: Checkpoint) -> Iterator[str]:
    config = on.config or {}
    for name, info in adapter.tensors.items():
        if info.gives == "delta" and "embed" in name and config.get("tie_word_embeddings"):
            yield f"{adapter.path}: {quoted(name)} is the output head too, which changes with it, as in peft's merge"
