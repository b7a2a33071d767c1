"""Which tensors transformers ties to others, by its classes: `tied_weights.json`, as scripts/tied writes it."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from sdmw.checkpoints.wrappers import around

Pair = tuple[str, str]  # what is tied, and what stands for it

# Where a config has that of the model's language model; of the others, a vision model's say, ties mean nothing here.
LANGUAGE = ("text_config", "llm_config", "language_config", "thinker_config", "decoder", "generator")


@dataclass(frozen=True, slots=True)
class TiedNames:
    """What is tied in a model by its class.

    Attributes:
        sources: by the name of what is tied, that of the tensor which stands for it, which is stored.
        of_class: the class that the config names says so, not others of its model type or of a model in it.
        whole: it does, and the file has all its names: it ties nothing else.
    """

    sources: Mapping[str, str]
    of_class: bool = False
    whole: bool = False


def tied_names(config: Mapping[str, Any] | None, stored: Collection[str]) -> TiedNames:
    """What is tied in a model, if its config ties.

    Args:
        config: the model's.
        stored: names of all its tensors.
    """
    config = config or {}
    if lead := around(stored):
        within = tied_names(config, {name.removeprefix(lead) for name in stored})
        return replace(within, sources={lead + head: lead + source for head, source in within.sources.items()})
    known = _of_class(config)
    if found := [pair for pair in (_as_stored(pair, stored) for pair in known) if pair]:
        of_class = _class_of(config) in _table().by_class
        return TiedNames(_roots(found), of_class, whole=of_class and all(source in stored for _, source in known))
    for name in LANGUAGE:
        if isinstance(level := config.get(name), Mapping) and (found := list(_within(_of_type(level), stored))):
            return TiedNames(_roots(found))
    return TiedNames({})


def _roots(pairs: list[Pair]) -> dict[str, str]:
    """Where several may stand for one, the one that is not tied itself."""
    tied = {head for head, _ in pairs}
    return dict(sorted(pairs, key=lambda pair: pair[1] not in tied))


def _as_stored(pair: Pair, stored: Collection[str]) -> Pair | None:
    """A pair by the names that a file has; None where it has none of them."""
    return next((each for each in (pair, *_older(pair)) if each[1] in stored), None)


def _older(pair: Pair) -> Iterator[Pair]:
    """A pair as files have it that are older than a module around others, or that lack the outermost one."""
    head, source = pair
    modules = source.split(".")
    if len(modules) > 3:  # model.language_model.embed_tokens.weight was language_model.model.embed_tokens.weight
        yield f"{modules[1]}.{head}", ".".join((modules[1], modules[0], *modules[2:]))
    for place in range(len(modules) - 2):
        outer = f"{modules[0]}." if place == 0 else ""
        yield head.removeprefix(outer), ".".join(modules[:place] + modules[place + 1 :])


def _within(pairs: Collection[Pair], stored: Collection[str]) -> Iterator[Pair]:
    """The pairs of a language model in a larger model."""
    for head, source in pairs:
        for name in stored:
            if name.endswith(f".{source}"):
                yield name.removesuffix(source) + head, name


def tied_by_default(config: Mapping[str, Any] | None) -> bool:
    """Whether a model is known to tie where its config says nothing of it."""
    return (config or {}).get("model_type") in _table().by_default


def _of_class(config: Mapping[str, Any]) -> tuple[Pair, ...]:
    return _table().by_class.get(_class_of(config)) or _of_type(config)


def _class_of(config: Mapping[str, Any]) -> str:
    found = config.get("architectures")
    return str(found[0]) if isinstance(found, list) and found else ""


def _of_type(config: Mapping[str, Any]) -> tuple[Pair, ...]:
    """What any class of the model type ties."""
    return _table().by_type.get(str(config.get("model_type")), ())


@dataclass(frozen=True, slots=True)
class _Table:
    """What the file says.

    Attributes:
        by_class: the pairs of each class.
        by_type: those of all classes of a model type, but none that one of them ties the other way round.
        by_default: model types that tie where a config is silent.
    """

    by_class: Mapping[str, tuple[Pair, ...]]
    by_type: Mapping[str, tuple[Pair, ...]]
    by_default: frozenset[str]


@cache
def _table() -> _Table:
    read = json.loads(files("sdmw.checkpoints").joinpath("tied_weights.json").read_text())
    by_class: dict[str, tuple[Pair, ...]] = {}
    by_type: dict[str, dict[Pair, None]] = {}
    for entry in read["ties"]:
        pairs = tuple(entry["tied"].items())
        for model_type, classes in entry["by"].items():
            by_class |= dict.fromkeys(classes, pairs)
            known = by_type.setdefault(model_type, {})
            known |= dict.fromkeys(pair for pair in pairs if pair[::-1] not in known)
    of_types = {model_type: tuple(pairs) for model_type, pairs in by_type.items()}
    return _Table(by_class, of_types, frozenset(read["tied_by_default"]))
