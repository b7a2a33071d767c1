"""Significant Deltas Merging with Weights. Source: Smirnov, Rachkov 2025, pp. 735-743; METHOD.md closes its gaps."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np

from sdmw.codec import tagged
from sdmw.kernels.bins import SMALL
from sdmw.methods.method import Destination, Fact, Facts, Method, Settings, common_weights, float32s
from sdmw.methods.preserve_norm import (
    LAMBDA,
    Preserved,
    Scaling,
    Scope,
    Weighed,
    cancelled,
    facts_of,
    preserved,
    products_of,
)
from sdmw.methods.shares import LARGEST, Filter, Share, Shares, cut, look_for_thresholds
from sdmw.methods.weight_law import NORMALIZATION, WeightLaw
from sdmw.recipes.recipe import Parameter, Setting
from sdmw.statistics import percentile
from sdmw.statistics.bracket import BracketLook
from sdmw.statistics.gram import GramLook
from sdmw.statistics.histogram import UNIT_EXPONENT, HistogramLook
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.statistics.low_bits import LowBitsLook
from sdmw.statistics.percentile import ALL_KEPT, NOTHING_KEPT
from sdmw.statistics.small import SmallLook
from sdmw.statistics.squares import UNIT_EXPONENT as SQUARES_EXPONENT
from sdmw.statistics.squares import KeptSquaresLook

READ_AGAIN = "need one more read of all inputs, which the plan does not count"
EQUAL = "every fine-tune equals the base: so does the result"
UNMOVED = "no fine-tune has a finite change: the result is the base"  # where NaN and infinity may pass


@tagged
@dataclass(frozen=True, slots=True)
class SdmWParams:
    """What one tensor is merged with.

    Attributes:
        filter: which deltas count.
        weights: W of each model where the recipe gives them, else None.
        law: how weights follow from what is kept, where the recipe gives none.
        scale: lambda; 1 where it preserves norms.
        preserve: over what lambda preserves norms; None where it is a number.
    """

    filter: Filter
    weights: tuple[float, ...] | None
    law: WeightLaw
    scale: float
    preserve: Scope | None = None

    @property
    def keeps_all(self) -> bool:
        """No threshold is needed: every change is kept, with given weights."""
        return self.weights is not None and not any(self.filter.k)

    @property
    def needs_squares(self) -> bool:
        """Weights follow from sums of squares."""
        return self.weights is None and self.law.norm == 2

    @property
    def by_layer(self) -> bool:
        """Layers decide weights."""
        return self.weights is None and self.law.by_layer


@tagged
@dataclass(frozen=True, slots=True)
class Weights:
    """What all layers together decide.

    Attributes:
        weights: W of each model; None where the recipe gives them, for each tensor, or layers decide them.
        taking: numbers of the models that have anything to add.
        preserved: lambda, where it preserves the norms of the whole model.
    """

    weights: tuple[float, ...] | None
    taking: tuple[int, ...]
    preserved: Preserved | None = None


class SdmW(Method[SdmWParams, Shares, Weights]):
    """Keep the deltas that reach a layer's percentile, weigh each model by the total magnitude that it kept."""

    name = "sdm_w"
    paper = "Smirnov, Rachkov 2025, Economics: Yesterday, Today and Tomorrow 15 (3A)"
    takes = "deltas"
    parameters = (
        Parameter(
            "k",
            "number",
            10.0,
            by_model=True,
            varies=True,
            same_within_layer=True,
            minimum=0,
            maximum=100,
            percent=True,
        ),
        Parameter("weight", "number", None, by_model=True, varies=True),
        NORMALIZATION,
        Parameter("granularity", "choice", "tensor", choices=("tensor", "module", "block", "component", "model")),
        Parameter("percentile", "choice", "exact", choices=("exact", "approximate")),
        LAMBDA,
    )
    looks = (SmallLook, BracketLook, HistogramLook, LowBitsLook, KeptSquaresLook, GramLook)
    may_use = ("squares", "dots")
    columns: ClassVar[Mapping[str, str]] = {"magnitude": ".6g", "weight": ".4f", "kept_share": ".2%"}

    def params(self, settings: Settings) -> SdmWParams:
        """The parameters of one tensor."""
        alone, scaling = settings.word("granularity") == "tensor", Scaling.of(settings)
        return SdmWParams(
            filter=Filter(
                k=settings.numbers("k"),
                exact=settings.word("percentile") == "exact",
                alone=alone,
                small=settings.elements if alone and settings.elements <= SMALL else 0,
            ),
            weights=None if None in settings.by_model["weight"] else settings.numbers("weight"),
            law=WeightLaw.of(cast("str | Mapping[str, float | str]", settings.top["normalization"])),
            scale=scaling.scale,
            preserve=scaling.preserve,
        )

    def granularity(self, top: Mapping[str, Setting]) -> str:
        """As the recipe says: the tensor by default."""
        return str(top.get("granularity", "tensor"))

    def same_within_layer(self, top: Mapping[str, Setting]) -> tuple[str, ...]:
        """Weights too where norms are preserved: dot products are those of a layer."""
        own = super().same_within_layer(top)
        return own if isinstance(top.get("lambda", ()), tuple) else (*own, "weight")

    def kernels(self, params: Iterable[SdmWParams]) -> tuple[str, ...]:
        """Those of squares where weights follow from them, those of dot products where norms are preserved."""
        own = [*params]
        wanted = (any(each.needs_squares for each in own), any(each.preserve for each in own))
        return tuple(group for group, asked in zip(self.may_use, wanted, strict=True) if asked)

    def notes(self, params: Iterable[SdmWParams]) -> Iterator[str]:
        """What is read once more."""
        own = [*params]
        if any(each.needs_squares for each in own):
            yield f"normalization: squares of the kept deltas {READ_AGAIN}"
        if any(each.preserve and not each.keeps_all for each in own):
            yield f"lambda: dot products of all deltas {READ_AGAIN}"

    def needs(self, params: SdmWParams, have: Measured) -> Look[Any] | None:
        """What thresholds need; squares of what reaches them, if weights need them; dot products, if lambda does.

        Where no model has changed anything there are no squares.
        """
        if not params.keeps_all:
            if look := look_for_thresholds(params.filter, have):
                return look
            if params.needs_squares and have.of(KeptSquaresLook) is None:
                patterns = tuple(share.pattern for share in cut(params.filter, have))
                if set(patterns) != {NOTHING_KEPT}:
                    return KeptSquaresLook(patterns)
        return GramLook(base=True, deltas=True) if params.preserve and have.of(GramLook) is None else None

    def decide_layer(self, params: SdmWParams, have: Measured) -> Shares:
        """The threshold of each model, and what it keeps; its weight and its dot products where they are needed."""
        unmeasured = (Share(None, ALL_KEPT),) * len(params.filter.k)
        shares = unmeasured if params.keeps_all else cut(params.filter, have)
        if params.needs_squares:
            found = (have.of(KeptSquaresLook) or {}).values()
            shares = tuple(replace(each, squares=sum(s[model] for s in found)) for model, each in enumerate(shares))
        if params.by_layer or (params.preserve and params.weights):
            weights = params.weights or params.law.weights([_weighed(params.law, [share]) for share in shares])
            shares = tuple(replace(share, weight=each) for share, each in zip(shares, weights, strict=True))
        if products := have.of(GramLook):
            rows = products_of(products)
            shares = tuple(replace(share, products=row) for share, row in zip(shares, rows, strict=True))
        return shares

    def decide_model(self, layers: Sequence[tuple[SdmWParams, Shares]]) -> Weights:
        """W of each model: given, or by what it kept; and lambda, where it is the model's."""
        first, _ = layers[0]
        found = _weights(first, [shares for _, shares in layers])
        if first.preserve != "model":
            return found
        return replace(found, preserved=preserved(_whole(shares, found) for _, shares in layers))

    def apply(self, tile: Tile, params: SdmWParams, layer: Shares, model: Weights, destination: Destination) -> bool:
        """Base plus lambda times the weighted sum of the kept deltas."""
        from sdmw.kernels.tiles import merge_deltas

        # A model without any delta is left out: its weight of 0 would still turn what is not finite into NaN.
        taking = [m for m in model.taking if layer[m].kept or not params.by_layer]
        inputs = [0, *(m + 1 for m in taking)]
        given = params.weights or _weights_in(layer, model)
        weights = float32s([given[m] for m in taking])
        found = _preserved(layer, model)
        scale = np.float32(params.scale if found is None else found.scale)
        thresholds = np.array([layer[number].pattern for number in taking], np.uint32).view(np.float32)
        return bool(
            merge_deltas(
                tile.addresses[inputs], tile.codes[inputs], tile.count, thresholds, weights,
                np.float32(1), scale, True, destination.address, destination.code,
            )
        )  # fmt: skip

    def layer_facts(self, layer: Shares, model: Weights) -> tuple[Facts, ...]:
        """P, what reaches it and its sum; W and lambda where they are the layer's."""
        found = None if model.preserved else _preserved(layer, model)
        scale = facts_of([found]) if found else {}
        return tuple(
            {
                "threshold": s.threshold,
                "nonzero": s.nonzero,
                "kept": s.kept,
                "magnitude": None if s.magnitude is None else total_magnitude([s]),
                **_weight_of(s),
                **scale,
            }
            for s in layer
        )

    def model_facts(self, params: Iterable[SdmWParams], layers: Sequence[Shares], model: Weights) -> tuple[Facts, ...]:
        """W, M and what was kept; W is None where it differs between tensors, the rest where nothing was measured."""
        own = [*params]
        unlike = (None,) * len(own[0].filter.k)
        weights = model.weights or (unlike if own[0].by_layer else common_weights(each.weights or () for each in own))
        return tuple(
            {"weight": weight, **_sums([layer[number] for layer in layers]), **_more_sums(layers, number)}
            | (_mean_weight(layers, number) if weight is None else {})
            for number, weight in enumerate(weights)
        )

    def facts(self, params: Iterable[SdmWParams], layers: Sequence[Shares], model: Weights) -> Facts:
        """How thresholds were found, and by how many ranks a layer's cut can be off, also as a share of the layer."""
        first = next(iter(params))
        errors = [(share.rank_error, share.nonzero) for layer in layers for share in layer]
        measured = any(count is not None for _, count in errors)
        return {
            "percentile": ("exact" if first.filter.exact else "approximate") if measured else None,
            "rank_error": max((error for error, _ in errors), default=0),
            "rank_error_share": max((error / count for error, count in errors if count), default=0.0),
            **facts_of(_all_preserved(layers, model)),
        }

    def describe(self, facts: Facts) -> Iterator[str]:
        """The weight, and how much was kept."""
        yield from super().describe(facts)
        if (mean := facts.get("mean_weight")) is not None:
            yield f"mean weight {mean:.6g}"
        if (share := facts.get("kept_share")) is not None:
            yield f"kept {100 * cast(float, share):.4g} % of its nonzero deltas"

    def warnings(self, layers: Sequence[Shares], model: Weights, *, strict: bool) -> tuple[str, ...]:
        """That nothing changed; where NaN may pass, one may have, which no count shows. That deltas cancel."""
        counts = [share.nonzero for shares in layers for share in shares]
        unchanged = strict and bool(counts) and not any(count is None or count for count in counts)
        equal = (EQUAL if strict else UNMOVED,) if unchanged or not model.taking else ()
        return (*equal, *cancelled(_all_preserved(layers, model)))

    def decisions_of_schema_1(
        self, params: Sequence[SdmWParams], layers: Sequence[Sequence[Facts]], models: Sequence[Facts]
    ) -> tuple[list[Shares], Weights]:
        """By the thresholds of the layers, and by the magnitudes of the models."""
        decided = [tuple(map(_share_of_schema_1, layer)) for layer in layers]
        if any(len(shares) != len(models) for shares in decided):
            raise ValueError(f"a layer does not tell of {len(models)} models")
        if params[0].weights is not None:
            return decided, Weights(None, tuple(range(len(models))))
        magnitudes = [cast(float, one["magnitude"]) for one in models]
        if None in magnitudes:
            raise ValueError("a model without a magnitude")
        weights = tuple(cast(float, one["weight"]) for one in models)
        for weight, expected in zip(weights, params[0].law.weights(magnitudes), strict=True):
            if weight is None or not math.isclose(weight, expected, rel_tol=1e-12):
                raise ValueError(f"a weight of {weight} where {expected} follows from the magnitudes")
        return decided, Weights(weights, tuple(n for n, magnitude in enumerate(magnitudes) if magnitude > 0))


def total_magnitude(shares: Iterable[Share]) -> float:
    """M: the exact sum of all kept magnitudes, rounded once to float64."""
    return sum(sum((share.magnitude or {}).values()) for share in shares) / (1 << UNIT_EXPONENT)


def _weights(params: SdmWParams, layers: Sequence[Shares]) -> Weights:
    """W of each model, where it is the model's, and which models take part."""
    models = range(len(params.filter.k))
    if params.weights is not None:
        return Weights(None, tuple(models))
    sums = [_weighed(params.law, [shares[model] for shares in layers]) for model in models]
    taking = tuple(model for model in models if sums[model] > 0)
    return Weights(None if params.by_layer else params.law.weights(sums), taking)


def _weights_in(layer: Shares, model: Weights) -> tuple[float, ...]:
    """W in a layer: the model's, or the layer's own."""
    return model.weights or tuple(share.weight or 0.0 for share in layer)


def _whole(layer: Shares, model: Weights) -> Weighed:
    """A layer's deltas, of which lambda preserves the norms."""
    return Weighed(_weights_in(layer, model), tuple(share.products or () for share in layer))


def _preserved(layer: Shares, model: Weights) -> Preserved | None:
    """The model's lambda, or the layer's; None where it is a number."""
    if model.preserved or layer[0].products is None:
        return model.preserved
    return preserved([_whole(layer, model)])


def _all_preserved(layers: Sequence[Shares], model: Weights) -> list[Preserved]:
    """The model's lambda, or each layer's; nothing where it is a number."""
    if model.preserved:
        return [model.preserved]
    return [found for layer in layers if (found := _preserved(layer, model))]


def _weighed(law: WeightLaw, shares: Iterable[Share]) -> float:
    """x: the exact sum of what weights follow from, rounded once to float64."""
    if law.norm == 1:
        return total_magnitude(shares)
    return sum(share.squares or 0 for share in shares) / (1 << SQUARES_EXPONENT)


def _sums(shares: Sequence[Share]) -> dict[str, Fact]:
    """M and counts of one model over all layers; None where not all of them were measured."""
    if any(share.magnitude is None for share in shares):
        return dict.fromkeys(("magnitude", "nonzero", "kept", "kept_share", "magnitude_by_component"))
    by_component: Counter[str] = Counter()
    for share in shares:
        by_component.update(cast("Mapping[str, int]", share.magnitude))
    nonzero, kept = sum(share.nonzero or 0 for share in shares), sum(share.kept or 0 for share in shares)
    return {
        "magnitude": total_magnitude(shares),
        "nonzero": nonzero,
        "kept": kept,
        "kept_share": kept / nonzero if nonzero else None,
        "magnitude_by_component": {name: total / (1 << UNIT_EXPONENT) for name, total in by_component.items()},
    }


def _weight_of(share: Share) -> dict[str, Fact]:
    """The layer's W, where it has one."""
    return {} if share.weight is None else {"weight": share.weight}


def _more_sums(layers: Sequence[Shares], model: int) -> dict[str, Fact]:
    """The sum of squares of one model, where it was measured."""
    squares = [each for layer in layers if (each := layer[model].squares) is not None]
    return {"squares": sum(squares) / (1 << SQUARES_EXPONENT)} if squares else {}


def _mean_weight(layers: Sequence[Shares], model: int) -> dict[str, Fact]:
    """The mean of one model's weights over the layers that any model changes."""
    changed = [layer[model].weight for layer in layers if any(each.kept for each in layer)]
    weights = [weight for weight in changed if weight is not None]
    return {"mean_weight": math.fsum(weights) / len(weights)} if weights else {}


def _share_of_schema_1(facts: Facts) -> Share:
    """A share without its magnitude; the pattern follows from the threshold."""
    threshold, nonzero, kept = (cast(Any, facts[name]) for name in ("threshold", "nonzero", "kept"))
    if threshold is None:
        return Share(None, ALL_KEPT if nonzero is None else NOTHING_KEPT, nonzero, kept)
    if not 0 < threshold <= LARGEST:
        raise ValueError(f"a threshold of {threshold}")
    return Share(threshold, percentile.smallest_pattern_from(threshold), nonzero, kept)


METHODS = (SdmW(),)
