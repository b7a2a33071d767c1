"""Finds and reads the headers of every input; all that is wrong with any of them is collected."""

from dataclasses import dataclass

from sdmw.checkpoints import formats
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.locate import locate
from sdmw.errors import Problem, SdmwError
from sdmw.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Inputs:
    """The checkpoints of a recipe.

    Attributes:
        base: whose tensor names, config and tokenizer the output has.
        models: what is merged, by its name in the recipe, in order.
    """

    base: Checkpoint
    models: dict[str, Checkpoint]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Each once, the base's first."""
        return tuple({checkpoint.path: checkpoint for checkpoint in (self.base, *self.models.values())}.values())


def open_inputs(recipe: Recipe, *, download: bool, header_limit: int) -> Inputs | list[Problem]:
    """The recipe's checkpoints, or everything that is wrong with them.

    Args:
        recipe: as loaded.
        download: models that are not on this machine may be fetched from the Hub.
        header_limit: bytes that a shard's header may have.
    """
    names = [entry.model for entry in recipe.models]
    base_name = recipe.base_model or names[0]
    read: dict[str, Checkpoint] = {}
    problems: list[Problem] = []
    for name in dict.fromkeys([base_name, *names]):
        try:
            read[name] = formats.read(locate(name, download=download), header_limit=header_limit)
        except SdmwError as error:
            problems += error.problems
    return problems or Inputs(read[base_name], {name: read[name] for name in names})
