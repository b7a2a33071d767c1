"""What a config says of the number of tokens. Source: transformers' configuration classes."""

from collections.abc import Iterator, Mapping
from typing import Any

from sdmw.checkpoints.tied_names import LANGUAGE

VOCAB_SIZE = "vocab_size"


def vocab_size(config: Mapping[str, Any] | None) -> int | None:
    """The rows of the embedding of the model, or of the language model in it, as a config says; None if it does not."""
    return next((level[VOCAB_SIZE] for level in _levels(config or {}) if type(level.get(VOCAB_SIZE)) is int), None)


def resized(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The config with another number of rows wherever it says the number of tokens; its keys keep their order."""
    before = vocab_size(config)
    found = {
        key: resized(value, rows) if key in LANGUAGE and isinstance(value, Mapping) and vocab_size(value) else value
        for key, value in config.items()
    }
    return {**found, VOCAB_SIZE: rows} if VOCAB_SIZE in config or before is None else found


def _levels(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    yield from (level for name in LANGUAGE if isinstance(level := config.get(name), Mapping))
