"""How two checkpoints differ, tensor by tensor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sdmw import codec
from sdmw.errors import Problem, UsageError, quoted
from sdmw.planning.comparison import ComparisonPlan, Unmatched
from sdmw.reporting import comparison_lines
from sdmw.reporting.as_json import as_json
from sdmw.running.comparison import Compared
from sdmw.sizes import counted
from sdmw.statistics.change import Change

ONLY = ("changed", "equal", "missing")
MOST = 1 << 31  # rows that may be asked for


@dataclass(frozen=True, slots=True)
class Row:
    """A tensor that both have.

    Attributes:
        name: of the tensor.
        dtype: of its elements in both.
        shape: elements along each axis.
        change: from A to B.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    change: Change


def _share(row: Row) -> float:
    return row.change.changed / max(1, row.change.elements)


def _number(name: str) -> Callable[[Row], float]:
    """A row's number; where it has none, the largest if anything changed: a changed integer should be seen."""

    def number(row: Row) -> float:
        value: float | None = getattr(row.change, name)
        return (math.inf if row.change.changed else -1.0) if value is None else value

    return number


SORTS: dict[str, Callable[[Row], float]] = {
    "changed": _share, **{name: _number(name) for name in ("sum", "largest", "ratio")},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows a comparison shows, and in which order.

    Attributes:
        sort: a number, the largest first: share of elements that changed, sum, largest or ratio; or the name.
        only: tensors that changed, that have equal bits, or that are missing: not compared. None for all.
        top: how many rows, and how many tensors that are not compared; None for all.

    Raises:
        UsageError: one of them is none of these.
    """

    sort: str = "name"
    only: str | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        sorts = (*SORTS, "name")
        if self.sort not in sorts:
            raise UsageError([Problem("sort", " or ".join(sorts), quoted(self.sort))])
        if self.only is not None and self.only not in ONLY:
            raise UsageError([Problem("only", " or ".join(ONLY), quoted(self.only))])
        if self.top is not None and (type(self.top) is not int or not 1 <= self.top <= MOST):
            raise UsageError([Problem("top", f"a whole number from 1 to {MOST}", quoted(self.top))])

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that are meant, in order, before any is left out."""
        meant = [row for row in rows if self.only in (None, "changed" if row.change.changed else "equal")]
        if self.sort == "name":
            return sorted(meant, key=lambda row: row.name)
        number = SORTS[self.sort]
        return sorted(meant, key=lambda row: (-number(row), row.name))


@dataclass(frozen=True, slots=True)
class Tensors:
    """How many tensors there are.

    Attributes:
        compared: both have them, in one shape and dtype.
        equal: among these, those with equal bits.
        only_a, only_b: one of them lacks them.
        unlike: both have them, in unlike shapes or dtypes.
    """

    compared: int
    equal: int
    only_a: int
    only_b: int
    unlike: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences of B from A.

    Attributes:
        a, b: the two models, as they were named.
        tensors: counts of tensors.
        total: of all that were compared.
        rows: tensors that were compared, as chosen.
        unmatched: tensors that were not, as chosen.
        left_out: how many more rows there are, or with `only` missing, how many more tensors that are not compared.
        warnings: unexpected facts about the checkpoints.
    """

    a: str
    b: str
    tensors: Tensors
    total: Change
    rows: tuple[Row, ...]
    unmatched: tuple[Unmatched, ...]
    left_out: int
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        counts, total = self.tensors, self.total
        lacking = counts.only_a + counts.only_b + counts.unlike
        said = f"{counted(counts.compared, 'tensor')} compared, {counts.equal:,} equal, {lacking:,} unmatched"
        return f"Comparison({self.a!r}, {self.b!r}, {said}, {total.changed:,} of {total.elements:,} elements changed)"

    def _repr_html_(self) -> str:
        from sdmw.notebook import Cell, fragment

        rows: list[tuple[Cell, ...]] = [
            (row.name, (comparison_lines.share(row.change), _share(row)), *comparison_lines.cells(row)[1:])
            for row in self.rows
        ]
        return fragment(repr(self), comparison_lines.COLUMNS, rows)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))

    def to_json(self) -> str:
        """The same as text."""
        return as_json(self.to_dict())


def comparison(names: tuple[str, str], plan: ComparisonPlan, compared: Compared, choice: Choice) -> Comparison:
    """What was found.

    Args:
        names: of both checkpoints, as they were given.
        plan: of the comparison.
        compared: its outcome.
        choice: what is shown of it.
    """
    rows = [
        Row(pair.name, pair.dtype.name, pair.shape, change)
        for pair, change in zip(plan.pairs, compared.changes, strict=True)
    ]
    chosen = choice.rows(rows)
    unmatched = plan.unmatched if choice.only in (None, "missing") else ()
    listed = unmatched if choice.only == "missing" else chosen
    only_a, only_b = (sum(getattr(each, side) is None for each in plan.unmatched) for side in ("b", "a"))
    return Comparison(
        a=names[0],
        b=names[1],
        tensors=Tensors(
            compared=len(rows),
            equal=sum(not row.change.changed for row in rows),
            only_a=only_a,
            only_b=only_b,
            unlike=len(plan.unmatched) - only_a - only_b,
        ),
        total=compared.total,
        rows=tuple(chosen[: choice.top]),
        unmatched=unmatched[: choice.top],
        left_out=len(listed) - len(listed[: choice.top]),
        warnings=tuple(dict.fromkeys((*plan.a.warnings, *plan.b.warnings))),
    )
