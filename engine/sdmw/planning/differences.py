"""What configs and tokenizers of the models say otherwise than the base's: the output has the base's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdmw.checkpoints.chat_template import templates_of
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.config_keys import effect_of, on_one_level, plain_keys
from sdmw.checkpoints.depth import follows
from sdmw.checkpoints.json_files import GENERATION, TOKENIZER, read_object
from sdmw.checkpoints.tokenizer import NUMBERS, differing_parts, has_tokenizer, special_tokens
from sdmw.errors import quoted
from sdmw.planning.files_that_differ import file_warnings, pointer_warnings, who_have
from sdmw.planning.inputs import Inputs
from sdmw.planning.labels import label_warnings
from sdmw.planning.two_values import differing, listed
from sdmw.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Differences:
    """One sentence each.

    Attributes:
        warnings: on what the merged model computes, and on its tokens.
        notes: on how text is generated, and on keys whose effect is not known.
    """

    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def differences(recipe: Recipe, inputs: Inputs, tokenizer: Checkpoint) -> Differences:
    """What the files beside the weights of each model say otherwise than the base's; adapters have no config.

    Args:
        recipe: as loaded.
        inputs: what it names.
        tokenizer: the model whose tokenizer the output has.
    """
    base, warnings, notes = inputs.base, [], []
    others = {name: each for name, each in inputs.sources if each.path != base.path}
    for name, model in others.items():
        if model.adapts is None:
            warned, noted = _configs(recipe, name, base.config or {}, model.config or {})
            warnings += warned
            notes += noted
        if model.place != tokenizer.place:
            whose = "base" if tokenizer.path == base.path else str(recipe.tokenizer_of)
            warnings += _tokenizers(name, tokenizer, model, whose, numbers=recipe.tokenizer is None)
    warnings += label_warnings(dict(inputs.sources))
    warnings += _without_tokenizer(tokenizer, others)
    warnings += pointer_warnings(others)
    warnings += file_warnings(base, {name: each for name, each in others.items() if each.adapts is None})
    if recipe.generation_config == "base":
        notes += _generation(base, others)
    if recipe.chat_template == "base" and tokenizer.path == base.path:
        notes += _templates(base, others)
    return Differences(tuple(warnings), tuple(notes))


def _configs(
    recipe: Recipe, name: str, base: Mapping[str, Any], model: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Warnings and notes on one model's config.json; none on what the output has otherwise than the base.

    That is how many layers there are, where they are stacked anew, and numbers of tokens, where the recipe says which.
    """
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    base, model = on_one_level(base, model)
    for key, values in differing(dict(plain_keys(base)), dict(plain_keys(model))).items():
        if not (recipe.slices and follows(key)):
            found.setdefault(effect_of(key), {})[key] = values
    if "model_type" in found.get("mathematics", {}):  # another architecture: its other keys follow from that
        found = {"mathematics": {"model_type": found["mathematics"]["model_type"]}}
    said = {
        "mathematics": "what the model computes; the output computes as the base does",
        "vocabulary": "its tokens; the output has the base's",
        "unknown": "keys whose effect sdmw does not know; the output has the base's",
    }
    lines = {
        effect: f"model {quoted(name)}: its config.json differs from the base's in {about}: {listed(found[effect])}"
        for effect, about in said.items()
        if effect in found
    }
    warned = ("mathematics",) if recipe.tokenizer else ("mathematics", "vocabulary")
    return [lines[each] for each in warned if each in lines], [lines[each] for each in ("unknown",) if each in lines]


def _tokenizers(name: str, own: Checkpoint, model: Checkpoint, whose: str, *, numbers: bool) -> Iterator[str]:
    """Warnings on one model's tokenizer; nothing where it has none of its own.

    Args:
        name: the model's.
        own: whose tokenizer the output has.
        model: the model.
        whose: the name of that other one, or "base".
        numbers: tokens keep their numbers, which must then be the same.
    """
    of = "the base's" if whose == "base" else f"that of {quoted(whose)}"
    parts = differing_parts(own, model, numbers=numbers)
    if any(part in NUMBERS for part in parts):
        yield (
            f"model {quoted(name)}: its tokenizer differs from {of}, which the output gets, and may number tokens "
            "differently; "
            "write `tokenizer_source: base` in the recipe to merge token by token"
        )
    if splits := [part for part in parts if part not in NUMBERS]:
        yield (
            f"model {quoted(name)}: its tokenizer splits text differently from {of}, which the output gets: "
            f"it differs in {', '.join(splits)}"
        )
    theirs = special_tokens(model)
    if theirs and (keys := differing(special_tokens(own), theirs)):
        yield (
            f"model {quoted(name)}: its {TOKENIZER} differs from {of} in special tokens; "
            f"the output gets {of}: {listed(keys)}"
        )


def _without_tokenizer(base: Checkpoint, models: Mapping[str, Checkpoint]) -> Iterator[str]:
    """A warning where models have a tokenizer and the output will have none."""
    having = [] if has_tokenizer(base) else [name for name, model in models.items() if has_tokenizer(model)]
    if having:
        yield f"the base has no tokenizer, so the output has none; {who_have(having, models)} one: copy its files"


def _generation(base: Checkpoint, models: Mapping[str, Checkpoint]) -> Iterator[str]:
    """Notes on generation_config.json: one for all models where they agree, else one for each that differs."""
    ours = _generation_of(base)
    others = {name: found for name, model in models.items() if (found := _generation_of(model))}
    keys_of = {name: differing(ours, found) for name, found in others.items()}
    agreed = len(others) == len(models) > 0 and len({repr(sorted(each.items())) for each in others.values()}) == 1
    for name, keys in keys_of.items():
        if keys:
            who = "all models have" if agreed and len(others) > 1 else f"model {quoted(name)} has"
            yield (
                f"{who} a {GENERATION} that differs from the base's: {listed(keys)}. The output gets the base's; "
                f"`generation_config: {name}` in the recipe takes this one"
            )
            if agreed:
                return


def _generation_of(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        key: value for key, value in plain_keys(read_object(checkpoint, GENERATION)) if effect_of(key) != "harmless"
    }


def _templates(base: Checkpoint, models: Mapping[str, Checkpoint]) -> Iterator[str]:
    """Notes on chat templates: one for all models where they agree, else one for each that differs."""
    ours = templates_of(base)
    others = {name: found for name, model in models.items() if (found := templates_of(model))}
    agreed = len(others) == len(models) and len({repr(each) for each in others.values()}) == 1
    for name, template in others.items():
        if template != ours:
            who = "all models have" if agreed and len(others) > 1 else f"model {quoted(name)} has"
            than = "a chat template that differs from the base's" if ours else "a chat template, and the base has none"
            yield f"{who} {than}. The output follows the base; `chat_template: {name}` in the recipe takes this one"
            if agreed:
                return
