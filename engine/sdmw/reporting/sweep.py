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
    from matplotlib.axes import Axes

    from sdmw.notebook import Cell

SETTINGS = ("k", "power", "norm", "scope", "granularity", "lambda")


@dataclass(frozen=True, slots=True)
class Sweep:
    """Decisions of SDM-W at many settings.

    Attributes:
        version: of sdmw.
        models: names in the recipe, in order.
        rows: one mapping a setting: k, power, norm, scope, granularity, lambda (a number or preserve_norm); for each
            model the bounds of `weights` (of layers with their own weights the mean), `magnitudes` (the sum of what is
            kept) and `kept`, and `nonzero`; bounds of `scale`, which is what lambda comes to, and of `merged_norm`, the
            norm of what is added to the base; and whether weights and counts are `exact`, so that bounds are equal.
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

    def flat(self) -> list[dict[str, Any]]:
        """The rows with a plain number for each bound of each model: `weights corp low`, `weights corp high`, ..."""
        return [dict(_flat(row, self.models)) for row in self.rows]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The flat rows as Arrow's C stream, for `polars.DataFrame(sweep)` or `pyarrow.table(sweep)`.

        Where lambda is found, it is null, and `scale low` and `scale high` say what it is.

        Args:
            requested_schema: a capsule of the schema that the reader asks for.

        Raises:
            MissingExtraError: pyarrow is not installed (the extra `arrow`).
        """
        from sdmw.reporting.sweep_exchange import stream_of

        return stream_of(self, requested_schema)

    def plot(self, y: str = "weights", *, x: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draw a number of the rows along a setting, a line for each model and for each combination of the others.

        Between the bounds of a number is a band.

        Args:
            y: weights, kept (as shares of the nonzero deltas), magnitudes, merged_norm or scale.
            x: k, power or lambda; by default the first of them that varies.
            ax: where to draw; by default a new figure.

        Returns:
            The axes.

        Raises:
            UsageError: there is no such number or setting.
            MissingExtraError: matplotlib is not installed (the extra `plots`).
        """
        from sdmw.reporting.sweep_plot import plot_of

        return plot_of(self, y, x, ax)

    def to_csv(self) -> str:
        """As CSV text: a line for each setting, a column for each bound of each model."""
        lines = self.flat()
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
    for name in ("scale", "merged_norm"):
        yield f"{name} low", row[name][0]
        yield f"{name} high", row[name][1]
    yield "exact", row["exact"]


def sweep_of(models: tuple[str, ...], rows: tuple[Mapping[str, Any], ...]) -> Sweep:
    """Rows with what they are of."""
    return Sweep(__version__, models, rows)
