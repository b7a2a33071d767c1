"""Reports of schema 1, which versions before the field `schema` left, in the shape of today's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from sdmw import codec
from sdmw.codec import Checksum, Count, Within
from sdmw.reporting.report import FilesReport, InputReport, LayerReport, ModelReport, Report, RunReport


@dataclass(frozen=True, slots=True)
class _Model:
    """Of the whole merge. None where nothing was measured, or the recipe's weights differ between tensors."""

    name: str
    weight: float | None
    magnitude: Annotated[float, Within(0)] | None
    nonzero: Count | None
    kept: Count | None
    magnitude_by_component: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class _Share:
    """One model in one layer."""

    threshold: Annotated[float, Within(0)] | None
    nonzero: Count | None
    kept: Count | None


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    tensors: tuple[str, ...]
    models: tuple[_Share, ...]


@dataclass(frozen=True, slots=True)
class _Percentile:
    mode: str | None
    rank_error: Count
    rank_error_share: Annotated[float, Within(0, 1)]


@dataclass(frozen=True, slots=True)
class _Files:
    copied: tuple[str, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Input:
    file: str
    size: Count
    header_hash: Checksum


@dataclass(frozen=True, slots=True)
class _Piece:
    tensor: str
    start: Count
    stop: Count
    xxh3: Checksum


@dataclass(frozen=True, slots=True)
class _Report:
    version: str
    method: str
    models: tuple[_Model, ...]
    layers: tuple[_Layer, ...]
    percentile: _Percentile
    run: RunReport
    files: _Files
    inputs: tuple[_Input, ...]
    pieces: tuple[_Piece, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def report(data: Mapping[str, Any], path: str) -> Report:
    """What a report of schema 1 tells. Its layers have no decisions: a method makes them of its own facts.

    Args:
        data: as JSON gives it.
        path: of the checkpoint that it stands in.

    Raises:
        ValueError: the data are no such report; the message says where.
    """
    old = codec.decode(_Report, data)
    return Report(
        schema=1,
        version=old.version,
        method=old.method,
        parameters={},
        seed=None,
        models=tuple(ModelReport(each.name, None, _facts(each, "name")) for each in old.models),
        facts=_facts(old.percentile),
        layers=tuple(
            LayerReport(each.name, each.tensors, tuple(_facts(share) for share in each.models), None)
            for each in old.layers
        ),
        pieces=tuple((each.tensor, each.start, each.stop, each.xxh3) for each in old.pieces),
        headers={},
        files=FilesReport({}, old.files.copied, old.files.skipped),
        inputs=tuple(InputReport("", each.file, each.size, each.header_hash, None) for each in old.inputs),
        configs={},
        commits={},
        run=old.run,
        missing={},
        extra={},
        tally=None,
        warnings=old.warnings,
        notes=old.notes,
        path=path,
    )


def _facts(value: Any, *without: str) -> dict[str, Any]:
    return {name: item for name, item in codec.encode(value).items() if name not in without}
