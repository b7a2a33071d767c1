"""What a merge method is: the parameters it takes, the looks it needs, two decisions, and one kernel."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import NoneType
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import is_tagged
from sdmw.recipes.recipe import Parameter, Setting
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.tensors.tensor import Tensor

P = TypeVar("P")  # the parameters of one tensor: a frozen dataclass
D = TypeVar("D")  # the decision of one layer: a frozen dataclass, a tuple of them, or None
M = TypeVar("M")  # the decision of the whole model, likewise

# What a tile holds: the base and what models changed of it, the models' values alone, or the base's before them.
Takes = Literal["deltas", "values", "values and base"]
Chosen = float | bool | str | Mapping[str, float | str] | None  # what a recipe may choose; None where nothing is chosen
Product = Literal["model", "adapter"]
Fact = float | int | bool | str | None | Mapping[str, float]
Facts = Mapping[str, Fact]

LONG_ROW = 1 << 18  # elements: the only row of a tensor, if it is longer, is never held whole


@dataclass(frozen=True, slots=True)
class Settings:
    """What the recipe's levels resolve to for one tensor.

    Attributes:
        models: how many are merged, the base not counted.
        base: whether the recipe has a base_model.
        elements: of the tensor.
        rows: of its last axis.
        seed: of all that is left to chance.
        top: a value for each parameter that stands at the top only.
        by_model: a value for each model, of each parameter that may differ between them.
    """

    models: int
    base: bool
    elements: int
    rows: int
    seed: int
    top: Mapping[str, Chosen]
    by_model: Mapping[str, tuple[float | None, ...]]

    @property
    def one_long_row(self) -> bool:
        """Whether the tensor is a single row, too long to be held whole."""
        return self.rows == 1 and self.elements > LONG_ROW

    def number(self, name: str) -> float:
        """A parameter of the kind "number" that stands at the top only."""
        return cast(float, self.top[name])

    def flag(self, name: str) -> bool:
        """A parameter of the kind "flag"."""
        return cast(bool, self.top[name])

    def word(self, name: str) -> str:
        """A parameter of the kind "choice" without a mapping form."""
        return cast(str, self.top[name])

    def numbers(self, name: str) -> tuple[float, ...]:
        """A parameter that may differ between models, and has a default."""
        return cast("tuple[float, ...]", self.by_model[name])


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a kernel writes the merged tile: an address and a dtype's code (`sdmw.kernels.codes`)."""

    address: int
    code: int


class Method(ABC, Generic[P, D, M]):
    """One merge method. A subclass says only what is special about it; it is found by its file's `METHODS`.

    P, D and M are its own. Other modules pass them on, and write and read them by `sdmw.codec`: each
    dataclass that they name must be `tagged`, which is checked where the method is defined. P is hashable.

    Attributes:
        name: the word in `merge_method`.
        paper: where it is published.
        takes: what its tiles hold.
        needs_base: `base_model` is compulsory. A method that takes deltas and can do without merges values then.
        parameters: all that it takes from a recipe.
        draws: something is left to chance, so that the seed counts.
        fewest, most: how many models it merges, the base not counted.
        looks: every kind of look that `needs` may ask for.
        uses: groups of kernels (`sdmw.kernels.calls`) that it calls, beside those that every run does.
        may_use: groups that it calls for some parameters alone.
        columns: facts about a model that a table shows, each with its format (PEP 3101).
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    takes: ClassVar[Takes]
    needs_base: ClassVar[bool]
    parameters: ClassVar[tuple[Parameter, ...]]
    draws: ClassVar[bool] = False
    fewest: ClassVar[int] = 1
    most: ClassVar[int | None] = None
    looks: ClassVar[tuple[type[Look[Any]], ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    may_use: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, str]] = {"weight": ".4f"}

    def __init_subclass__(cls) -> None:
        """TypeError where what it decides would be written and could not be read again."""
        super().__init_subclass__()
        if "takes" in vars(cls) and "needs_base" not in vars(cls):
            cls.needs_base = cls.takes != "values"
        for kind in _dataclasses_in(_own_types(cls)):
            if not is_tagged(kind):
                raise TypeError(f"{kind.__name__}, which {cls.__name__} names as its own, must be `tagged`")

    @abstractmethod
    def params(self, settings: Settings) -> P:
        """The parameters of one tensor."""

    def kernels(self, params: Iterable[P]) -> tuple[str, ...]:
        """The groups of kernels that tensors of these parameters need, beside those that every run does."""
        return self.uses

    def objection(self, params: P) -> str | None:
        """What makes these parameters unusable, which no single one of them shows; None where nothing does."""
        return None

    def notes(self, params: Iterable[P]) -> Iterator[str]:
        """What a plan says of tensors with these parameters, such as what no count of bytes shows."""
        return iter(())

    def granularity(self, top: Mapping[str, Setting]) -> str:
        """Which tensors are decided together (`views.layers`), by the recipe's top level of parameters."""
        return "tensor"

    def same_within_layer(self, top: Mapping[str, Setting]) -> tuple[str, ...]:
        """Parameters of which all tensors of a layer must have one value, by the recipe's top level."""
        return tuple(parameter.name for parameter in self.parameters if parameter.same_within_layer)

    def weighs_wholes(self, top: Mapping[str, Setting]) -> bool:
        """Whether models are weighed as wholes, so that the same ones take part in every slice; by the top level."""
        return own_types(self)[2] is not NoneType

    def product(self, top: Mapping[str, Setting]) -> Product:
        """What the merge makes, by the recipe's top level of parameters."""
        return "model"

    def arrange(self, params: Sequence[P], tensors: Sequence[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        """What each merged tensor is read from, in the order in which a tile has it.

        Args:
            params: of each.
            tensors: for each the base's, and what each model has in its place: values, a delta, or the base's itself.

        Raises:
            PlanError: all that cannot be read so.
        """
        return [tensor if self.needs_base else tensor[1:] for tensor in tensors]

    def row_bytes(self, params: P) -> int | None:
        """Bytes that a worker takes for each element of a row, where it needs rows of the last axis whole; else None.

        A tile, to be measured or merged, then holds whole rows, however long they are.
        """
        return None

    def ranges(self, params: P) -> int:
        """How many ranges of magnitudes a decision on one long row has at most, of all models; 0 where it has none."""
        return 0

    def column_bytes(self, params: P) -> int:
        """Bytes that a worker takes for each place behind the first axis, where it decides by column."""
        return 0

    def needs(self, params: P, have: Measured) -> Look[Any] | None:
        """The next look at a layer that is needed to decide it, given what was measured; None when nothing more is."""
        return None

    @abstractmethod
    def decide_layer(self, params: P, have: Measured) -> D:
        """From a layer's statistics to its numbers; pure. The parameters are those of the layer's first tensor."""

    @abstractmethod
    def decide_model(self, layers: Sequence[tuple[P, D]]) -> M:
        """From all layers' parameters and numbers to the model's; pure."""

    @abstractmethod
    def apply(self, tile: Tile, params: P, layer: D, model: M, destination: Destination) -> bool:
        """Merge one tile into the destination. Whether a result is NaN or infinite."""

    def layer_facts(self, layer: D, model: M) -> tuple[Facts, ...]:
        """What there is to tell of each model in a layer; empty where there is nothing."""
        return ()

    @abstractmethod
    def model_facts(self, params: Iterable[P], layers: Sequence[D], model: M) -> tuple[Facts, ...]:
        """What there is to tell of each model.

        Args:
            params: of all tensors that the method has a say in, in order; at least one.
            layers: all layers' numbers.
            model: the model's.
        """

    def facts(self, params: Iterable[P], layers: Sequence[D], model: M) -> Facts:
        """What there is to tell of the merge as a whole; arguments as for `model_facts`."""
        return {}

    def describe(self, facts: Facts) -> Iterator[str]:
        """What a model card says of one model's facts."""
        if (weight := facts.get("weight")) is not None:
            yield f"weight {weight:.6g}"

    def warnings(self, layers: Sequence[D], model: M, *, strict: bool) -> tuple[str, ...]:
        """What is odd in the data.

        Args:
            layers: all layers' numbers.
            model: the model's.
            strict: NaN, infinity and overflow are errors, so the data hold no such value.
        """
        return ()

    def decisions_of_schema_1(
        self, params: Sequence[P], layers: Sequence[Sequence[Facts]], models: Sequence[Facts]
    ) -> tuple[list[D], M]:
        """The decisions that a report of schema 1 holds.

        Args:
            params: of each layer's first tensor.
            layers: of each the facts on every model: threshold, nonzero, kept.
            models: of each its facts: weight, magnitude, nonzero, kept.

        Raises:
            ValueError: the facts contradict each other.
        """
        decided = [self.decide_layer(each, Measured()) for each in params]
        return decided, self.decide_model(list(zip(params, decided, strict=True)))


AnyMethod = Method[Any, Any, Any]  # where decisions are passed on and not looked into


def decision_type(method: AnyMethod) -> Any:
    """D of a method, for the codec."""
    return own_types(method)[1]


def own_types(method: AnyMethod) -> tuple[Any, Any, Any]:
    """P, D and M of a method."""
    if own := _own_types(type(method)):
        return cast("tuple[Any, Any, Any]", own)
    raise TypeError(f"{type(method).__name__} does not say what it decides")


def _own_types(kind: type[AnyMethod]) -> tuple[Any, ...]:
    """P, D and M, which a class in between may leave open; nothing where the class does not say them."""
    for base in (base for each in kind.__mro__ for base in getattr(each, "__orig_bases__", ())):
        origin, given = get_origin(base), get_args(base)
        if origin is Method:
            return given
        if isinstance(origin, type) and issubclass(origin, Method):
            filled = dict(zip(origin.__parameters__, given, strict=True))  # type: ignore[attr-defined] # typing's own
            return tuple(filled.get(each, each) for each in _own_types(origin))
    return ()


def _dataclasses_in(types: Iterable[Any]) -> Iterator[type[Any]]:
    for kind in types:
        if is_dataclass(kind) and isinstance(kind, type):
            yield kind
        yield from _dataclasses_in(get_args(kind))


def float32s(numbers: Sequence[float]) -> NDArray[np.float32]:
    """Each rounded once to float32, as a kernel takes weights."""
    return np.array(numbers, np.float32)


def sum_in_order(weights: NDArray[np.float32]) -> np.float32:
    """The float32 sum, left to right, each addition rounded."""
    total = np.float32(0)
    with np.errstate(over="ignore"):
        for weight in weights:
            total = np.float32(total + weight)
    return total


def objection_to_sum(weights: Sequence[float]) -> str | None:
    """Why weights cannot be normalised by their float32 sum; None where they can."""
    total = sum_in_order(float32s(weights))
    if total and np.isfinite(total):
        return None
    said = "zero" if not total else "more than float32 holds"
    return f"the weights {', '.join(f'{w:g}' for w in weights)} add up to {said} and normalize is true"


def common_weights(weights: Iterable[Sequence[float]]) -> tuple[float | None, ...]:
    """The weight that each model has in every tensor; None where tensors differ."""
    return tuple(column[0] if len(set(column)) == 1 else None for column in zip(*set(map(tuple, weights)), strict=True))
