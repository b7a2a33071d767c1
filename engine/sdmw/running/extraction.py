"""Extracts an adapter from a fine-tune: each weight is a task of the pool, the driver writes its matrices.

Any executor will do: a weight travels as two names of tensors, and comes back as two small matrices. Weights that an
earlier run finished are not done again: the journal has their norm and error, and the checksums of their matrices,
which are read again before they are believed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xxhash

from sdmw import codec
from sdmw.planning.extraction import ExtractionPlan, Weight
from sdmw.running.context import Context
from sdmw.running.decomposition import Extracted, extract
from sdmw.running.events import Progress
from sdmw.running.identity import facts_of, identity
from sdmw.running.journal import Notes
from sdmw.running.left_out import norm_of_change
from sdmw.running.pool import Task
from sdmw.running.stop import GivenUp
from sdmw.writing.kept_run import Identity
from sdmw.writing.layout import Place
from sdmw.writing.publication import Publication
from sdmw.writing.sink import Sink

READ = 1 << 22  # bytes read at once for a checksum


@dataclass(frozen=True, slots=True)
class Finished:
    """A weight whose matrices are in the output.

    Attributes:
        norm: of its delta, Frobenius.
        error: of what the matrices leave of it, the same norm over the delta's.
        checksums: XXH3-128 of A's bytes and of B's, in hex.
    """

    norm: float
    error: float
    checksums: tuple[str, str]


def identity_of(plan: ExtractionPlan) -> Identity:
    """What must be the same for an extraction to be resumed. Another NumPy may have other linear algebra."""
    weights = (each.fingerprint() for weight in plan.weights for each in (weight.base, weight.model))
    facts = {"": {"version of NumPy": np.__version__, "rank": plan.rank}, **facts_of([plan.base, plan.model])}
    return identity(facts, [plan.shards[0].header, *weights])


def carry_out(
    plan: ExtractionPlan, output: Publication, context: Context
) -> tuple[list[tuple[str, float, float]], list[tuple[str, float, str]]]:
    """Extract every weight and write its matrices.

    Returns:
        Name, norm and error of each weight; name, norm and kind of the other tensors that the fine-tune changed.

    Raises:
        RunError: inputs changed, are not finite, or a signal came.
    """
    run = _Extraction(plan, output, context)
    with run.notes.kept():
        finished = run.finish_weights()
        norms = run.norms_of_changes()
    found = [
        (weight.base.name, finished[number].norm, finished[number].error) for number, weight in enumerate(plan.weights)
    ]
    changed = zip(plan.rest, norms, strict=True)
    return found, [(rest.model.name, norm, rest.why) for rest, norm in changed if norm is not None]


class _Extraction:
    """One run.

    Attributes:
        notes: what it has done.
    """

    def __init__(self, plan: ExtractionPlan, output: Publication, context: Context) -> None:
        self.notes = Notes(output, [plan.base, plan.model])
        self._plan, self._output, self._context = plan, output, context
        self._places = {place.name: place for place in plan.shards[0].tensors}
        self._finished: dict[int, Finished] = {}
        self._total, self._done = sum(weight.base.nbytes for weight in plan.weights), 0

    def finish_weights(self) -> Mapping[int, Finished]:
        """Every weight, those first that an earlier run may have finished."""
        records = (record for record in self._output.records if isinstance(record, dict))
        earlier = {record["weight"]: codec.decode(Finished, record["finished"]) for record in records}
        self._run(self._checks(earlier))
        self._run(self._extractions())
        return self._finished

    def norms_of_changes(self) -> list[float | None]:
        """Of each tensor that is left out, the norm of what the fine-tune changed in it; None where that is nothing."""
        found: list[float | None] = [None] * len(self._plan.rest)
        given_up = self._context.pool.given_up
        tasks = (
            Task(norm_of_change, (rest.base, rest.model, given_up), partial(found.__setitem__, number))
            for number, rest in enumerate(self._plan.rest)
        )
        self._run(tasks)
        return found

    def _run(self, tasks: Iterator[Task[Any]]) -> None:
        self._context.pool.run(lambda: self.notes.commit() or next(tasks, None))

    def _checks(self, earlier: Mapping[int, Finished]) -> Iterator[Task[bool]]:
        for number, finished in earlier.items():
            places = self._places_of(self._plan.weights[number])
            arguments = (places, finished.checksums, self._output.sink, self._context.pool.given_up)
            yield Task(holds, arguments, partial(self._take_check, number, finished))

    def _take_check(self, number: int, finished: Finished, same: bool) -> None:
        if same:
            self._finish(number, finished)

    def _extractions(self) -> Iterator[Task[Extracted]]:
        given_up = self._context.pool.given_up
        for number, weight in enumerate(self._plan.weights):
            if number not in self._finished:
                yield Task(extract, (weight, self._plan.rank, given_up), partial(self._take, number))

    def _take(self, number: int, made: Extracted) -> None:
        matrices = made.a, made.b
        for place, matrix in zip(self._places_of(self._plan.weights[number]), matrices, strict=True):
            self._output.sink.write(place.shard, place.offset, matrix)
        a, b = (xxhash.xxh3_128_hexdigest(matrix.data) for matrix in matrices)
        finished = Finished(made.norm, made.error, (a, b))
        self.notes.note({"weight": number, "finished": codec.encode(finished)})
        self._finish(number, finished)

    def _finish(self, number: int, finished: Finished) -> None:
        self._finished[number] = finished
        self._done += self._plan.weights[number].base.nbytes
        self._context.tell(Progress("extract", self._done, self._total))

    def _places_of(self, weight: Weight) -> tuple[Place, ...]:
        return tuple(self._places[name] for name in weight.names)


def holds(places: Sequence[Place], checksums: Sequence[str], sink: Sink, given_up: GivenUp) -> bool:
    """Whether the output already has tensors: their bytes are read again and compared by their checksums."""
    try:
        found = [_checksum(place, sink, given_up.check) for place in places]
    finally:
        sink.settle()
    return found == list(checksums)


def _checksum(place: Place, sink: Sink, check: Callable[[], None]) -> str:
    found = xxhash.xxh3_128()
    for start in range(0, place.nbytes, READ):
        check()
        found.update(sink.read(place.shard, place.offset + start, min(READ, place.nbytes - start)))
    return found.hexdigest()
