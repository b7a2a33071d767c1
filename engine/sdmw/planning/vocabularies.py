"""The tokens of the output, and which rows of the inputs are theirs: what `tokenizer` of a recipe asks for.

Source: METHODS.md, section 8.
"""

import os
from collections.abc import Mapping, Sequence

from sdmw.checkpoints.beside import names
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.tokenizer import FAST, has_tokenizer
from sdmw.checkpoints.tokens import CONVERT, Tokens, digest_of, read_tokens
from sdmw.checkpoints.vocab_size import vocab_size
from sdmw.errors import CheckpointError, Problem, shorten
from sdmw.planning.inputs import Inputs
from sdmw.planning.output_tokens import OutputTokens, Vocabularies
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import Recipe, Vocabulary
from sdmw.views.vocabulary import BASE, heights_of, vocabulary_tensors

_WHERE = "recipe: tokenizer"


def vocabularies(recipe: Recipe, inputs: Inputs) -> Vocabularies | list[Problem] | None:
    """What the recipe's `tokenizer` comes to; None where it says nothing, or nothing that a tokenizer must be read for.

    Args:
        recipe: as loaded.
        inputs: what it names.

    Returns:
        Or all that is wrong with tokenizers and with what the recipe says of tokens.
    """
    wanted = recipe.tokenizer
    if wanted is None:
        return None
    named = {BASE: inputs.base, **inputs.models, **inputs.bases}
    folders = _folders(recipe, inputs)
    own_source = recipe.tokenizer_of
    source = inputs.base if own_source is None else inputs.tokenizer or _folder_of(own_source, inputs)
    if wanted == Vocabulary("base") and not any(map(has_tokenizer, folders.values())):
        return None  # rows that differ are found where shapes are compared
    if wanted in (Vocabulary("base"), Vocabulary("union")) and _are_alike(named, folders):
        return None
    read, problems = _read([inputs.base, source, *folders.values()])
    problems += [_none(each) for each in (inputs.base, source) if read.get(each.place, ...) is None]
    if problems:
        return shorten(list(dict.fromkeys(problems)))
    tokens = {name: _tokens_of(named[name], read[folders[name].place] or read[inputs.base.place]) for name in named}
    whole = read[source.place]
    assert whole is not None  # else there was a problem
    known = tokens[BASE] if own_source is None else _tokens_of(source, whole)
    made = OutputTokens(wanted, known, whole, tokens, folders)
    return made.vocabularies(named, source, tuple(n for n in named if n and read[folders[n].place] is None))


def _folders(recipe: Recipe, inputs: Inputs) -> dict[str, Checkpoint]:
    """By input, the folder that its tokenizer lies in: an adapter's, if there is one in it, else its model's."""
    references = {str(reference): reference for reference in recipe.references}
    names = (*inputs.models, *inputs.bases)
    return {BASE: inputs.base, **{name: _folder_of(references[name], inputs) for name in names}}


def _folder_of(reference: ModelRef, inputs: Inputs) -> Checkpoint:
    parts = [inputs.parts[str(part)] for part in reversed(reference.parts)]
    found = next((part for part in parts if has_tokenizer(part)), parts[-1])
    return inputs.base if found.adapts is not None and not has_tokenizer(found) else found


def _are_alike(named: Mapping[str, Checkpoint], folders: Mapping[str, Checkpoint]) -> bool:
    """Whether all inputs have the same tokens, by the bytes of their files, and as many rows: then nothing moves."""
    if FAST not in names(folders[BASE]) or any(len(heights) > 1 for heights in heights_of(named).values()):
        return False
    try:
        return len({digest_of(each) for each in folders.values() if has_tokenizer(each)}) == 1
    except CheckpointError:
        return False  # told where they are read


def _read(folders: Sequence[Checkpoint]) -> tuple[dict[tuple[str, int], Tokens | None], list[Problem]]:
    """The tokens in each folder, by place; None where it has no tokenizer."""
    found: dict[tuple[str, int], Tokens | None] = {}
    problems: list[Problem] = []
    same: dict[bytes, Tokens | None] = {}  # most fine-tunes have the base's files
    for folder in {each.place: each for each in folders}.values():
        try:
            if (digest := digest_of(folder)) not in same:
                same[digest] = read_tokens(folder)
            found[folder.place] = same[digest]
        except CheckpointError as error:
            problems += error.problems
    return found, problems


def _none(folder: Checkpoint) -> Problem:
    where = os.path.join(folder.path, FAST)
    return Problem(where, "a tokenizer, as the recipe aligns vocabularies", "none", CONVERT)


def _tokens_of(checkpoint: Checkpoint, tokens: Tokens | None) -> Tokens:
    """The tokens that have rows."""
    assert tokens is not None  # else there were problems
    heights = [tensor.shape[0] for tensor in vocabulary_tensors(checkpoint).values()]
    size = vocab_size(checkpoint.config)
    return tokens.below(min([*heights, *([size] if size else [])], default=2**31))
