"""What a merge does beside merging, counted: nothing is filled in or left out in silence."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sdmw.codec import Count
from sdmw.errors import quoted
from sdmw.planning.plan import Plan
from sdmw.sizes import counted
from sdmw.storage.weight_files import WEIGHTS, format_of
from sdmw.writing.side_files import REPLACED

MOST_NAMES = 5  # of files, in one line


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts that a report has beside `missing`, `extra` and `files`.

    Attributes:
        dropped: how many tensors that the base lacks were left out of each model.
        absent_heads: how many of the heads that are written each input lacks; its embedding stands for them.
        unwritten_heads: heads that equal the embeddings to which they are tied, and are not written.
        untied_heads: heads that differ from the embeddings to which the base ties them, and are written.
        copied_tensors: how many tensors are not merged but copied from the base: integers, truth values, float64.
    """

    dropped: Mapping[str, Count]
    absent_heads: Mapping[str, Count]
    unwritten_heads: tuple[str, ...]
    untied_heads: tuple[str, ...]
    copied_tensors: Count


def tally_of(plan: Plan, names: Mapping[str, str] | None = None) -> Tally:
    """The counts of a plan; where its heads are not compared yet, all of them count as unwritten.

    Args:
        plan: of a merge.
        names: what its inputs are called; None for their names in the recipe.
    """

    def called(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
        return {names[name] if names else name: count for name, count in counts}

    own = plan.base.tensors if plan.base else {}
    return Tally(
        dropped=called(plan.dropped),
        absent_heads=called(plan.absent_heads),
        unwritten_heads=tuple(sorted({tied.head.name for tied in plan.heads})),
        untied_heads=plan.untied,
        copied_tensors=sum(tensor.action == "copy" and tensor.name in own for tensor in plan.tensors),
    )


def changes(
    missing: Mapping[str, int],
    extra: Mapping[str, int],
    tally: Tally,
    copied: Sequence[str],
    named: Callable[[str], str] = quoted,
) -> Iterator[tuple[str, str]]:
    """What the output has that is not merged, or lacks: a word and a sentence each.

    Args:
        missing: how many tensors each model lacks.
        extra: how many tensors that the base lacks are taken from each model.
        tally: the other counts.
        copied: files of the base that come along.
        named: how a name is shown.
    """
    if missing:
        yield "missing", f"{_by_model(missing, named)}: the base's are used"
    if extra:
        yield "taken", f"{_by_model(extra, named)} that the base lacks"
    if tally.dropped:
        yield "left out", f"{_by_model(tally.dropped, named)} that the base lacks"
    if tally.absent_heads:
        yield "tied heads", f"{_by_model(tally.absent_heads, named)} not stored: the embedding is used"
    if tally.untied_heads:
        yield "untied", f"{_listed(tally.untied_heads, named)}: not tied to the embedding, so written separately"
    if parts := [path for path in copied if format_of(os.path.basename(path))]:
        yield "parts", f"{_listed(parts, named)}: weights of the base that are copied unchanged"


def not_finite(counts: Mapping[str, int], named: Callable[[str], str] = quoted) -> Iterator[tuple[str, str]]:
    """What `nonfinite: pass` let through: how many elements of each tensor of the output."""
    if counts:
        elements = counted(sum(counts.values()), "element")
        yield "not finite", f"{elements} of {_listed(list(counts), named)}, NaN or infinite"


def lines(
    missing: Mapping[str, int],
    extra: Mapping[str, int],
    tally: Tally,
    copied: Sequence[str],
    skipped: Mapping[str, str],
    *,
    compared: bool,
) -> Iterator[tuple[str, str]]:
    """What a terminal shows: a word and a sentence each.

    Args:
        missing: how many tensors each model lacks.
        extra: how many tensors that the base lacks are taken from each model.
        tally: the other counts.
        copied: files of the base that come along.
        skipped: files of the base that do not come along, with the reason.
        compared: heads were compared with their embeddings; a plan does not do that yet.
    """
    yield from changes(missing, extra, tally, copied)
    if tally.unwritten_heads:
        fate = "not written, as it equals the embedding" if compared else "not written where it equals the embedding"
        yield "tied", f"{_listed(tally.unwritten_heads)}: {fate}"
    if tally.copied_tensors:
        yield "copied", f"{counted(tally.copied_tensors, 'tensor')} of integers and the like, from the base"
    if lost := [path for path, why in skipped.items() if why not in (WEIGHTS, REPLACED)]:
        yield "not copied", f"{counted(len(lost), 'file')} of the base: {_listed(lost)}"


def _by_model(counts: Mapping[str, int], named: Callable[[str], str]) -> str:
    """`3 tensors in 'corp', 2 in 'func'`."""
    first, *rest = counts.items()
    return ", ".join([f"{counted(first[1], 'tensor')} in {named(first[0])}",
                      *(f"{count:,} in {named(model)}" for model, count in rest)])  # fmt: skip


def _listed(names: Sequence[str], named: Callable[[str], str] = quoted) -> str:
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(named, names[:MOST_NAMES])) + more
