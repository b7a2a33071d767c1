"""Numbers of tokens in configs (`eos_token_id`, `image_token_index`), where tokens have other numbers now."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sdmw.checkpoints.tied_names import LANGUAGE
from sdmw.checkpoints.tokens import Tokens

_ENDS = ("_token_id", "_token_ids", "_token_index")


def renumbered(config: Mapping[str, Any], old: Tokens, new: Tokens, instead: Mapping[str, Any]) -> dict[str, Any]:
    """A config, or that of generation, whose tokens have their new numbers; its keys keep their order.

    Args:
        config: as its file has it.
        old: the tokens that it speaks of.
        new: those of the output.
        instead: the config of the model whose tokens the output has: it counts where there is no such token any more.
    """
    found = dict(config)
    for key, value in config.items():
        if key in LANGUAGE and isinstance(value, Mapping):
            below = instead.get(key)
            found[key] = renumbered(value, old, new, below if isinstance(below, Mapping) else {})
        elif key.endswith(_ENDS):
            numbers = [_renumbered(each, old, new) for each in (value if isinstance(value, list) else [value])]
            if None in numbers:
                found[key] = instead.get(key, value)
            else:
                found[key] = numbers if isinstance(value, list) else numbers[0]
    return found


def _renumbered(number: Any, old: Tokens, new: Tokens) -> Any:
    """The new number; the same where it is none of a token; None where the token is gone."""
    if type(number) is not int:
        return number
    numbers, hashes = old.in_order()
    place = int(np.searchsorted(numbers, number))
    if place == numbers.size or numbers[place] != number:
        return number
    found = int(new.of(hashes[place : place + 1])[0])
    return None if found < 0 else found
