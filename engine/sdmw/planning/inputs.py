"""Finds and reads the headers of every input; all that is wrong with any of them is collected."""

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from sdmw.checkpoints import formats
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._config import CONFIG
from sdmw.checkpoints.json_files import read_object
from sdmw.errors import CheckpointError, Problem, SdmwError, quoted, shorten
from sdmw.planning.names import Named, named
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.places import places
from sdmw.recipes.recipe import Recipe
from sdmw.storage.access import Access
from sdmw.storage.locate import ambiguous, locate
from sdmw.views.aliases import with_aliases

NONE: Mapping[ModelRef, "Inputs"] = {}


@dataclass(frozen=True, slots=True)
class Inputs:
    """The checkpoints of a recipe.

    Attributes:
        base: whose tensor names, config and tokenizer the output has.
        models: what is merged, by its name in the recipe, in order.
        bases: what slices have as their base and do not merge, by name.
        tokenizer: the folder whose tokenizer the output has, where it is that of no other input.
        parts: by its name in the recipe, each model and adapter by itself, and each document that is used.
        sources: each directory that is read, adapters apart, with its name in the recipe; the base's first.
        own: by model, names that it has itself, by the base's, of those that differ.
        notes: on names, for people.
        warnings: likewise.
    """

    base: Checkpoint
    models: dict[str, Checkpoint]
    sources: tuple[tuple[str, Checkpoint], ...]
    bases: Mapping[str, Checkpoint] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tokenizer: Checkpoint | None = None
    parts: Mapping[str, Checkpoint] = field(default_factory=dict)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Each once, the base's first."""
        everyone = (self.base, *self.models.values(), *self.bases.values())
        found = {(checkpoint.path, checkpoint.shards): checkpoint for checkpoint in everyone}
        return tuple(found.values())


def open_inputs(
    recipe: Recipe, access: Access, *, deltas: bool, merges: Mapping[ModelRef, "Inputs"] = NONE
) -> Inputs | list[Problem]:
    """The recipe's checkpoints, adapters put on their models, or everything that is wrong with them.

    Args:
        recipe: as loaded.
        access: how far reading may go.
        deltas: the method takes deltas from the base; adapters of it then give theirs as they are.
        merges: other documents that it uses: of each its result as the base, and what that is read from.
    """
    base_reference, *references = recipe.references
    parts = {part for reference in recipe.references for part in reference.parts}
    others = [each for each in (recipe.tokenizer_of,) if each is not None and parts.isdisjoint(each.parts)]
    located, problems = _located(recipe, (*recipe.references, *others), access, merges)
    tokenizers = [_folder(located.pop(part), access) for each in others for part in each.parts if part in located]
    read, faults = _read(located, access)
    sources = {str(part): each for part, each in read.items()}
    for part, merge in merges.items():
        read[part] = merge.base
        sources |= {name: each for name, each in merge.sources if name not in sources}
    if problems := [*problems, *faults]:
        return problems
    base = _base(base_reference, read, written=recipe.base_model is not None)
    if isinstance(base, list):
        return base
    deltas = deltas and not recipe.slices  # layers of a slice may lie elsewhere in the base
    models: dict[str, Checkpoint] = {}
    names: dict[str, Named] = {}
    first: dict[tuple[str, ...], str] = {}  # by the folders of a model: its first name in the recipe
    for reference in references:
        name = str(reference)
        found = _model(reference, base_reference, base, read, deltas=deltas)
        if isinstance(found, list):
            problems += found
        elif (other := first.setdefault(_folders(reference, base_reference, read), name)) != name:
            problems.append(Problem(quoted(name), "each model once", f"the same as {quoted(other)}"))
        elif isinstance(under := named(recipe, base, name, found), list):
            problems += under
        else:
            models[name] = under.model
            names[name] = under
    if problems:
        return shorten(problems)
    of_bases = {str(reference): models.pop(str(reference)) for reference in recipe.bases}
    apart = {str(part): each for part, each in read.items()}
    return Inputs(
        base,
        models,
        tuple(sources.items()),
        of_bases,
        {name: each.own for name, each in names.items()},
        tuple(note for each in names.values() for note in each.notes),
        tuple(warning for each in names.values() for warning in each.warnings),
        next(iter(tokenizers), None),
        apart,
    )


def not_found(recipe: Recipe, access: Access) -> list[Problem]:
    """The models and adapters of a recipe that are nowhere to be found."""
    merges = {ModelRef.parse(each.name) for each in recipe.documents}
    everyone = dict.fromkeys(reference for each in (*recipe.documents, recipe) for reference in each.references)
    everyone |= dict.fromkeys(of for each in (*recipe.documents, recipe) if (of := each.tokenizer_of))
    return _located(recipe, everyone, access, merges)[1]


def open_model(reference: ModelRef, access: Access) -> Checkpoint:
    """The checkpoint that a reference without an adapter names.

    Raises:
        CheckpointError: it cannot be found, or all that is wrong with it.
        MissingExtraError: as for `locate`.
    """
    return formats.read(_place(reference, access), access)


def _folder(path: str, access: Access) -> Checkpoint:
    """A folder of which nothing but its tokenizer is read."""
    alone = Checkpoint(path, (), {}, None, follow_links=access.follow_links)
    return replace(alone, config=read_object(alone, CONFIG))


def _place(part: ModelRef, access: Access) -> str:
    """Where a model lies: at the commit that is asked for, or, where that is gone, as the recipe says."""
    where = partial(locate, part, download=access.download, folder=access.folder)
    if str(part) in access.commits:
        with suppress(CheckpointError):
            return where(commits=access.commits)
    return where()


def _located(
    recipe: Recipe, references: Iterable[ModelRef], access: Access, merges: Collection[ModelRef] = ()
) -> tuple[dict[ModelRef, str], list[Problem]]:
    """The directory of each model and adapter of all references; faults with their places in the recipe."""
    found: dict[ModelRef, str] = {}
    faults: dict[ModelRef, tuple[Problem, ...]] = {}
    for part in dict.fromkeys(part for reference in references for part in reference.parts):
        if part in merges:
            continue
        try:
            found[part] = _place(part, access)
        except SdmwError as error:
            faults[part] = error.problems
    for part in ambiguous(found, access.folder):
        mend = f"Keep the folder above it: {os.path.join(access.folder or '', part.path)}"
        lacking = (
            f"no such directory in {quoted(access.folder)}, but elsewhere one of this name, which may be another input"
        )
        faults[part] = (Problem(quoted(str(part)), "", lacking, mend),)
        del found[part]
    named = places(recipe) if faults else {}
    problems = [
        replace(problem, where=f"{named[part]}: {problem.where}" if part in named else problem.where)
        for part, problems in faults.items()
        for problem in problems
    ]
    return found, problems


def _read(located: Mapping[ModelRef, str], access: Access) -> tuple[dict[ModelRef, Checkpoint], list[Problem]]:
    """The models and adapters, each by itself, and all that is wrong with any of them."""
    found: dict[ModelRef, Checkpoint] = {}
    problems: list[Problem] = []
    for part, folder in located.items():
        try:
            found[part] = with_aliases(formats.read(folder, access))
        except SdmwError as error:
            problems += error.problems
    return found, problems


def _base(reference: ModelRef, read: Mapping[ModelRef, Checkpoint], *, written: bool) -> Checkpoint | list[Problem]:
    """The base; `written`: the recipe names it as such, and it is not only the first of the models."""
    base = read[reference.alone]
    if base.adapts is not None:
        what = "its model as base_model" if written else "base_model"
        mend = f"Write {what}: the adapter was trained on {quoted(base.adapts)}" if base.adapts else f"Write {what}"
        return [Problem(base.path, "a model as the base", "an adapter", mend)]
    if reference.adapter is None:
        return base
    on_it = put_on(read[reference.adapter], base, reference.alone, meant=True, deltas=False)
    return on_it if isinstance(on_it, list) else replace(on_it, path=base.path, adapts=None)


def _model(
    reference: ModelRef,
    base_reference: ModelRef,
    base: Checkpoint,
    read: Mapping[ModelRef, Checkpoint],
    *,
    deltas: bool,
) -> Checkpoint | list[Problem]:
    """What a reference comes to; an adapter without a model is put on the base."""
    model = read[reference.alone]
    if reference.adapter is None and model.adapts is None:
        return base if reference == base_reference else model
    if reference.adapter is None:
        return put_on(model, base, base_reference, meant=False, deltas=deltas)
    on = base if reference.alone == base_reference else model
    same = on is base or (base_reference.adapter is None and on.path == base.path and on.written and base.written)
    return put_on(read[reference.adapter], on, reference.alone, meant=True, deltas=deltas and same)


def _folders(reference: ModelRef, base_reference: ModelRef, read: Mapping[ModelRef, Checkpoint]) -> tuple[str, ...]:
    """The folders that a model consists of: equal for one model that the Hub cache has under two revisions, too.

    A document has its name, as its folder is its base's.
    """
    on_base = reference.adapter is None and read[reference.alone].adapts is not None
    parts = (*base_reference.parts, reference) if on_base else reference.parts
    return tuple(read[part].path if read[part].written else str(part) for part in parts)


def put_on(
    adapter: Checkpoint, on: Checkpoint, called: ModelRef, *, meant: bool, deltas: bool
) -> Checkpoint | list[Problem]:
    """An adapter on a model, or all that prevents it."""
    if adapter.adapts is None or on.adapts is not None:
        wrong, expected = (adapter, "an adapter") if adapter.adapts is None else (on, "a model")
        found = "a model" if adapter.adapts is None else "an adapter"
        return [Problem(wrong.path, f"{expected} in model+adapter", found)]
    from sdmw.views.adapter import wrong_base
    from sdmw.views.expert_adapter import adapted_with_experts

    found_on = adapted_with_experts(adapter, on, called, deltas=deltas)
    problems, warnings = wrong_base(adapter, on, called, meant=meant)
    if isinstance(found_on, list) or problems:
        return [*problems, *(found_on if isinstance(found_on, list) else [])]
    return replace(found_on, warnings=(*found_on.warnings, *warnings))
