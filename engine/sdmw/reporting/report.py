"""The report of a merge: an object, and the same as JSON. Its shape is in report.schema.json beside this."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from sdmw import codec
from sdmw.methods import all_methods
from sdmw.methods.method import AnyMethod, Facts
from sdmw.planning.plan import Plan
from sdmw.recipes.recipe import Recipe
from sdmw.reporting.as_json import as_json
from sdmw.sizes import counted, shown
from sdmw.storage.shard import sample_of
from sdmw.version import __version__

if TYPE_CHECKING:  # what runs loads the kernels, what is printed need not
    from sdmw.running.driver import Outcome
    from sdmw.running.job import Decisions
    from sdmw.running.usage import Usage

SCHEMA = 2
REPORT = "sdmw_report.json"

Piece = tuple[str, int, int, str]


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

    `planned_peak` is the bound that the plan had proved.
    """

    wall_s: float
    cpu_s: float
    bytes_read: int
    bytes_read_again: int
    bytes_written: int
    peak_rss: int
    peak_anonymous: int
    planned_peak: int


@dataclass(frozen=True, slots=True)
class FilesReport:
    """Files beside the shards.

    Attributes:
        written: XXH3-128 of each but this report, in hex, by name; no signature.
        copied: those among them that are the base's, byte for byte.
        skipped: the base's files that were left out, with the reason.
    """

    written: Mapping[str, str]
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
        sample: XXH3-128 of 64 blocks of 64 KiB spread over it, in hex.
    """

    model: str
    file: str
    size: int
    header: str
    sample: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was merged, what was found, what it took. `sdmw_report.json` has the same names but `path`.

    Attributes:
        schema: of the report itself.
        version: of sdmw.
        method: the merge method.
        parameters: the recipe's top level of parameters, defaults filled in, and the output dtype.
        seed: of random methods; None where the method draws no numbers.
        models: what was merged, in recipe order.
        facts: what the method tells of the merge as a whole.
        layers: in the order in which they were decided.
        pieces: name of the tensor, first element, the one behind the last, XXH3-128 of their bytes: all that was
            written.
        files: beside the shards.
        inputs: every file that was read.
        run: what it took.
        missing: how many tensors each model lacked, where the base's stood in.
        extra: how many tensors that the base lacks were taken from each model.
        warnings: what is odd.
        notes: what the recipe language has to say.
        path: of the output, as it was asked for; not in the file.
    """

    schema: int
    version: str
    method: str
    parameters: Mapping[str, Any]
    seed: int | None
    models: tuple[ModelReport, ...]
    facts: Facts
    layers: tuple[LayerReport, ...]
    pieces: tuple[Piece, ...]
    files: FilesReport
    inputs: tuple[InputReport, ...]
    run: RunReport
    missing: Mapping[str, int]
    extra: Mapping[str, int]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    path: str = field(default="", compare=False)

    def __repr__(self) -> str:
        found = f"{self.method}, {counted(len(self.models), 'model')}, {shown(self.run.bytes_written)} written"
        took = f"{self.run.wall_s:.1f} s, {shown(self.run.peak_rss)} of memory"
        return f"Report({self.path!r}, {found}, {took}, {counted(len(self.warnings), 'warning')})"

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Report":
        """The report in the output of a merge; of schema 1 too, whose layers then have no decisions.

        Args:
            path: the directory.

        Raises:
            CheckpointError: there is none, or none that this version reads.
        """
        from sdmw.reporting.reading import read_report

        return read_report(os.fspath(path))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        found = codec.encode(self)
        del found["path"]
        return cast("dict[str, Any]", found)

    def to_json(self) -> str:
        """As JSON, indented."""
        return as_json(self.to_dict())


def model_reports(plan: Plan, decisions: "Decisions") -> tuple[ModelReport, ...]:
    """What there is to tell of each model."""
    method, params = _told_by(plan)
    commits = {name: checkpoint.commit for name, checkpoint in plan.sources}
    facts = method.model_facts(params, decisions.layers, decisions.model)
    return tuple(ModelReport(name, commits.get(name), each) for name, each in zip(plan.models, facts, strict=True))


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
    method, params = _told_by(plan)
    layers, model = outcome.decisions.layers, outcome.decisions.model
    names = {checkpoint.path: name for name, checkpoint in plan.sources}
    return Report(
        schema=SCHEMA,
        version=__version__,
        method=method.name,
        parameters=_parameters(plan.recipe),
        seed=None,
        models=models,
        facts=method.facts(params, layers, model),
        layers=_layers(plan, method, layers),
        pieces=tuple(
            (plan.tensors[piece.tensor].name, piece.start, piece.stop, checksum)
            for piece, checksum in sorted(outcome.pieces.items(), key=lambda item: (item[0].tensor, item[0].start))
        ),
        files=FilesReport(dict(sorted(written.items())), plan.copied, dict(plan.skipped)),
        inputs=_inputs(plan),
        run=_run(plan, outcome, usage),
        missing=dict(plan.missing),
        extra=dict(plan.extra),
        warnings=tuple(_named(warning, names) for warning in (*plan.warnings, *outcome.warnings)),
        notes=plan.notes,
        path=plan.target or "",
    )


def _told_by(plan: Plan) -> tuple[AnyMethod, list[Any]]:
    """The method, and its parameters in all tensors that it has a say in, each once."""
    params = dict.fromkeys(tensor.params for tensor in plan.tensors if tensor.params is not None)
    return all_methods()[plan.recipe.merge_method], list(params)


def _layers(plan: Plan, method: AnyMethod, decisions: Sequence[Any]) -> tuple[LayerReport, ...]:
    return tuple(
        LayerReport(
            layer.name,
            tuple(plan.tensors[tensor].name for tensor in layer.tensors),
            method.layer_facts(decision),
            codec.decode(object, codec.encode(decision)),
        )
        for layer, decision in zip(plan.layers, decisions, strict=True)
    )


def _run(plan: Plan, outcome: "Outcome", usage: "Usage") -> RunReport:
    return RunReport(
        round(usage.wall_s, 3),
        round(usage.cpu_s, 3),
        outcome.bytes_read,
        outcome.bytes_read_again,
        plan.bytes_written,
        usage.peak_rss,
        usage.peak_anonymous,
        plan.peak_bytes,
    )


def _parameters(recipe: Recipe) -> dict[str, Any]:
    """The top level as plain data: numbers, words, lists of rules."""
    method = all_methods()[recipe.merge_method]
    found = {one.name: _plain(recipe.parameters.get(one.name, one.default)) for one in method.parameters}
    return {**found, "out_dtype": recipe.output_dtype}


def _plain(setting: Any) -> Any:
    """A setting as a recipe would say it; a rule for all tensors is its value."""
    if isinstance(setting, tuple) and len(setting) == 1 and setting[0].filter is None:
        return codec.encode(setting[0].value)
    return codec.encode(setting)


def _inputs(plan: Plan) -> tuple[InputReport, ...]:
    return tuple(
        InputReport(
            name, os.path.relpath(shard.path, checkpoint.path), shard.size, shard.header_hash, sample_of(shard.path)
        )
        for name, checkpoint in plan.sources
        for shard in checkpoint.shards
    )


def _named(text: str, names: Mapping[str, str]) -> str:
    """A warning with models named as in the recipe, and not by their paths on this machine."""
    for path, name in names.items():
        text = text.replace(path, name)
    return text
