"""The tokens of the output, and which rows of the inputs are theirs: what `tokenizer` of a recipe asks for.

Source: METHODS.md, section 8.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.checkpoints.beside import names
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._config import CONFIG
from sdmw.checkpoints.json_files import read_object
from sdmw.checkpoints.token_ids import renumbered
from sdmw.checkpoints.tokenizer import FAST, has_tokenizer
from sdmw.checkpoints.tokenizer_files import Entry, added_token
from sdmw.checkpoints.tokens import CONVERT, Hashes, Numbers, Tokens, digest_of, hash_of, read_tokens, texts_of
from sdmw.checkpoints.vocab_size import resized, vocab_size
from sdmw.errors import CheckpointError, Problem, quoted, shorten
from sdmw.planning.inputs import Inputs
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import Recipe, TokenRow, Vocabulary
from sdmw.sizes import counted
from sdmw.views.vocabulary import BASE, Given, OutputRows, Tally, rows_of, vocabulary_tensors

_WHERE = "recipe: tokenizer"


@dataclass(frozen=True, slots=True, eq=False)
class Vocabularies:
    """The tokens of a merge.

    Attributes:
        rows: of the output, and which of each input's are theirs.
        tokens: of the output.
        of: by input, its own, as far as they have rows.
        source: the folder whose tokenizer the output has.
        added: tokens that this lacks.
        spare: rows behind the tokens that are kept.
        without: inputs that have no tokenizer, so that their tokens are the base's.
    """

    rows: OutputRows
    tokens: Tokens
    of: Mapping[str, Tokens]
    source: Checkpoint
    added: tuple[Entry, ...] = ()
    spare: int = 0
    without: tuple[str, ...] = ()


def vocabularies(recipe: Recipe, inputs: Inputs) -> Vocabularies | list[Problem] | None:
    """What the recipe's `tokenizer` comes to; None where it says nothing, or nothing that a tokenizer must be read for.

    Args:
        recipe: as loaded.
        inputs: what it names.

    Returns:
        Or all that is wrong with tokenizers and with what the recipe says of tokens.
    """
    wanted = recipe.tokenizer
    if wanted is None:
        return None
    named = {BASE: inputs.base, **inputs.models, **inputs.bases}
    folders = _folders(recipe, inputs)
    own_source = recipe.tokenizer_of
    source = inputs.base if own_source is None else inputs.tokenizer or _folder_of(own_source, inputs)
    if wanted == Vocabulary("base") and not any(map(has_tokenizer, folders.values())):
        return None  # rows that differ are told where shapes are compared
    if wanted in (Vocabulary("base"), Vocabulary("union")) and _are_alike(named, folders):
        return None
    read, problems = _read([inputs.base, source, *folders.values()])
    problems += [_none(each) for each in (inputs.base, source) if read.get(each.place, ...) is None]
    if problems:
        return shorten(list(dict.fromkeys(problems)))
    tokens = {name: _tokens_of(named[name], read[folders[name].place] or read[inputs.base.place]) for name in named}
    whole = read[source.place]
    assert whole is not None  # else there was a problem
    known = tokens[BASE] if own_source is None else _tokens_of(source, whole)
    made = _Output(wanted, known, whole, tokens, folders)
    return made.vocabularies(named, source, tuple(n for n in named if n and read[folders[n].place] is None))


def _folders(recipe: Recipe, inputs: Inputs) -> dict[str, Checkpoint]:
    """By input, the folder that its tokenizer lies in: an adapter's, if there is one in it, else its model's."""
    references = {str(reference): reference for reference in recipe.references}
    names = (*inputs.models, *inputs.bases)
    return {BASE: inputs.base, **{name: _folder_of(references[name], inputs) for name in names}}


def _folder_of(reference: ModelRef, inputs: Inputs) -> Checkpoint:
    parts = [inputs.parts[str(part)] for part in reversed(reference.parts)]
    found = next((part for part in parts if has_tokenizer(part)), parts[-1])
    return inputs.base if found.adapts is not None and not has_tokenizer(found) else found


def _are_alike(named: Mapping[str, Checkpoint], folders: Mapping[str, Checkpoint]) -> bool:
    """Whether all inputs have the same tokens, by the bytes of their files, and as many rows: then nothing moves."""
    if FAST not in names(folders[BASE]) or len(set(rows_of(named))) > 1:
        return False
    try:
        return len({digest_of(each) for each in folders.values() if has_tokenizer(each)}) == 1
    except CheckpointError:
        return False  # told where they are read


def _read(folders: Sequence[Checkpoint]) -> tuple[dict[tuple[str, int], Tokens | None], list[Problem]]:
    """The tokens in each folder, by place; None where it has no tokenizer."""
    found: dict[tuple[str, int], Tokens | None] = {}
    problems: list[Problem] = []
    same: dict[bytes, Tokens | None] = {}  # most fine-tunes have the base's files
    for folder in {each.place: each for each in folders}.values():
        try:
            if (digest := digest_of(folder)) not in same:
                same[digest] = read_tokens(folder)
            found[folder.place] = same[digest]
        except CheckpointError as error:
            problems += error.problems
    return found, problems


def _none(folder: Checkpoint) -> Problem:
    where = os.path.join(folder.path, FAST)
    return Problem(where, "a tokenizer, which the recipe's tokenizer asks for", "none", CONVERT)


def _tokens_of(checkpoint: Checkpoint, tokens: Tokens | None) -> Tokens:
    """The tokens that have rows."""
    assert tokens is not None  # else there were problems
    heights = [tensor.shape[0] for tensor in vocabulary_tensors(checkpoint).values()]
    size = vocab_size(checkpoint.config)
    return tokens.below(min([*heights, *([size] if size else [])], default=2**31))


class _Output:
    """Puts the output's tokens together, one after the other."""

    def __init__(
        self,
        wanted: Vocabulary,
        known: Tokens,
        whole: Tokens,
        tokens: Mapping[str, Tokens],
        folders: Mapping[str, Checkpoint],
    ) -> None:
        """Put them together.

        Args:
            wanted: what the recipe says.
            known: the tokens of the source that have rows there.
            whole: all that its tokenizer has.
            tokens: by input, those that have rows.
            folders: by input, where its tokenizer lies.
        """
        self._wanted, self._tokens, self._folders = wanted, tokens, folders
        self._added: list[tuple[int, str, Entry | None]] = []
        if wanted.source == "union":
            self._unite(whole.hashes)
        asked = {hash_of(each.token): each.token for each in wanted.tokens}
        there = {key for key, _, _ in self._added} | set(_common(asked, whole.hashes))
        self._added += [(key, text, self._flags(key)) for key, text in asked.items() if key not in there]
        # A token of the source that has no row there has a number, which no other may have.
        needed = bool(self._added) or len(_common(asked, known.hashes)) < len(_common(asked, whole.hashes))
        self._number, self._hashes = (whole if needed else known).in_order()
        self._first = int(self._number[-1]) + 1 if self._number.size else 0
        # Those that tokenizer_config.json alone adds are written into tokenizer.json too: new ones get numbers there.
        late = {key: entry for key, entry in whole.added.items() if key not in whole.in_file}
        self._late = sorted((added_token(each["id"], each["content"], each) for each in late.values()), key=_id)

    def _unite(self, here: Hashes) -> None:
        """The other models' tokens: plain ones first, then added ones; of each model by their numbers."""
        added = {key for tokens in self._tokens.values() for key in tokens.added}
        later: dict[int, tuple[int, str, Entry | None]] = {}
        for name, tokens in self._tokens.items():
            order = tokens.in_order()[1]
            new = order[~np.isin(order, here)].tolist()
            plain = {key for key in new if key not in added}
            texts = texts_of(self._folders[name], plain) if plain else {}
            self._added += [(key, texts[key], None) for key in new if key in plain]
            for key in new:
                if key in tokens.added:
                    later.setdefault(key, (key, tokens.added[key]["content"], tokens.added[key]))
            here = np.union1d(here, np.array(list(plain), np.uint64))
        self._added += later.values()

    def _flags(self, key: int) -> Entry | None:
        """The first model's that adds the token."""
        return next((tokens.added[key] for tokens in self._tokens.values() if key in tokens.added), None)

    def vocabularies(
        self, named: Mapping[str, Checkpoint], source: Checkpoint, without: tuple[str, ...]
    ) -> Vocabularies | list[Problem]:
        """What the inputs have for these tokens."""
        first, count = self._first, len(self._added)
        entries = [added_token(first + n, text, like) for n, (_, text, like) in enumerate(self._added)]
        hashes = np.concatenate([self._hashes, np.array([key for key, _, _ in self._added], np.uint64)])
        numbers = np.concatenate([self._number, np.arange(first, first + count)])
        rows = first + count
        spare = self._spare(named, rows, hashes, numbers)
        own = {name: self._own(tokens, hashes, numbers, rows, spare) for name, tokens in self._tokens.items()}
        places = dict(zip(hashes.tolist(), numbers.tolist(), strict=True)) if self._wanted.tokens else {}
        given, problems = self._given(named, places)
        if problems:
            return shorten(problems)
        forced = np.zeros(rows + spare, np.bool_)
        forced[[places[hash_of(each.token)] for each in self._wanted.tokens if each.force]] = True
        padding = -(rows + spare) % self._wanted.multiple
        order = np.argsort(hashes)
        return Vocabularies(
            OutputRows(own, padding, tuple(given), forced),
            Tokens(hashes[order], numbers[order]),
            self._tokens,
            source,
            (*self._late, *entries) if entries else (),
            spare,
            without,
        )

    def _own(self, tokens: Tokens, hashes: Hashes, numbers: Numbers, rows: int, spare: int) -> Numbers:
        """The number of each of the output's rows in an input; spare rows have their own."""
        found = np.full(rows + spare, -1)
        found[numbers] = tokens.of(hashes)
        if spare:
            rest = np.ones(rows + spare, np.bool_)
            rest[numbers] = False
            found[rest] = np.flatnonzero(rest)
        return found

    def _spare(self, named: Mapping[str, Checkpoint], rows: int, hashes: Hashes, numbers: Numbers) -> int:
        """How many rows behind the tokens are kept.

        All, where all inputs have as many rows, and the tokens are the base's, or the same in all.
        """
        heights = set(rows_of(named))
        if len(heights) != 1 or self._added or (most := heights.pop()) < rows:
            return 0
        same = all(np.array_equal(tokens.of(hashes), numbers) for tokens in self._tokens.values())
        return most - rows if same or self._wanted.source == "base" else 0

    def _given(self, named: Mapping[str, Checkpoint], places: Mapping[int, int]) -> tuple[list[Given], list[Problem]]:
        """What the recipe says of single tokens, in numbers."""
        found: list[Given] = []
        problems: list[Problem] = []
        for each in self._wanted.tokens:
            row = places[hash_of(each.token)]
            if each.kind == "zero":
                found.append(Given(row, None, 0, each.force))
            elif each.kind == "model":
                model = each.model if each.model in self._tokens else BASE
                number = self._number_of(each, model)
                if 0 <= number < min(rows_of({model: named[model]}), default=0):
                    found.append(Given(row, model, number, each.force))
                else:
                    problems.append(_lacking(each))
        return found, problems

    def _number_of(self, wanted: TokenRow, model: str) -> int:
        if isinstance(wanted.other, int):
            return wanted.other
        key: NDArray[np.uint64] = np.array([hash_of(wanted.other or wanted.token)], np.uint64)
        return int(self._tokens[model].of(key)[0])


def _common(some: Iterable[int], hashes: Hashes) -> list[int]:
    """Those of some tokens that are among these."""
    found: list[int] = np.intersect1d(np.array(list(some), np.uint64), hashes).tolist()
    return found


def _id(entry: Entry) -> int:
    return int(entry["id"])


def _lacking(each: TokenRow) -> Problem:
    where = f"{_WHERE}: tokens: {quoted(each.token)}"
    if isinstance(each.other, int):
        return Problem(where, f"a token of model {quoted(each.model)}", f"number {each.other}, which has no row there")
    other = quoted(each.other or each.token)
    mend = "Name a model that has the token, or another token of it: {kind: model_token, model: M, token: T}"
    return Problem(where, f"a token of model {quoted(each.model)}", f"no {other} among its tokens", mend)


def changed_config(base: Checkpoint, found: Vocabularies) -> dict[str, Any]:
    """What the output's config.json says otherwise than the base's, by key: rows, and numbers of tokens."""
    config = base.config or {}
    total = found.rows.rows + found.rows.padding
    heights = [tensor.shape[0] for tensor in vocabulary_tensors(base).values()]
    new = renumbered(config, found.of[BASE], found.tokens, read_object(found.source, CONFIG))
    if heights and heights[0] != total:
        new = resized(new, total)
    return dict(_differences(config, new))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, value, f"{at}{key}.")
        elif value != before:
            yield f"{at}{key}", value


def unknown_tokens(tallies: Mapping[str, Tally]) -> Iterator[str]:
    """A warning where tokens of the output are known to no input."""
    if most := max((tally.zero for tally in tallies.values()), default=0):
        yield f"{counted(most, 'row')} of the vocabulary have no token, or one that no model has: they are zero"


def said(recipe: Recipe, found: Vocabularies, tallies: Mapping[str, Tally]) -> Iterator[str]:
    """Notes on the tokens of the output, and on where each input's rows come from."""
    for name, tally in tallies.items():
        parts = {
            "its own": tally.own, "of others": tally.taken, "means of others": tally.mean, "zero": tally.zero,
            "the mean of all, as padding": tally.padding,
        }  # fmt: skip
        whose = f"model {quoted(name)}" if name else "the base"
        listed = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
        yield f"{whose}: rows of its vocabulary: {listed}"
    if found.spare:
        yield f"tokenizer: {found.spare:,} rows behind the tokens, which all have, are kept and merged like others"
    if found.added:
        whose = "the base" if recipe.tokenizer_of is None else f"model {quoted(str(recipe.tokenizer_of))}"
        yield f"tokenizer: {len(found.added):,} tokens are added to those of {whose}"
    for name in found.without:
        yield f"model {quoted(name)} has no tokenizer: its tokens count as the base's"
