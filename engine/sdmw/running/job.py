"""A job is plan, decisions and sink: values, from which any process can compute any piece."""

from dataclasses import dataclass, field

from sdmw.codec import tagged
from sdmw.methods import all_methods
from sdmw.methods.method import AnyMethod
from sdmw.planning.plan import Piece, Plan
from sdmw.running.deal import Deal
from sdmw.running.span import Span
from sdmw.running.stop import GivenUp
from sdmw.running.work import Portion


@tagged
@dataclass(frozen=True, slots=True)
class Decisions:
    """What a method decided. `sdmw.codec` writes and reads it: a method's decisions are `tagged`.

    Attributes:
        layers: the decision of each layer, in the plan's order.
        model: the model's decision; None where nothing is merged.
    """

    layers: tuple[object, ...]
    model: object


@dataclass(frozen=True, slots=True)
class Job:
    """A plan that is decided.

    Attributes:
        plan: without problems.
        decisions: of its layers and its model.
        layer_of: by tensor, the number of its layer.
    """

    plan: Plan
    decisions: Decisions
    layer_of: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = {tensor: number for number, layer in enumerate(self.plan.layers) for tensor in layer.tensors}
        object.__setattr__(self, "layer_of", found)

    @property
    def method(self) -> AnyMethod:
        """The merge method."""
        return all_methods()[self.plan.recipe.merge_method]

    def decision_of(self, tensor: int) -> object:
        """Of a tensor's layer; None where it is not merged."""
        number = self.layer_of.get(tensor)
        return None if number is None else self.decisions.layers[number]

    def portion(self, piece: Piece, given_up: GivenUp, *, shared: bool) -> Portion:
        """A piece with all that is needed to write it, by workers that may share it."""
        span = span_of(self.plan, piece, given_up)
        return Portion(Deal(span) if shared else span, self.decision_of(piece.tensor))


def span_of(plan: Plan, piece: Piece, given_up: GivenUp) -> Span:
    """A piece with all that is needed to read it."""
    tensor = plan.tensors[piece.tensor]
    strict = plan.recipe.nonfinite == "error"
    return Span(tensor, piece.start, piece.stop, tensor.tile(plan.tile), strict, given_up)
