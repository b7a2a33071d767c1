"""A delta archive: where two models differ, bit by bit, as sparse arrays in zarr; what it says of itself.

Elements of each tensor are cut in blocks of 65,536. `counts` has, for each block of each tensor in order, how many
elements it keeps; `gaps` for each of those how many are passed over since the one before it in its block; `xor8` to
`xor64`, by the size of an element, the exclusive or of its bits in both models. Beside the arrays lie, in `files/base`
and `files/model`, those other files that differ.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sdmw.checkpoints.formats._json import parse
from sdmw.errors import ArchiveError, CheckpointError, Problem, quoted
from sdmw.storage.files import read_bounded
from sdmw.tensors.dtype import DType
from sdmw.version import __version__
from sdmw.writing import side_files

Side = Literal["base", "model"]
Names = Mapping[str, str]
Files = Mapping[Side, Names]  # XXH3-128 of each file, in hex, by its name
SIDES: tuple[Side, Side] = ("base", "model")
FORMAT = 2
ATTRIBUTES = "zarr.json"
MOST_ATTRIBUTES = 64 * 2**20  # bytes; 100,000 tensors take 25 MB
MOST_AXES = 64  # NumPy's limit
MEND = "Copy or make the archive again"
NOTE = "XXH3-128 tells damage and mistakes; it is no signature"
_LARGEST = 2**63 - 1
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class ArchivedTensor:
    """What an archive says of one tensor.

    Attributes:
        name: the tensor's.
        dtype: in both models.
        shape: in both models.
        kept: how many elements the archive has.
        base, model: XXH3-128 of its bytes on either side, in hex.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    kept: int
    base: str
    model: str

    @property
    def elements(self) -> int:
        """How many elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive, as its attributes tell it.

    Attributes:
        path: of its directory.
        k: percent of the nonzero deltas that were left out.
        tensors: in the order of the arrays.
        files: beside the weights, that differ.
        shared: XXH3-128, in hex, of each file that is the same in both models, by its name.
        left_out: files that each model had and the archive has not, by name, with the reason.
    """

    path: str
    k: float
    tensors: tuple[ArchivedTensor, ...]
    files: Files
    shared: Names
    left_out: Files

    def attributes(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "format": FORMAT,
            "sdmw": __version__,
            "checksums": NOTE,
            "k": self.k,
            "tensors": [
                {**asdict(tensor), "dtype": tensor.dtype.name, "shape": list(tensor.shape)} for tensor in self.tensors
            ],
            "files": {side: dict(self.files[side]) for side in SIDES},
            "shared": dict(self.shared),
            "left_out": {side: dict(self.left_out[side]) for side in SIDES},
        }

    def files_of(self, side: Side) -> str:
        """The folder of one side's files."""
        return os.path.join(self.path, "files", side)


def other_side(side: Side) -> Side:
    """The side that a model becomes."""
    return "model" if side == "base" else "base"


def read_archive(path: str) -> Archive:
    """The archive in a directory, its attributes checked, and that the files beside the weights are its own.

    Raises:
        ArchiveError: the directory holds no archive, or a damaged one.
    """
    if not os.path.isdir(path):
        found = "a file" if os.path.exists(path) else "no such directory"
        raise ArchiveError([Problem(quoted(path), "the directory of a delta archive", found)])
    with believed(os.path.join(path, ATTRIBUTES)):
        node = parse(read_bounded(path, ATTRIBUTES, MOST_ATTRIBUTES))
        archive = _archive(path, node)
        for side in SIDES:
            _check_files(archive, side)
    return archive


@contextmanager
def believed(where: str) -> Iterator[None]:
    """Makes an ArchiveError of whatever is wrong with an archive while it is read."""
    try:
        yield
    except CheckpointError as error:
        raise ArchiveError([replace(problem, mend=MEND) for problem in error.problems]) from error
    except ArchiveError:
        raise
    # zarr and its codecs raise nearly anything for data that are not what they should be.
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:300]
        raise ArchiveError([Problem(where, "a delta archive, as sdmw pack writes it", said, MEND)]) from error


def _archive(path: str, node: Any) -> Archive:
    attributes = node.get("attributes") if isinstance(node, dict) else None
    if not isinstance(attributes, dict) or not {"format", "sdmw"} <= attributes.keys():
        raise ValueError("something else")
    if attributes["format"] != FORMAT:
        raise ValueError(f"format {quoted(attributes['format'])}; sdmw {__version__} reads format {FORMAT}")
    k, entries = attributes.get("k"), attributes.get("tensors")
    files, left_out = (_sides(attributes.get(key)) for key in ("files", "left_out"))
    if isinstance(k, bool) or not isinstance(k, int | float) or not 0 <= k <= 100:
        raise ValueError(f"k is {quoted(k)}")
    if not isinstance(entries, list):
        raise ValueError("no tensors")
    tensors = tuple(map(_tensor, entries))
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError("a tensor appears twice")
    checksums: Files = {side: _files(files[side]) for side in SIDES}
    reasons: Files = {side: _texts(left_out[side]) for side in SIDES}
    shared = _files(attributes.get("shared"))
    if shared.keys() & (checksums["base"].keys() | checksums["model"].keys()):
        raise ValueError("a file is listed both as equal and as different")
    return Archive(path, float(k), tensors, checksums, shared, reasons)


def _tensor(entry: Any) -> ArchivedTensor:
    if not isinstance(entry, dict) or entry.keys() != {"name", "dtype", "shape", "kept", *SIDES}:
        raise ValueError(f"a tensor is {quoted(entry)}")
    name, dtype, shape, kept = (entry[key] for key in ("name", "dtype", "shape", "kept"))
    if not isinstance(name, str) or dtype not in DType.__members__ or not isinstance(shape, list):
        raise ValueError(f"a tensor is {quoted(entry)}")
    if (
        len(shape) > MOST_AXES
        or not all(map(_is_count, shape))
        or not (_is_hash(entry["base"]) and _is_hash(entry["model"]))
    ):
        raise ValueError(f"tensor {quoted(name)} is {quoted(entry)}")
    tensor = ArchivedTensor(name, DType[dtype], tuple(shape), kept, entry["base"], entry["model"])
    if not (tensor.dtype.merges or tensor.dtype.copies) or not _is_count(tensor.elements):
        raise ValueError(f"tensor {quoted(name)} is {quoted(entry)}")
    if not _is_count(kept) or kept > tensor.elements:
        raise ValueError(f"tensor {quoted(name)} keeps {quoted(kept)} of {tensor.elements:,} elements")
    return tensor


def _files(names: Any) -> dict[str, str]:
    if not isinstance(names, dict) or not all(map(_is_hash, names.values())):
        raise ValueError("files without checksums")
    return names


def _texts(names: Any) -> dict[str, str]:
    if not isinstance(names, dict) or not all(isinstance(text, str) for text in names.values()):
        raise ValueError("files left out without reasons")
    return names


def _sides(found: Any) -> dict[Side, Any]:
    if not isinstance(found, dict) or found.keys() != set(SIDES):
        raise ValueError("no files of both sides")
    return found


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number <= _LARGEST


def _is_hash(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 32 and _HEX.issuperset(text)


def _check_files(archive: Archive, side: Side) -> None:
    folder, wanted = archive.files_of(side), archive.files[side]
    found = set(side_files.all_but_weights(folder)[0]) if wanted else set()
    for name, checksum in wanted.items():
        if name not in found:
            raise ValueError(f"file {quoted(name)} is missing in files/{side}")
        if side_files.fingerprint(folder, name) != checksum:
            raise ValueError(f"{quoted(name)} in files/{side} differs from the file that was packed")
