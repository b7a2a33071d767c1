"""Finds and reads the headers of every input; all that is wrong with any of them is collected."""

from dataclasses import dataclass, replace

from sdmw.checkpoints import formats
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, SdmwError, quoted
from sdmw.recipes.recipe import Recipe
from sdmw.storage.locate import locate, split_adapter
from sdmw.views.adapter import adapted, wrong_base


@dataclass(frozen=True, slots=True)
class Inputs:
    """The checkpoints of a recipe.

    Attributes:
        base: whose tensor names, config and tokenizer the output has.
        models: what is merged, by its name in the recipe, in order.
        sources: each directory that is read, adapters apart, with its name in the recipe; the base's first.
    """

    base: Checkpoint
    models: dict[str, Checkpoint]
    sources: tuple[tuple[str, Checkpoint], ...]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Each once, the base's first."""
        found = {(checkpoint.path, checkpoint.shards): checkpoint for checkpoint in (self.base, *self.models.values())}
        return tuple(found.values())


def open_inputs(recipe: Recipe, *, deltas: bool, download: bool, header_limit: int) -> Inputs | list[Problem]:
    """The recipe's checkpoints, adapters put on their models, or everything that is wrong with them.

    Args:
        recipe: as loaded.
        deltas: the method takes deltas from the base; adapters of it then give theirs as they are.
        download: models that are not on this machine may be fetched from the Hub.
        header_limit: bytes that a shard's header may have.
    """
    names = [entry.model for entry in recipe.models]
    base_name = recipe.base_model or names[0]
    parts = {name: split_adapter(name) for name in (base_name, *names)}
    read: dict[str, Checkpoint] = {}
    problems: list[Problem] = []
    for part in dict.fromkeys(part for pair in parts.values() for part in pair if part is not None):
        try:
            read[part] = formats.read(locate(part, download=download), header_limit=header_limit)
        except SdmwError as error:
            problems += error.problems
    if problems:
        return problems
    model, adapter = parts[base_name]
    base = read[model]
    if base.adapts is not None:
        mend = f"Write base_model: it was trained on {quoted(base.adapts)}" if base.adapts else "Write base_model"
        return [Problem(base.path, "a model for the base", "an adapter", mend)]
    if adapter is not None:
        on_it = _put(read[adapter], base, model, meant=True, deltas=False)
        if isinstance(on_it, list):
            return on_it
        base = replace(on_it, path=base.path, adapts=None)
    plain = adapter is None
    models: dict[str, Checkpoint] = {}
    put: dict[tuple[str, str], str] = {}  # adapter and model, by their paths: the name that the recipe has for both
    for name in names:
        model, adapter = parts[name]
        if adapter is None and read[model].adapts is None:
            models[name] = base if name == base_name else read[model]
            continue
        alone = adapter is None
        on, called = (base, base_name) if alone or model == base_name else (read[model], model)
        changed = _put(read[model if adapter is None else adapter], on, called, meant=not alone,
                       deltas=deltas and (on is base or (plain and on.path == base.path)))  # fmt: skip
        if isinstance(changed, list):
            problems += changed
        elif (other := put.setdefault((changed.path, on.path), name)) != name:
            problems.append(Problem(quoted(name), "each model once", f"the same as {quoted(other)}"))
        else:
            models[name] = changed
    return problems or Inputs(base, models, tuple(read.items()))


def _put(adapter: Checkpoint, on: Checkpoint, called: str, *, meant: bool, deltas: bool) -> Checkpoint | list[Problem]:
    """An adapter on a model, or all that speaks against it."""
    if adapter.adapts is None or on.adapts is not None:
        wrong, expected = (adapter, "an adapter") if adapter.adapts is None else (on, "a model")
        found = "a model" if adapter.adapts is None else "an adapter"
        return [Problem(wrong.path, f"{expected} in model+adapter", found)]
    found_on = adapted(adapter, on, deltas=deltas)
    problems, warnings = wrong_base(adapter, on, called, meant=meant)
    if isinstance(found_on, list) or problems:
        return [*problems, *(found_on if isinstance(found_on, list) else [])]
    return replace(found_on, warnings=(*found_on.warnings, *warnings))
