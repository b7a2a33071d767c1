"""Tensors that are the embedding under another name: output heads, and embeddings that encoder and decoder share.

The rule (CHECKPOINT.md, "Weights"): an input that stores no head stands for its own embedding. Where every stored head
equals its embedding and the base ties them, no head is written; where one differs it is written, and the config says
that it is not tied. Then nothing is tied: what encoder and decoder share is written for each, even where no input
stores it so (but in T5, which shares it in any case).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.heads import (
    always_shared,
    called_like_a_head,
    inputs_of,
    is_shared,
    may_be_tied,
    shared_if_tied,
    tied_by_config,
    tied_by_default,
)
from sdmw.tensors.tensor import Tensor


@dataclass(frozen=True, slots=True)
class TiedHead:
    """A head that an input stores beside its embedding: whether they are equal decides what is written.

    Attributes:
        model: the input's name in the recipe; empty for the base.
        head, embedding: the two tensors in it.
        read: the input's own config does not tie them, so that loaders read both.
    """

    model: str
    head: Tensor
    embedding: Tensor
    read: bool = False


@dataclass(frozen=True, slots=True)
class Ties:
    """What heads mean in the inputs of a merge.

    Attributes:
        stored: heads to be compared with their embeddings; where all are equal, `dropped` are not written.
        dropped: names that are not written if all stored heads equal their embeddings.
        absent: by model (empty for the base), the heads that it lacks, each with the embedding that stands for it.
        heads: names of all heads that some input lacks or that are tied.
        always: those of `dropped` that loaders tie whatever the config says.
    """

    stored: tuple[TiedHead, ...]
    dropped: frozenset[str]
    absent: Mapping[str, Mapping[str, Tensor]]
    heads: frozenset[str]
    always: frozenset[str] = frozenset()

    def unwritten(self, untie: Collection[str]) -> frozenset[str]:
        """Names that are not written once it is known which heads differ: if any, only those tied in any case."""
        return self.always.difference(untie) if untie else self.dropped


def ties(base: Checkpoint, models: Mapping[str, Checkpoint]) -> Ties:
    """The tied heads of a merge, from names, shapes and configs.

    Args:
        base: whose config the output has.
        models: what is merged, by name.
    """
    everyone = {"": base, **models}
    stored: list[TiedHead] = []
    dropped: set[str] = set()
    heads: set[str] = set()
    absent: dict[str, dict[str, Tensor]] = {name: {} for name in everyone}
    named = dict.fromkeys(name for each in everyone.values() for name in heads_of(each))
    for head in named | dict.fromkeys(_unstored(base)):
        embeddings = {name: _embedding_of(each, head) for name, each in everyone.items()}
        lacking = {name for name, each in everyone.items() if head not in each.tensors}
        if any(embeddings[name] is None for name in everyone):
            continue
        tied = _is_tied(base, head)
        if not (lacking or tied) or any(not may_be_tied(head, everyone[name].config) for name in lacking):
            continue
        heads.add(head)
        for name, each in everyone.items():
            embedding = embeddings[name]
            assert embedding is not None
            if name in lacking:
                absent[name][head] = replace(embedding, name=head)
            elif tied:
                stored.append(TiedHead(name, each.tensors[head], embedding, not _is_tied(each, head)))
        if tied:
            dropped.add(head)
    always = frozenset(head for head in dropped if always_shared(head, base.config))
    return Ties(tuple(stored), frozenset(dropped), absent, frozenset(heads), always)


def _unstored(base: Checkpoint) -> tuple[str, ...]:
    """Embeddings of encoder and decoder that are written where the output ties nothing, stored or not."""
    embedding = input_embedding(base)
    return () if embedding is None else shared_if_tied(embedding.name, base.config)


def heads_of(checkpoint: Checkpoint) -> Iterator[str]:
    """Names of tensors that may be tied to the embedding: of its shape, and called like a head.

    The embeddings of encoder and decoder are, where there is one called shared; else each is its own.
    """
    embedding = input_embedding(checkpoint)
    if embedding is None:
        return
    shared = embedding.name.split(".")[-2] == "shared"
    for name, tensor in checkpoint.tensors.items():
        may_be = called_like_a_head(name) and (shared or not is_shared(name))
        if may_be and tensor is not embedding and tensor.shape == embedding.shape:
            yield name


def _embedding_of(checkpoint: Checkpoint, head: str) -> Tensor | None:
    """The embedding that a head would be tied to; None where there is none."""
    found = input_embedding(checkpoint)
    return None if found is None or found.name == head else found


def input_embedding(checkpoint: Checkpoint) -> Tensor | None:
    """The input embedding: a matrix called like one, with a row for each token of the vocabulary."""
    sizes = set(_vocabularies(checkpoint.config or {}))
    names = inputs_of(checkpoint.config)
    candidates = [
        (names.index(parts[-2]), len(parts), name)
        for name, tensor in checkpoint.tensors.items()
        if len(parts := name.split(".")) > 1 and parts[-1] == "weight" and parts[-2] in names
        and len(tensor.shape) == 2 and (not sizes or any(tensor.shape[0] >= size for size in sizes))
    ]  # fmt: skip
    return checkpoint.tensors[min(candidates)[2]] if candidates else None


def _vocabularies(config: Mapping[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if name == "vocab_size" and type(value) is int:
            yield value
        elif isinstance(value, Mapping) and name.endswith("config"):
            yield from _vocabularies(value)


def _is_tied(base: Checkpoint, head: str) -> bool:
    """Whether a loader of the base's config takes the embedding for the head, whatever is stored."""
    said = tied_by_config(base.config)
    if is_shared(head):
        return said is not False or always_shared(head, base.config)
    # A config that is silent ties by default in some architectures. In the others a base that stores the head would
    # then store it in vain, so it is taken to mean what it stores.
    return head not in base.tensors or tied_by_default(base.config) if said is None else said
