"""What the tokens of an output change in its config.json, and what a person should know of them."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._config import CONFIG
from sdmw.checkpoints.json_files import read_object
from sdmw.checkpoints.token_ids import renumbered
from sdmw.checkpoints.tokens import texts_of
from sdmw.checkpoints.vocab_size import resized
from sdmw.errors import Problem, quoted
from sdmw.planning.output_tokens import Vocabularies
from sdmw.recipes.recipe import Recipe
from sdmw.sizes import are, counted
from sdmw.views.vocabulary import BASE, Tally, vocabulary_tensors


@dataclass(frozen=True, slots=True)
class ChangedConfig:
    """What the output's config.json says otherwise than the base's.

    Attributes:
        values: by key.
        warnings: on tokens that are gone.
        problems: likewise, where the model cannot do without.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def changed_config(name: str, base: Checkpoint, found: Vocabularies, merged: Checkpoint) -> ChangedConfig:
    """What the tokens of the output change in config.json.

    Args:
        name: the base's in the recipe.
        base: as it is.
        found: the tokens of the output.
        merged: the base with the output's rows.
    """
    config = base.config or {}
    new = renumbered(config, found.of[BASE], found.tokens, read_object(found.source, CONFIG))
    heights = (
        merged.tensors[name].shape[0]
        for name, tensor in vocabulary_tensors(base).items()
        if merged.tensors[name].shape != tensor.shape
    )
    changed = resized(new.config, rows) if (rows := next(heights, None)) else new.config
    return ChangedConfig(
        dict(_differences(config, changed)),
        tuple(lost_tokens(CONFIG, new.lost)),
        tuple(_needed(name, base, key, found, token) for key, token in new.needed.items()),
    )


def _needed(name: str, base: Checkpoint, key: str, found: Vocabularies, token: int) -> Problem:
    added = found.of[BASE].added.get(token)
    text = added["content"] if added else texts_of(base, {token}).get(token, "")
    entry = json.dumps({text: {"source": name}}, ensure_ascii=False)
    mend = f"Add it in the recipe, under tokenizer, beside its source: tokens: {entry}"
    where = f"{os.path.join(base.path, CONFIG)}: {key}"
    return Problem(where, "a token of the output", f"{quoted(text)}, which the output lacks", mend)


def lost_tokens(file: str, keys: Sequence[str]) -> Iterator[str]:
    """A warning on keys of a file whose tokens the output does not have."""
    if keys:
        yield f"{file}: {', '.join(keys)}: the output lacks these tokens, so these keys name none"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, value, f"{at}{key}.")
        elif value != before:
            yield f"{at}{key}", value


def unknown_tokens(tallies: Mapping[str, Tally]) -> Iterator[str]:
    """A warning where tokens of the output are known to no input."""
    if most := max((tally.zero for tally in tallies.values()), default=0):
        have, zero = are(most, "has", "have"), are(most, "it is", "they are")
        yield f"{counted(most, 'row')} of the vocabulary {have} no token, or one that no model has: {zero} zero"


def said(recipe: Recipe, found: Vocabularies, tallies: Mapping[str, Tally], spare: int) -> Iterator[str]:
    """Notes on the tokens of the output, and on where each input's rows come from."""
    for name, tally in tallies.items():
        parts = {
            "its own": tally.own, "from other models": tally.taken, "means of other models": tally.mean,
            "zero": tally.zero, "the mean of all, as padding": tally.padding,
        }  # fmt: skip
        whose = f"model {quoted(name)}" if name else "the base"
        listed = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
        yield f"{whose}: rows of its vocabulary: {listed}"
    if spare:
        yield f"tokenizer: all inputs have {spare:,} rows after the tokens; these rows are kept and merged like others"
    if found.added:
        whose = "the base" if recipe.tokenizer_of is None else f"model {quoted(str(recipe.tokenizer_of))}"
        yield f"tokenizer: {len(found.added):,} tokens are added to those of {whose}"
    for name in found.without:
        yield f"model {quoted(name)} has no tokenizer; the base's is assumed"
