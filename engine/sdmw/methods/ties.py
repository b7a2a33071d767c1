"""Deltas trimmed by rank, with a vote on signs or without: ties, breadcrumbs, breadcrumbs_ties.

Source: arXiv:2306.01708, section 3 (TIES); arXiv:2312.06795, section 3 (breadcrumbs); METHODS.md, sections 3 and 4.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from sdmw.codec import Count, tagged
from sdmw.methods.cuts import BEFORE_ALL, BEHIND_ALL, Cut, Place, bins_of, place_of, taken_of
from sdmw.methods.method import Destination, Fact, Facts, Method, Settings, common_weights, float32s
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.histogram import UNIT_EXPONENT, Histogram, HistogramLook
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.statistics.low_bits import LowBits, LowBitsLook
from sdmw.statistics.ties import LastTakenLook, Tied, TiesLook

SMALLEST_SUM = 1e-7  # of magnitudes: a smaller one is not scaled to, nor from


@tagged
@dataclass(frozen=True, slots=True)
class TrimParams:
    """What one tensor is merged with.

    Attributes:
        weights: of each model.
        densities: the share of each model's elements that is kept; a model of 1 is not trimmed.
        gammas: the share of each model's largest that is dropped; none where no such are.
        elements: of the tensor.
        nonzero: shares are of the deltas that are not zero, else of all elements.
        vote: only deltas of the elected sign count.
        normalize: the sum is divided by that of the weights that count.
        rescale: what is kept of a model is scaled to its whole magnitude.
        scale: lambda.
    """

    weights: tuple[float, ...]
    densities: tuple[float, ...]
    gammas: tuple[float, ...]
    elements: Count
    nonzero: bool
    vote: bool
    normalize: bool
    rescale: bool
    scale: float


@tagged
@dataclass(frozen=True, slots=True)
class Kept:
    """One model's part in a tensor: what lies between two cuts.

    Attributes:
        upper, lower: the cuts.
        factor: of what is kept.
        nonzero: deltas that are not zero; None where nothing was measured.
        kept: how many of them are kept; None likewise.
        tied: how many have the magnitude at the lower cut, of which only some are kept.
    """

    upper: Cut
    lower: Cut
    factor: float
    nonzero: Count | None = None
    kept: Count | None = None
    tied: Count = 0


class Trimmed(Method[TrimParams, tuple[Kept, ...], None]):
    """The base plus a weighted sum of trimmed deltas."""

    takes = "deltas"
    looks = (HistogramLook, LowBitsLook, TiesLook, LastTakenLook)
    uses = ("cuts",)
    columns: ClassVar[Mapping[str, str]] = {"weight": ".4f", "kept_share": ".2%"}
    vote: ClassVar[bool]

    def params(self, settings: Settings) -> TrimParams:
        """The parameters of one tensor."""
        return TrimParams(
            weights=settings.numbers("weight"),
            densities=settings.numbers("density"),
            gammas=settings.numbers("gamma") if "gamma" in settings.by_model else (),
            elements=settings.elements,
            nonzero=settings.word("trim") == "nonzero",
            vote=self.vote,
            normalize=settings.flag("normalize"),
            rescale=settings.flag("rescale"),
            scale=settings.number("lambda"),
        )

    def needs(self, params: TrimParams, have: Measured) -> Look[Any] | None:
        """The histogram; low bits of the bins that hold the cuts; and where the equal ones lie that a cut divides."""
        if min(params.densities) >= 1:
            return None
        if have.of(HistogramLook) is None:
            return HistogramLook(tuple(_percentile(params, model) for model in range(len(params.weights))))
        if have.of(LowBitsLook) is None:
            bins = tuple(_unknown_bins(params, have, model) for model in range(len(params.weights)))
            if any(bins):
                return LowBitsLook(bins)
        divided = [(model, place) for model, _, place in _divided(params, have)]
        if not divided:
            return None
        if (counts := _only(have.of(TiesLook))) is None:
            return TiesLook(tuple(Tied(model, place.pattern) for model, place in divided), params.elements)
        if have.of(LastTakenLook) is None:
            return LastTakenLook(
                tuple(
                    taken_of(model, place, row, params.elements)
                    for (model, place), row in zip(divided, counts, strict=True)
                )
            )
        return None

    def decide_layer(self, params: TrimParams, have: Measured) -> tuple[Kept, ...]:
        """The cuts of each model; a layer is one tensor."""
        if have.of(HistogramLook) is None:
            return (Kept(BEFORE_ALL, BEHIND_ALL, 1.0),) * len(params.weights)
        last = iter(_only(have.of(LastTakenLook)) or ())
        divided = {(model, which): next(last) for model, which, _ in _divided(params, have)}
        return tuple(_kept(params, have, model, divided) for model in range(len(params.weights)))

    def decide_model(self, layers: Sequence[tuple[TrimParams, tuple[Kept, ...]]]) -> None:
        """Every tensor is decided by itself."""

    def apply(
        self, tile: Tile, params: TrimParams, layer: tuple[Kept, ...], model: None, destination: Destination
    ) -> bool:
        """Trim, scale, weigh, vote, divide, add."""
        from sdmw.kernels.cuts import merge_kept

        patterns = np.array([[each.upper.pattern, each.lower.pattern] for each in layer], np.uint32)
        places = np.array([[each.upper.element, each.lower.element] for each in layer], np.int64)
        return bool(
            merge_kept(
                tile.addresses, tile.codes, tile.count, tile.first, patterns, places,
                float32s([each.factor for each in layer]), float32s(params.weights), params.vote, params.normalize,
                np.float32(params.scale), destination.address, destination.code,
            )
        )  # fmt: skip

    def layer_facts(self, layer: tuple[Kept, ...], model: None) -> tuple[Facts, ...]:
        """Counts of each model."""
        return tuple({"nonzero": each.nonzero, "kept": each.kept, "tied": each.tied} for each in layer)

    def model_facts(
        self, params: Iterable[TrimParams], layers: Sequence[tuple[Kept, ...]], model: None
    ) -> tuple[Facts, ...]:
        """The weight that all tensors have, and counts over those that were measured."""
        weights = common_weights(each.weights for each in params)
        return tuple(
            {"weight": weight, **_counts(column)}
            for weight, column in zip(weights, zip(*layers, strict=True), strict=True)
        )

    def describe(self, facts: Facts) -> Iterator[str]:
        """The weight, and how much was kept."""
        yield from super().describe(facts)
        if (share := facts.get("kept_share")) is not None:
            yield f"kept {100 * cast(float, share):.4g} % of its nonzero deltas"


def _parameters(*, normalize: bool, gamma: bool = False) -> tuple[Parameter, ...]:
    return (
        Parameter("weight", "number", None, by_model=True, varies=True, required=True),
        Parameter("density", "number", 1.0, by_model=True, varies=True, minimum=0, maximum=1),
        *([Parameter("gamma", "number", 0.01, by_model=True, varies=True, minimum=0, maximum=1)] if gamma else []),
        Parameter("trim", "choice", "all", choices=("all", "nonzero")),
        Parameter("normalize", "flag", normalize, varies=True),
        Parameter("rescale", "flag", False, varies=True),
        Parameter("lambda", "number", 1.0, varies=True),
    )


class Ties(Trimmed):
    """The largest deltas of each model vote on the sign of every element; those that agree are averaged."""

    name = "ties"
    paper = "arXiv:2306.01708, section 3"
    parameters = _parameters(normalize=True)
    vote = True


class Breadcrumbs(Trimmed):
    """Neither the largest deltas of each model count nor the smallest."""

    name = "breadcrumbs"
    paper = "arXiv:2312.06795, section 3"
    parameters = _parameters(normalize=False, gamma=True)
    vote = False


class BreadcrumbsTies(Breadcrumbs):
    """The same, and what is left votes as in ties."""

    name = "breadcrumbs_ties"
    vote = True


def _only(found: Mapping[str, Any] | None) -> Any:
    """The statistic of a layer of one tensor; None where there is none."""
    return None if found is None else next(iter(found.values()))


def _percentile(params: TrimParams, model: int) -> float:
    """Where among the nonzero deltas the lower cut likely lies, in percent."""
    return 100.0 * (1 - min(1.0, params.densities[model] + (params.gammas[model] if params.gammas else 0.0)))


def _ends(params: TrimParams, model: int, nonzero: int) -> tuple[int, int]:
    """How many elements lie before each cut, by falling magnitude; so many deltas of the model are not zero.

    Of breadcrumbs the largest go first, then the smallest; where both do not fit, fewer of the largest.
    """
    density, count = params.densities[model], nonzero if params.nonzero else params.elements
    if density >= 1:
        return 0, params.elements
    keep = int(density * count)
    if not params.gammas:
        return 0, max(1, keep) if density > 0 else 0
    low = max(0, count - keep - int(params.gammas[model] * count))
    return count - low - keep, count - low


def _unknown_bins(params: TrimParams, have: Measured, model: int) -> tuple[int, ...]:
    """Those that were not listed along with the histogram."""
    histogram = _only(have.of(HistogramLook))[model]
    bins = bins_of(histogram, _ends(params, model, histogram.nonzero))
    return () if histogram.near.covers(bins) else bins


def _places(params: TrimParams, have: Measured, model: int) -> tuple[Place, Place]:
    """The two cuts of a model."""
    histogram: Histogram = _only(have.of(HistogramLook))[model]
    ends = _ends(params, model, histogram.nonzero)
    bins = bins_of(histogram, ends)
    covered = histogram.near.covers(bins)
    low_bits: LowBits = histogram.near.low_bits(bins) if covered else _only(have.of(LowBitsLook))[model]
    upper, lower = (place_of(histogram, low_bits, end) for end in ends)
    return upper, lower


def _divided(params: TrimParams, have: Measured) -> Iterator[tuple[int, int, Place]]:
    """Every cut that divides equal magnitudes: the model's number, 0 for the upper or 1 for the lower, the cut."""
    for model in range(len(params.weights)):
        for which, place in enumerate(_places(params, have, model)):
            if place.splits:
                yield model, which, place


def _kept(params: TrimParams, have: Measured, model: int, divided: Mapping[tuple[int, int], int]) -> Kept:
    """One model's decision; `divided` has the last element that is taken of those that a cut divides."""
    histogram: Histogram = _only(have.of(HistogramLook))[model]
    if params.densities[model] >= 1:
        return Kept(BEFORE_ALL, BEHIND_ALL, 1.0, histogram.nonzero, histogram.nonzero)
    places = _places(params, have, model)
    upper, lower = (place.cut(divided.get((model, which))) for which, place in enumerate(places))
    first, last = (min(end, histogram.nonzero) for end in _ends(params, model, histogram.nonzero))
    factor = rescaled(histogram.sum_from(0), places[1].total - places[0].total) if params.rescale else 1.0
    tied = places[1].tied if places[1].splits else 0
    return Kept(upper, lower, factor, histogram.nonzero, last - first, tied)


def rescaled(before: int, after: int) -> float:
    """What scales kept magnitudes to the whole, of their exact sums as multiples of 2**-149; 1 where one is tiny."""
    whole, kept = before / (1 << UNIT_EXPONENT), after / (1 << UNIT_EXPONENT)
    return whole / kept if whole >= SMALLEST_SUM and kept >= SMALLEST_SUM else 1.0


def _counts(column: Sequence[Kept]) -> dict[str, Fact]:
    """Counts of one model over all tensors; None where none was measured."""
    measured = [each for each in column if each.nonzero is not None]
    if not measured:
        return dict.fromkeys(("nonzero", "kept", "kept_share"))
    nonzero, kept = sum(each.nonzero or 0 for each in measured), sum(each.kept or 0 for each in measured)
    return {"nonzero": nonzero, "kept": kept, "kept_share": kept / nonzero if nonzero else None}


METHODS = (Ties(), Breadcrumbs(), BreadcrumbsTies())
