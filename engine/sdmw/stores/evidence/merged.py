"""What the recipe's own settings make of the models, as far as a store tells."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sdmw.methods.sdm_w import SdmWParams
from sdmw.planning.plan import Plan
from sdmw.stores.cuts import Bounds, Cut, in_units
from sdmw.stores.evidence.numbers import Floats, Numbers, added
from sdmw.stores.law import Interval, bounded_weights
from sdmw.stores.layered import gathered, places_of
from sdmw.stores.norms import Part, Together, dropped, scaled


@dataclass(frozen=True, slots=True)
class Merged:
    """A merge of a store's models.

    Attributes:
        own: the settings are the recipe's; else all deltas are kept and weighed alike, as nothing is known of them.
        weights: bounds of W of each model; where layers have their own, the means of these.
        norm: bounds of the norm of what is added to the base.
        unturned: bounds of the sum of the weighted norms, before lambda: what the norm would be if all deltas were
            parallel and none were dropped.
    """

    own: bool
    weights: tuple[Interval, ...]
    norm: Interval
    unturned: Interval


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer keeps."""

    params: SdmWParams
    gram: Floats
    cuts: tuple[Cut, ...]
    squares: tuple[int, ...]  # of all deltas, as multiples of 2**-298

    def sums(self) -> list[Bounds]:
        """What weights follow from."""
        return [cut.magnitude if self.params.law.norm == 1 else cut.squares for cut in self.cuts]

    def part(self, weights: Sequence[Interval]) -> Part:
        return Part(self.gram, weights, [dropped(s, c.squares) for s, c in zip(self.squares, self.cuts, strict=True)])


def merged_of(numbers: Numbers, plan: Plan | None) -> Merged:
    """By the plan's settings where it is one of SDM-W; else with equal weights.

    Args:
        numbers: of the store.
        plan: of a merge of the store's inputs; None for none.

    Raises:
        StoreError: the store is damaged.
    """
    settings = None if plan is None else _settings(numbers, plan)
    if not settings or not numbers.store.tensors:
        models = len(numbers.norms)
        part = Part(numbers.total, ((1 / models,) * 2,) * models, ((0.0, 0.0),) * models)
        found = _together([part])
        return Merged(False, tuple(part.weights), found.norm, found.unturned)
    layers = list(_layers(numbers, settings))
    weights = _weights(layers)
    parts = [layer.part(own) for layer, own in zip(layers, weights, strict=True)]
    norm = _together(_scaled(parts, layers)).norm
    return Merged(True, _means(layers, weights), norm, _together(parts).unturned)


def _settings(numbers: Numbers, plan: Plan) -> Mapping[str, tuple[str, SdmWParams]] | None:
    """The layer of each tensor and its parameters; None where a layer has several, or one for some of the models."""
    found, models = {}, len(numbers.store.models)
    for layer in plan.layers:
        tensors = [plan.tensors[number] for number in layer.tensors]
        own = {_essence(each.params) for each in tensors}
        (params, *others) = own
        if params is None or others or any(len(each.among) < models for each in tensors):
            return None
        found.update({tensor.name: (layer.name, params) for tensor in tensors})
    return found if all(tensor.name in found for tensor in numbers.store.tensors) else None


def _essence(params: object) -> SdmWParams | None:
    """Parameters less what speeds up their thresholds."""
    if not isinstance(params, SdmWParams):
        return None
    return replace(params, filter=replace(params.filter, exact=True, alone=False, small=0))


def _layers(numbers: Numbers, settings: Mapping[str, tuple[str, SdmWParams]]) -> Iterator[_Layer]:
    tensors = numbers.store.tensors
    names = [settings[tensor.name][0] for tensor in tensors]
    places = places_of(names)
    for name, layer in gathered(numbers.store, names):
        _, params = settings[tensors[places[name][0]].name]
        cuts = tuple(ranked.cut(k) for ranked, k in zip(layer, params.filter.k, strict=True))
        yield _Layer(params, added(numbers.gram[places[name]]), cuts, tuple(ranked.squares for ranked in layer))


def _weights(layers: Sequence[_Layer]) -> list[tuple[Interval, ...]]:
    """W of each model in each layer: given, the layer's own, or that of the model."""
    first = layers[0].params
    if first.weights is None and not first.by_layer:
        columns = zip(*(layer.sums() for layer in layers), strict=True)
        sums = [(sum(low for low, _ in column), sum(high for _, high in column)) for column in columns]
        return [_by_law(first, sums)] * len(layers)
    return [
        tuple((weight, weight) for weight in layer.params.weights)
        if layer.params.weights is not None
        else _by_law(layer.params, layer.sums())
        for layer in layers
    ]


def _by_law(params: SdmWParams, sums: Sequence[Bounds]) -> tuple[Interval, ...]:
    return bounded_weights([in_units(each, params.law.norm) for each in sums], params.law.power / params.law.norm)


def _scaled(parts: Sequence[Part], layers: Sequence[_Layer]) -> Iterator[Part]:
    """Weights times lambda."""
    whole = _together(parts).preserving if layers[0].params.preserve == "model" else None
    for part, layer in zip(parts, layers, strict=True):
        own = layer.params
        scale = whole or (_together([part]).preserving if own.preserve else (own.scale, own.scale))
        yield replace(part, weights=[scaled(bounds, scale) for bounds in part.weights])


def _together(parts: Iterable[Part]) -> Together:
    found = Together()
    for part in parts:
        found.add(part)
    return found


def _means(layers: Sequence[_Layer], weights: Sequence[tuple[Interval, ...]]) -> tuple[Interval, ...]:
    """Over the layers that any model changes, as in the report; the model's own where all layers have it."""
    changed = [own for layer, own in zip(layers, weights, strict=True) if any(layer.squares)]
    if len(set(changed)) <= 1:
        return (changed or weights)[0]
    columns = zip(*changed, strict=True)
    return tuple(
        (math.fsum(low for low, _ in column) / len(column), math.fsum(high for _, high in column) / len(column))
        for column in columns
    )
