"""What is wrong with an address as the place of an output, found before anything is read or written."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sdmw.addresses import objection, place_and_key
from sdmw.errors import MissingExtraError, Problem
from sdmw.storage.remote_writing import names_under
from sdmw.writing.target import OVERWRITE, is_of_results, said_of_lost, said_of_strangers

_NO_LOCK = (
    "nothing stops another run from writing there at the same time; an interrupted run removes what it sent "
    "and starts over"
)


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at the address of an output found.

    Attributes:
        problems: that it has as one.
        names: of what lies there, where nothing is wrong.
    """

    problems: Sequence[Problem]
    names: Sequence[str] = ()


def check_address(target: str, inputs: Sequence[str], overwrite: bool) -> Looked:
    """What is in a folder of a store, and everything that is wrong with it as an output.

    Args:
        target: the address.
        inputs: addresses of folders that are read.
        overwrite: whether a model or a result of ours may be replaced there.
    """
    if target.startswith(("https://", "hf://")):
        mend = "Write to s3://, gs:// or az://, or to a folder of this machine"
        return Looked([Problem(target, "an object store", "a file server", mend)])
    if said := objection(target):
        return Looked([Problem(target, "", *said)])
    if not place_and_key(target.rstrip("/"))[1]:
        mend = "Name a folder in it, as in s3://bucket/folder"
        return Looked([Problem(target, "a folder in a store", "the whole store", mend)])
    if overlaps := [*_overlaps(target, inputs)]:
        return Looked([Problem(target, "a folder separate from the inputs", found) for found in overlaps])
    try:
        names = names_under(target.rstrip("/"))
    except MissingExtraError as error:
        return Looked(error.problems)
    except OSError as error:
        return Looked([Problem(target, "a place that can be written to", f"it cannot be listed: {error.strerror}")])
    if names and not overwrite:
        return Looked([Problem(target, "", "it exists", OVERWRITE)])
    if strange := said_of_strangers(sorted({name.partition("/")[0] for name in names})):
        return Looked([Problem(target, "", strange, "Choose another name, or remove it yourself")])
    return Looked([], names)


def warned_of(target: str, names: Sequence[str], written: Collection[str]) -> Iterator[str]:
    """What to say of a folder of a store to which a model is written.

    Args:
        target: the address, as checked.
        names: of what is there, to be replaced.
        written: paths in it of what is written beside the weights; of a folder as a whole, with a slash at its end.
    """
    yield f"{target}: {_NO_LOCK}"
    if names:
        yield (
            f"{target}: its present content is removed before the first shard is sent, and is not restored if "
            "the run fails"
        )
    folders = tuple(name for name in written if name.endswith("/"))
    if lost := [n for n in names if not (n in written or is_of_results(n) or n.startswith(folders))]:
        yield said_of_lost(target, lost)


def _overlaps(target: str, inputs: Sequence[str]) -> Iterator[str]:
    own = target.rstrip("/") + "/"
    for given in inputs:
        other = given.rstrip("/") + "/"
        if own == other:
            yield f"it is the input {given}"
        elif own.startswith(other):
            yield f"it is inside the input {given}"
        elif other.startswith(own):
            yield f"it contains the input {given}"
