"""Keys of JSON objects that have one value in the base and another in a model."""

import json
from collections.abc import Mapping
from typing import Any

from sdmw.errors import quoted

_MOST = 5  # keys of one kind that are named, of one model
_WITHOUT = object()  # the value of a key that is not there
_LONGEST = 60  # characters of a value


def differing(base: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys with two values, the model's first, in the order of the files."""
    return {
        key: (model.get(key, _WITHOUT), base.get(key, _WITHOUT))
        for key in dict.fromkeys((*base, *model))
        if not _same(model.get(key, _WITHOUT), base.get(key, _WITHOUT))
    }


def _same(one: Any, other: Any) -> bool:
    """Whether two values from JSON are equal; NaN is."""
    return one == other or (_WITHOUT not in (one, other) and json.dumps(one) == json.dumps(other))


def listed(keys: Mapping[str, tuple[Any, Any]]) -> str:
    """The first of the keys with their two values, and how many more there are."""
    shown = [f"{key} {_shown(found)} (base: {_shown(ours)})" for key, (found, ours) in list(keys.items())[:_MOST]]
    rest = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _shown(value: Any) -> str:
    text = "none" if value is _WITHOUT else quoted(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
