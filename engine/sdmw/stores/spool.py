"""What a run has measured, kept beside the store that it writes, so that the same run goes on where it was killed.

The store itself is one stream of compressed chunks; surveys of whole tensors are what can be read again.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw import linux
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.running.journal import Notes
from sdmw.statistics.blocks import BlockSums
from sdmw.statistics.survey import Magnitudes, Survey
from sdmw.writing.output import Output
from sdmw.writing.publication import Publication

NAME = "surveys"
_ARRAYS = ("bins", "counts", "odds", "low_sums", "squares")  # of Magnitudes
_NUMBERS = ("nonfinite", "unchanged", "smallest", "largest")


class SurveyNotes(Notes):
    """Surveys, appended to a file beside the output, and vouched for by its journal.

    A context manager, for its open file.

    Attributes:
        found: what an earlier run had vouched for: place, bytes and checksum, by the tensor's number.
    """

    def __init__(self, output: Publication, inputs: Sequence[Checkpoint]) -> None:
        super().__init__(output, inputs)
        self.found = {record["tensor"]: record["survey"] for record in output.records if isinstance(record, dict)}
        path = os.path.join(output.beside, NAME)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file, self._path = os.fdopen(os.open(path, flags, 0o600), "r+b"), path
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def note_survey(self, tensor: int, survey: Survey) -> None:
        """All pieces of a tensor were looked at.

        Raises:
            OutputError: it cannot be written.
        """
        start, data = self._file.tell(), written(survey)
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise linux.write_failed(self._path, error, len(data)) from error
        self.note({"tensor": tensor, "survey": [start, len(data), xxhash.xxh3_128_hexdigest(data)]})

    def survey_of(self, tensor: int) -> Survey | None:
        """What an earlier run found; None where the file does not hold what the journal says."""
        start, size, checksum = self.found[tensor]
        data = os.pread(self._file.fileno(), size, start)
        return read(data) if xxhash.xxh3_128_hexdigest(data) == checksum else None

    def _commit(self, output: Output, records: list[object]) -> None:
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise linux.write_failed(self._path, error, 0) from error
        super()._commit(output, records)


def written(survey: Survey) -> bytes:
    """A survey as bytes: a line of JSON, and its arrays as NumPy writes them."""
    numbers = [[getattr(model, name) for name in _NUMBERS] for model in survey.models]
    products = [[str(total) for total in survey.products.totals], survey.products.finite]
    file = io.BytesIO()
    file.write(json.dumps([numbers, products]).encode() + b"\n")
    for array in (*_arrays(survey), survey.conflict, survey.overlap):
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def read(data: bytes) -> Survey:
    """The survey that was written."""
    file = io.BytesIO(data)
    numbers, (totals, finite) = json.loads(file.readline())

    def array() -> NDArray[Any]:
        found: NDArray[Any] = np.load(file, allow_pickle=False)
        return found

    def model(nonfinite: int, unchanged: list[int], smallest: int, largest: int) -> Magnitudes:
        arrays = {name: array() for name in _ARRAYS}
        one, other = unchanged
        return Magnitudes(**arrays, nonfinite=nonfinite, unchanged=(one, other), smallest=smallest, largest=largest)

    models = tuple(model(*each) for each in numbers)
    return Survey(models, BlockSums(tuple(map(int, totals)), finite), array(), array())


def _arrays(survey: Survey) -> Iterator[NDArray[Any]]:
    for model in survey.models:
        yield from (getattr(model, name) for name in _ARRAYS)
