"""The changes of one model that matter most, the others are left out. Source: Arcee AI; METHODS.md, section 3."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sdmw.codec import Count, tagged
from sdmw.methods.method import Destination, Facts, Method, Settings
from sdmw.statistics.divergence import DivergenceLook, LargestLook, PowersLook
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.statistics.low_bits import LowBits
from sdmw.statistics.scores import LowScoresLook, Scores, ScoresLook, rows_of

_SHARES = 2 * 8  # bytes of an element of a row: two float64
QUARTILES = 0.25, 0.5, 0.75


@tagged
@dataclass(frozen=True, slots=True)
class FusionParams:
    """What one tensor is merged with.

    Attributes:
        elements: of the tensor.
        one_long_row: its rows are one, and that is not held whole.
    """

    elements: Count
    one_long_row: bool


@tagged
@dataclass(frozen=True, slots=True)
class FusionCut:
    """What is decided of a tensor.

    Attributes:
        score: a change is taken where its score reaches it.
        divergence: of a long row; None where each row's is found while it is merged.
    """

    score: float
    divergence: float | None


class ArceeFusion(Method[FusionParams, FusionCut, None]):
    """A change's score is its magnitude times the divergence of its row; it is taken where that reaches a cut.

    The cut is the median and 1.5 times what lies between the quartiles. Rows are held whole, but for the only one of a
    long tensor: its divergence is found before.
    """

    name = "arcee_fusion"
    paper = "Arcee AI, in mergekit 0.1; https://arcee.ai"
    takes = "deltas"
    most = 1
    parameters = ()
    looks = (LargestLook, PowersLook, DivergenceLook, ScoresLook, LowScoresLook)
    uses = ("fusion",)
    may_use = ("divergence", "dots")
    columns: ClassVar[Mapping[str, str]] = {"mean_cut": ".3g"}

    def params(self, settings: Settings) -> FusionParams:
        """The parameters of one tensor."""
        return FusionParams(settings.elements, settings.one_long_row)

    def kernels(self, params: Iterable[FusionParams]) -> tuple[str, ...]:
        """Those of long rows only where there is one."""
        return (*self.uses, *self.may_use) if any(each.one_long_row for each in params) else self.uses

    def row_bytes(self, params: FusionParams) -> int | None:
        """The shares of the model's values in a row, and of the base's."""
        return None if params.one_long_row else _SHARES

    def needs(self, params: FusionParams, have: Measured) -> Look[Any] | None:
        """What the divergence of a long row asks for; the histogram of the scores, and low bits at the quartiles."""
        if params.one_long_row and (look := _look_for_divergence(have)):
            return look
        if (scores := _only(have, ScoresLook)) is None:
            return ScoresLook(_divergence(params, have))
        asked = scores.bins.size and have.of(LowScoresLook) is None
        if asked and (bins := scores.bins_to_open(_ranks(params))):
            return LowScoresLook(bins, _divergence(params, have))
        return None

    def decide_layer(self, params: FusionParams, have: Measured) -> FusionCut:
        """The cut; a layer is one tensor. Where NaN and infinity pass on it may be beyond all scores, or below."""
        scores: Scores = _only(have, ScoresLook)
        divergence = _divergence(params, have)
        if not scores.bins.size:
            return FusionCut(0.0, divergence)
        low_bits = _only(have, LowScoresLook) or LowBits({}, {})
        lower, median, upper = (scores.at(rank, low_bits) for rank in _ranks(params))
        cut, largest = median + 1.5 * (upper - lower), sys.float_info.max
        return FusionCut(-largest if math.isnan(cut) else min(max(cut, -largest), largest), divergence)

    def decide_model(self, layers: Sequence[tuple[FusionParams, FusionCut]]) -> None:
        """Every tensor is decided by itself. ValueError where a decision is not one on its tensor's rows."""
        for params, layer in layers:
            if (layer.divergence is None) == params.one_long_row:
                raise ValueError(f"a decision with the divergence {layer.divergence}")

    def apply(self, tile: Tile, params: FusionParams, layer: FusionCut, model: None, destination: Destination) -> bool:
        """Score, compare, add."""
        from sdmw.kernels.fusion import merge_telling

        return bool(
            merge_telling(
                tile.addresses, tile.codes, tile.count, *rows_of(tile, layer.divergence), *tile.merged, layer.score,
                destination.address, destination.code,
            )
        )  # fmt: skip

    def layer_facts(self, layer: FusionCut, model: None) -> tuple[Facts, ...]:
        """The cut."""
        return ({"cut": layer.score},)

    def model_facts(
        self, params: Iterable[FusionParams], layers: Sequence[FusionCut], model: None
    ) -> tuple[Facts, ...]:
        """The mean of all cuts."""
        return ({"mean_cut": sum(each.score / len(layers) for each in layers)},)

    def describe(self, facts: Facts) -> Iterator[str]:
        """The mean cut."""
        if (mean := facts.get("mean_cut")) is not None:
            yield f"changes are taken from a score of {mean:.3g} on average"


def _look_for_divergence(have: Measured) -> Look[Any] | None:
    """The next look at a long row's softmax; nothing follows where a value is NaN or infinite."""
    if (tops := _only(have, LargestLook)) is None:
        return LargestLook()
    if (powers := _only(have, PowersLook)) is None:
        return PowersLook(tops)
    if have.of(DivergenceLook) is None and powers.finite:
        return DivergenceLook(tops, powers.numbers())
    return None


def _divergence(params: FusionParams, have: Measured) -> float | None:
    """Of a long row."""
    if not params.one_long_row:
        return None
    found = _only(have, DivergenceLook)
    return float(*found.numbers()) if found is not None and found.finite else math.nan


def _only(have: Measured, look: type[Look[Any]]) -> Any:
    """The statistic of a layer of one tensor; None where there is none."""
    found = have.of(look)
    return None if found is None else next(iter(found.values()))


def _ranks(params: FusionParams) -> tuple[int, ...]:
    """Of the quartiles: truncated, and not interpolated."""
    return tuple(int(share * (params.elements - 1)) for share in QUARTILES)


METHODS = (ArceeFusion(),)
