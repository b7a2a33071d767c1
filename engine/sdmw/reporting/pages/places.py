"""Where a tensor is in a model, for maps of depth and component: by names alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sdmw.views.layers import component_of, layer_index, place_in_stack

MOST = 20_000  # rows of a table
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


def places_of(names: Iterable[str], most: int = MOST) -> dict[str, Place]:
    """The place of each name.

    Where there are more than `most`, names that differ by the number of an expert share one; where these are still too
    many, those of all blocks do; and where these are too, all of them.
    """
    names = tuple(names)
    own: dict[str, tuple[int | None, str]] = {name: (layer_index(name), component_of(name)) for name in names}
    for coarser in (_without_experts, _without_depth, _without_names):
        if len({*own.values()}) > most:
            own = {name: coarser(*place) for name, place in own.items()}
    counts: dict[tuple[int | None, str], int] = {}
    for place in own.values():
        counts[place] = counts.get(place, 0) + 1
    stems = {found[0] for name in names if (found := place_in_stack(name))}
    short = _shortened({*own.values()}, f"{stems.pop()}." if len(stems) == 1 else "")
    return {name: Place(depth, short[depth is None, component], counts[depth, component])
            for name, (depth, component) in own.items()}  # fmt: skip


def _without_experts(depth: int | None, component: str) -> tuple[int | None, str]:
    return depth, _NUMBER.sub("*", component)


def _without_depth(depth: int | None, component: str) -> tuple[int | None, str]:
    return None, component


def _without_names(depth: int | None, component: str) -> tuple[int | None, str]:
    return None, "*"


def _shortened(places: Iterable[tuple[int | None, str]], stem: str) -> Mapping[tuple[bool, str], str]:
    """Names without `.weight`, in blocks also without the modules around all blocks, as long as they stay different."""
    names = {(depth is None, component) for depth, component in places}
    short = {
        (outside, component): component.removeprefix("" if outside else stem).removesuffix(".weight") or component
        for outside, component in names
    }
    return short if len({*short.values()}) == len(short) else {each: each[1] for each in short}
