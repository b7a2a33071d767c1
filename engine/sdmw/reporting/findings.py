"""Findings of a statistics store in words: what stands out, the numbers, and what people do about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmw.sizes import counted
from sdmw.stores.evidence.merged import Merged, merged_of
from sdmw.stores.evidence.numbers import Numbers, numbers_of
from sdmw.stores.evidence.observed import Kind, Observation, Of, Place, observations
from sdmw.stores.store import Store

if TYPE_CHECKING:
    from sdmw.planning.plan import Plan

Measures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that stands out. It is no verdict: measures of parameters do not predict how well a merge works.

    Attributes:
        kind: of the finding, a word for programs.
        title: what it is.
        rows: the models or pairs of which it is said, with all numbers; no model where it is said of the merge.
        said: a sentence for each of these.
        tensors: at most five, those where it is strongest first.
        places: the same in words.
        more: how many more there are, counted for each model.
        advice: what people do about it.
        source: where that is from; empty where it needs none.
    """

    kind: Kind
    title: str
    rows: tuple[Of, ...]
    said: tuple[str, ...]
    tensors: tuple[Place, ...]
    places: tuple[str, ...]
    more: int
    advice: str
    source: str


@dataclass(frozen=True, slots=True)
class _Words:
    """What is said of one kind."""

    title: str
    row: Callable[[Measures], str]
    place: str  # the format of a tensor's value
    advice: str
    source: str = ""


def diagnose(store: Store, plan: "Plan | None" = None) -> tuple[Finding, ...]:
    """What stands out among the models of a store.

    Args:
        store: what `measure` or `open_store` gave.
        plan: of a merge of the same inputs, for its settings and dtypes; without it all deltas count with equal
            weights, and bfloat16 is written.

    Raises:
        StoreError: the store is damaged.
    """
    numbers = numbers_of(store)
    return findings_of(numbers, merged_of(numbers, plan), plan)


def findings_of(numbers: Numbers, merged: Merged, plan: "Plan | None") -> tuple[Finding, ...]:
    """The same from what was read before."""
    return tuple(map(_finding, observations(numbers, merged, plan)))


def _finding(found: Observation) -> Finding:
    words = _WORDS[found.kind]
    return Finding(
        kind=found.kind,
        title=words.title,
        rows=found.rows,
        said=tuple(": ".join(filter(None, (" and ".join(row.models), words.row(row.numbers)))) for row in found.rows),
        tensors=found.tensors,
        places=tuple(_place(place, words.place) for place in found.tensors),
        more=found.more,
        advice=words.advice,
        source=words.source,
    )


def _place(place: Place, spec: str) -> str:
    return f"{place.tensor}, {' and '.join(place.models)}: {place.value:{spec}}"


def _drowned(of: Measures) -> str:
    return f"norm {of['norm']:.3g}, weight {of['weight']:.3g}: {of['share']:.2%} of the sum of all weighted norms"


def _length(of: Measures) -> str:
    low, high = of["low"], of["high"]
    norm = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    return (
        f"the norm of the merged delta is {norm}; the norms of the weighted deltas add up to {of['unturned']:.3g}, "
        f"and the longest delta has {of['longest']:.3g}"
    )


def _moved(of: Measures) -> str:
    told = f"root mean square of its changes {of['rms']:.2g}"
    others = f"{of['rms'] / of['rest']:.1f} times that of other tensors" if of["rest"] else "of other tensors 0"
    return f"{told}, {others}"


_WORDS: dict[Kind, _Words] = {
    "unmoved": _Words(
        "A model equals the base",
        lambda of: "no element differs",
        "",
        "Check that it is the intended model. Averaging with it only shortens the deltas of the others.",
    ),
    "nonfinite": _Words(
        "NaN or infinity in what models changed",
        lambda of: counted(int(of["deltas"]), "delta"),
        ",",
        "A merge stops there unless the recipe has `nonfinite: pass`. Take a checkpoint from before training diverged.",
    ),
    "drowned": _Words(
        "One model dominates another",
        _drowned,
        ".2%",
        "Set weights (`weight`), or weigh all models equally or inversely to their norms (`normalization: {power: 0}`, "
        "`{power: -1}`).",
        "NAN, arXiv:2505.16148",
    ),
    "short": _Words(
        "The merged delta is shorter than the deltas that it combines",
        _length,
        "",
        "`lambda: preserve_norm` restores their norm. In a pilot with small models a larger lambda helped the "
        "trained domains and cost general knowledge: choose it on data that no model was trained on.",
        "task arithmetic, arXiv:2212.04089",
    ),
    "far": _Words(
        "The merge is farther from the base than any of its models",
        _length,
        "",
        "Choose a smaller lambda, or weights that add up to 1.",
        "task arithmetic, arXiv:2212.04089",
    ),
    "alike": _Words(
        "Models changed in the same direction",
        lambda of: f"cosine {of['cosine']:.3f}",
        ".3f",
        "Look for a fine-tune that both come from, and make it `base_model`. If weights add up to more than 1, changes "
        "that both share count twice.",
        "task arithmetic, arXiv:2212.04089",
    ),
    "opposed": _Words(
        "Models changed in opposed directions",
        lambda of: f"cosine {of['cosine']:.3f}",
        ".3f",
        "They cancel each other. Leave one out, or let a method elect signs (`ties`).",
        "TIES, arXiv:2306.01708",
    ),
    "conflict": _Words(
        "Signs differ more often than by chance",
        lambda of: f"{of['conflict']:.1%} of the elements that both change; by chance it would be half",
        ".1%",
        "Let a method elect signs (`ties`), or leave one of the models out.",
        "TIES, arXiv:2306.01708",
    ),
    "apart": _Words(
        "Models changed different elements",
        lambda of: f"{of['share']:.1%} of the changed elements are changed by more than one model",
        "",
        "Averaging shortens changes that no other model contradicts. `ram` keeps them unchanged, "
        "`task_arithmetic` adds them.",
        "RAM, arXiv:2601.13572",
    ),
    "sparse": _Words(
        "Few elements changed, as after reinforcement learning",
        lambda of: f"{of['share']:.1%} of all elements",
        "",
        "Keep them all (`k: 0`), or choose a method made for sparse models (`ram`).",
        "arXiv:2505.11711; RAM, arXiv:2601.13572",
    ),
    "swallowed": _Words(
        "Rounding to the output's dtype loses changes",
        lambda of: f"{of['share']:.1%} of its changes are lost at weight 1, more at smaller weights",
        ".1%",
        "Write a finer dtype: `out_dtype: float32`, or float16, whose steps are an eighth of bfloat16's.",
    ),
    "routers": _Words(
        "Routers of experts moved",
        _moved,
        ".2g",
        "Experts and the router that chooses among them are trained together, and fine-tunes of experts often leave "
        "the router fixed. `lambda: [{filter: mlp.gate.weight, value: 0}, {value: 1}]` keeps the base's.",
        "ESFT, arXiv:2407.01906",
    ),
    "embeddings": _Words(
        "Embeddings changed more than other tensors",
        _moved,
        ".2g",
        "Tokens were added, or a chat template was trained: choose `tokenizer_source` and `chat_template`.",
    ),
    "norms": _Words(
        "Norms changed more than other tensors",
        _moved,
        ".2g",
        "Results on adding deltas come from linear layers. Keep the base's norms with a lambda of 0 for them, "
        "and see whether that is better.",
        "arXiv:2407.07089",
    ),
}
