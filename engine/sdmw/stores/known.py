"""What a store spares a merge: histograms that need not be measured, of the same inputs."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sdmw.errors import PlanError, Problem, some
from sdmw.methods.sdm_w import SdmWParams
from sdmw.methods.shares import Filter
from sdmw.planning.plan import Plan
from sdmw.statistics import percentile
from sdmw.statistics.bracket import BracketLook
from sdmw.statistics.histogram import Histogram, HistogramLook
from sdmw.statistics.look import Measured
from sdmw.statistics.low_bits import LowBits, LowBitsLook
from sdmw.stores.bins import StoredBins
from sdmw.stores.cuts import Ranked
from sdmw.stores.reading import StoreReader
from sdmw.stores.sources import DOCUMENTS, fingerprints_of, recipe_of, states_of
from sdmw.stores.store import MEND, Store

# Fields of a recipe, and of its models and slices, that say what is made of deltas, and not what they are.
DECIDING = {"merge_method", "parameters", "dtype", "out_dtype", "random_seed", "nonfinite", "name", "chat_template"}
WHOLE = {"tokenizer", DOCUMENTS}  # fields that say what deltas are, by names of any kind
EMPTY = LowBits({}, {})


def known_of(plan: Plan, store: Store, *, sampled: bool) -> Callable[[int], Measured]:
    """What is known of each layer of a plan before it is measured.

    Args:
        plan: of a merge by SDM-W.
        store: of the same inputs.
        sampled: as of `check_inputs`.

    Raises:
        PlanError: it is another method, or the store is of other inputs.
    """
    if plan.recipe.merge_method != "sdm_w":
        found = f"{plan.recipe.merge_method}, which needs other statistics"
        raise PlanError([Problem("statistics", "a recipe of sdm_w", found)])
    check_inputs(plan, store, sampled=sampled)
    reader, numbers = StoreReader(store), {tensor.name: number for number, tensor in enumerate(store.tensors)}
    odd = np.flatnonzero(reader.numbers("nonfinite").sum(axis=1)).tolist()
    strict = plan.recipe.nonfinite == "error"

    def known(number: int) -> Measured:
        tensors = [plan.tensors[each] for each in plan.layers[number].tensors]
        params = tensors[0].params
        assert isinstance(params, SdmWParams)
        places = [numbers.get(tensor.name) for tensor in tensors]
        if params.keeps_all or (params.filter.exact and params.filter.small):
            return Measured()  # a small tensor is read sooner than its histogram
        if any(place is None or (strict and place in odd) for place in places):
            return Measured()
        bins = [reader.magnitudes(place) for place in places if place is not None]
        return _measured(params.filter, [tensor.component for tensor in tensors], bins)

    return known


def _measured(asked: Filter, components: list[str], bins: list[list[StoredBins]]) -> Measured:
    """As the method's own looks would have found it."""
    found: dict[str, tuple[Histogram, ...]] = {}
    whole = list(bins[0])
    for number, (component, models) in enumerate(zip(components, bins, strict=True)):
        own = tuple(Histogram(each.bins, each.counts, each.low_sums) for each in models)
        before = found.get(component)
        found[component] = own if before is None else tuple(a + b for a, b in zip(before, own, strict=True))
        whole = [a + b for a, b in zip(whole, models, strict=True)] if number else whole
    measured = Measured().with_look(BracketLook if asked.exact and asked.alone else HistogramLook, found)
    if asked.exact and all(map(_at_edges, whole, asked.k)):
        measured = measured.with_look(LowBitsLook, dict.fromkeys(found, (EMPTY,) * len(asked.k)))
    return measured


def _at_edges(bins: StoredBins, k: float) -> bool:
    """Whether both ranks of a percentile lie at edges of bins, so that no low bits have to be looked at."""
    ranked = Ranked(bins)
    if not ranked.nonzero:
        return True
    lower, upper, _ = percentile.ranks(ranked.nonzero, k)
    return ranked.at_edge(lower) and ranked.at_edge(upper)


def check_inputs(plan: Plan, store: Store, *, sampled: bool) -> None:
    """Refuse a store that is not of a plan's inputs.

    Args:
        plan: of a merge.
        store: of the same inputs, it is hoped.
        sampled: samples of all files are read; else of those models alone that headers and times do not tell apart.

    Raises:
        PlanError: it is of other models, of other files, or of other deltas.
    """
    if problems := list(_differences(plan, store, sampled)):
        raise PlanError(problems)


def _differences(plan: Plan, store: Store, sampled: bool) -> Iterator[Problem]:
    if plan.models != store.models:
        yield Problem(store.path, f"the statistics of {some(plan.models)}", some(store.models), MEND)
        return
    states = states_of(plan)
    changed = [name for name, each in states.items() if store.states.get(name) != each]
    if not changed:
        alike = Counter(states.values())
        asked = [name for name, each in states.items() if sampled or alike[each] > 1]
        changed = [n for n, each in fingerprints_of(plan, asked).items() if store.fingerprints.get(n) != each]
    if changed:
        yield Problem(store.path, "the statistics of these files", f"those of other files: {some(changed)}", MEND)
    elif _deltas(recipe_of(plan)) != _deltas(store.recipe):
        yield Problem(store.path, "the statistics of a recipe with the same deltas", "those of other deltas", MEND)


def _deltas(recipe: str) -> Any:
    """What a store's recipe says of deltas."""
    return _without(json.loads(recipe))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        said = {name: each for name, each in value.items() if name not in DECIDING}
        return {name: each if name in WHOLE else _without(each) for name, each in said.items()}
    return [_without(each) for each in value] if isinstance(value, list) else value
