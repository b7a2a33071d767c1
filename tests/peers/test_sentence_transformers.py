"""A merged sentence transformer: the trunk is merged, the modules in folders of their own are the base's, and told."""

import json
import shutil

import pytest

EXTRA = "pip install 'sdmw[parity]'"
torch = pytest.importorskip("torch", reason=EXTRA)
sentence_transformers = pytest.importorskip("sentence_transformers", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)

from safetensors.torch import load_file  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer  # noqa: E402

import sdmw  # noqa: E402
from sdmw.errors import PlanError  # noqa: E402

TEXTS = ["a cat sat", "two dogs ran away"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@pytest.fixture
def family(tmp_path):
    """A base and two fine-tunes: BERT, pooling, a dense module of its own weights, normalisation."""
    torch.manual_seed(5)
    config = transformers.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=24, max_position_embeddings=16)  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "two", "dogs", "ran", "away"]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer.from_pretrained(tmp_path / "bert").save_pretrained(tmp_path / "bert")
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    trunk = Transformer(str(tmp_path / "bert"))
    model = sentence_transformers.SentenceTransformer(
        modules=[trunk, Pooling(16, "mean"), Dense(16, 6), Normalize()], device="cpu"
    )
    for name in ("base", "one", "two"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        model.save(str(tmp_path / name))
    return tmp_path


def recipe_of(family):
    return {"merge_method": "task_arithmetic", "base_model": str(family / "base"),
            "models": [str(family / "one"), str(family / "two")], "parameters": {"weight": 0.5}}  # fmt: skip


def opened(folder):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def meanings(model):
    return model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)


def pickle_the_dense_module(folder):
    """As versions before safetensors left it."""
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickled"])
def test_a_merge_loads_with_the_modules_of_the_base(family, pickled):
    each = {name: opened(family / name) for name in ("base", "one", "two")}
    if pickled:
        pickle_the_dense_module(family / "base")
    report = sdmw.merge(recipe_of(family), family / "out", progress=False)
    name = "2_Dense/pytorch_model.bin" if pickled else "2_Dense/model.safetensors"
    other = f"{name}: all models have one that differs from the base's; the output gets the base's"
    assert [said for said in report.warnings if name in said] == [
        *([] if pickled else [other]),  # they have none of this name
        f"base: '{name}' holds weights that are copied, not merged",
    ]
    trunks = [model[0].parameters() for model in each.values()]
    with torch.no_grad():
        for mine, one, two in zip(*trunks, strict=True):
            mine += 0.5 * ((one - mine) + (two - mine))
    out = opened(family / "out")
    assert [type(module) for module in out] == [type(module) for module in each["base"]]
    torch.testing.assert_close(meanings(out), meanings(each["base"]), rtol=1e-5, atol=1e-5)
    assert out.get_embedding_dimension() == 6


def test_apply_and_revert_give_the_modules_of_either_side(family):
    sdmw.pack(family / "base", family / "one", family / "archive", progress=False)
    sdmw.apply(family / "base", family / "archive", family / "there", progress=False)
    sdmw.revert(family / "there", family / "archive", family / "back", progress=False)
    for made, of in (("there", "one"), ("back", "base")):
        assert torch.equal(meanings(opened(family / made)), meanings(opened(family / of)))


def test_a_module_that_cannot_come_along_is_refused(family):
    """It would not load. What the message advises gives an output that does."""
    weights = family / "base" / "2_Dense" / "model.safetensors"
    with open(weights, "ab") as file:
        file.truncate(64 * 2**20 + 1)
    found = r"expected a file that can be copied, since modules\.json names its folder, found larger than 64 MiB"
    with pytest.raises(PlanError, match=rf"model\.safetensors: {found}\. Merge a copy of the folder without it"):
        sdmw.merge(recipe_of(family), family / "out", progress=False)
    weights.rename(family / "aside")
    sdmw.merge(recipe_of(family), family / "out", progress=False)
    shutil.copy(family / "one" / "2_Dense" / "model.safetensors", family / "out" / "2_Dense")
    assert meanings(opened(family / "out")).shape == (2, 6)


def test_an_old_layout_names_the_folder_of_the_trunk(family):
    """`0_Transformer` holds config and weights; the model's own folder has neither."""
    old = family / "old"
    shutil.copytree(family / "one", old / "0_Transformer")
    (old / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_Transformer", "type": "x"}]))
    with pytest.raises(PlanError, match=r"old: expected .*, found no weights\. Give the directory in it that has them: "
                       "'0_Transformer'"):  # fmt: skip
        sdmw.merge({**recipe_of(family), "models": [str(old)]}, family / "out", progress=False)
