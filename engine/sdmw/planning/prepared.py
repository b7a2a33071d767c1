"""A recipe whose inputs are open: what a plan is made from, and made from again once heads are compared."""

from collections.abc import Collection
from dataclasses import dataclass

from sdmw.errors import PlanError, Problem
from sdmw.methods import all_methods
from sdmw.planning.beside import Beside, files_beside
from sdmw.planning.build import Options, build
from sdmw.planning.explain import Explanation, explain
from sdmw.planning.inputs import Inputs, open_inputs
from sdmw.planning.plan import Plan
from sdmw.recipes.recipe import Recipe
from sdmw.storage.access import Access
from sdmw.writing.target import check_target


@dataclass(frozen=True, slots=True)
class Prepared:
    """Recipe, inputs and options.

    Attributes:
        recipe: as loaded.
        inputs: the tables that it names; or all that is wrong with them.
        beside: the files beside the weights of a model.
        options: what the caller asks for beside the recipe.
    """

    recipe: Recipe
    inputs: Inputs | tuple[Problem, ...]
    beside: Beside
    options: Options

    def plan(self, untie: Collection[str] = ()) -> Plan:
        """The plan, with every problem that headers, disk and memory can tell.

        Args:
            untie: heads that are written though the base ties them, because an input's differs from its embedding.
        """
        recipe, options = self.recipe, self.options
        if isinstance(self.inputs, Inputs):
            return build(
                recipe, all_methods()[recipe.merge_method], self.inputs, self.beside, options, frozenset(untie)
            )
        of_target = check_target(options.target, (), 0, options.overwrite) if options.target is not None else ()
        names = tuple(str(entry.model) for entry in recipe.models)
        return Plan(recipe, names, problems=(*self.inputs, *of_target), notes=recipe.notes)

    def explain(self, tensor: str) -> Explanation:
        """What one tensor of the output is made from.

        Raises:
            PlanError: there is no such tensor, or all that is wrong with the inputs.
        """
        if not isinstance(self.inputs, Inputs):
            raise PlanError(self.inputs)
        return explain(self.recipe, all_methods()[self.recipe.merge_method], self.inputs, tensor)


def prepare(recipe: Recipe, options: Options, access: Access) -> Prepared:
    """Open the inputs of a recipe, as far as `access` goes."""
    takes = all_methods()[recipe.merge_method].takes
    inputs = open_inputs(recipe, access, deltas=takes == "deltas" and recipe.base_model is not None)
    if isinstance(inputs, list):
        return Prepared(recipe, tuple(inputs), Beside(), options)
    return Prepared(recipe, inputs, files_beside(recipe, inputs), options)
