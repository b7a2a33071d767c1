"""Numbers of tokens in configs (`eos_token_id`, `image_token_index`), where tokens have other numbers now.

Source: transformers' PretrainedConfig and GenerationConfig.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdmw.checkpoints.tied_names import LANGUAGE
from sdmw.checkpoints.tokens import Tokens

_ENDS = ("_token_id", "_token_ids", "_token_index")
_MAY_LACK = (  # of these keys loaders take null
    "bos_", "eos_", "pad_", "unk_", "sep_", "cls_", "mask_", "decoder_start_", "forced_",
)  # fmt: skip
_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_SEQUENCES = ("bad_words_ids", "force_words_ids")  # of tokens
_PAIRS = ("forced_decoder_ids",)  # of a position and a token
_BY_NAME = ("lang_to_id", "task_to_id")


@dataclass(frozen=True, slots=True)
class Renumbered:
    """A config whose tokens have their new numbers.

    Attributes:
        config: its keys keep their order.
        lost: keys that named a token which is gone, and name none now.
        needed: by key, the hash of a token which is gone though every loader wants a number there.
    """

    config: dict[str, Any]
    lost: tuple[str, ...]
    needed: Mapping[str, int]


def renumbered(config: Mapping[str, Any], old: Tokens, new: Tokens, instead: Mapping[str, Any]) -> Renumbered:
    """A config, or that of generation, with the new numbers.

    Args:
        config: as its file has it.
        old: the tokens that it speaks of.
        new: those of the output.
        instead: the config of the model whose tokens the output has: it counts where there is no such token any more.
    """
    lost: dict[str, int] = {}
    found = _config(config, _Numbers(old, new), instead, "", lost)
    needed = {key: token for key, token in lost.items() if not key.rpartition(".")[2].startswith(_MAY_LACK)}
    return Renumbered(found, tuple(key for key in lost if key not in needed), needed)


class _Numbers:
    """The new number of each token by its old one."""

    def __init__(self, old: Tokens, new: Tokens) -> None:
        self._numbers, self._hashes = old.in_order()
        self._new = new.of(self._hashes)

    def of(self, number: Any) -> Any:
        """The new number; the same where it is none of a token; None where the token is gone."""
        if type(number) is not int:
            return number
        place = int(np.searchsorted(self._numbers, number))
        if place == self._numbers.size or self._numbers[place] != number:
            return number
        found = int(self._new[place])
        return None if found < 0 else found

    def token(self, number: int) -> int:
        """The hash of the token that had this number."""
        return int(self._hashes[np.searchsorted(self._numbers, number)])

    def of_all(self, numbers: Any) -> list[Any] | None:
        """Of some tokens; None where one is gone."""
        found = [self.of(each) for each in numbers] if isinstance(numbers, list) else [None]
        return None if None in found else found


def _config(
    config: Mapping[str, Any], numbers: _Numbers, instead: Mapping[str, Any], at: str, lost: dict[str, int]
) -> dict[str, Any]:
    found = dict(config)
    for key, value in config.items():
        if key in LANGUAGE and isinstance(value, Mapping):
            below = instead.get(key)
            found[key] = _config(value, numbers, below if isinstance(below, Mapping) else {}, f"{at}{key}.", lost)
        elif key.endswith(_ENDS) and value is not None:
            several = value if isinstance(value, list) else [value]
            if (renewed := numbers.of_all(several)) is not None:
                found[key] = renewed if isinstance(value, list) else renewed[0]
            elif key in instead:
                found[key] = instead[key]
            else:
                kept = [new for each in several if (new := numbers.of(each)) is not None]
                found[key] = kept if isinstance(value, list) and kept else None
                lost[f"{at}{key}"] = numbers.token(next(each for each in several if numbers.of(each) is None))
        elif value and (key in (*_LISTS, *_SEQUENCES, *_PAIRS, *_BY_NAME)):
            found[key] = _many(key, value, numbers)
    return found


def _many(key: str, value: Any, numbers: _Numbers) -> Any:
    """Tokens that are suppressed, forced or named: what is gone is left out."""
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: new for name, each in value.items() if (new := numbers.of(each)) is not None}
    if not isinstance(value, list):
        return value
    if key in _LISTS:
        return [new for each in value if (new := numbers.of(each)) is not None]
    if key in _PAIRS:
        pairs = [each for each in value if isinstance(each, list) and len(each) == 2]
        return [[first, new] for first, each in pairs if (new := numbers.of(each)) is not None or each is None]
    return [new for each in value if (new := _sequence(each, numbers)) is not None]


def _sequence(each: Any, numbers: _Numbers) -> list[Any] | None:
    """One sequence of tokens, or several of which one is to come."""
    if isinstance(each, list) and each and isinstance(each[0], list):
        return [new for one in each if (new := numbers.of_all(one)) is not None] or None
    return numbers.of_all(each)
