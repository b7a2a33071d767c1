"""Where a tensor is in a model, for maps of depth and component: by names alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sdmw.views.layers import component_of, layer_index, place_in_stack

MOST = 6000  # places that are told one by one; of more, those of experts stand together
_NUMBER = re.compile(r"(?:(?<=\.)|\A)[0-9]+(?=\.|\Z)")


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the model.

    Attributes:
        depth: the number of its block; None outside of blocks.
        component: its name in the block.
        count: how many tensors, or layers, stand together here.
    """

    depth: int | None
    component: str
    count: int = 1


def places_of(names: Iterable[str]) -> dict[str, Place]:
    """The place of each name; of more than 6,000 names those that differ by the number of an expert share one."""
    names = tuple(names)
    own = {name: (layer_index(name), component_of(name)) for name in names}
    if len(own) > MOST:
        own = {name: (depth, _NUMBER.sub("*", component)) for name, (depth, component) in own.items()}
    counts: dict[tuple[int | None, str], int] = {}
    for place in own.values():
        counts[place] = counts.get(place, 0) + 1
    stems = {found[0] for name in names if (found := place_in_stack(name))}
    short = _shortened({*own.values()}, f"{stems.pop()}." if len(stems) == 1 else "")
    return {name: Place(depth, short[depth is None, component], counts[depth, component])
            for name, (depth, component) in own.items()}  # fmt: skip


def _shortened(places: Iterable[tuple[int | None, str]], stem: str) -> Mapping[tuple[bool, str], str]:
    """Names without `.weight`, in blocks also without the modules around all blocks, as long as they stay different."""
    names = {(depth is None, component) for depth, component in places}
    short = {
        (outside, component): component.removeprefix("" if outside else stem).removesuffix(".weight") or component
        for outside, component in names
    }
    return short if len({*short.values()}) == len(short) else {each: each[1] for each in short}
