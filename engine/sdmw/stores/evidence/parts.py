"""What a tensor is for, by its name and shape: parts that merging treats alike and models do not."""

import re
from collections.abc import Iterable
from typing import Literal

from sdmw.checkpoints.heads import called_like_a_head, inputs_of
from sdmw.planning.auxiliary import ROUTER
from sdmw.stores.store import StoredTensor

Part = Literal["router", "embedding", "norm", "other"]
_NORM = re.compile(r"norm|(?:^|[._])ln(?:[._\d]|$)", re.IGNORECASE)
_EMBEDDINGS = frozenset((*inputs_of(None), "wpe"))


def parts_of(tensors: Iterable[StoredTensor]) -> list[Part]:
    """The part that each tensor belongs to; routers only in a model of experts, where `gate` means nothing else."""
    every = list(tensors)
    with_experts = any("experts." in tensor.name for tensor in every)
    return [_part(tensor, with_experts) for tensor in every]


def _part(tensor: StoredTensor, with_experts: bool) -> Part:
    name = tensor.name
    if with_experts and ROUTER.search(name):
        return "router"
    *_, module, _ = ("", *name.split("."))
    if len(tensor.shape) == 2 and (module in _EMBEDDINGS or called_like_a_head(name)):
        return "embedding"
    return "norm" if len(tensor.shape) == 1 and _NORM.search(name) else "other"
