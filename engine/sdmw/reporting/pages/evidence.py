"""What a store tells of models: how they agree, how large their changes are, what stands out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log2
from statistics import median
from typing import TYPE_CHECKING

from sdmw.errors import Problem, UsageError, quoted, some
from sdmw.methods.method import Facts
from sdmw.reporting.diagnosis import CAUTION
from sdmw.reporting.findings import findings_of
from sdmw.reporting.pages import charts
from sdmw.reporting.pages.layers import by_depth, layer_parts
from sdmw.reporting.pages.page import Cell, Part, Table, Text, columns_of
from sdmw.stores.evidence.agreement import Agreement, agreement, overlap
from sdmw.stores.evidence.merged import merged_of
from sdmw.stores.evidence.numbers import Numbers, numbers_of
from sdmw.stores.evidence.powers import histograms
from sdmw.stores.grid import Grid
from sdmw.stores.sources import File, content_of
from sdmw.stores.sweeping import sweep_rows

if TYPE_CHECKING:
    from sdmw.reporting.report import Report
    from sdmw.stores.store import Store

K = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
POWERS = (-2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
MOST_PAIRS = 10  # lines in a picture


@dataclass(frozen=True, slots=True)
class Evidence:
    """Answers to a reader's questions.

    Attributes:
        agreement: whether the models agree.
        cuts: how large changes are, and what other settings would make of them.
        findings: what is odd.
    """

    agreement: tuple[Part, ...]
    cuts: tuple[Part, ...]
    findings: tuple[Part, ...]


def evidence_for(report: "Report", store: "Store") -> Evidence:
    """What a store tells of the models of a merge.

    Raises:
        UsageError: it is a store of other models.
        StoreError: it is damaged.
    """
    merged = tuple(model.name for model in report.models)
    if merged != store.models:
        told = ", ".join(map(quoted, store.models))
        raise UsageError([Problem("statistics", f"a store of {', '.join(map(quoted, merged))}", told)])
    _check_inputs(report, store)
    numbers = numbers_of(store)
    _check_counts(report, numbers)
    return evidence_of(numbers, _cuts_of(report))


def _check_inputs(report: "Report", store: "Store") -> None:
    """Both must be of the same files; a report of schema 1 has no samples of them."""
    files: dict[str, list[File]] = {}
    for each in report.inputs:
        if each.sample is None:
            return
        files.setdefault(each.model, []).append((each.size, each.header, each.sample))
    merged = {name: content_of(own, report.configs.get(name)) for name, own in files.items()}
    if others := [name for name, content in store.fingerprints.items() if merged.get(name) != content]:
        raise UsageError(
            [Problem("statistics", "a store of the files that were merged", f"those of other files: {some(others)}")]
        )


def _check_counts(report: "Report", numbers: Numbers) -> None:
    """What both have counted must be equal."""
    for number, model in enumerate(report.models):
        counted, own = model.facts.get("nonzero"), int(numbers.nonzero[:, number].sum())
        if isinstance(counted, int) and counted != own:
            expected = f"a store of the same inputs, with {counted:,} nonzero deltas of {quoted(model.name)}"
            raise UsageError([Problem("statistics", expected, f"one with {own:,}")])


def _cuts_of(report: "Report") -> Mapping[str, float]:
    """The median threshold of each model."""
    found: dict[str, list[float]] = {}
    for layer in report.layers:
        of_all = len(layer.facts) == len(report.models)  # else of some of them, in a slice
        for model, facts in zip(report.models, layer.facts if of_all else (), strict=of_all):
            if isinstance(threshold := facts.get("threshold"), float) and threshold > 0:
                found.setdefault(model.name, []).append(threshold)
    return {model: median(thresholds) for model, thresholds in found.items()}


def evidence_of(numbers: Numbers, cuts: Mapping[str, float]) -> Evidence:
    """What a store tells; `cuts` are thresholds of models, shown among their changes."""
    store = numbers.store
    return Evidence(
        tuple(_agreement(numbers)),
        (*_histograms(store, cuts), *_settings(store)),
        tuple(_findings(numbers)),
    )


def _agreement(numbers: Numbers) -> Iterator[Part]:
    found = agreement(numbers)
    if not found.pairs:
        yield Text("There is only one model.")
        return
    columns = columns_of(
        ("model", "model"), ("other", "other"), ("cosine", "cosine", "number"), ("conflict", "signs differ", "share")
    )
    said = "A matrix of models: the cosine of the angle between the deltas of two models."
    yield charts.square("Cosine of the angle between the deltas of two models", "agreement", "cosine", said=said)
    if any(pair.conflict is not None for pair in found.pairs):
        said = (
            "A matrix of models: of the elements that both change, the share that they change in opposite directions."
        )
        title = "Opposite signs among the elements that both models change; by chance it is half"
        yield charts.square(title, "agreement", "conflict", said=said, share=True)
    yield Table("agreement", "All pairs of models", columns, tuple(_both_ways(found)))
    yield from _by_tensor(found)
    yield from _overlap(numbers)


def _both_ways(found: Agreement) -> Iterator[tuple[Cell, ...]]:
    names = found.models
    for pair in found.pairs:
        yield names[pair.one], names[pair.other], pair.cosine, pair.conflict
        yield names[pair.other], names[pair.one], pair.cosine, pair.conflict


def _by_tensor(found: Agreement) -> Iterator[Part]:
    """Maps and lines of cosines and signs that differ, of the first pairs."""
    shown = found.pairs[:MOST_PAIRS]
    names = [f"{found.models[pair.one]} and {found.models[pair.other]}" for pair in shown]
    told = {
        name: [_facts(cosine=pair.cosines[at], signs_differ_share=pair.conflicts[at]) for pair in shown]
        for at, name in enumerate(found.tensors)
    }
    parts = layer_parts(names, told, "pairs", of="pair")
    yield from parts
    for field in ("cosine", "signs_differ_share"):
        yield from by_depth(parts, field)


def _facts(**measures: float | None) -> Facts:
    """What is known."""
    return {name: value for name, value in measures.items() if value is not None}


def _overlap(numbers: Numbers) -> Iterator[Part]:
    found = overlap(numbers)
    if found is None or not found.changed:
        return
    rows = tuple((str(count), own, own / found.changed) for count, own in enumerate(found.by_models, 1))
    columns = columns_of(
        ("by", "number of models that change them"), ("count", "elements", "count"), ("share", "share", "share")
    )
    yield Table("overlap", "Elements that models share", columns, rows)
    names = [tensor.name for tensor in numbers.store.tensors]
    told = {name: [_facts(shared_share=share)] for name, share in zip(names, found.by_tensor, strict=True)}
    yield from by_depth(layer_parts(("all models",), told, of="of"), "shared_share")


def _histograms(store: "Store", cuts: Mapping[str, float]) -> Iterator[Part]:
    found = [each for each in histograms(store) if each.power is not None]
    rows = tuple(
        (each.model, (each.power or 0) + at, count / sum(each.counts), _log2(cuts.get(each.model)))
        for each in found
        for at, count in enumerate(each.counts)
    )
    if not rows:
        yield Text("No model changes anything.")
        return
    drawn = f"Magnitudes of the models' changes{', and the median threshold' if cuts else ''}"
    said = "For each model, the share of its changes by magnitude, in powers of two."
    yield charts.histogram(drawn, "powers", cut=bool(cuts), said=said)
    columns = columns_of(
        ("model", "model"), ("power", "power of two", "number"), ("share", "share", "share"),
        ("cut", "threshold, as a power of two", "number"),
    )  # fmt: skip
    yield Table("powers", "Magnitudes as numbers", columns, rows, folded=True)


def _log2(value: float | None) -> float | None:
    return None if value is None else log2(value)


def _settings(store: "Store") -> Iterator[Part]:
    """Weights of SDM-W at other settings: the middle of their bounds. By k they are linear; by power nothing is cut."""
    swept = sweep_rows(store, Grid(K, POWERS, (1,), ("tensor",), (1.0,)))
    for name, title, fixed in (
        ("k", "percent of the nonzero deltas dropped (k), weights linear", {"power": 1.0}),
        ("power", "power of the weights, all deltas kept", {"k": 0.0}),
    ):
        shown = [row for row in swept if all(row[each] == value for each, value in fixed.items())]
        rows = tuple(
            (model, row[name], (low + high) / 2)
            for row in shown
            for model, (low, high) in zip(store.models, row["weights"], strict=True)
        )
        table, said = f"weights_by_{name}", f"A line for each model: its weight in SDM-W over {name}."
        drawn = f"Weights of SDM-W by {'k' if name == 'k' else 'their power'}"
        yield charts.lines(drawn, table, name, "weight", said=said, names=(title, "weight"))
        columns = columns_of(("model", "model"), (name, name, "number"), ("weight", "weight", "number"))
        yield Table(table, f"{drawn}, as numbers", columns, rows, folded=True)


def _findings(numbers: Numbers) -> Iterator[Part]:
    found = findings_of(numbers, merged_of(numbers, None), None)
    if not found:
        yield Text("Nothing stands out in the models' changes.")
        return
    rows = tuple(
        (
            each.title,
            "; ".join(each.said),
            ", ".join(each.places) + (f" and {each.more:,} more" if each.more else ""),
            each.advice + (f" ({each.source})" if each.source else ""),
        )
        for each in found
    )
    columns = columns_of(("what", "what stands out"), ("numbers", "numbers"), ("where", "where"), ("advice", "advice"))
    yield Table("findings", "What stands out in the models' changes", columns, rows)
    yield Text(CAUTION)
