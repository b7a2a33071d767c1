"""A recipe whose inputs are open: what a plan is made from, and made from again once heads are compared."""

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdmw.addresses import is_remote
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import PlanError, Problem, SdmwError, quoted
from sdmw.methods import all_methods
from sdmw.planning.beside import Beside, files_beside
from sdmw.planning.build import Options, build
from sdmw.planning.inputs import Inputs, open_inputs
from sdmw.planning.output_tokens import Vocabularies
from sdmw.planning.plan import Plan
from sdmw.planning.unmade import unmade
from sdmw.planning.vocabularies import vocabularies
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import Recipe
from sdmw.storage.access import Access
from sdmw.writing.address_target import check_address
from sdmw.writing.target import check_target

if TYPE_CHECKING:
    from sdmw.planning.explain import Explanation


@contextmanager
def _all_kept() -> Iterator[None]:
    """Nothing that planning makes is in a cycle: looking for some among a million objects takes a third of its time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Recipe, inputs and options.

    Attributes:
        recipe: as loaded.
        inputs: the tables that it names; or all that is wrong with them.
        beside: the files beside the weights of a model.
        options: what the caller asks for beside the recipe.
        access: how far reading may go.
        vocabularies: the tokens of the output, where the recipe asks for others than the base's.
    """

    recipe: Recipe
    inputs: Inputs | tuple[Problem, ...]
    beside: Beside
    options: Options
    access: Access
    vocabularies: Vocabularies | None = None

    @_all_kept()
    def plan(self, untie: Collection[str] = ()) -> Plan:
        """The plan, with every problem that headers, disk and memory can tell.

        Args:
            untie: heads that are written though the base ties them, because an input's differs from its embedding.
        """
        recipe, options = self.recipe, self.options
        if isinstance(self.inputs, Inputs):
            return build(
                recipe,
                all_methods()[recipe.merge_method],
                self.inputs,
                self.beside,
                options,
                frozenset(untie),
                self.vocabularies,
            )
        of_target = _wrong_with(options.target, options.overwrite) if options.target is not None else []
        names = tuple(str(entry.model) for entry in recipe.models)
        return Plan(recipe, names, problems=(*self.inputs, *of_target), notes=recipe.notes)

    def explain(self, tensor: str) -> "Explanation":
        """What one tensor of the output is made from.

        Raises:
            PlanError: there is no such tensor, or all that is wrong with the inputs.
        """
        if not isinstance(self.inputs, Inputs):
            raise PlanError(self.inputs)
        method = all_methods()[self.recipe.merge_method]
        from sdmw.planning.explain import explain

        return explain(self.recipe, method, self.inputs, self.vocabularies, tensor)


def prepare(recipe: Recipe, options: Options, access: Access) -> Prepared:
    """Open the inputs of a recipe, as far as `access` goes; documents that it uses are planned and not decided."""
    return made(recipe, options, access, lambda prepared: unmade(_sound(prepared.plan())))


def made(recipe: Recipe, options: Options, access: Access, make: Callable[[Prepared], Checkpoint]) -> Prepared:
    """Open the inputs of a recipe.

    Args:
        recipe: as loaded.
        options: what the caller asks for.
        access: how far reading may go.
        make: what a document comes to that the recipe uses; PlanError where that has problems.
    """
    merges: dict[ModelRef, Inputs] = {}
    for document in recipe.documents:
        unwritten = replace(options, target=None, without=frozenset())
        prepared = _opened(document, unwritten, access, merges)
        try:
            checkpoint = make(prepared)
            if isinstance(prepared.inputs, Inputs):
                checkpoint = replace(checkpoint, files=prepared.beside.files(prepared.inputs.base))
        except SdmwError as error:
            named = [replace(each, where=f"document {quoted(document.name)}: {each.where}") for each in error.problems]
            return Prepared(recipe, tuple(named), Beside(), options, access)
        assert isinstance(prepared.inputs, Inputs)
        merges[ModelRef.parse(document.name)] = Inputs(checkpoint, {}, prepared.inputs.sources)
    return _opened(recipe, options, access, merges)


@_all_kept()
def _opened(recipe: Recipe, options: Options, access: Access, merges: Mapping[ModelRef, Inputs]) -> Prepared:
    takes = all_methods()[recipe.merge_method].takes
    used = {part: merges[part] for each in recipe.references for part in each.parts if part in merges}
    deltas = takes == "deltas" and recipe.base_model is not None
    inputs = open_inputs(recipe, access, deltas=deltas, merges=used)
    if isinstance(inputs, list):
        return Prepared(recipe, tuple(inputs), Beside(), options, access)
    found = vocabularies(recipe, inputs)
    if isinstance(found, list):
        return Prepared(recipe, tuple(found), Beside(), options, access)
    return Prepared(recipe, inputs, files_beside(recipe, inputs, found), options, access, found)


def _wrong_with(target: str, overwrite: bool) -> Sequence[Problem]:
    """All that is wrong with the place of an output whose inputs and size are unknown."""
    if is_remote(target):
        return check_address(target, (), overwrite).problems
    return check_target(target, (), 0, overwrite)


def _sound(plan: Plan) -> Plan:
    if plan.problems:
        raise PlanError(plan.problems)
    return plan
