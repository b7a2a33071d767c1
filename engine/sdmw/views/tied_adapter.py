"""Adapters that change the embedding or the head alone of a model whose head is its embedding.

Source: peft 0.21. A module of `modules_to_save` becomes a copy, so that the other side keeps the base's values, and
`merge_and_unload` unties the config. With `ensure_weight_tying` the head is the embedding's copy. A low-rank delta of
the embedding changes the head as well once it is merged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.heads import inputs_of, is_shared, shared_if_tied, tied_by_config
from sdmw.checkpoints.tied_names import tied_by_default, tied_names
from sdmw.errors import Problem, quoted
from sdmw.tensors.low_rank import LowRank, Sum
from sdmw.tensors.tensor import Tensor
from sdmw.views.tied import heads_of, input_embedding

# How the names of classes end that have a head, where the class itself is not known here.
_WITH_HEAD = (
    "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM", "ForPreTraining", "EncoderDecoderModel",
)  # fmt: skip
# Here `tie_word_embeddings` says too whether the decoder's output is scaled: untied, the model computes other logits.
_SCALED = frozenset(("t5", "mt5", "umt5", "longt5", "switch_transformers", "pop2piano", "udop"))


@dataclass(frozen=True, slots=True)
class Tie:
    """A head that is the embedding.

    Attributes:
        embedding: name of the stored embedding.
        head: name of the head; empty where this model's is not known here.
        stored: the model stores the head as well.
    """

    embedding: str
    head: str
    stored: bool


def tie_of(model: Checkpoint) -> Tie | None:
    """How a model's head and embedding are tied; None where they are not, or where it has no head."""
    said = tied_by_config(model.config)
    if said is False:
        return None
    known = tied_names(model.config, model.tensors)
    head = next((name for name in known.sources if _is_output(name, model)), "")
    if not head:
        if known.whole:
            return None
        head = next((name for name in heads_of(model) if not is_shared(name)), "")
    embedding = model.tensors[known.sources[head]] if head in known.sources else input_embedding(model, head)
    if embedding is None:
        return None
    if head in model.tensors:
        # Where the config is silent, and so means nothing here, the model means what it stores.
        return Tie(embedding.name, head, stored=True) if said or tied_by_default(model.config) else None
    has_head = known.of_class and bool(head)
    return Tie(embedding.name, head, stored=False) if has_head or _may_have_head(model.config or {}) else None


def _is_output(name: str, model: Checkpoint) -> bool:
    """Whether what is tied is an output head, and not another embedding or a bias."""
    *_, module, last = ("", *name.split("."))
    return last == "weight" and module not in inputs_of(model.config)


def _may_have_head(config: Mapping[str, Any]) -> bool:
    """Whether a model that stores no head may be of a class that has one."""
    found = config.get("architectures")
    return not (isinstance(found, list) and found) or str(found[0]).endswith(_WITH_HEAD)


def with_head(model: Checkpoint, tie: Tie) -> Checkpoint:
    """The model with its head as a tensor of its own: the embedding under the head's name, where none is stored."""
    if tie.stored or not tie.head:
        return model
    head = replace(model.tensors[tie.embedding], name=tie.head)
    return replace(model, tensors={**model.tensors, tie.head: head})


@dataclass(frozen=True, slots=True)
class Settled:
    """What an adapter comes to on a model that ties its head.

    Attributes:
        changed: by name in the model, what the adapter has in its place.
        apart: head and embedding become two: the head is a tensor of its own from now on.
        problems: why this cannot be.
        warnings: what there is to tell.
    """

    changed: dict[str, Tensor]
    apart: bool
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


def settled(adapter: Checkpoint, model: Checkpoint, tie: Tie, changed: Mapping[str, Tensor]) -> Settled:
    """What becomes of head and embedding.

    Args:
        adapter: what is put on the model.
        model: as it is stored.
        tie: of the model.
        changed: by name in the model (its head included), what the adapter has in its place.
    """
    changed = dict(changed)
    embedding, head = changed.get(tie.embedding), changed.get(tie.head)
    if head is not None and is_low_rank(head):
        if adapter.ties and embedding is not None:
            # peft saves the embedding's matrices again, transposed, as the head's.
            del changed[tie.head]
            head = None
        elif not tie.stored:
            mend = "The model ties its head to its embedding: untie it first (store the head, and say so in config)"
            found = f"{quoted(tie.embedding)} under another name"
            return Settled(changed, False, (Problem(head.where, "a tensor of the model's own", found, mend),))
    if embedding is not None and not is_low_rank(embedding) and shared_if_tied(tie.embedding, model.config):
        return Settled(changed, False, (_unread(embedding),))
    values = [each for each in (embedding, head) if each is not None and not is_low_rank(each)]
    if values:
        together = len(values) == 2  # perhaps with equal bits, which only reading them shows
        return Settled(
            changed, True, () if together else _cannot(adapter, model, tie), _told_apart(adapter, tie, changed)
        )
    if embedding is None or head is not None:
        return Settled(changed, False)
    if tie.stored:
        changed[tie.head] = replace(embedding, name=tie.head)
    said = f"{quoted(tie.embedding)} is also the output head, so the head changes with it, as in peft's merge"
    return Settled(changed, False, (), (f"{adapter.path}: {said}",))


def _cannot(adapter: Checkpoint, model: Checkpoint, tie: Tie) -> tuple[Problem, ...]:
    """Why head and embedding of the model cannot become two, if they cannot."""
    model_type = (model.config or {}).get("model_type")
    if tie.head and model_type not in _SCALED:
        return ()
    found = f"values of {quoted(tie.embedding)} or of the head alone, but both are one tensor in {quoted(model_type)}"
    mend = "Merge it with peft's merge_and_unload: such a model's head has no name here, or no config that unties it"
    return (Problem(adapter.path, "embedding and head changed together", found, mend),)


def _unread(embedding: Tensor) -> Problem:
    """Of a copy of what encoder and decoder share: each of them has a module of its own, which peft does not touch."""
    found = "the shared embedding: peft trains a copy of it, which neither of them reads"
    return Problem(
        embedding.where, "the embedding of encoder and decoder", found, f"Remove {quoted(embedding.name)} from it"
    )


def _told_apart(adapter: Checkpoint, tie: Tie, changed: Mapping[str, Tensor]) -> tuple[str, ...]:
    if tie.embedding in changed and tie.head in changed:
        return ()
    name, other = (tie.embedding, tie.head) if tie.embedding in changed else (tie.head, tie.embedding)
    return (
        f"{adapter.path}: it replaces {quoted(name)} but not {quoted(other)}, to which the base ties it; "
        "as in peft, the two are separate from then on",
    )


def is_low_rank(tensor: Tensor) -> bool:
    """Whether a tensor of an adapter is a product of matrices, alone or on values that the adapter brings."""
    return isinstance(tensor, LowRank | Sum)
