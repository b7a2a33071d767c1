"""Findings about a merge before it is made, from headers and from a statistics store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sdmw import codec
from sdmw.errors import Problem
from sdmw.reporting.as_json import as_json
from sdmw.reporting.findings import Finding, findings_of
from sdmw.stores.evidence.agreement import Measure, agreement
from sdmw.stores.evidence.merged import Merged, merged_of
from sdmw.stores.evidence.numbers import Numbers, numbers_of
from sdmw.stores.law import Interval
from sdmw.version import __version__

if TYPE_CHECKING:
    from sdmw.planning.plan import Plan
    from sdmw.stores.store import Store

CAUTION = "Nothing here is a verdict: measures of parameters do not predict whether a merge works (arXiv:2603.09463)."


@dataclass(frozen=True, slots=True)
class ModelEvidence:
    """One model's delta from the base.

    Attributes:
        name: in the recipe.
        norm: Euclidean, of all that it changes.
        changed: share of all elements that it changes.
        weight: bounds of W.
        share: of the sum of all models' norms times their weights; None where that is 0.
    """

    name: str
    norm: float
    changed: float
    weight: Interval
    share: float | None


@dataclass(frozen=True, slots=True)
class PairEvidence:
    """Two models.

    Attributes:
        one, other: their names.
        cosine: of the angle between their deltas; None where one of them changes nothing, or the pair was not measured.
        conflict: share of the elements that both change which they move in opposed directions; None where there is no
            such element, above 8 models, and where any pair was not measured.
        shared: share of the elements that either changes which both change; None likewise.
    """

    one: str
    other: str
    cosine: Measure
    conflict: Measure
    shared: Measure


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a store tells of a recipe.

    Attributes:
        statistics: the store's directory.
        own: weights and norms are those of the recipe's settings; else of equal weights without a threshold, since the
            method is not SDM-W, or its settings differ within layers.
        paired: all pairs of models were measured.
        models: in recipe order.
        pairs: each pair of models once.
        merged_norm: bounds of the norm of what is added to the base.
        unturned: bounds of the sum of all models' norms times their weights, before lambda.
    """

    statistics: str
    own: bool
    paired: bool
    models: tuple[ModelEvidence, ...]
    pairs: tuple[PairEvidence, ...]
    merged_norm: Interval
    unturned: Interval


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything known against a merge.

    Attributes:
        version: of sdmw.
        models: names in the recipe, in order.
        problems: errors that would stop the merge.
        warnings: unexpected facts in headers, configs and files.
        notes: remarks on the recipe and the inputs.
        evidence: None without a store, or if there are problems.
        findings: what stands out in the evidence.
        caution: the limits of these findings.
    """

    version: str
    models: tuple[str, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    evidence: Evidence | None
    findings: tuple[Finding, ...]
    caution: str

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))

    def to_json(self) -> str:
        """As JSON text."""
        return as_json(self.to_dict())


def diagnosis_of(plan: "Plan", store: "Store | None") -> Diagnosis:
    """What is known of a merge.

    Args:
        plan: of it.
        store: of the same inputs; None for none.

    Raises:
        StoreError: the store is damaged.
    """
    evidence: Evidence | None = None
    findings: tuple[Finding, ...] = ()
    if store is not None:
        numbers = numbers_of(store)
        merged = merged_of(numbers, plan)
        evidence, findings = _evidence(numbers, merged), findings_of(numbers, merged, plan)
    return Diagnosis(__version__, plan.models, plan.problems, plan.warnings, plan.notes, evidence, findings, CAUTION)


def _evidence(numbers: Numbers, merged: Merged) -> Evidence:
    lengths = [abs(low + high) / 2 * norm for (low, high), norm in zip(merged.weights, numbers.norms, strict=True)]
    elements, total = max(1, int(numbers.elements.sum())), sum(lengths)
    columns = numbers.store.models, numbers.norms, numbers.nonzero.sum(axis=0).tolist(), merged.weights, lengths
    models = tuple(
        ModelEvidence(name, norm, nonzero / elements, weight, length / total if total else None)
        for name, norm, nonzero, weight, length in zip(*columns, strict=True)
    )
    store = numbers.store
    pairs = tuple(_pairs(numbers))
    return Evidence(store.path, merged.own, numbers.paired, models, pairs, merged.norm, merged.unturned)


def _pairs(numbers: Numbers) -> Iterator[PairEvidence]:
    agreed, nonzero = agreement(numbers), numbers.nonzero.sum(axis=0).tolist()
    both = None if numbers.both is None else np.asarray(numbers.both.sum(axis=0)).tolist()
    for pair in agreed.pairs:
        shared = None
        if both is not None and (either := nonzero[pair.one] + nonzero[pair.other] - both[pair.one][pair.other]):
            shared = both[pair.one][pair.other] / either
        names = agreed.models[pair.one], agreed.models[pair.other]
        yield PairEvidence(*names, pair.cosine, pair.conflict, shared)
