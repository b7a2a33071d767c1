"""The report of a merge: an object, and the same as JSON."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmw.methods.sdm_w import total_magnitude
from sdmw.planning.plan import Plan
from sdmw.reporting.as_json import as_json
from sdmw.statistics.histogram import UNIT_EXPONENT
from sdmw.version import __version__

if TYPE_CHECKING:  # what runs loads the kernels, what is printed need not
    from sdmw.running.driver import Outcome
    from sdmw.running.usage import Usage


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One merged model.

    Attributes:
        name: as in the recipe.
        weight: W; None where the recipe's weights differ between tensors.
        magnitude: M, the sum of the kept magnitudes; None where the data were not measured, as what follows.
        nonzero: deltas that are not zero.
        kept: how many of them reach their layer's threshold.
        magnitude_by_component: M for what each part of all blocks shares.
    """

    name: str
    weight: float | None
    magnitude: float | None
    nonzero: int | None
    kept: int | None
    magnitude_by_component: dict[str, float] | None

    @property
    def kept_share(self) -> float | None:
        """Density: kept over nonzero, 0 to 1."""
        return self.kept / self.nonzero if self.kept is not None and self.nonzero else None


@dataclass(frozen=True, slots=True)
class LayerModelReport:
    """One model in one layer: its threshold P and what reaches it; None where nothing changed or was measured."""

    threshold: float | None
    nonzero: int | None
    kept: int | None


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Tensors that were thresholded together."""

    name: str
    tensors: list[str]
    models: list[LayerModelReport]


@dataclass(frozen=True, slots=True)
class PieceReport:
    """Elements start to stop of a tensor as they were written, and the XXH3-128 of their bytes (no signature)."""

    tensor: str
    start: int
    stop: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class PercentileReport:
    """How thresholds were found.

    Attributes:
        mode: exact or approximate; None where the method has none.
        rank_error: the most ranks by which a layer's cut can be off.
        rank_error_share: the most as a share of the layer's nonzero deltas.
    """

    mode: str | None
    rank_error: int
    rank_error_share: float


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
    """The base's other files: those copied, and those left out with the reason."""

    copied: list[str]
    skipped: dict[str, str]


@dataclass(frozen=True, slots=True)
class InputReport:
    """The fingerprint of one input file: bytes, and the XXH3-128 of its header."""

    file: str
    size: int
    header_hash: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was merged, what was found, what it took. `sdmw_report.json` has the same names."""

    version: str
    method: str
    path: str
    models: list[ModelReport]
    layers: list[LayerReport]
    percentile: PercentileReport
    run: RunReport
    files: FilesReport
    inputs: list[InputReport]
    pieces: list[PieceReport]
    warnings: list[str]
    notes: list[str]

    def to_json(self) -> str:
        """As JSON, indented."""
        return as_json(dataclasses.asdict(self))


def build_report(plan: Plan, outcome: "Outcome", usage: "Usage") -> Report:
    """The report of a finished run."""
    usage.read_peak()
    shares = [(share.rank_error, share.nonzero) for layer in outcome.layers for share in layer]
    mode = plan.recipe.parameters.get("percentile", "exact") if plan.passes > 1 else None
    return Report(
        version=__version__,
        method=plan.recipe.merge_method,
        path=plan.target or "",
        models=[_model(plan, outcome, number) for number in range(len(plan.models))],
        layers=[
            LayerReport(
                layer.name,
                [plan.tensors[tensor].name for tensor in layer.tensors],
                [LayerModelReport(share.threshold, share.nonzero, share.kept) for share in decision],
            )
            for layer, decision in zip(plan.layers, outcome.layers, strict=True)
        ],
        percentile=PercentileReport(
            mode=str(mode) if mode else None,
            rank_error=max((error for error, _ in shares), default=0),
            rank_error_share=max((error / count for error, count in shares if count), default=0.0),
        ),
        run=RunReport(
            round(usage.wall_s, 3),
            round(usage.cpu_s, 3),
            outcome.bytes_read,
            outcome.bytes_read_again,
            plan.bytes_written,
            usage.peak_rss,
            usage.peak_anonymous,
            plan.peak_bytes,
        ),
        files=FilesReport(list(plan.copied), dict(plan.skipped)),
        inputs=[
            InputReport(shard.path, shard.size, shard.header_hash)
            for checkpoint in plan.checkpoints
            for shard in checkpoint.shards
        ],
        pieces=[
            PieceReport(plan.tensors[piece.tensor].name, piece.start, piece.stop, checksum)
            for piece, checksum in sorted(outcome.pieces.items(), key=lambda item: (item[0].tensor, item[0].start))
        ],
        warnings=[*plan.warnings, *outcome.warnings],
        notes=list(plan.notes),
    )


def _model(plan: Plan, outcome: "Outcome", number: int) -> ModelReport:
    weights = {tensor.params.weights[number] for tensor in plan.tensors if tensor.params and tensor.params.weights}
    weight = None if len(weights) > 1 else outcome.model.weights[number]
    shares = [layer[number] for layer in outcome.layers if layer]
    if any(share.magnitude is None for share in shares) or not shares:
        return ModelReport(plan.models[number], weight, None, None, None, None)
    by_component: Counter[str] = Counter()
    for share in shares:
        by_component.update(share.magnitude or {})
    return ModelReport(
        name=plan.models[number],
        weight=weight,
        magnitude=total_magnitude(shares),
        nonzero=sum(share.nonzero or 0 for share in shares),
        kept=sum(share.kept or 0 for share in shares),
        magnitude_by_component={name: total / (1 << UNIT_EXPONENT) for name, total in by_component.items()},
    )
