"""What SDM-W would decide at many settings, as rows."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sdmw import codec
from sdmw.reporting.as_json import as_json
from sdmw.version import __version__

SETTINGS = ("k", "power", "norm", "scope", "granularity", "lambda")


@dataclass(frozen=True, slots=True)
class Sweep:
    """The answer of a store.

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
