"""A merge that is decided and not written, as a checkpoint whose tensors are computed when they are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.codec import tagged
from sdmw.errors import RunError
from sdmw.methods import all_methods
from sdmw.planning.plan import TensorPlan
from sdmw.planning.unmade import cost_of, result
from sdmw.running.job import Job
from sdmw.running.span import Span
from sdmw.running.work import Portion, write_portion
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Cost, Source, Tensor, check_range


@tagged
@dataclass(frozen=True, slots=True)
class Merged(Tensor):
    """A tensor of a merge: its tiles are what the merge would write, rounded to the output's dtype.

    Attributes:
        method: the merge method's name.
        part: the tensor in its plan.
        most: elements of a tile in which its inputs are read.
        strict: NaN, infinity and overflow are errors.
        layer: the decision of its layer; None where it is not merged.
        model: the model's decision.
    """

    method: str
    part: TensorPlan
    most: int
    strict: bool
    layer: object
    model: object

    @property
    def cost(self) -> Cost:
        """What its inputs cost; a tile of each is held while it is computed, beside the result."""
        return cost_of(self.part, self.most, self.method)

    def open(self) -> Source:
        """Computes each tile."""
        return MergedSource(self)

    def leaves(self) -> Iterator[Stored]:
        """Those of its inputs."""
        for tensor in self.part.inputs:
            yield from tensor.leaves()


@dataclass(frozen=True, slots=True)
class MergedSource:
    """A `Source` that merges. Opens nothing before the first tile; pickles.

    Attributes:
        tensor: what it computes.
    """

    tensor: Merged

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `dtype.storage`.

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            NonFiniteError, DisagreementError: as the merge would raise them.
            RunError: a file cannot be read.
        """
        tensor = self.tensor
        check_range(tensor, start, stop)
        values = np.empty(stop - start, tensor.dtype.storage)
        first, itemsize = tensor.part.output.offset + start * tensor.dtype.itemsize, tensor.dtype.itemsize

        def take(_shard: int, offset: int, data: NDArray[Any]) -> None:
            place = (offset - first) // itemsize
            values[place : place + data.size] = data.view(values.dtype)

        if values.size:
            span = Span(tensor.part, start, stop, tensor.part.tile(tensor.most), tensor.strict)
            write_portion(Portion(span, tensor.layer), all_methods()[tensor.method], tensor.model, take)
        values.flags.writeable = False
        return values.view()  # the owner of the memory could be made writeable again

    def release(self, start: int, stop: int) -> None:
        """A tile is computed: there is nothing to let go."""

    def lost(self) -> RunError | None:
        """Lost pages were reported while the tile was computed."""
        return None


def opened(job: Job) -> Checkpoint:
    """The checkpoint that a job would write, with the base's config; it may be read, verified, or merged again."""
    return result(job.plan, [merged(job, number) for number in range(len(job.plan.tensors))])


def merged(job: Job, number: int) -> Merged:
    """One tensor of a job."""
    plan, part = job.plan, job.plan.tensors[number]
    strict = plan.recipe.nonfinite == "error"
    layer, model = job.decision_of(number), job.decisions.model
    return Merged(
        part.name, part.output.dtype, part.output.shape, job.method.name, part, plan.tile, strict, layer, model
    )
