"""The tokens of the output put together, and which row of each input is theirs. Source: METHODS.md, section 8."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.tokenizer import FAST
from sdmw.checkpoints.tokenizer_files import Entry, added_token
from sdmw.checkpoints.tokens import Hashes, Numbers, Tokens, hash_of, texts_of
from sdmw.errors import Problem, quoted, shorten
from sdmw.recipes.recipe import TokenRow, Vocabulary
from sdmw.views.vocabulary import BASE, Given, OutputRows, rows_of

_WITHOUT_GAPS = "token numbers without gaps, as the tokenizers library gives added tokens the next numbers"
_GAPS = "Choose another source of the tokenizer"
MOST_ROWS = 1 << 24  # more is no vocabulary; a tokenizer from strangers may number a token as it likes


@dataclass(frozen=True, slots=True, eq=False)
class Vocabularies:
    """The tokens of a merge.

    Attributes:
        rows: of the output, and which of each input's are theirs.
        tokens: of the output.
        of: by input, its own, as far as they have rows.
        source: the folder whose tokenizer the output has.
        added: tokens that this lacks.
        without: inputs that have no tokenizer, so that their tokens are the base's.
    """

    rows: OutputRows
    tokens: Tokens
    of: Mapping[str, Tokens]
    source: Checkpoint
    added: tuple[Entry, ...] = ()
    without: tuple[str, ...] = ()


class OutputTokens:
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
        self._following = whole.following

    def _unite(self, here: Hashes) -> None:
        """The other models' tokens: plain ones first, then added ones; of each model by their numbers."""
        added = {key for tokens in self._tokens.values() for key in tokens.added}
        later: dict[int, tuple[int, str, Entry | None]] = {}
        here = np.union1d(here, np.array([hash_of("")], np.uint64))  # which no text has
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
        where = os.path.join(source.path, FAST)
        if first + count > MOST_ROWS:
            return [Problem(where, f"token numbers below {MOST_ROWS:,}", f"{first + count - 1:,}")]
        entries = [added_token(first + n, text, like) for n, (_, text, like) in enumerate(self._added)]
        late = self._late if entries else []
        numbered = [_id(each) for each in (*late, *entries)]
        if numbered != list(range(self._following, self._following + len(numbered))):
            return [
                Problem(where, _WITHOUT_GAPS, f"{first - 1} as the largest, but {self._following} comes next", _GAPS)
            ]
        hashes = np.concatenate([self._hashes, np.array([key for key, _, _ in self._added], np.uint64)])
        numbers = np.concatenate([self._number, np.arange(first, first + count)])
        rows = first + count
        own = {name: self._own(tokens, hashes, numbers, rows) for name, tokens in self._tokens.items()}
        places = dict(zip(hashes.tolist(), numbers.tolist(), strict=True)) if self._wanted.tokens else {}
        given, problems = self._given(named, places)
        if problems:
            return shorten(problems)
        forced = np.zeros(rows, np.bool_)
        forced[[places[hash_of(each.token)] for each in self._wanted.tokens if each.force]] = True
        unmoved = all(np.array_equal(tokens.of(hashes), numbers) for tokens in self._tokens.values())
        gaps = np.full(rows, unmoved)
        gaps[numbers] = False
        keeps_spare = not self._added and (unmoved or self._wanted.source == "base")
        order = np.argsort(hashes)
        return Vocabularies(
            OutputRows(own, tuple(given), forced, gaps, keeps_spare, self._wanted.multiple),
            Tokens(hashes[order], numbers[order]),
            self._tokens,
            source,
            (*late, *entries),
            without,
        )

    def _own(self, tokens: Tokens, hashes: Hashes, numbers: Numbers, rows: int) -> Numbers:
        """The number of each of the output's rows in an input."""
        found = np.full(rows, -1)
        found[numbers] = tokens.of(hashes)
        return found

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
                if 0 <= number < min(rows_of(named[model]), default=0):
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
    where = f"recipe: tokenizer: tokens: {quoted(each.token)}"
    if isinstance(each.other, int):
        return Problem(
            where, f"a token of model {quoted(each.model)}", f"number {each.other}, which has no row in that model"
        )
    other = quoted(each.other or each.token)
    mend = "Name a model that has the token, or another token of it: {kind: model_token, model: M, token: T}"
    return Problem(where, f"a token of model {quoted(each.model)}", f"no {other} among its tokens", mend)
