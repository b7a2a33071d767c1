"""The arrays of a store: what each is called, and how it lies in files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdmw.archives import shards
from sdmw.statistics.survey import MOST_OVERLAPPING, subsets_of

ENTRIES = ("bin", "count", "at_edge", "low_sum", "low_squares")  # of occupied bins, model by model, tensor by tensor


@dataclass(frozen=True, slots=True)
class Form:
    """One array.

    Attributes:
        dtype: of NumPy, little-endian.
        dimensions: their names, the first one's being what it grows along.
        row: its shape behind the first axis.
    """

    dtype: str
    dimensions: tuple[str, ...]
    row: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Entries for each place on the first axis."""
        return math.prod(self.row)


def forms(models: int) -> Mapping[str, Form]:
    """Every array of a store of so many models."""
    by_model = Form("<i8", ("tensor", "model"), (models,))
    pairs, shape = ("tensor", "model", "other"), (models, models)
    found = {
        "elements": Form("<i8", ("tensor",)),
        "block": Form("<i8", ("tensor",)),
        "offset": Form("<i8", ("histogram",)),
        "bin": Form("<u2", ("entry",)),
        "count": Form("<i8", ("entry",)),
        "at_edge": Form("<i8", ("entry",)),
        "low_sum": Form("<u8", ("entry",)),
        "low_squares": Form("<u8", ("entry", "word"), (2,)),
        "nonzero": by_model,
        "nonfinite": by_model,
        "unchanged": Form("<i8", ("tensor", "model", "dtype"), (models, 2)),
        "largest": Form("<f4", ("tensor", "model"), (models,)),
        "smallest": Form("<f4", ("tensor", "model"), (models,)),
        "gram": Form("<f8", pairs, shape),
        "conflict": Form("<i8", pairs, shape),
    }
    if models <= MOST_OVERLAPPING:
        found["overlap"] = Form("<i8", ("tensor", "subset"), (subsets_of(models),))
    return found


def made(group: Any, name: str, form: Form, length: int = 0) -> Any:
    """An array of zarr's in a group, without data."""
    from zarr.codecs import BloscCodec

    rows = shards.entries(form.size) // form.size
    return group.create_array(
        name,
        shape=(length, *form.row),
        dtype=form.dtype,
        chunks=(rows, *form.row),
        shards=(shards.SHARD // shards.CHUNK * rows, *form.row),
        compressors=BloscCodec(cname="zstd", clevel=shards.LEVEL, shuffle="shuffle"),
        filters=None,
        fill_value=0,
        dimension_names=form.dimensions,
    )
