"""The report of a merge: an object, and the same as JSON. Its shape is in report.schema.json beside this."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from sdmw import codec
from sdmw.checkpoints.checkpoint import commit_of
from sdmw.checkpoints.formats._adapter_config import hash_of_config
from sdmw.codec import Checksum, Count, Matching, Within
from sdmw.methods import all_methods
from sdmw.methods.method import AnyMethod, Fact, Facts
from sdmw.planning.plan import Plan
from sdmw.recipes.model_ref import expanded
from sdmw.recipes.recipe import Recipe, Rule
from sdmw.reporting.as_json import as_json
from sdmw.reporting.tally import Tally, tally_of
from sdmw.sizes import counted, shown
from sdmw.storage.shard import Shard, sample_of
from sdmw.version import __version__

if TYPE_CHECKING:  # what runs loads the kernels, what is printed need not
    from sdmw.notebook import Cell
    from sdmw.running.driver import Outcome
    from sdmw.running.job import Decisions
    from sdmw.running.usage import Usage

REPORT = "sdmw_report.json"
_ABSOLUTE = re.compile(r"(?<=')/[^']*(?=')|(?<=\")/[^\"]*(?=\")|(?<![^\s(])/\S+")  # quoted, or a word

Commit = Annotated[str, Matching("[0-9a-f]{40}")]
Seconds = Annotated[float, Within(0)]
Sample = tuple[Seconds, Count]
Piece = tuple[str, Count, Count, Checksum]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One merged model.

    Attributes:
        name: as in the recipe.
        commit: of the Hub's snapshot that it was read from; None where it is no snapshot.
        facts: what the method tells of it: its weight, say.
    """

    name: str
    commit: str | None
    facts: Facts


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Tensors that were decided together.

    Attributes:
        name: the layer's.
        tensors: names.
        facts: what the method tells of each model in it; empty where it tells nothing.
        decision: the method's numbers, as `sdmw.codec` writes them; `verify` merges with them again.
    """

    name: str
    tensors: tuple[str, ...]
    facts: tuple[Facts, ...]
    decision: Any


@dataclass(frozen=True, slots=True)
class RunReport:
    """What it took: seconds, bytes of tensors read (again: by further looks at a layer), bytes of memory.

    `planned_peak` is the bound that the plan had proved. `stages` are the seconds from the first piece of a stage to
    its last. `memory` is what was resident over time, as seconds since the start and bytes, at most 200 times. Both are
    empty in reports of earlier versions.
    """

    wall_s: Seconds
    cpu_s: Seconds
    bytes_read: Count
    bytes_read_again: Count
    bytes_written: Count
    peak_rss: Count
    peak_anonymous: Count
    planned_peak: Count
    stages: Mapping[str, Seconds]
    memory: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class FilesReport:
    """Files beside the shards.

    Attributes:
        written: XXH3-128 of each but this report, in hex, by name; no signature.
        copied: those among them that are the base's, byte for byte.
        skipped: the base's files that were left out, with the reason.
    """

    written: Mapping[str, Checksum]
    copied: tuple[str, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class InputReport:
    """The fingerprint of one input file.

    Attributes:
        model: as the recipe names its directory.
        file: its path in that directory.
        size: bytes.
        header: XXH3-128 of its header, in hex; no signature.
        sample: XXH3-128 of 64 blocks of 64 KiB spread over it, in hex; None in schema 1.
    """

    model: str
    file: str
    size: Count
    header: Checksum
    sample: Checksum | None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a merge: inputs, decisions, cost. `sdmw_report.json` has the same names but `path`.

    Attributes:
        schema: of the report itself.
        version: of sdmw.
        method: the merge method.
        parameters: the recipe's top level of parameters, defaults filled in, and the output dtype.
        seed: of random methods; None if the method is not random.
        models: what was merged, in recipe order.
        facts: the method's decision on the merge as a whole.
        layers: in the order in which they were decided.
        pieces: name of the tensor, first element, the one behind the last, XXH3-128 of their bytes: all that was
            written.
        headers: XXH3-128 of each shard's header, in hex, by its name; empty in reports of earlier versions.
        files: beside the shards.
        inputs: every file of tensors that was read.
        configs: XXH3-128 of the config of each adapter, in hex, by its name in the recipe; empty in reports of earlier
            versions.
        commits: of models on the Hub and of snapshots of its cache, by the name in the recipe of each input; empty in
            reports of earlier versions.
        run: its cost.
        missing: how many tensors each model lacked; the base's were used.
        extra: how many tensors that the base lacks were taken from each model.
        tally: other counts of what is not merged; None in reports of earlier versions.
        warnings: unexpected facts.
        notes: remarks on the recipe and the inputs.
        path: of the output, as it was asked for; not in the file.
    """

    schema: Literal[1, 2]
    version: str
    method: str
    parameters: Mapping[str, Any]
    seed: int | None
    models: tuple[ModelReport, ...]
    facts: Facts
    layers: tuple[LayerReport, ...]
    pieces: tuple[Piece, ...]
    headers: Mapping[str, Checksum]
    files: FilesReport
    inputs: tuple[InputReport, ...]
    configs: Mapping[str, Checksum]
    commits: Mapping[str, Commit]
    run: RunReport
    missing: Mapping[str, Count]
    extra: Mapping[str, Count]
    tally: Tally | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    path: str = field(default="", compare=False)

    def __repr__(self) -> str:
        found = f"{self.method}, {counted(len(self.models), 'model')}, {shown(self.run.bytes_written)} written"
        took = f"{self.run.wall_s:.1f} s, {shown(self.run.peak_rss)} of memory"
        return f"Report({self.path!r}, {found}, {took}, {counted(len(self.warnings), 'warning')})"

    def _repr_html_(self) -> str:
        from sdmw.notebook import fragment

        columns = all_methods()[self.method].columns
        rows = [
            (each.name, *(_shown_in_notebook(each.facts.get(name), spec) for name, spec in columns.items()))
            for each in self.models
        ]
        run = self.run
        took = f"{run.wall_s:.1f} s, {shown(run.bytes_written)} written, at most {shown(run.peak_rss)} of memory"
        warned = "".join(f"; warning: {warning}" for warning in self.warnings)
        headings = ("model", *(name.replace("_", " ") for name in columns))
        return fragment(f"{self.path}: merged by {self.method} in {took}{warned}", headings, rows)

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Report":
        """The report in the output of a merge; of schema 1 too, whose layers then have no decisions.

        Args:
            path: the directory; `~` is expanded.

        Raises:
            CheckpointError: there is no report, or this version cannot read it.
        """
        from sdmw.reporting.reading import read_report

        return read_report(expanded(os.fspath(path)))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        found = codec.encode(self)
        del found["path"]
        return cast("dict[str, Any]", found)

    def to_json(self) -> str:
        """As JSON, indented."""
        return as_json({each.name: getattr(self, each.name) for each in fields(self) if each.name != "path"})


def _shown_in_notebook(fact: Fact, spec: str) -> "Cell":
    """A fact as a table shows it; shares and weights between 0 and 1 over a bar."""
    if not isinstance(fact, int | float):
        return "–" if fact is None else str(fact)
    text = format(fact, spec)
    return (text, fact) if isinstance(fact, float) and 0 <= fact <= 1 else text


def model_reports(plan: Plan, decisions: "Decisions") -> tuple[ModelReport, ...]:
    """What there is to tell of each model."""
    commits = {name: checkpoint.commit for name, checkpoint in plan.sources}
    facts = _facts_of_models(plan, decisions)
    return tuple(
        ModelReport(name, commits.get(name), _common(facts[number])) for number, name in enumerate(plan.models)
    )


def _facts_of_models(plan: Plan, decisions: "Decisions") -> Mapping[int, list[Facts]]:
    """Of each model the facts of every group of tensors in which the same models take part: of slices, several."""
    method = all_methods()[plan.recipe.merge_method]
    params: dict[tuple[int, ...], dict[Any, None]] = {}
    layers: dict[tuple[int, ...], list[Any]] = {}
    for tensor in plan.tensors:
        if tensor.params is not None:
            params.setdefault(tensor.among, {})[tensor.params] = None
    for layer, decision in zip(plan.layers, decisions.layers, strict=True):
        layers.setdefault(plan.tensors[layer.tensors[0]].among, []).append(decision)
    found: dict[int, list[Facts]] = {}
    for among, own in params.items():
        told = method.model_facts(own, layers.get(among, []), decisions.model)
        for number, facts in zip(among, told, strict=True):
            found.setdefault(number, []).append(facts)
    return found


def _common(facts: Sequence[Facts]) -> Facts:
    """What is equal in all; None where it is not."""
    first, *others = facts
    return {name: fact if all(each[name] == fact for each in others) else None for name, fact in first.items()}


def build_report(
    plan: Plan,
    outcome: "Outcome",
    usage: "Usage",
    models: tuple[ModelReport, ...],
    written: Mapping[str, str],
) -> Report:
    """The report of a finished run.

    Args:
        plan: what was carried out.
        outcome: what was found.
        usage: what it took.
        models: what there is to tell of each.
        written: the checksum of each file beside the shards, by name.
    """
    usage.read_peak()
    return Report(
        **derived(plan, outcome.decisions, models),
        schema=2,
        version=__version__,
        pieces=tuple(
            (plan.tensors[piece.tensor].name, piece.start, piece.stop, checksum)
            for piece, checksum in sorted(outcome.pieces.items(), key=lambda item: (item[0].tensor, item[0].start))
        ),
        headers={layout.name: layout.header_hash for layout in plan.shards},
        files=FilesReport(dict(sorted(written.items())), (*plan.copied, *plan.tokenizer_files), dict(plan.skipped)),
        inputs=tuple(
            InputReport(name, file, shard.size, shard.header_hash, sample_of(shard.path))
            for name, file, shard in input_files(plan)
        ),
        configs={
            name: hash_of_config(each.path, follow_links=each.follow_links)
            for name, each in plan.sources
            if each.adapts is not None
        },
        commits=_commits(plan),
        run=_run(plan, outcome, usage),
        warnings=tuple(_without_paths((*plan.warnings, *outcome.warnings), plan)),
        notes=tuple(_without_paths(plan.notes, plan)),
        path=plan.target or "",
    )


def _commits(plan: Plan) -> dict[str, str]:
    """Of each input that is the Hub's, and of the model that the tokenizer alone is of."""
    found = {name: each.commit for name, each in plan.sources}
    if plan.tokenizer_from and plan.recipe.tokenizer_of:
        found.setdefault(str(plan.recipe.tokenizer_of), commit_of(plan.tokenizer_from[0]))
    return {name: commit for name, commit in found.items() if commit}


def derived(plan: Plan, decisions: "Decisions", models: tuple[ModelReport, ...]) -> dict[str, Any]:
    """The fields that follow from a plan and its decisions: `verify` derives them again.

    Args:
        plan: what was carried out.
        decisions: of its layers and its model.
        models: what there is to tell of each.
    """
    method, params = _told_by(plan)
    return {
        "method": method.name,
        "parameters": _parameters(plan.recipe),
        "seed": plan.recipe.random_seed if method.draws else None,
        "models": models,
        "facts": method.facts(params, decisions.layers, decisions.model),
        "layers": _layers(plan, method, decisions),
        "missing": dict(plan.missing),
        "extra": dict(plan.extra),
        "tally": tally_of(plan),
    }


def _told_by(plan: Plan) -> tuple[AnyMethod, list[Any]]:
    """The method, and its parameters in all tensors that it has a say in, each once."""
    params = dict.fromkeys(tensor.params for tensor in plan.tensors if tensor.params is not None)
    return all_methods()[plan.recipe.merge_method], list(params)


def _layers(plan: Plan, method: AnyMethod, decisions: "Decisions") -> tuple[LayerReport, ...]:
    return tuple(
        LayerReport(
            layer.name,
            tuple(plan.tensors[tensor].name for tensor in layer.tensors),
            method.layer_facts(decision, decisions.model),
            decision,
        )
        for layer, decision in zip(plan.layers, decisions.layers, strict=True)
    )


def _run(plan: Plan, outcome: "Outcome", usage: "Usage") -> RunReport:
    memory = tuple((round(seconds, 3), size) for seconds, size in usage.memory)  # before the time: samples go on
    return RunReport(
        round(usage.wall_s, 3),
        round(usage.cpu_s, 3),
        outcome.bytes_read,
        outcome.bytes_read_again,
        plan.bytes_written,
        usage.peak_rss,
        usage.peak_anonymous,
        plan.peak_bytes,
        {stage: round(seconds, 3) for stage, seconds in usage.stages.items()},
        memory,
    )


def _parameters(recipe: Recipe) -> dict[str, Any]:
    """The top level as plain data: numbers, words, lists of rules."""
    method = all_methods()[recipe.merge_method]
    found = {one.name: _plain(recipe.parameters.get(one.name, one.default)) for one in method.parameters}
    return {**found, "out_dtype": recipe.output_dtype}


def _plain(setting: Any) -> Any:
    """A setting as a recipe would say it; a rule for all tensors is its value."""
    if isinstance(setting, tuple) and len(setting) == 1 and setting[0].filter is None and not setting[0].exclude:
        return codec.encode(setting[0].value)
    if isinstance(setting, tuple):
        return [_rule(rule) for rule in setting]
    return codec.encode(setting)


def _rule(rule: Rule) -> dict[str, Any]:
    """A rule as a recipe would say it."""
    exclude = {"exclude": list(rule.exclude)} if rule.exclude else {}
    return {"filter": rule.filter, **exclude, "value": codec.encode(rule.value)}


def input_files(plan: Plan) -> Iterator[tuple[str, str, Shard]]:
    """Every input file: the model's name in the recipe, the file's path in its directory, its fingerprint."""
    for name, checkpoint in plan.sources:
        for shard in checkpoint.shards:
            yield name, os.path.relpath(shard.path, checkpoint.path), shard


def _without_paths(texts: Iterable[str], plan: Plan) -> Iterator[str]:
    """What people read, without paths of this machine: models as in the recipe, other files by their names."""
    names = {checkpoint.path: name for name, checkpoint in plan.sources}
    known = "|".join(re.escape(path) for path in sorted(names, key=len, reverse=True))
    inputs = re.compile(rf"({known})(?![\w.-])")
    for text in texts:
        named = inputs.sub(lambda found: names[found[0]], text)
        yield _ABSOLUTE.sub(lambda found: os.path.basename(found[0].rstrip("/")), named)
