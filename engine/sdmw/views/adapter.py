"""Puts adapters on models: which tensor each of their deltas belongs to, and whether it fits."""

import os
from dataclasses import replace
from functools import cached_property

from sdmw.checkpoints import formats
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, SdmwError, quoted
from sdmw.recipes.model_ref import ModelRef
from sdmw.storage.locate import hub_id
from sdmw.tensors.low_rank import LowRank, Sum
from sdmw.tensors.tensor import Tensor
from sdmw.views import tied_adapter
from sdmw.views.conv1d import is_conv1d
from sdmw.views.in_memory import Names

MOST_ALIKE = 3  # names in a message


def adapted(adapter: Checkpoint, on: Checkpoint, called: ModelRef, *, deltas: bool) -> Checkpoint | list[Problem]:
    """A model with an adapter on it, or all that does not fit.

    Args:
        adapter: as its format reads it.
        on: the model.
        called: that model in the recipe.
        deltas: what the adapter changes by a product of matrices is that delta, not the sum.

    Returns:
        The model's tensors, those that the adapter changes replaced; of both files.
    """
    tie = tied_adapter.tie_of(on)
    below = on if tie is None else tied_adapter.with_head(on, tie)
    changed, problems = _placed(adapter, below, _Mend(adapter, on, called))
    warnings = adapter.warnings
    if tie is not None:
        head = tied_adapter.settled(adapter, on, tie, changed)
        changed = head.changed
        problems += head.problems
        warnings = (*warnings, *head.warnings)
        below = below if head.apart else on
    if problems:
        return problems
    tensors = dict(below.tensors)
    for name, tensor in changed.items():
        tensors[name] = tensor.on(tensors[name]) if isinstance(tensor, LowRank) and not deltas else tensor
    shards = (*adapter.shards, *on.shards)
    return replace(adapter, shards=shards, tensors=tensors, config=on.config, warnings=warnings)


def _placed(adapter: Checkpoint, on: Checkpoint, mend: "_Mend") -> tuple[dict[str, Tensor], list[Problem]]:
    """What the adapter has for tensors of the model, by their names there; and what has no place."""
    names = Names(on)
    problems: list[Problem] = []
    changed: dict[str, Tensor] = {}
    taken: dict[str, str] = {}
    for info in adapter.tensors.values():
        found = _fitted(info, on, names, mend)
        if isinstance(found, Problem):
            problems.append(found)
        elif (other := taken.setdefault(found.name, info.name)) != info.name:
            problems.append(Problem(info.where, "a model tensor of its own", f"the same one as for {quoted(other)}"))
        else:
            changed[found.name] = found
    return changed, problems


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
    mend = "Write it with its own model, as model+adapter, or give the right base_model"
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


class _Mend:
    """What to do about a tensor that does not fit; made once there is one.

    Args:
        adapter: whose tensors they are.
        on: the model.
        called: that model in the recipe.
    """

    def __init__(self, adapter: Checkpoint, on: Checkpoint, called: ModelRef) -> None:
        self._adapter, self._on, self._called = adapter, on, called

    @cached_property
    def other_base(self) -> str:
        """Where the adapter was trained on another model; empty where it was trained on this one."""
        trained_on = self._adapter.adapts or ""
        same = _same(ModelRef(trained_on), self._on, self._called)
        if same:
            return ""
        name = quoted(trained_on)
        if same is None:
            return f"It was trained on {name}: if that is another model, put it on that"
        return f"It was trained on {name}: put it on that"

    def missing(self, tensor: Tensor) -> str:
        """Of a tensor that the model lacks."""
        if self.other_base or isinstance(tensor, LowRank | Sum):
            return self.other_base
        return (
            "Load the base with the class that the adapter was trained with (a classifier, say), save it, and put the "
            "adapter on that"
        )

    def shape(self, tensor: Tensor, below: Tensor) -> str:
        """Of a tensor of another shape than the model's."""
        ours, theirs = tensor.shape, below.shape
        if len(ours) == len(theirs) and ours[0] != theirs[0] and ours[1:] == theirs[1:]:
            vocabulary = (
                f"If these are vocabularies, resize that of the base to {ours[0]} (`resize_token_embeddings`), and "
                "put the adapter on that"
            )
            return f"{self.other_base}. {vocabulary}" if self.other_base else vocabulary
        return self.other_base


def _fitted(info: Tensor, on: Checkpoint, names: Names, mend: _Mend) -> Tensor | Problem:
    """The tensor under the name that the model has for it, and in its shape."""
    where = info.where
    alike = names.find(info.name)
    if not alike:
        return Problem(where, f"a matching tensor in {on.path}", "none", mend.missing(info))
    if len(alike) > 1:
        found = f"several candidates: {', '.join(map(quoted, alike[:MOST_ALIKE]))}"
        return Problem(where, f"one matching tensor in {on.path}", found, "Write full tensor names into the adapter")
    below = on.tensors[alike[0]]
    if not below.dtype.merges:
        return Problem(where, "weights of F32, F16 or BF16 below the adapter", below.dtype.name, "Dequantise the model")
    if not info.dtype.merges:
        return Problem(where, "values of F32, F16 or BF16", info.dtype.name, mend.other_base)
    if isinstance(info, LowRank) and _lies_otherwise(info, below, on):
        info = info.flipped()
    if info.shape != below.shape:
        expected = f"shape {list(below.shape)} as in {on.path}"
        return Problem(where, expected, f"{list(info.shape)}", mend.shape(info, below))
    return replace(info, name=alike[0])


def _lies_otherwise(delta: LowRank, below: Tensor, on: Checkpoint) -> bool:
    """Whether the weight lies the other way round than the adapter's config says.

    As in peft, which goes by the module's type: its `fan_in_fan_out` is one for all, and that of the last module.
    """
    if delta.shape != below.shape:
        return delta.shape[::-1] == below.shape
    square, model_type = delta.shape[0] == delta.shape[1], (on.config or {}).get("model_type")
    return square and not delta.embedding and bool(model_type) and delta.transposed != is_conv1d(on, delta.module)
