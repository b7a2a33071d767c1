"""Methods whose result is a weighted sum of the models, decided by the Gram matrix alone."""

import base64
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import Matching, tagged
from sdmw.errors import Problem, RunError, quoted
from sdmw.kernels.blocks import GRAIN
from sdmw.methods.method import Destination, Facts, Method, float32s
from sdmw.sizes import counted
from sdmw.statistics.gram import Gram, GramLook
from sdmw.statistics.look import Look, Measured, Tile

P = TypeVar("P")


@tagged
@dataclass(frozen=True, slots=True)
class Coefficients:
    """What a layer is merged with.

    Attributes:
        base: coefficient of the base's values; None where tiles do not have them, or hold deltas from them.
        models: of each model's values, or of its delta.
    """

    base: float | None
    models: tuple[float, ...]


@tagged
@dataclass(frozen=True, slots=True)
class ColumnShares:
    """What each column of a layer is merged with.

    Attributes:
        shares: of the first model in every column, then of the second: float32, little-endian, in base64.
    """

    shares: Annotated[str, Matching("[0-9A-Za-z+/]*=*")]

    def array(self) -> NDArray[np.float32]:
        """(2, columns). ValueError where the text is none of these."""
        return np.frombuffer(base64.b64decode(self.shares), "<f4").reshape(2, -1).astype(np.float32)


Decided = Coefficients | ColumnShares | None  # None: each row by itself, when it is merged


class WeightedSum(Method[P, Decided, None]):
    """Looks once, at all norms and dot products; decides in float64; adds in float32, one rounding an operation.

    Where rows are merged each by itself nothing is looked at before: tiles hold whole rows.
    """

    looks: ClassVar[tuple[type[Look[Any]], ...]] = (GramLook,)
    uses = ("dots",)
    columns: ClassVar[Mapping[str, str]] = {"mean_coefficient": ".4f"}

    @abstractmethod
    def coefficients(self, params: P, gram: NDArray[np.float64]) -> Coefficients:
        """From the Gram matrix, of deltas or of values with the base's first, to the coefficients."""

    def of_deltas(self, params: P) -> bool:
        """Whether tiles hold the base and deltas are added to it."""
        return self.takes == "deltas"

    def kernels(self, params: Iterable[P]) -> tuple[str, ...]:
        """Those of rows and columns only where some tensor is merged by them."""
        apart = any(self.by_row(each) or self.column_bytes(each) for each in params)
        return (*self.uses, *self.may_use) if apart else self.uses

    def by_row(self, params: P) -> bool:
        """Whether each row of the last axis is a vector of its own."""
        return False

    def decides(self, params: P) -> type[Any]:
        """The kind of a decision on such a tensor."""
        return type(None) if self.by_row(params) else Coefficients

    def models_by_row(self, params: P) -> int:
        """How many models are merged by row."""
        raise NotImplementedError

    def apply_rows(self, tile: Tile, params: P, destination: Destination) -> bool:
        """Merge the rows of a tile."""
        raise NotImplementedError

    def row_bytes(self, params: P) -> int | None:
        """The sums of blocks, of each pair of models."""
        if not self.by_row(params):
            return None
        models = self.models_by_row(params)
        return 1 + 8 * (models * (models + 1) // 2) // GRAIN

    def needs(self, params: P, have: Measured) -> Look[Any] | None:
        """The Gram matrix; nothing where rows are merged each by itself."""
        if self.by_row(params):
            return None
        deltas = self.of_deltas(params)
        look = GramLook(base=deltas or self.takes == "values and base", deltas=deltas)
        return look if have.of(GramLook) is None else None

    def decide_layer(self, params: P, have: Measured) -> Decided:
        """The coefficients; a layer is one tensor."""
        if self.by_row(params):
            return None
        (gram,) = cast("Mapping[str, Gram]", have.of(GramLook)).values()
        return self.coefficients(params, gram.matrix())

    def decide_model(self, layers: Sequence[tuple[P, Decided]]) -> None:
        """Every layer is decided by itself. ValueError where a decision is not one on its tensor's vectors."""
        for params, layer in layers:
            if isinstance(layer, ColumnShares):
                layer.array()
            if type(layer) is not self.decides(params):
                raise ValueError(f"a decision of the kind {type(layer).__name__}")

    def apply(self, tile: Tile, params: P, layer: Decided, model: None, destination: Destination) -> bool:
        """The weighted sum, in the order of the recipe."""
        from sdmw.kernels.tiles import average, merge_deltas
        from sdmw.kernels.vectors import merge_columns

        if layer is None:
            return self.apply_rows(tile, params, destination)
        if isinstance(layer, ColumnShares):
            shares = layer.array()
            if shares.shape[1] != tile.columns:
                expected, found = f"shares of {counted(tile.columns, 'column')}", f"{shares.shape[1]:,}"
                raise RunError([Problem(f"the decision on tensor {quoted(tile.tensor)}", expected, found)])
            return bool(
                merge_columns(
                    tile.addresses, tile.codes, tile.count, tile.first, self.of_deltas(params), shares,
                    destination.address, destination.code,
                )
            )  # fmt: skip
        one = np.float32(1)
        if self.of_deltas(params):
            weights, keep_all = float32s(layer.models), np.zeros(len(layer.models), np.float32)
            return bool(
                merge_deltas(
                    tile.addresses, tile.codes, tile.count, keep_all, weights, one, one, False,
                    destination.address, destination.code,
                )
            )  # fmt: skip
        weights = float32s(layer.models if layer.base is None else (layer.base, *layer.models))
        return bool(
            average(tile.addresses, tile.codes, tile.count, weights, one, destination.address, destination.code)
        )

    def layer_facts(self, layer: Decided, model: None) -> tuple[Facts, ...]:
        """The coefficients; nothing where rows or columns have their own."""
        return tuple({"coefficient": each} for each in layer.models) if isinstance(layer, Coefficients) else ()

    def model_facts(self, params: Iterable[P], layers: Sequence[Decided], model: None) -> tuple[Facts, ...]:
        """The mean of each model's coefficients over all layers that have one, and how many do not."""
        whole = [each.models for each in layers if isinstance(each, Coefficients)]
        apart = len(layers) - len(whole)
        if not whole:
            return ({"mean_coefficient": None, "apart": apart},) * self.models_by_row(next(iter(params)))
        return tuple(
            {"mean_coefficient": sum(column) / len(whole), "apart": apart} for column in zip(*whole, strict=True)
        )

    def describe(self, facts: Facts) -> Iterator[str]:
        """The mean coefficient, and how many tensors have none."""
        if (mean := facts.get("mean_coefficient")) is not None:
            yield f"mean coefficient {mean:.6g}"
        if apart := facts.get("apart"):
            yield f"rows or columns have their own in {apart:,} tensors"
