"""Vocabularies aligned: every input's embedding, head and their biases with the rows of the output's tokens.

Source: METHODS.md, section 8.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sdmw.checkpoints import heads
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.vocab_size import vocab_size
from sdmw.errors import Problem, quoted
from sdmw.tensors.low_rank import LowRank
from sdmw.tensors.row_table import ZEROS, Numbers
from sdmw.tensors.rows import Mean, MeanRow, Rows
from sdmw.tensors.tensor import Tensor
from sdmw.views.layers import place_in_stack
from sdmw.views.tied import input_embedding

BASE = ""  # the base's name among inputs
_OWN_HEAD = ".shared_head.head.weight"  # of a layer for drafting (DeepSeek-V3)


@dataclass(frozen=True, slots=True)
class Given:
    """What a recipe says of the row of one token.

    Attributes:
        row: of the output.
        model: the input whose row it is in those that lack the token; None where it is zero.
        number: of the row in that input.
        force: inputs that have the token take the row too.
    """

    row: int
    model: str | None
    number: int = 0
    force: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class OutputRows:
    """The rows of the output's vocabulary.

    Attributes:
        own: by input, (rows) int64: the number of each token in it; -1 where it has none.
        given: what the recipe says of single tokens.
        forced: (rows) bool: tokens whose row no input has of its own, though the recipe names no other.
        gaps: (rows) bool: numbers of no token in any input.
        keeps_spare: rows behind these are kept where all inputs have as many, and so are those of gaps.
        multiple: of which the number of rows is one; for that, means of all rows before are put behind them.
    """

    own: Mapping[str, Numbers]
    given: tuple[Given, ...]
    forced: NDArray[np.bool_]
    gaps: NDArray[np.bool_]
    keeps_spare: bool = False
    multiple: int = 1

    @property
    def size(self) -> int:
        """How many, without those behind them."""
        return self.forced.size

    def reaching(self, rows: int) -> "OutputRows":
        """With the rows of no token, up to so many: each is the row of that number in every input."""
        place = np.arange(rows)
        none = np.concatenate([self.gaps, np.ones(rows - self.size, np.bool_)])
        more = np.full(rows - self.size, -1)
        own = {name: np.where(none, place, np.concatenate([numbers, more])) for name, numbers in self.own.items()}
        forced = np.concatenate([self.forced, np.zeros(more.size, np.bool_)])
        return replace(self, own=own, forced=forced, gaps=none)


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the rows of one input's embedding come from.

    Attributes:
        own: its own.
        taken: of another input, or of another token.
        mean: means of several inputs.
        zero: zeros.
        padding: means of all rows.
    """

    own: int
    taken: int = 0
    mean: int = 0
    zero: int = 0
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Aligned:
    """Inputs with the output's rows.

    Attributes:
        checkpoints: by name.
        tallies: of each input that has not simply its own rows: of the tensor with most zeros.
        spare: rows behind those of the tokens that are kept.
        problems: tensors that cannot be aligned.
    """

    checkpoints: Mapping[str, Checkpoint]
    tallies: Mapping[str, Tally]
    spare: int = 0
    problems: tuple[Problem, ...] = ()


def vocabulary_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors with a row for each token: of float values, called like an embedding or a head, or their bias."""
    if (embedding := input_embedding(checkpoint)) is None:
        return {}
    tokens = vocab_size(checkpoint.config) or embedding.shape[0]
    modules = heads.inputs_of(checkpoint.config)
    found = {}
    for name, tensor in checkpoint.tensors.items():
        if not tensor.shape or tensor.shape[0] < tokens or not tensor.dtype.merges:
            continue
        *_, module, last = ("", *name.split("."))
        is_bias = last == "bias" and tensor.shape == embedding.shape[:1] and place_in_stack(name) is None
        if is_bias or (last == "weight" and _is_called_so(name, module, modules)):
            found[name] = tensor
    return found


def _is_called_so(name: str, module: str, embeddings: Collection[str]) -> bool:
    return module in embeddings or heads.called_like_a_head(name) or name.endswith(_OWN_HEAD)


def aligned(
    rows: OutputRows,
    checkpoints: Mapping[str, Checkpoint],
    inputs_of: Callable[[str], tuple[Collection[str], str | None]],
) -> Aligned:
    """The inputs with the output's rows; tensors that have them already stay what they are.

    Args:
        rows: of the output.
        checkpoints: every input by name, each with the heads that it lacks.
        inputs_of: of a tensor, by its name, the inputs that are merged in it, and that of them which is the base, if
            any is.
    """
    found: dict[str, dict[str, Tensor]] = {name: {} for name in checkpoints}
    tallies: dict[str, Tally] = {}
    tall = heights_of(checkpoints)
    keeps_spare = rows.keeps_spare and all(len(each) == 1 and min(each) >= rows.size for each in tall.values())
    for name in tall:
        tensors = {each: _values(checkpoints, each, name) for each in checkpoints if name in checkpoints[each].tensors}
        if len({tensor.shape[1:] for tensor in tensors.values()}) > 1:
            continue  # models of unlike widths: told where shapes are compared
        takes_part, base = inputs_of(name)
        choice = _Choice(rows.reaching(max(tall[name])) if keeps_spare else rows, name, tensors, takes_part, base)
        for each in tensors:
            if (tensor := choice.tensor_of(each)) is not None:
                found[each][name] = tensor
                if each in takes_part or each not in tallies:
                    tallies[each] = max(
                        choice.tally_of(each), tallies.get(each, Tally(0)), key=lambda tally: tally.zero
                    )
    moved = any(found.values())
    return Aligned(
        {
            name: replace(each, tensors={**each.tensors, **found[name]}) if found[name] else each
            for name, each in checkpoints.items()
        },
        tallies,
        max((max(heights) - rows.size for heights in tall.values()), default=0) if keeps_spare else 0,
        tuple(_unaligned(checkpoints, keeps_spare=keeps_spare)) if moved else (),
    )


def _unaligned(checkpoints: Mapping[str, Checkpoint], *, keeps_spare: bool) -> Iterator[Problem]:
    """Tensors that seem to have something for each token, and are not known; and models whose own have unlike rows."""
    told: set[object] = set()  # most models have the base's
    for model, checkpoint in checkpoints.items():
        known = vocabulary_tensors(checkpoint)
        heights = {tensor.shape[0]: name for name, tensor in known.items()}
        if len(heights) > 1 and not keeps_spare and told.isdisjoint([frozenset(heights)]):
            told.add(frozenset(heights))
            found = " and ".join(f"{rows:,} in {quoted(name)}" for rows, name in sorted(heights.items()))
            yield Problem(_place(model, checkpoint), "the same number of rows in all tensors of its vocabulary", found)
        for name, tensor in checkpoint.tensors.items():
            if name not in known and name not in told and _is_of_tokens(name, tensor, heights):
                told.add(name)
                found = f"a tensor with an entry for each token, shape {list(tensor.shape)}, which sdmw cannot align"
                expected = "only embeddings, heads and their biases for each token, as tokens get other numbers"
                yield Problem(f"{_place(model, checkpoint)}: {quoted(name)}", expected, found)


def _place(model: str, checkpoint: Checkpoint) -> str:
    return f"model {quoted(model)}" if model else f"base {quoted(checkpoint.path)}"


def _is_of_tokens(name: str, tensor: Tensor, heights: Collection[int]) -> bool:
    """Whether a tensor is called as if it had a row or a column for each token, and is as long, or is an embedding."""
    modules = name.split(".")[:-1] if name.endswith((".weight", ".bias")) else name.split(".")
    last = modules[-1] if modules else ""
    if last.startswith("embed_tokens"):
        return True
    return any(word in last for word in ("logits", "vocab", "lm_head")) and not set(tensor.shape).isdisjoint(heights)


def _values(checkpoints: Mapping[str, Checkpoint], model: str, name: str) -> Tensor:
    """A tensor as values: a delta has no rows that another model could take."""
    tensor = checkpoints[model].tensors[name]
    return tensor.on(checkpoints[BASE].tensors[name]) if isinstance(tensor, LowRank) else tensor


class _Choice:
    """For one tensor: which row of which input each row of the output is in each of them."""

    def __init__(
        self, rows: OutputRows, name: str, tensors: Mapping[str, Tensor], takes_part: Collection[str], base: str | None
    ) -> None:
        self._name = name
        self._names, self._tensors = list(tensors), list(tensors.values())
        heights = np.array([[tensor.shape[0]] for tensor in self._tensors])
        own = np.stack([rows.own[each] for each in self._names])
        self._own = np.where(own < heights, own, -1)
        counted = np.array([each in takes_part for each in self._names])
        self._source, self._row, self._means = self._for_all(counted, base)
        self._forced = rows.forced.copy()
        self._padding = -rows.size % rows.multiple
        for each in rows.given:
            self._forced[each.row] = each.force
            if each.model is None or each.model in tensors:
                self._source[each.row] = ZEROS if each.model is None else self._names.index(each.model)
                self._row[each.row] = each.number

    def _for_all(self, counted: NDArray[np.bool_], base: str | None) -> tuple[Numbers, Numbers, list[Tensor]]:
        """What inputs without a token have in its row: source and row in it, and the means among the sources."""
        has = (self._own >= 0) & counted[:, None]
        count = has.sum(axis=0)
        source = np.where(count == 1, has.argmax(axis=0), ZEROS)
        several = count > 1
        if base in self._names and counted[place := self._names.index(base)]:
            source[several & has[place]] = place
            several &= ~has[place]
        row = np.where(source == ZEROS, 0, np.take_along_axis(self._own, source[None], axis=0)[0])
        means: list[Tensor] = []
        patterns, which = np.unique(has[:, several], axis=1, return_inverse=True)
        places = np.flatnonzero(several)
        for number, pattern in enumerate(patterns.T if places.size else ()):
            mine = places[which.reshape(-1) == number]
            parts = [self._gathered(int(each), self._own[each, mine]) for each in np.flatnonzero(pattern)]
            source[mine], row[mine] = len(self._names) + len(means), np.arange(mine.size)
            means.append(Mean.of(parts))
        return source, row, means

    def _gathered(self, each: int, rows: Numbers) -> Tensor:
        return Rows.of(self._name, [self._tensors[each]], np.zeros(rows.size, np.int64), rows)

    def _sources(self, each: int) -> tuple[Numbers, Numbers]:
        own = (self._own[each] >= 0) & ~self._forced
        return np.where(own, each, self._source), np.where(own, self._own[each], self._row)

    def tensor_of(self, model: str) -> Tensor | None:
        """The tensor in the place of a model's; None where that has the rows as they should be."""
        each = self._names.index(model)
        source, row = self._sources(each)
        padding = self._padding
        own = self._tensors[each]
        everything = [own, *self._tensors, *self._means]
        number = np.where(source == ZEROS, ZEROS, np.where(source == each, 0, source + 1))
        as_it_is = own.shape[0] == row.size and not number.any() and bool(np.all(row == np.arange(row.size)))
        if as_it_is and not padding:
            return None
        found = own if as_it_is else Rows.of(self._name, everything, number, row)
        if not padding:
            return found
        number = np.append(number, np.full(padding, len(everything)))
        row = np.append(row, np.arange(padding))
        return Rows.of(self._name, [*everything, MeanRow.of(found, padding)], number, row)

    def tally_of(self, model: str) -> Tally:
        """Where the rows of a model's tensor come from."""
        each = self._names.index(model)
        source, row = self._sources(each)
        own = int(np.sum((source == each) & (row == self._own[each])))
        mean, zero = int(np.sum(source >= len(self._names))), int(np.sum(source == ZEROS))
        return Tally(own, source.size - own - mean - zero, mean, zero, self._padding)


def rows_of(checkpoint: Checkpoint) -> Iterator[int]:
    """The number of rows of every vocabulary tensor."""
    yield from (tensor.shape[0] for tensor in vocabulary_tensors(checkpoint).values())


def heights_of(checkpoints: Mapping[str, Checkpoint]) -> dict[str, set[int]]:
    """By vocabulary tensor, how many rows it has in those that have it."""
    names = dict.fromkeys(name for each in checkpoints.values() for name in vocabulary_tensors(each))
    return {
        name: {each.tensors[name].shape[0] for each in checkpoints.values() if name in each.tensors} for name in names
    }
