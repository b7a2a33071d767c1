"""The files beside the output's weights: the base's, but for those that the recipe takes from another model."""

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from sdmw.checkpoints.chat_template import JSON, is_template, template_files, templates_of
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.json_files import GENERATION, LARGEST, TOKENIZER
from sdmw.checkpoints.tokenizer import is_of_tokenizer
from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.planning.chat_template import with_templates
from sdmw.planning.differences import differences
from sdmw.planning.inputs import Inputs
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import Recipe
from sdmw.storage.files import listing, read_bounded
from sdmw.storage.pointers import FETCH, IS_POINTER, is_pointer
from sdmw.writing.side_files import choose, missed, remarks

UNWANTED = "the call leaves it out"
_BASES_SETTINGS = "Put it right, or write generation_config: base"


@dataclass(frozen=True, slots=True)
class Beside:
    """Files beside the weights.

    Attributes:
        copied: paths in the base's folder that are copied.
        skipped: paths in it that are not, each with the reason.
        written: the content of other files, by path; what the recipe takes from models other than the base.
        problems: why the recipe's wishes cannot be met.
        warnings, notes: what a person should know of these files, one sentence each.
    """

    copied: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    written: Mapping[str, bytes] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def less(self, without: Collection[str]) -> "Beside":
        """Without the files of the tokenizer, where the caller wants none."""
        if "tokenizer" not in without:
            return self
        left = tuple(path for path in self.copied if is_of_tokenizer(path) or is_template(path))
        return replace(
            self,
            copied=tuple(path for path in self.copied if path not in left),
            skipped=tuple(sorted((*self.skipped, *((path, UNWANTED) for path in left)))),
        )


def files_beside(recipe: Recipe, inputs: Inputs) -> Beside:
    """What stands beside the weights of a merged model."""
    base = inputs.base
    try:
        copied, skipped = choose(base.path, follow_links=base.follow_links)
    except CheckpointError as error:
        return Beside(problems=error.problems)
    taken = (
        _taken("chat_template", recipe.chat_template, inputs, lambda model: _templates(base, model)),
        _taken("generation_config", recipe.generation_config, inputs, _generation),
    )
    written = {path: content for each in taken for path, content in each.written.items()}
    if taken[0].written:
        copied = [path for path in copied if not is_template(path)]
    differing = differences(recipe, inputs)
    return Beside(
        copied=tuple(path for path in copied if path not in written),
        skipped=tuple(skipped),
        written=written,
        problems=(
            *missed(base.path, skipped, follow_links=base.follow_links),
            *(problem for each in taken for problem in each.problems),
        ),
        warnings=(*differing.warnings, *remarks(base.path, copied, skipped)),
        notes=differing.notes,
    )


def _taken(field_name: str, name: str, inputs: Inputs, look: Callable[[Checkpoint], dict[str, bytes]]) -> Beside:
    """What a field of the recipe takes from a model: `look` gives its files; an adapter's come first."""
    if name == "base":
        return Beside()
    found = dict(inputs.sources)
    try:
        for part in reversed(ModelRef.parse(name).parts):
            if files := look(found[str(part)]):
                return Beside(written=files)
    except CheckpointError as error:
        return Beside(problems=error.problems)
    lacking = f"model {quoted(name)} has none"
    return Beside(problems=(Problem(f"recipe: {field_name}", "", lacking, f"Write {field_name}: base"),))


def _templates(base: Checkpoint, model: Checkpoint) -> dict[str, bytes]:
    """The output's templates, of a model's; CheckpointError where one of its files is not there but for a pointer."""
    for path in template_files(model) or sorted({JSON, TOKENIZER} & listing(model.path)):
        _whole(model, path)
    templates = templates_of(model)
    return with_templates(base, templates) if templates else {}


def _generation(model: Checkpoint) -> dict[str, bytes]:
    """A model's generation_config.json, byte for byte; CheckpointError where it would not load."""
    if GENERATION not in listing(model.path):
        return {}
    content = _whole(model, GENERATION)
    where = os.path.join(model.path, GENERATION)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError([Problem(where, "", f"not JSON: {said}", _BASES_SETTINGS)]) from error
    if not isinstance(found, dict):
        raise CheckpointError([Problem(where, "an object", f"{type(found).__name__}", _BASES_SETTINGS)])
    return {GENERATION: content}


def _whole(model: Checkpoint, path: str) -> bytes:
    """The content of a small file; CheckpointError where it is a pointer to it."""
    content = read_bounded(model.path, path, LARGEST, follow_links=model.follow_links)
    if is_pointer(content):
        raise CheckpointError([Problem(os.path.join(model.path, path), "the file", IS_POINTER, FETCH)])
    return content
