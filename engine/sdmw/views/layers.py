"""Which tensors are thresholded together: layers and components by name alone. Source: METHOD.md, "What a layer is"."""

from collections.abc import Iterable

LARGEST_INDEX = 10**18  # a name may hold any number of digits


def layer_of(name: str, granularity: str) -> str:
    """The name of the layer that a tensor belongs to.

    Args:
        name: the tensor's.
        granularity: tensor, module, block, component or model.
    """
    parts = name.split(".")
    place = _index_place(parts)
    match granularity:
        case "module":
            stop = len(parts) - 1 if place is None else min(place + 2, len(parts) - 1)
            return ".".join(parts[:stop]) or name
        case "block":
            return name if place is None else ".".join(parts[: place + 1])
        case "component":
            return component_of(name)
        case "model":
            return "model"
    return name


def component_of(name: str) -> str:
    """The name less its layer index: what the same part of every block shares."""
    parts = name.split(".")
    place = _index_place(parts)
    return name if place is None else ".".join(parts[:place] + parts[place + 1 :]) or name


def layer_index(name: str) -> int | None:
    """The first dotted part that is all ASCII digits."""
    parts = name.split(".")
    place = _index_place(parts)
    return None if place is None else int(parts[place]) if len(parts[place]) <= 18 else LARGEST_INDEX


def place_in_stack(name: str) -> tuple[str, int] | None:
    """What stands before the layer index, which names the stack, and the index; None for what is outside layers."""
    index = layer_index(name)
    if index is None:
        return None
    parts = name.split(".")
    return ".".join(parts[: _index_place(parts)]), index


def with_index(name: str, index: int) -> str:
    """The name with another layer index."""
    parts = name.split(".")
    place = _index_place(parts)
    assert place is not None  # only names of layers are given another index
    return ".".join([*parts[:place], str(index), *parts[place + 1 :]])


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


def _index_place(parts: list[str]) -> int | None:
    return next((place for place, part in enumerate(parts) if part.isascii() and part.isdigit()), None)
