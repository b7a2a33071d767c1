"""W_i in proportion to a power of what each model keeps. Source: METHOD.md, "W_i"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from sdmw.codec import tagged
from sdmw.recipes.recipe import Key, Parameter

NORMALIZATION = Parameter(
    "normalization",
    "choice",
    "linear",
    choices=("linear", "square"),
    keyed=(Key("power"), Key("norm", (1, 2)), Key("scope", ("model", "layer"), replaced_by=("layer", "weight"))),
)
_POWERS = {"linear": 1.0, "square": 2.0}


@tagged
@dataclass(frozen=True, slots=True)
class WeightLaw:
    """W_i = x_i**(power / norm) over their sum, x_i the sum of the |kept deltas|**norm.

    Attributes:
        power: 0 weighs all models alike, a negative one those more that kept less.
        norm: 1 for magnitudes, 2 for squares.
        by_layer: the sums and the weights are those of a layer, else of the model.
    """

    power: float
    norm: Literal[1, 2] = 1
    by_layer: bool = False

    @classmethod
    def of(cls, chosen: str | Mapping[str, float | str]) -> "WeightLaw":
        """What `normalization` asks for."""
        if isinstance(chosen, str):
            return cls(_POWERS[chosen])
        norm = cast("Literal[1, 2]", chosen.get("norm", 1))
        return cls(cast(float, chosen["power"]), norm, chosen.get("scope") == "layer")

    def weights(self, sums: Sequence[float]) -> tuple[float, ...]:
        """(x_i / max x)**(p / q) over their sum, left to right; 0 where x_i is 0.

        Of a negative power x_i over the smallest that is not 0, so that nothing overflows.
        """
        changed = [x for x in sums if x]
        if not changed:
            return (0.0,) * len(sums)
        unit = min(changed) if self.power < 0 else max(changed)
        powers = [(x / unit) ** (self.power / self.norm) if x else 0.0 for x in sums]
        total = 0.0
        for each in powers:  # not sum(), which compensates from Python 3.12 on
            total += each
        return tuple(each / total for each in powers)
