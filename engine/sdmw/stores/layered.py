"""The tensors of a store taken together by layers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sdmw.stores.bins import StoredBins
from sdmw.stores.cuts import Ranked
from sdmw.stores.reading import StoreReader
from sdmw.stores.store import Store
from sdmw.views.layers import layer_of


def layers_of(store: Store, granularity: str) -> Iterator[tuple[str, tuple[Ranked, ...]]]:
    """Each layer with the deltas of each model, as soon as all its tensors are read.

    Raises:
        StoreError: the store is damaged.
    """
    return gathered(store, [layer_of(tensor.name, granularity) for tensor in store.tensors])


def gathered(store: Store, names: Sequence[str]) -> Iterator[tuple[str, tuple[Ranked, ...]]]:
    """Each layer as `layers_of` gives it, by the layer of each tensor.

    Raises:
        StoreError: the store is damaged.
    """
    waiting, held, reader = Counter(names), dict[str, list[StoredBins]](), StoreReader(store)
    for number, name in enumerate(names):
        found = reader.magnitudes(number)
        held[name] = [one + other for one, other in zip(held[name], found, strict=True)] if name in held else found
        waiting[name] -= 1
        if not waiting[name]:
            yield name, tuple(map(Ranked, held.pop(name)))


def places_of(names: Sequence[str]) -> Mapping[str, list[int]]:
    """The numbers of the tensors of each layer."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name, []).append(number)
    return found
