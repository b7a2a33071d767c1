"""LoRA merging: adapters combined by their low-rank matrices, then applied to the base.

Source: Smirnov, Rachkov 2025 (the baseline); peft 0.21, `add_weighted_adapter`, whose terms these are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from sdmw.codec import tagged
from sdmw.errors import PlanError, Problem, quoted
from sdmw.methods.method import Destination, Facts, Method, Product, Settings, common_weights, float32s
from sdmw.recipes.recipe import Parameter, Setting
from sdmw.statistics.look import Measured, Tile
from sdmw.tensors.combined import Combination, Kind, combined
from sdmw.tensors.low_rank import LowRank, Sum
from sdmw.tensors.tensor import Tensor

HIGHEST_RANK = 4096


@tagged
@dataclass(frozen=True, slots=True)
class LoraParams:
    """What the adapters of one tensor are combined with.

    Attributes:
        weights: of each.
        kind: of the combination.
        svd_rank: of what `svd` gives; 0 for the largest rank of the adapters.
    """

    weights: tuple[float, ...]
    kind: Kind
    svd_rank: float


class Lora(Method[LoraParams, None, None]):
    """One adapter of several, and the base with it. `linear` adds A and B apart: their product then has cross terms."""

    name = "lora"
    paper = "Smirnov, Rachkov 2025; peft's add_weighted_adapter"
    takes = "deltas"
    parameters = (
        Parameter("weight", "number", 1.0, by_model=True),
        Parameter("combination_type", "choice", "svd", choices=("linear", "cat", "svd")),
        Parameter("svd_rank", "number", 0.0, minimum=0, maximum=HIGHEST_RANK),
        Parameter("output", "choice", "model", choices=("model", "adapter")),
    )

    def params(self, settings: Settings) -> LoraParams:
        """The parameters of one tensor."""
        kind = cast(Kind, settings.word("combination_type"))
        return LoraParams(settings.numbers("weight"), kind, settings.number("svd_rank"))

    def objection(self, params: LoraParams) -> str | None:
        """A rank is a whole number."""
        return (
            None if params.svd_rank == int(params.svd_rank) else (f"svd_rank {params.svd_rank:g} is not a whole number")
        )

    def product(self, top: Mapping[str, Setting]) -> Product:
        """`output`: the base with the combined adapter, or the adapter alone."""
        return "adapter" if top.get("output") == "adapter" else "model"

    def arrange(self, params: Sequence[LoraParams], tensors: Sequence[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        """The base's and the combined delta; the base's alone where no adapter says anything."""
        if problems := [p for own, each in zip(params, tensors, strict=True) for p in _unfit(own, each)]:
            raise PlanError(problems)
        deltas = [[info for info in models if isinstance(info, LowRank)] for _, *models in tensors]
        # One rank for all: what loads adapters often takes no other.
        rank = max((_rank(own, each) for own, each in zip(params, deltas, strict=True) if each), default=0)
        found: list[Sequence[Tensor]] = []
        for own, (base, *models), each in zip(params, tensors, deltas, strict=True):
            weights = tuple(w for info, w in zip(models, own.weights, strict=True) if isinstance(info, LowRank))
            found.append((base, combined(Combination(own.kind, tuple(each), weights, rank))) if each else (base,))
        return found

    def decide_layer(self, params: LoraParams, have: Measured) -> None:
        """Nothing is measured, and nothing is to be decided."""

    def decide_model(self, layers: Sequence[tuple[LoraParams, None]]) -> None:
        """The weights are given."""

    def apply(self, tile: Tile, params: LoraParams, layer: None, model: None, destination: Destination) -> bool:
        """Base plus the combined delta, where there is one."""
        from sdmw.kernels.tiles import merge_deltas

        one = np.float32(1)
        deltas = tile.addresses.size - 1
        return bool(
            merge_deltas(
                tile.addresses, tile.codes, tile.count, np.zeros(deltas, np.float32), float32s([1.0] * deltas),
                one, one, True, destination.address, destination.code,
            )
        )  # fmt: skip

    def model_facts(self, params: Iterable[LoraParams], layers: Sequence[None], model: None) -> tuple[Facts, ...]:
        """The weights as given."""
        return tuple({"weight": weight} for weight in common_weights(each.weights for each in params))


def _unfit(params: LoraParams, tensors: Sequence[Tensor]) -> Iterator[Problem]:
    """What of one tensor is no low-rank matrix, or of another rank than the rest."""
    base, *models = tensors
    for info in models:
        if info is not base and not isinstance(info, LowRank):
            where = info.where
            saved = isinstance(info, Sum)  # peft saves a copy of a targeted embedding
            again = "Save the adapter again with save_embedding_layers=False"
            mend = again if saved else "Merge with task_arithmetic or linear, which take values"
            yield Problem(where, "low-rank matrices, which are what lora combines", "values", mend)
    deltas = [info for info in models if isinstance(info, LowRank)]
    if len({delta.transposed for delta in deltas}) > 1:
        mend = "Set fan_in_fan_out in both configs to the orientation of the weight"
        yield Problem(
            f"recipe: tensor {quoted(base.name)}",
            "adapters that store it in one orientation",
            "both orientations",
            mend,
        )
    if params.kind == "linear" and len(ranks := {delta.a.shape[0] for delta in deltas}) > 1:
        found = " and ".join(map(str, sorted(ranks)))
        mend = "Choose combination_type cat or svd"
        yield Problem(f"recipe: tensor {quoted(base.name)}", "adapters of one rank for linear", found, mend)


def _rank(params: LoraParams, deltas: Sequence[LowRank]) -> int:
    ranks = [delta.a.shape[0] for delta in deltas]
    if params.kind == "svd":
        return int(params.svd_rank) or max(ranks)
    return sum(ranks) if params.kind == "cat" else max(ranks)


METHODS = (Lora(),)
