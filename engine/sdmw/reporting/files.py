"""What stands in the output beside its shards: config, tokenizer and the rest, card, recipe, report. CHECKPOINT.md."""

from collections.abc import Sequence

import xxhash

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._adapter_config import ADAPTER_CONFIG, read_adapter_config
from sdmw.checkpoints.formats._config import CONFIG, LARGEST_CONFIG
from sdmw.methods import all_methods
from sdmw.planning.plan import Plan
from sdmw.reporting.report import ModelReport
from sdmw.storage.access import Access
from sdmw.storage.files import read_bounded
from sdmw.storage.locate import hub_id
from sdmw.tensors.low_rank import Factor
from sdmw.version import __version__
from sdmw.writing import side_files
from sdmw.writing.adapter_config import adapter_config
from sdmw.writing.card import common_license, model_card
from sdmw.writing.config import merged_config
from sdmw.writing.publication import Publication


def add_files(output: Publication, plan: Plan, models: Sequence[ModelReport]) -> None:
    """Write all of them but the report into an output that is not published yet.

    Args:
        output: to be published.
        plan: what was merged.
        models: what the card says of each.

    Raises:
        CheckpointError: a file of the base can no longer be read.
        OutputError: one cannot be written.
    """
    if plan.makes_adapter:
        output.add(ADAPTER_CONFIG, _adapter_config(plan))
    else:
        _add_model_files(output, plan)
    output.add("README.md", _card(plan, models).encode())
    recipe = "mergekit_config.yml" if plan.recipe.file == "mergekit_config.yml" else "sdmw_recipe.yaml"
    output.add(recipe, plan.recipe.text.encode())


def _add_model_files(output: Publication, plan: Plan) -> None:
    base = plan.base
    assert base is not None
    side_files.copy(base.path, plan.copied, output.path, follow_links=base.follow_links)
    text = read_bounded(base.path, CONFIG, LARGEST_CONFIG, follow_links=base.follow_links)
    output.add(CONFIG, merged_config(text, plan.recipe.output_dtype, untie=bool(plan.untied)))


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


def _card(plan: Plan, models: Sequence[ModelReport]) -> str:
    method, base = all_methods()[plan.recipe.merge_method], plan.recipe.base_model
    references = [base or plan.recipe.models[0].model, *(entry.model for entry in plan.recipe.models)]
    parts = dict.fromkeys(part for reference in references for part in reference.parts)
    return model_card(
        method=plan.recipe.merge_method,
        base_model=None if base is None else str(base),
        hub_ids=list(dict.fromkeys(found for part in parts if (found := hub_id(part)))),
        license=common_license([(checkpoint.path, checkpoint.follow_links) for checkpoint in plan.checkpoints]),
        models=[(model.name, list(method.describe(model.facts))) for model in models],
        recipe_text=plan.recipe.text,
        version=__version__,
        # By number: a model's path is this machine's.
        fingerprints=[(f"input {n}", fingerprint(c)) for n, c in enumerate(plan.checkpoints, 1)],
        adapter=plan.makes_adapter,
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """XXH3-128 over the header hashes of all shards."""
    return xxhash.xxh3_128_hexdigest("".join(shard.header_hash for shard in checkpoint.shards).encode())
