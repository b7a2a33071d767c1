"""The page of a merge: what was merged, where, how it agrees, what was cut, what is odd, what it cost, how to check."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sdmw.methods import all_methods
from sdmw.methods.method import Fact
from sdmw.reporting import tally
from sdmw.reporting.pages import charts
from sdmw.reporting.pages.layers import SHARE, by_depth, layer_parts
from sdmw.reporting.pages.page import (
    Cell,
    Code,
    Column,
    Kind,
    Page,
    Part,
    Points,
    Section,
    Table,
    Text,
    columns_of,
)
from sdmw.sizes import counted, shown

if TYPE_CHECKING:
    from sdmw.reporting.pages.evidence import Evidence
    from sdmw.reporting.report import Report

MB = 10**6
MOST_NAMED = 3  # models in a title
MEASURE = "sdmw measure RECIPE STORE"
_KINDS: Mapping[str, Kind] = {"%": "share", "d": "count"}


def page_of_merge(report: "Report", recipe: str, evidence: "Evidence | None" = None) -> Page:
    """The page of a merge.

    Args:
        report: of the merge.
        recipe: the text of its recipe.
        evidence: what a store of the same inputs tells of them; None for what the report knows alone.
    """
    where = layer_parts([model.name for model in report.models], {each.name: each.facts for each in report.layers})
    told = evidence.findings if evidence else ()
    return Page(
        f"{_named([model.name for model in report.models])}, merged by {report.method}",
        tuple(_facts(report)),
        (
            Section("What was merged, and how much does each model count?", tuple(_models(report))),
            Section("Where in the model?", where or (Text(_everywhere(report)),)),
            Section("Do the models agree?", evidence.agreement if evidence else (Text(_unmeasured()),)),
            Section("What was cut?", tuple(_cut(report, where, evidence))),
            Section("Is anything odd?", (*_odd(report), *told)),
            Section("What did it cost?", tuple(_cost(report))),
            Section("How is it checked and made again?", tuple(_check(report, recipe))),
        ),
    )


def _named(names: Sequence[str]) -> str:
    """A few names, or how many there are."""
    return counted(len(names), "model") if len(names) > MOST_NAMED else " and ".join(names)


def _facts(report: "Report") -> Iterator[tuple[str, str]]:
    run = report.run
    yield "written", shown(run.bytes_written)
    yield "read", shown(run.bytes_read)
    yield "time", f"{run.wall_s:.1f} s"
    yield "peak memory", f"{shown(run.peak_rss)}, planned at most {shown(run.planned_peak)}"
    yield "warnings", f"{len(report.warnings):,}"
    yield "sdmw", report.version


def _models(report: "Report") -> Iterator[Part]:
    formats = all_methods()[report.method].columns
    told = (name for each in report.models for name, fact in each.facts.items() if not isinstance(fact, Mapping))
    names = tuple(dict.fromkeys((*formats, *told)))
    kinds = {name: _kind(formats.get(name, ""), [each.facts.get(name) for each in report.models]) for name in names}
    columns = (Column("model", "model"), *(Column(name, name.replace("_", " "), kinds[name]) for name in names))
    rows = tuple((each.name, *(_cell(each.facts.get(name)) for name in names)) for each in report.models)
    first = "weight" if "weight" in formats else next(iter(formats))
    if any(isinstance(each.facts.get(first), int | float) for each in report.models):
        title = first.replace("_", " ")
        said = f"A bar for each model: {title}."
        yield charts.bars(title.capitalize(), "models", first, count=len(rows), said=said)
    yield Table("models", "Models", columns, rows)
    yield from _components(report)


def _kind(spec: str, facts: Sequence[Fact]) -> Kind:
    """How a column of facts is written: as the method says, else by what they are."""
    if spec:
        return _KINDS.get(spec[-1], "number")
    if any(isinstance(fact, str) for fact in facts):
        return "text"
    return "number" if any(isinstance(fact, float) for fact in facts) else "count"


def _components(report: "Report") -> Iterator[Part]:
    """How much each model changed in each component, where that is told."""
    told = {each.name: each.facts.get("magnitude_by_component") for each in report.models}
    rows = [
        (model, component, float(sums[component]))
        for model, sums in told.items()
        if isinstance(sums, Mapping)
        for component in sums
    ]
    if rows:
        name, said = "magnitudes", "For each component, each model's share of the magnitude that all models keep."
        count = len({component for _, component, _ in rows})
        yield charts.stacked("Who changed which component", name, "magnitude", count=count, said=said)
        columns = columns_of(("model", "model"), ("component", "component"), ("magnitude", "magnitude", "number"))
        yield Table(name, "Magnitude kept, by component", columns, tuple(rows), folded=True)


def _everywhere(report: "Report") -> str:
    return f"{report.method} decides nothing for single layers: its decision is the same for the whole model."


def _unmeasured() -> str:
    return (
        "A merge reads no more than it needs, and does not compare the models with one another. "
        f"For cosines, signs that differ, overlap and histograms: {MEASURE}, "
        "then sdmw report OUT --statistics STORE."
    )


def _cut(report: "Report", where: Sequence[Part], evidence: "Evidence | None") -> Iterator[Part]:
    rows = tuple((name, _said(value)) for name, value in report.parameters.items())
    yield Table(
        "parameters",
        "Parameters of the recipe, defaults filled in",
        columns_of(("p", "parameter"), ("v", "value")),
        rows,
    )
    facts = [(name.replace("_", " "), _said(value)) for name, value in report.facts.items() if value is not None]
    if facts:
        yield Table("facts", "What the method found", columns_of(("p", "fact"), ("v", "value")), tuple(facts))
    yield from by_depth(where, SHARE)
    if evidence:
        yield from evidence.cuts


def _odd(report: "Report") -> Iterator[Part]:
    if report.warnings:
        yield Points("warning", report.warnings)
    if report.notes:
        yield Points("note", report.notes)
    counts = report.tally
    told = () if counts is None else tuple(
        tally.lines(report.missing, report.extra, counts, report.files.copied, report.files.skipped, compared=True)
    )  # fmt: skip
    if told:
        yield Table("tally", "What is not merged", columns_of(("word", "what"), ("said", "which")), told)
    if not (report.warnings or report.notes or told):
        yield Text("Nothing: no warning, no tensor missing, left out or filled in.")
    if skipped := tuple(report.files.skipped.items()):
        columns = columns_of(("file", "file"), ("why", "why"))
        yield Table("skipped", "Files of the base that were not copied", columns, skipped, folded=True)


def _cost(report: "Report") -> Iterator[Part]:
    run = report.run
    rows = (
        ("time", f"{run.wall_s:.1f} s, of which {run.cpu_s:.1f} s of processor time"),
        *((f"time to {stage}", f"{seconds:.1f} s") for stage, seconds in run.stages.items()),
        ("read", shown(run.bytes_read)),
        ("read again", f"{shown(run.bytes_read_again)}, by further reads of layers"),
        ("written", shown(run.bytes_written)),
        ("peak memory", f"{shown(run.peak_rss)}, {shown(run.peak_anonymous)} of it anonymous (not backed by a file)"),
        ("planned", f"at most {shown(run.planned_peak)}"),
    )
    yield Table("cost", "The run", columns_of(("what", "what"), ("much", "how much")), rows)
    if run.memory:
        said = "Resident memory over the time of the run; the line is the bound that the plan had proved."
        yield charts.area("Memory", "memory", bound="planned", said=said)
        columns = columns_of(
            ("seconds", "seconds", "number"), ("megabytes", "MB", "number"), ("planned", "planned MB", "number")
        )
        samples = tuple((seconds, size / MB, run.planned_peak / MB) for seconds, size in run.memory)
        yield Table("memory", "Memory as numbers", columns, samples, folded=True)


def _check(report: "Report", recipe: str) -> Iterator[Part]:
    name = next((each for each in report.files.written if each in ("sdmw_recipe.yaml", "mergekit_config.yml")), "")
    yield Text(
        f"Every byte that was written has a checksum in sdmw_report.json ({len(report.pieces):,} pieces of tensors, "
        f"{counted(len(report.files.written), 'file')} beside them). sdmw verify compares them and computes a sample "
        "of tiles again from the inputs."
    )
    lines = ["sdmw verify OUT", *([f"sdmw merge OUT/{name} ANOTHER"] if name else [])]
    yield Code("Check it; make it again", "\n".join(lines))
    yield Code(f"The recipe, {name}" if name else "The recipe", recipe)
    columns = columns_of(
        ("model", "model"), ("file", "file"), ("size", "bytes", "count"), ("header", "XXH3-128 of its header"),
        ("sample", "XXH3-128 of a sample"),
    )  # fmt: skip
    rows = tuple((each.model, each.file, each.size, each.header, each.sample) for each in report.inputs)
    yield Table("inputs", "Files that were read", columns, rows, folded=True)
    told = {each.name: each.commit for each in report.models if each.commit}  # in reports of earlier versions too
    commits = tuple({**report.commits, **told}.items())
    if commits:
        yield Table("commits", "Commits of the Hub", columns_of(("model", "model"), ("commit", "commit")), commits)


def _cell(value: object) -> Cell:
    return value if isinstance(value, int | float | str) else None


def _said(value: object) -> str:
    """A value as a recipe would say it, on one line."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
