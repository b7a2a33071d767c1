"""What stands in the output beside its shards: config, tokenizer and the rest, card, recipe, report. CHECKPOINT.md."""

from collections.abc import Mapping, Sequence

from sdmw.checkpoints.formats._adapter_config import ADAPTER_CONFIG, read_adapter_config
from sdmw.checkpoints.formats._config import CONFIG, LARGEST_CONFIG
from sdmw.checkpoints.merged_config import merged_config
from sdmw.planning.plan import Plan
from sdmw.reporting.cards import merge_card
from sdmw.reporting.report import ModelReport
from sdmw.storage.access import Access
from sdmw.storage.files import read_bounded
from sdmw.tensors.low_rank import Factor
from sdmw.writing import side_files
from sdmw.writing.adapter_config import adapter_config
from sdmw.writing.output import Output


def add_files(output: Output, plan: Plan, models: Sequence[ModelReport], nonfinite: Mapping[str, int]) -> None:
    """Write all of them but the report into an output that is not published yet.

    Args:
        output: to be published.
        plan: what was merged.
        models: what the card says of each.
        nonfinite: how many elements of the output are NaN or infinite, by tensor.

    Raises:
        CheckpointError: a file of the base can no longer be read.
        OutputError: one cannot be written.
    """
    if plan.makes_adapter:
        output.add(ADAPTER_CONFIG, _adapter_config(plan))
    else:
        _add_model_files(output, plan)
    if plan.card:
        output.add("README.md", merge_card(plan, models, nonfinite, output.path).encode())
    recipe = "mergekit_config.yml" if plan.recipe.file == "mergekit_config.yml" else "sdmw_recipe.yaml"
    output.add(recipe, plan.recipe.text.encode())


def _add_model_files(output: Output, plan: Plan) -> None:
    base = plan.base
    assert base is not None
    side_files.copy(base.path, plan.copied, output.path, follow_links=base.follow_links)
    if plan.tokenizer_from is not None:
        folder, follow_links = plan.tokenizer_from
        side_files.copy(folder, plan.tokenizer_files, output.path, follow_links=follow_links)
    for name, content in plan.beside.items():
        output.add(name, content)
    text = base.config_text or read_bounded(base.path, CONFIG, LARGEST_CONFIG, follow_links=base.follow_links)
    output.add(
        CONFIG,
        merged_config(
            text, plan.recipe.output_dtype, untie=bool(plan.untied), depth=plan.depth, changes=plan.config_changes
        ),
    )


def _adapter_config(plan: Plan) -> bytes:
    made = [info for tensor in plan.tensors for info in tensor.inputs if isinstance(info, Factor)]
    trained = [
        read_adapter_config(c.path, Access(follow_links=c.follow_links))
        for c in plan.checkpoints
        if c.adapts is not None
    ]
    return adapter_config(
        base=plan.recipe.base_model,
        rank=next(info.shape[0] for info in made if info.side == "A"),
        modules={info.delta.module for info in made},
        fan_in_fan_out=any(info.delta.transposed and not info.delta.embedding for info in made),
        task_type=next((found.task_type for found in trained if found.task_type), None),
    )
