"""What SDM-W would decide at many settings, as rows."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sdmw import codec
from sdmw.reporting.as_json import as_json
from sdmw.sizes import counted
from sdmw.version import __version__

if TYPE_CHECKING:
    from sdmw.notebook import Cell

SETTINGS = ("k", "power", "norm", "scope", "granularity", "lambda")


@dataclass(frozen=True, slots=True)
class Sweep:
    """The answer of a store.

    Attributes:
        version: of sdmw.
        models: names in the recipe, in order.
        rows: one mapping a setting: k, power, norm, scope, granularity, lambda; for each model the bounds of `weights`,
            `magnitudes` (the sum of what is kept) and `kept`, and `nonzero`; bounds of `merged_norm`, the norm of
            what is added to the base; and whether all but this norm is `exact`, so that bounds are equal.
    """

    version: str
    models: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    def __repr__(self) -> str:
        exact = sum(bool(row["exact"]) for row in self.rows)
        return f"Sweep({', '.join(self.models)}, {counted(len(self.rows), 'setting')}, {exact:,} of them exact)"

    def _repr_html_(self) -> str:
        from sdmw.notebook import fragment

        varied = [name for name in SETTINGS if len({str(row[name]) for row in self.rows}) > 1] or ["k"]
        headings = (*varied, *(f"{what} {model}" for model in self.models for what in ("weight", "kept")))
        return fragment(repr(self), headings, [_shown_in_notebook(row, varied) for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))

    def to_json(self) -> str:
        """As JSON text."""
        return as_json(self.to_dict())

    def to_csv(self) -> str:
        """As CSV text: a line for each setting, a column for each bound of each model."""
        lines = [dict(_flat(row, self.models)) for row in self.rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()


def _shown_in_notebook(row: Mapping[str, Any], varied: Sequence[str]) -> "list[Cell]":
    """Settings; the middle of each model's weight and of the share that it keeps, over bars."""
    cells: list[Cell] = [str(row[name]) for name in varied]
    for (low, high), (least, most), nonzero in zip(row["weights"], row["kept"], row["nonzero"], strict=True):
        weight, share = (low + high) / 2, (least + most) / 2 / max(1, nonzero)
        cells += [(f"{weight:.4f}", weight), (f"{share:.2%}", share)]
    return cells


def _flat(row: Mapping[str, Any], models: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    yield from ((name, row[name]) for name in SETTINGS)
    for name in ("weights", "magnitudes", "kept"):
        for model, (low, high) in zip(models, row[name], strict=True):
            yield f"{name} {model} low", low
            yield f"{name} {model} high", high
    yield from ((f"nonzero {model}", count) for model, count in zip(models, row["nonzero"], strict=True))
    yield "merged_norm low", row["merged_norm"][0]
    yield "merged_norm high", row["merged_norm"][1]
    yield "exact", row["exact"]


def sweep_of(models: tuple[str, ...], rows: tuple[Mapping[str, Any], ...]) -> Sweep:
    """Rows with what they are of."""
    return Sweep(__version__, models, rows)
