"""Where a recipe names a model, for faults that show only when its directory is looked for."""

from sdmw.errors import RecipeError
from sdmw.recipes import documents, yaml
from sdmw.recipes.findings import Findings
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.models import read_references
from sdmw.recipes.recipe import Recipe
from sdmw.recipes.slices import given_slices


def places(recipe: Recipe) -> dict[ModelRef, str]:
    """The first place of each model and adapter: `recipe.yaml:4:5: models.0.model`, or the field alone without a file.

    The text is read again: only faults ask for places.
    """
    found: dict[ModelRef, str] = {}
    for text in documents.parts(recipe.text):
        findings = Findings(recipe.file)
        try:
            data = yaml.tree(text, findings)
            if not isinstance(data, dict):
                continue
            references = read_references(data, given_slices(data), findings, ignore_unknown=True)
        except RecipeError:  # the text of a recipe that was changed by hand
            continue
        for path, reference in references.items():
            for part in reference.parts:
                found.setdefault(part, findings.place(path))
    return found
