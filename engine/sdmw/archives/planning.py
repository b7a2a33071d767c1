"""What can be told against packing a delta, or against putting one on a model, from headers alone."""

import os
import sys

from sdmw.archives.archive import Archive
from sdmw.checkpoints.checkpoint import Checkpoint, input_folders, unmergeable
from sdmw.errors import Problem
from sdmw.methods import all_methods
from sdmw.planning.build import Options, build
from sdmw.planning.check import check_alike
from sdmw.planning.inputs import Inputs
from sdmw.planning.plan import Plan
from sdmw.recipes.load import load
from sdmw.writing.layout import ShardLayout
from sdmw.writing.target import check_target

_ALONE = "Make a model of it first, by a recipe with `merge_method: task_arithmetic`"


def check_packing(base: Checkpoint, model: Checkpoint, target: str, *, overwrite: bool) -> list[Problem]:
    """All that keeps two models from being packed."""
    problems = [problem for checkpoint in (base, model) for problem in _unfit(checkpoint)]
    if not problems and os.path.samefile(base.path, model.path):
        problems.append(Problem(model.path, "a fine-tune", "the base itself", "Give two models"))
    if not problems:
        like = {name: (info.dtype, info.shape) for name, info in base.tensors.items()}
        problems += check_alike(like, f"the base {base.path}", model)
    return [*problems, *check_target(target, input_folders([base, model]), 0, overwrite)]


def check_applying(
    checkpoint: Checkpoint, archive: Archive, shards: tuple[ShardLayout, ...], target: str, *, overwrite: bool
) -> list[Problem]:
    """All that keeps an archive from being put on a model.

    Args:
        checkpoint: the model.
        archive: the archive.
        shards: of the output.
        target: the directory to appear.
        overwrite: a directory there may be replaced.
    """
    problems = _unfit(checkpoint)
    if not problems:
        like = {tensor.name: (tensor.dtype, tensor.shape) for tensor in archive.tensors}
        problems += check_alike(like, f"the archive {archive.path}", checkpoint)
    inputs = [*input_folders([checkpoint]), archive.path]
    return [*problems, *check_target(target, inputs, sum(shard.size for shard in shards), overwrite)]


def plan_thresholds(base: Checkpoint, model: Checkpoint, k: float) -> Plan:
    """The plan of SDM-W for one fine-tune, each tensor a layer of its own; it is measured and decided, not applied."""
    recipe = load(
        {
            "merge_method": "sdm_w", "base_model": base.path, "models": [{"model": model.path}],
            "parameters": {"k": k, "granularity": "tensor"}, "nonfinite": "pass",
        },
        all_methods(),
    )  # fmt: skip
    inputs = Inputs(base, {model.path: model}, ((base.path, base), (model.path, model)))
    return build(recipe, all_methods()[recipe.merge_method], inputs, Options(None, False, sys.maxsize, None, None))


def _unfit(checkpoint: Checkpoint) -> list[Problem]:
    if checkpoint.adapts is not None:
        return [Problem(checkpoint.path, "a model that stands alone", "an adapter", _ALONE)]
    return unmergeable(checkpoint)
