"""The files beside the output's weights: the base's, but for those that the recipe takes from another model."""

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from sdmw.checkpoints import beside
from sdmw.checkpoints.chat_template import JSON, is_template, template_files, templates_of
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.json_files import GENERATION, LARGEST, TOKENIZER, read_object
from sdmw.checkpoints.token_ids import renumbered
from sdmw.checkpoints.tokenizer import is_of_tokenizer
from sdmw.checkpoints.tokenizer_files import with_added
from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.planning.chat_template import with_templates
from sdmw.planning.differences import differences
from sdmw.planning.inputs import Inputs
from sdmw.planning.output_tokens import Vocabularies
from sdmw.planning.vocabulary_notes import lost_tokens
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.models import AUTO
from sdmw.recipes.recipe import Recipe
from sdmw.storage.files import read_bounded
from sdmw.storage.pointers import FETCH, IS_POINTER, is_pointer
from sdmw.views.vocabulary import BASE
from sdmw.writing.chat_format import NAMES, chat_format
from sdmw.writing.side_files import LARGEST as MOST
from sdmw.writing.side_files import choose, missed, remarks

UNWANTED = "the call excludes it"
_BASES_SETTINGS = "Correct the file, or write `generation_config: base` in the recipe"


@dataclass(frozen=True, slots=True)
class Beside:
    """Files beside the weights.

    Attributes:
        copied: paths in the base's folder that are copied.
        skipped: paths in it that are not, each with the reason.
        written: the content of other files, by path; what the recipe takes from models other than the base.
        tokenizer_from: the folder of another model whose tokenizer the output has, and whether its links are followed.
        tokenizer_files: paths in it that are copied.
        problems: why the recipe's wishes cannot be met.
        warnings, notes: what a person should know of these files, one sentence each.
    """

    copied: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    written: Mapping[str, bytes] = field(default_factory=dict)
    tokenizer_from: tuple[str, bool] | None = None
    tokenizer_files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def files(self, base: Checkpoint) -> dict[str, bytes | None]:
        """What a merge that is not written has otherwise than the base's folder; None for what it lacks.

        Raises:
            CheckpointError: a file of the tokenizer cannot be read.
        """
        found: dict[str, bytes | None] = {
            path: None for path in beside.names(base) if _is_of_tokenizer(path) and path not in self.copied
        }
        if self.tokenizer_from is not None:
            folder, links = self.tokenizer_from
            found |= {path: read_bounded(folder, path, MOST, follow_links=links) for path in self.tokenizer_files}
        return {**found, **self.written}

    def less(self, without: Collection[str]) -> "Beside":
        """Without the files of the tokenizer, where the caller wants none."""
        if "tokenizer" not in without:
            return self
        left = tuple(filter(_is_of_tokenizer, (*self.copied, *self.tokenizer_files, *self.written)))
        return replace(
            self,
            copied=tuple(path for path in self.copied if path not in left),
            written={path: content for path, content in self.written.items() if path not in left},
            tokenizer_files=(),
            skipped=tuple(sorted((*self.skipped, *((path, UNWANTED) for path in left)))),
        )


def files_beside(recipe: Recipe, inputs: Inputs, vocabularies: Vocabularies | None = None) -> Beside:
    """What stands beside the weights of a merged model.

    Args:
        recipe: as loaded.
        inputs: what it names.
        vocabularies: the tokens of the output, where the recipe asks for others than the base's.
    """
    base = inputs.base
    source = base if vocabularies is None else vocabularies.source
    try:
        copied, skipped = choose(base.path, follow_links=base.follow_links)
        files = choose(source.path, follow_links=source.follow_links)[0] if source.place != base.place else []
        added = with_added(source, vocabularies.added) if vocabularies and vocabularies.added else {}
    except CheckpointError as error:
        return Beside(problems=error.problems)
    written = {path: own for path, own in base.files.items() if own is not None}
    copied = [path for path in copied if path not in base.files]
    if source.place != base.place:
        files = [path for path in files if _is_of_tokenizer(path) and path not in source.files]
        theirs = {path: own for path, own in source.files.items() if own is not None and _is_of_tokenizer(path)}
        copied = [path for path in copied if not _is_of_tokenizer(path)]
        written = {path: own for path, own in written.items() if not _is_of_tokenizer(path)} | theirs
    written |= added
    taken = (
        _chat_template(recipe, inputs, source, written),
        _taken("generation_config", recipe.generation_config, inputs, _generation),
    )
    written |= {path: content for each in taken for path, content in each.written.items()}
    if taken[0].written:
        copied, files = ([path for path in paths if not is_template(path)] for paths in (copied, files))
    lost: tuple[str, ...] = ()
    if vocabularies:
        found, lost = _renumbered(recipe.generation_config, base, written.get(GENERATION), vocabularies)
        written |= found
    differing = differences(recipe, inputs, source)
    return Beside(
        copied=tuple(path for path in copied if path not in written),
        skipped=tuple(skipped),
        written=written,
        tokenizer_from=(source.path, source.follow_links) if files else None,
        tokenizer_files=tuple(path for path in files if path not in written),
        problems=(
            *missed(base.path, skipped, follow_links=base.follow_links),
            *(problem for each in taken for problem in each.problems),
        ),
        warnings=(*differing.warnings, *remarks(base.path, copied, skipped), *lost_tokens(GENERATION, lost)),
        notes=differing.notes,
    )


def _is_of_tokenizer(path: str) -> bool:
    return is_of_tokenizer(path) or is_template(path)


def _renumbered(
    name: str, base: Checkpoint, content: bytes | None, vocabularies: Vocabularies
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """generation_config.json, where its tokens have other numbers now, and its keys that name a token no more.

    Args:
        name: the model that the recipe takes it from, or "base".
        base: the base.
        content: the file, if it is not the base's.
        vocabularies: the tokens.
    """
    config = read_object(base, GENERATION) if content is None else json.loads(content)
    instead = read_object(vocabularies.source, GENERATION)
    old = vocabularies.of.get(name) or vocabularies.of[BASE]
    found = renumbered(config, old, vocabularies.tokens, instead)
    if found.config == config:
        return {}, ()
    return {GENERATION: json.dumps(found.config, indent=2).encode() + b"\n"}, found.lost


def _chat_template(recipe: Recipe, inputs: Inputs, source: Checkpoint, written: Mapping[str, bytes]) -> Beside:
    """The templates that the recipe asks for: of a model, of most models, of a format by its name, or as it has it."""
    wanted = recipe.chat_template
    models = {str(each) for reference in recipe.references for each in (reference, *reference.parts)}
    if wanted == "base" or wanted in models:
        return _taken("chat_template", wanted, inputs, lambda model: _templates(source, model, written))
    if wanted == AUTO:
        if (found := _most_frequent(recipe, inputs)) is None:
            mend = "Name a format, as chat_template: chatml"
            return Beside(problems=(Problem("recipe: chat_template", "a model with a chat template", "none", mend),))
    else:
        found = {"default": chat_format(wanted) if wanted in NAMES else wanted}
    return Beside(written=with_templates(source, found, written))


def _most_frequent(recipe: Recipe, inputs: Inputs) -> dict[str, str] | None:
    """The templates that most models have, of as many the first; None where no model has any."""
    order = dict.fromkeys(str(part) for each in (*recipe.references[1:], recipe.donor) for part in each.parts)
    found = [templates for name in order if (templates := templates_of(inputs.parts[name]))]
    return max(found, key=found.count, default=None)


def _taken(field_name: str, name: str, inputs: Inputs, look: Callable[[Checkpoint], dict[str, bytes]]) -> Beside:
    """What a field of the recipe takes from a model: `look` gives its files; an adapter's come first."""
    if name == "base":
        return Beside()
    try:
        for part in reversed(ModelRef.parse(name).parts):
            if files := look(inputs.parts[str(part)]):
                return Beside(written=files)
    except CheckpointError as error:
        return Beside(problems=error.problems)
    lacking = f"model {quoted(name)} has no {field_name}"
    return Beside(problems=(Problem(f"recipe: {field_name}", "", lacking, f"Write {field_name}: base"),))


def _templates(base: Checkpoint, model: Checkpoint, written: Mapping[str, bytes]) -> dict[str, bytes]:
    """The output's templates, of a model's; CheckpointError where one of its files is not there but for a pointer."""
    for path in template_files(model) or sorted({JSON, TOKENIZER} & beside.names(model)):
        _whole(model, path)
    templates = templates_of(model)
    return with_templates(base, templates, written) if templates else {}


def _generation(model: Checkpoint) -> dict[str, bytes]:
    """A model's generation_config.json, byte for byte; CheckpointError where it would not load."""
    if GENERATION not in beside.names(model):
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
    content = beside.content(model, path, LARGEST)
    if is_pointer(content):
        raise CheckpointError([Problem(os.path.join(model.path, path), "the file", IS_POINTER, FETCH)])
    return content
