"""One merge of every method, and of what else a report or a page tells of, made once."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from recipes_of_all_methods import RECIPES


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A base, two fine-tunes, one that lacks tensors, one that has others, three adapters, one of them of a copy."""
    folder = tmp_path_factory.mktemp("world") / "machine"
    folder.mkdir()
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    for name in ("base", "base-copy", "same"):
        write_checkpoint(folder / name, base)
    write_checkpoint(folder / "corp", fine_tuned(rng, base))
    func = fine_tuned(rng, base, "F16")
    write_checkpoint(folder / "func", func, shards=[sorted(base)[:4], sorted(base)[4:]])
    save_file(func, folder / "func" / "model.safetensors", {"format": "pt"})
    write_checkpoint(folder / "less", {name: tensor for name, tensor in base.items() if "norm" not in name})
    write_checkpoint(folder / "more", {**base, "extra.weight": base["model.norm.weight"], "extra.ids": np.arange(3)})
    write_adapter(folder / "one", adapter_of(rng, base))
    write_adapter(folder / "two", adapter_of(rng, base, modules=("q_proj",)))
    write_adapter(folder / "of-copy", adapter_of(rng, base), base_model_name_or_path=str(folder / "base-copy"))
    return folder


@pytest.fixture(scope="session")
def merges(folder):
    """The output of each merge."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for name, recipe in RECIPES.items():
            sdmw.merge(recipe, f"{name} merged", progress=False)
    return {name: folder / f"{name} merged" for name in RECIPES}
