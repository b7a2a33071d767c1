"""Output heads that are the embedding under another name."""

from collections.abc import Mapping
from dataclasses import dataclass

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.tensor import Tensor

EMBEDDINGS = ("embed", "wte")  # in the names of input embeddings: embed_tokens, word_embeddings, embed_in, wte


@dataclass(frozen=True, slots=True)
class TiedHead:
    """A model's output head that the base ties to its embedding: dropped if equal to the model's own embedding.

    Attributes:
        model: its name in the recipe.
        head, embedding: the two tensors in it.
    """

    model: str
    head: Tensor
    embedding: Tensor


def tied_heads(base: Checkpoint, models: Mapping[str, Checkpoint]) -> list[TiedHead]:
    """Output heads of models where the base ties its own to the embedding and stores none."""
    config = base.config or {}
    text_config = config.get("text_config")
    inner = text_config if isinstance(text_config, Mapping) else {}
    # transformers ties where the config says nothing.
    if not config.get("tie_word_embeddings", inner.get("tie_word_embeddings", True)):
        return []
    found = []
    for model, checkpoint in models.items():
        for name, head in checkpoint.tensors.items():
            if name not in base.tensors and name.split(".")[-2:] == ["lm_head", "weight"]:
                embedding = _embedding_like(checkpoint, head)
                if embedding:
                    found.append(TiedHead(model, head, embedding))
    return found


def _embedding_like(checkpoint: Checkpoint, head: Tensor) -> Tensor | None:
    for name, tensor in checkpoint.tensors.items():
        same = (tensor.shape, tensor.dtype) == (head.shape, head.dtype)
        if same and tensor is not head and any(part in name for part in EMBEDDINGS):
            return tensor
    return None
