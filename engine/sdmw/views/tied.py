"""Tensors that are the embedding under another name: output heads, and embeddings that encoder and decoder share.

The rule (CHECKPOINT.md, "Weights"): an input that stores no head stands for its own embedding. Where every stored head
equals its embedding and the base ties them, no head is written; where one differs it is written, and the config says
that it is not tied. Then nothing is tied: what encoder and decoder share is written for each, even where no input
stores it so (but in T5, which shares it in any case).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.heads import (
    always_shared,
    called_like_a_head,
    inputs_of,
    is_shared,
    may_be_tied,
    tied_by_config,
)
from sdmw.checkpoints.tied_names import TiedNames, tied_by_default, tied_names
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
    known = tied_names(base.config, {name for each in everyone.values() for name in each.tensors})
    for head in _heads(everyone.values(), known):
        source = known.sources.get(head, "")
        embeddings = {name: _embedding_of(each, head, source) for name, each in everyone.items()}
        pair = {head, source} - {""}
        lacking = {name for name, each in everyone.items() if not pair <= each.tensors.keys()}
        if any(embeddings[name] is None for name in everyone):
            continue
        tied = _is_tied(base, head)
        if not (lacking or tied) or any(not may_be_tied(head, everyone[name].config) for name in lacking):
            continue
        heads.add(head)
        for name, each in everyone.items():
            embedding = embeddings[name]
            assert embedding is not None
            if embedding.name == head:  # saved under this one of the two names
                heads.add(source)
                absent[name][source] = replace(embedding, name=source)
            elif name in lacking:
                absent[name][head] = replace(embedding, name=head)
            elif tied:
                stored.append(TiedHead(name, each.tensors[head], embedding, not _is_tied(each, head)))
        if tied:
            dropped.add(head)
    always = frozenset(head for head in dropped if always_shared(head, base.config))
    return Ties(tuple(stored), frozenset(dropped), absent, frozenset(heads), always)


def _heads(everyone: Collection[Checkpoint], known: TiedNames) -> Iterable[str]:
    """Names of all that may be tied, stored or not: those that the class ties; of others, those called like it."""
    named = () if known.whole else (name for each in everyone for name in heads_of(each))
    # A class that is not known may be one without a head, though others of its model type have one.
    has_head = known.of_class or any(head in each.tensors for head in known.sources for each in everyone)
    return dict.fromkeys((*(known.sources if has_head else ()), *named))


def heads_of(checkpoint: Checkpoint) -> Iterator[str]:
    """Names of tensors that may be tied to an embedding: of its shape, and called like a head.

    The embeddings of encoder and decoder are, where there is one called shared; else each is its own.
    """
    for name, tensor in checkpoint.tensors.items():
        if called_like_a_head(name) and (embedding := input_embedding(checkpoint, name)) is not None:
            shared = embedding.name.split(".")[-2] == "shared"
            if (shared or not is_shared(name)) and tensor.shape == embedding.shape:
                yield name


def _embedding_of(checkpoint: Checkpoint, head: str, source: str) -> Tensor | None:
    """What a head would be tied to: by its class if that is known, else by names; None where there is none.

    A head that is stored without what it is tied to stands for that, and is given back itself.
    """
    if not source:
        return input_embedding(checkpoint, head)
    tensors = checkpoint.tensors
    embedding, own = tensors.get(source), tensors.get(head)
    if embedding is None or own is None:
        return embedding or own
    return embedding if embedding.shape == own.shape else None


def input_embedding(checkpoint: Checkpoint, head: str = "") -> Tensor | None:
    """The input embedding: a matrix called like one, with a row for each token of the vocabulary.

    Args:
        checkpoint: the model.
        head: of several embeddings, that in the same module as this is meant.
    """
    sizes = set(_vocabularies(checkpoint.config or {}))
    names = inputs_of(checkpoint.config)
    candidates = [
        (-_common(head, name), names.index(parts[-2]), len(parts), name)
        for name, tensor in checkpoint.tensors.items()
        if len(parts := name.split(".")) > 1 and parts[-1] == "weight" and parts[-2] in names and name != head
        and len(tensor.shape) == 2 and (not sizes or any(tensor.shape[0] >= size for size in sizes))
    ]  # fmt: skip
    return checkpoint.tensors[min(candidates)[-1]] if candidates else None


def _common(head: str, name: str) -> int:
    """In how many modules, from the outermost, two tensors lie together."""
    pairs = zip(head.split(".")[:-1], name.split(".")[:-1], strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


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
