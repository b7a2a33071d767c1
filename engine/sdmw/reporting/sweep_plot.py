"""A sweep as a plot: what each model gets as one setting varies."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmw.errors import MissingExtraError, Problem, UsageError, quoted
from sdmw.reporting.sweep import SETTINGS, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BY_MODEL = ("weights", "kept", "magnitudes")
OF_MERGE = ("merged_norm", "scale")
ALONG = ("k", "power", "lambda")
_NAMES = {"k": "k (% of nonzero deltas dropped)", "weights": "weight", "kept": "share of nonzero deltas kept",
          "magnitudes": "sum of kept |delta|", "merged_norm": "norm of what is added", "scale": "lambda"}  # fmt: skip
_FAINT = 0.25  # opacity of the band between bounds


def plot_of(sweep: Sweep, y: str, x: str | None, ax: "Axes | None") -> "Axes":
    """Lines of a number of the rows along a setting.

    Args:
        sweep: whose rows are drawn.
        y: which number.
        x: along which setting; None for the first that varies.
        ax: where; None for a new figure.

    Raises:
        UsageError: there is no such number or setting.
        MissingExtraError: matplotlib is not installed.
    """
    x = _along(sweep) if x is None else x
    problems = [
        Problem(name, " or ".join(words), quoted(given))
        for name, given, words in (("y", y, (*BY_MODEL, *OF_MERGE)), ("x", x, ALONG))
        if given not in words
    ]
    if problems:
        raise UsageError(problems)
    try:
        from matplotlib import pyplot
    except ImportError:
        found = "matplotlib is needed but not installed"
        raise MissingExtraError([Problem("plot", "", found, "pip install 'sdmw[plots]'")]) from None
    if ax is None:
        _, ax = pyplot.subplots()
    for label, rows in _lines(sweep, x).items():
        ordered = sorted(rows, key=lambda row: _place(row, x))
        places = [_place(row, x) for row in ordered]
        for model in range(len(sweep.models)) if y in BY_MODEL else (None,):
            bounds = [_value(row, y, model) for row in ordered]
            names = [*([] if model is None else [sweep.models[model]]), *label]
            low, high = zip(*bounds, strict=True)
            middle = [(one + other) / 2 for one, other in bounds]
            (line,) = ax.plot(places, middle, marker=".", label=", ".join(names))
            ax.fill_between(places, low, high, color=line.get_color(), alpha=_FAINT, linewidth=0)
    ax.set_xlabel(_NAMES.get(x, x))
    ax.set_ylabel(_NAMES[y])
    if any(line.get_label() for line in ax.get_lines()):
        ax.legend()
    return ax


def _along(sweep: Sweep) -> str:
    """The first setting that varies and has a scale."""
    varied = (name for name in ALONG if len({str(row[name]) for row in sweep.rows}) > 1)
    return next(varied, ALONG[0])


def _lines(sweep: Sweep, x: str) -> Mapping[tuple[str, ...], Sequence[Mapping[str, Any]]]:
    """The rows of each line, by what tells it from the others."""
    first, found = sweep.rows[0], dict[tuple[str, ...], list[Mapping[str, Any]]]()
    varied = [name for name in SETTINGS if name != x and any(row[name] != first[name] for row in sweep.rows)]
    for row in sweep.rows:
        if not (x == "lambda" and isinstance(row[x], str)):  # preserve_norm has no place on an axis of numbers
            found.setdefault(tuple(f"{name} {_shown(row[name])}" for name in varied), []).append(row)
    return found


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _place(row: Mapping[str, Any], x: str) -> float:
    return float(row[x])


def _value(row: Mapping[str, Any], y: str, model: int | None) -> tuple[float, float]:
    low, high = row[y] if model is None else row[y][model]
    if y != "kept" or model is None:
        return float(low), float(high)
    nonzero = max(1, row["nonzero"][model])
    return low / nonzero, high / nonzero
