"""Small models and the stores of them."""

import numpy as np

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint

RECIPE = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}]}


def write_models(folder, seed=8, names=("corp", "func")):
    """A base and fine-tunes of it in a folder; their tensors by model."""
    rng = np.random.default_rng(seed)
    found = {"base": llama_like(rng)}
    write_checkpoint(folder / "base", found["base"])
    for name in names:
        found[name] = fine_tuned(rng, found["base"])
        write_checkpoint(folder / name, found[name])
    return found


def recipe_of(names, **others):
    return {**RECIPE, "models": [{"model": name} for name in names], **others}


def measured(recipe=RECIPE, store="store", **others):
    return sdmw.measure(recipe, store, progress=False, **others)
