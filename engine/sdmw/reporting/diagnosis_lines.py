"""What a terminal shows of a diagnosis: tables of models and pairs, and findings as lines."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sdmw.sizes import counted

if TYPE_CHECKING:
    from sdmw.reporting.diagnosis import Diagnosis, Evidence
    from sdmw.reporting.findings import Finding

MODELS = ("model", "norm of delta", "elements changed", "weight", "share of merge")
PAIRS = ("models", "cosine", "opposed signs", "elements shared")
MOST_PAIRS = 20  # on a screen
MOST_ROWS = 5  # of one finding


def summary(found: "Diagnosis", recipe: str | None) -> Iterator[tuple[str, str]]:
    """What was looked at.

    Args:
        found: the diagnosis.
        recipe: as commands name it; None where it has no name.
    """
    counts = (found.problems, "problem"), (found.warnings, "warning"), (found.notes, "note")
    yield "models", ", ".join(found.models)
    yield "headers", ", ".join(counted(len(each), what) for each, what in counts)
    if found.evidence is not None:
        yield "evidence", f"{counted(len(found.findings), 'finding')} in {found.evidence.statistics}"
        yield "settings", _settings(found.evidence)
        if not found.evidence.paired:
            yield "pairs", "some were not measured: they have no cosine, and signs are counted for no pair"
    elif found.problems:
        yield "evidence", "not examined: solve the problems first"
    else:
        named = recipe or "RECIPE"
        yield "evidence", f"none yet: sdmw measure {named} STORE, then sdmw doctor {named} --statistics STORE"


def _settings(evidence: "Evidence") -> str:
    if evidence.own:
        return "weights and norms are those of the recipe's own settings"
    return "weights and norms assume equal weights with all deltas kept: a store knows only those of sdm_w"


def models(evidence: "Evidence") -> Iterator[tuple[str, ...]]:
    """The cells of each model."""
    for each in evidence.models:
        yield (
            each.name,
            f"{each.norm:.4g}",
            f"{each.changed:.1%}",
            _bounds(each.weight, ".3f"),
            _share(each.share),
        )


def pairs(evidence: "Evidence") -> Iterator[tuple[str, ...]]:
    """The cells of each pair, the largest cosine first, in either direction."""
    ordered = sorted(evidence.pairs, key=lambda pair: -abs(pair.cosine or 0.0))
    for each in ordered[:MOST_PAIRS]:
        cosine = "–" if each.cosine is None else f"{each.cosine:.3f}"
        yield f"{each.one} and {each.other}", cosine, _share(each.conflict), _share(each.shared)


def left_out(evidence: "Evidence") -> str:
    """How many pairs are not shown; empty where all are."""
    more = len(evidence.pairs) - MOST_PAIRS
    return f"and {counted(more, 'more pair')}: see --json" if more > 0 else ""


def lines(finding: "Finding") -> Iterator[tuple[str, str]]:
    """A finding below its title: a word, and what is said."""
    for row in _cut(finding.said, MOST_ROWS):
        yield "", row
    for number, place in enumerate(finding.places):
        yield "" if number else "where", place
    if finding.more:
        yield "", f"and {finding.more:,} more"
    yield "advice", finding.advice
    if finding.source:
        yield "source", finding.source


def _cut(rows: Sequence[str], most: int) -> Iterator[str]:
    yield from rows[:most]
    if len(rows) > most:
        yield f"and {len(rows) - most:,} more: see --json"


def _bounds(bounds: Sequence[float], spec: str) -> str:
    low, high = (format(each, spec) for each in bounds)
    return low if low == high else f"{low} – {high}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
