"""Which tensors are thresholded together: layers and components by name alone. Source: METHOD.md, "What a layer is"."""

import re
from collections.abc import Iterable

LARGEST_INDEX = 10**18  # a name may hold any number of digits
_INDEX = re.compile(r"(?:\A|\.)([0-9]+)(?:(?=\.)|\Z)")  # the first dotted part that is all ASCII digits


def layer_of(name: str, granularity: str) -> str:
    """The name of the layer that a tensor belongs to.

    Args:
        name: the tensor's.
        granularity: tensor, module, block, component or model.
    """
    match granularity:
        case "module":
            parts = name.split(".")
            index = _INDEX.search(name)
            stop = len(parts) - 1
            if index:
                stop = min(name[: index.end()].count(".") + 2, stop)
            return ".".join(parts[:stop]) or name
        case "block":
            index = _INDEX.search(name)
            return name[: index.end()] if index else name
        case "component":
            return component_of(name)
        case "model":
            return "model"
    return name


def component_of(name: str) -> str:
    """The name less its layer index: what the same part of every block shares."""
    index = _INDEX.search(name)
    if index is None:
        return name
    rest = name[index.end() :]  # with its dot
    return (name[: index.start()] + rest if index.start(1) else rest[1:]) or name


def layer_index(name: str) -> int | None:
    """The first dotted part that is all ASCII digits."""
    index = _INDEX.search(name)
    return _number(index[1]) if index else None


def place_in_stack(name: str) -> tuple[str, int] | None:
    """What stands before the layer index, which names the stack, and the index; None for what is outside layers."""
    index = _INDEX.search(name)
    return (name[: index.start()], _number(index[1])) if index else None


def with_index(name: str, number: int) -> str:
    """The name with another layer index."""
    index = _INDEX.search(name)
    assert index is not None  # only names of layers are given another index
    return f"{name[: index.start(1)]}{number}{name[index.end() :]}"


def depths(names: Iterable[str]) -> dict[str, float]:
    """Where each tensor stands between the first layer of its stack (0) and the last (1); METHODS.md, section 6.

    What stands before the layer index names the stack. Layers are counted, so indices may begin anywhere and have gaps.
    A tensor outside layers is at 0, the only layer of a stack at 1.
    """
    places = {name: place_in_stack(name) for name in names}
    stacks: dict[str, set[int]] = {}
    for stack, index in filter(None, places.values()):
        stacks.setdefault(stack, set()).add(index)
    depth_of = {
        (stack, index): number / (len(indices) - 1) if len(indices) > 1 else 1.0
        for stack, indices in stacks.items()
        for number, index in enumerate(sorted(indices))
    }
    return {name: depth_of[place] if place else 0.0 for name, place in places.items()}


def _number(digits: str) -> int:
    return int(digits) if len(digits) <= 18 else LARGEST_INDEX
