"""The changes of one model that matter most, the others are left out. Source: Arcee AI; METHODS.md, section 3."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sdmw.codec import Count, tagged
from sdmw.methods.method import Destination, Facts, Method, Settings
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.statistics.low_bits import LowBits
from sdmw.statistics.scores import LowScoresLook, Scores, ScoresLook

_SHARES = 2 * 8  # bytes of an element of a row: two float64
QUARTILES = 0.25, 0.5, 0.75


@tagged
@dataclass(frozen=True, slots=True)
class FusionParams:
    """What one tensor is merged with.

    Attributes:
        elements: of the tensor.
    """

    elements: Count


class ArceeFusion(Method[FusionParams, float, None]):
    """A change's score is its magnitude times the divergence of its row; it is taken where that reaches a cut.

    The cut is the median and 1.5 times what lies between the quartiles. What is decided of a tensor is the cut.
    """

    name = "arcee_fusion"
    paper = "Arcee AI, in mergekit 0.1; https://arcee.ai"
    takes = "deltas"
    most = 1
    parameters = ()
    looks = (ScoresLook, LowScoresLook)
    uses = ("fusion",)
    columns: ClassVar[Mapping[str, str]] = {"mean_cut": ".3g"}

    def params(self, settings: Settings) -> FusionParams:
        """The parameters of one tensor."""
        return FusionParams(settings.elements)

    def row_bytes(self, params: FusionParams) -> int:
        """The shares of the model's values in a row, and of the base's."""
        return _SHARES

    def needs(self, params: FusionParams, have: Measured) -> Look[Any] | None:
        """The histogram of the scores, and low bits of the bins that hold the quartiles."""
        if (scores := _only(have, ScoresLook)) is None:
            return ScoresLook()
        if have.of(LowScoresLook) is None and (bins := scores.bins_to_open(_ranks(params))):
            return LowScoresLook(bins)
        return None

    def decide_layer(self, params: FusionParams, have: Measured) -> float:
        """The cut; a layer is one tensor. Where NaN and infinity pass on it may be beyond all scores, or below."""
        scores: Scores = _only(have, ScoresLook)
        if not scores.bins.size:
            return 0.0
        low_bits = _only(have, LowScoresLook) or LowBits({}, {})
        lower, median, upper = (scores.at(rank, low_bits) for rank in _ranks(params))
        cut = median + 1.5 * (upper - lower)
        return -sys.float_info.max if math.isnan(cut) else min(max(cut, -sys.float_info.max), sys.float_info.max)

    def decide_model(self, layers: Sequence[tuple[FusionParams, float]]) -> None:
        """Every tensor is decided by itself."""

    def apply(self, tile: Tile, params: FusionParams, layer: float, model: None, destination: Destination) -> bool:
        """Score, compare, add."""
        from sdmw.kernels.fusion import merge_telling

        return bool(
            merge_telling(
                tile.addresses, tile.codes, tile.count, tile.row, *tile.merged, layer, destination.address,
                destination.code,
            )
        )  # fmt: skip

    def layer_facts(self, layer: float) -> tuple[Facts, ...]:
        """The cut."""
        return ({"cut": layer},)

    def model_facts(self, params: Iterable[FusionParams], layers: Sequence[float], model: None) -> tuple[Facts, ...]:
        """The mean of all cuts."""
        return ({"mean_cut": sum(each / len(layers) for each in layers)},)

    def describe(self, facts: Facts) -> Iterator[str]:
        """The mean cut."""
        if (mean := facts.get("mean_cut")) is not None:
            yield f"changes are taken from a score of {mean:.3g} on average"


def _only(have: Measured, look: type[Look[Any]]) -> Any:
    """The statistic of a layer of one tensor; None where there is none."""
    found = have.of(look)
    return None if found is None else next(iter(found.values()))


def _ranks(params: FusionParams) -> tuple[int, ...]:
    """Of the quartiles: truncated, and not interpolated."""
    return tuple(int(share * (params.elements - 1)) for share in QUARTILES)


METHODS = (ArceeFusion(),)
