import numpy as np
import pytest

from checkpoints_on_disk import write_checkpoint
from sdmw.checkpoints import formats
from sdmw.views.tied import ties

EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [
        ("LlamaForCausalLM", {"lm_head.weight"}),
        ("LlamaForSequenceClassification", set()),  # others of its model type have a head
        ("SomeForCausalLM", set()),
    ],
)
def test_a_head_that_nobody_stores_is_one_where_the_class_has_it(tmp_path, architecture, heads):
    """So that it can be written once something parts it from its embedding (slices of other models)."""
    config = {"model_type": "llama", "architectures": [architecture], "tie_word_embeddings": True}
    write_checkpoint(tmp_path / "base", {EMBEDDING: np.ones((8, 4), "f4")}, config=config)
    base = formats.read(str(tmp_path / "base"))
    found = ties(base, {"a": base})
    assert found.heads == found.dropped == heads
    assert found.unwritten(heads) == set()
    assert found.unwritten(()) == heads


def test_of_several_embeddings_a_head_has_the_one_beside_it(tmp_path):
    """By their names, where the class is not known."""
    tables = dict.fromkeys(("encoder.embed.word_embeddings.weight", "decoder.inner.word_embeddings.weight",
                            "decoder.lm_head.weight"), np.ones((8, 4), "f4"))  # fmt: skip
    write_checkpoint(tmp_path / "base", tables, config={"model_type": "mine", "tie_word_embeddings": True})
    base = formats.read(str(tmp_path / "base"))
    (tied,) = {each.embedding.name for each in ties(base, {"a": base}).stored}
    assert tied == "decoder.inner.word_embeddings.weight"
