"""What the tokens of an output change in its config.json, and what a person should know of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._config import CONFIG
from sdmw.checkpoints.json_files import read_object
from sdmw.checkpoints.token_ids import renumbered
from sdmw.checkpoints.vocab_size import resized
from sdmw.errors import quoted
from sdmw.planning.output_tokens import Vocabularies
from sdmw.recipes.recipe import Recipe
from sdmw.sizes import are, counted
from sdmw.views.vocabulary import BASE, Tally, vocabulary_tensors


def changed_config(base: Checkpoint, found: Vocabularies) -> dict[str, Any]:
    """What the output's config.json says otherwise than the base's, by key: rows, and numbers of tokens."""
    config = base.config or {}
    total = found.rows.rows + found.rows.padding
    heights = [tensor.shape[0] for tensor in vocabulary_tensors(base).values()]
    new = renumbered(config, found.of[BASE], found.tokens, read_object(found.source, CONFIG))
    if heights and heights[0] != total:
        new = resized(new, total)
    return dict(_differences(config, new))


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


def said(recipe: Recipe, found: Vocabularies, tallies: Mapping[str, Tally]) -> Iterator[str]:
    """Notes on the tokens of the output, and on where each input's rows come from."""
    for name, tally in tallies.items():
        parts = {
            "its own": tally.own, "of others": tally.taken, "means of others": tally.mean, "zero": tally.zero,
            "the mean of all, as padding": tally.padding,
        }  # fmt: skip
        whose = f"model {quoted(name)}" if name else "the base"
        listed = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
        yield f"{whose}: rows of its vocabulary: {listed}"
    if found.spare:
        yield f"tokenizer: {found.spare:,} rows behind the tokens, which all have, are kept and merged like others"
    if found.added:
        whose = "the base" if recipe.tokenizer_of is None else f"model {quoted(str(recipe.tokenizer_of))}"
        yield f"tokenizer: {len(found.added):,} tokens are added to those of {whose}"
    for name in found.without:
        yield f"model {quoted(name)} has no tokenizer: its tokens count as the base's"
