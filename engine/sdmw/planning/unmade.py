"""What a document of a recipe will make, before it is decided: its tensors can be planned with, and not be read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._config import CONFIG, LARGEST_CONFIG
from sdmw.checkpoints.merged_config import merged_config
from sdmw.codec import tagged
from sdmw.methods import all_methods
from sdmw.planning.plan import Plan, TensorPlan
from sdmw.statistics.ranges import RANGE_BYTES
from sdmw.storage.files import read_bounded
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Cost, Source, Tensor


@tagged
@dataclass(frozen=True, slots=True)
class Unmade(Tensor):
    """A tensor of a plan.

    Attributes:
        part: the tensor in its plan.
        most: elements of a tile in which its inputs will be read.
        method: the merge method's name.
    """

    part: TensorPlan
    most: int
    method: str

    @property
    def cost(self) -> Cost:
        """What it will cost once it is decided."""
        return cost_of(self.part, self.most, self.method)

    def open(self) -> Source:
        """It has no values."""
        raise TypeError(f"{self.name} is planned and not decided")

    def leaves(self) -> Iterator[Stored]:
        """Those of its inputs."""
        for tensor in self.part.inputs:
            yield from tensor.leaves()


def cost_of(part: TensorPlan, most: int, method: str) -> Cost:
    """What computing a tensor costs: what its inputs do; a tile of each is held beside the result.

    Args:
        part: the tensor in its plan.
        most: elements of a tile in which its inputs are read.
        method: the merge method's name.
    """
    each = [tensor.cost for tensor in part.inputs]
    itemsize = part.output.dtype.itemsize
    held = (most + part.beside) * (sum(cost.held for cost in each) + 2 * itemsize)
    own = all_methods()[method]
    row = part.row * (own.row_bytes(part.params) or 0) if part.whole_rows else 0
    ranges = RANGE_BYTES * own.ranges(part.params) if part.action == "merge" else 0
    beside = row + ranges + sum(cost.working + cost.kept for cost in each)
    return Cost(sum(cost.read for cost in each), itemsize, held + beside)


def unmade(plan: Plan) -> Checkpoint:
    """The checkpoint that a plan would write.

    Raises:
        CheckpointError: the config of its base cannot be read.
    """
    method = plan.recipe.merge_method
    parts: list[Tensor] = [Unmade(t.name, t.output.dtype, t.output.shape, t, plan.tile, method) for t in plan.tensors]
    return result(plan, parts)


def result(plan: Plan, tensors: list[Tensor]) -> Checkpoint:
    """A checkpoint of these tensors, with the config that a plan's output has.

    Raises:
        CheckpointError: the config of its base cannot be read.
    """
    base = plan.base
    assert base is not None
    own = base.config_text or read_bounded(base.path, CONFIG, LARGEST_CONFIG, follow_links=base.follow_links)
    text = merged_config(
        own, plan.recipe.output_dtype, untie=bool(plan.untied), depth=plan.depth, changes=plan.config_changes
    )
    shards = tuple(dict.fromkeys(shard for checkpoint in plan.checkpoints for shard in checkpoint.shards))
    named = {tensor.name: tensor for tensor in tensors}
    return replace(
        base, tensors=named, shards=shards, config=json.loads(text), config_text=text, warnings=(), adapts=None
    )
