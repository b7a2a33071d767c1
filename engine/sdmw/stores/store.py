"""A store as its attributes tell it, and as it is opened: nothing in it is believed."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sdmw import codec
from sdmw.checkpoints.formats._json import parse
from sdmw.errors import ArchiveError, CheckpointError, Problem, StoreError, UsageError, quoted
from sdmw.kernels.bins import FIRST_NONFINITE_BIN
from sdmw.storage.files import read_bounded
from sdmw.version import __version__

SCHEMA = 1
KIND = "sdmw statistics"
ATTRIBUTES = "zarr.json"
DECISIONS = "decisions.json"
MOST_ATTRIBUTES = 64 * 2**20  # bytes
MOST_AXES = 64
MOST_MODELS = 1000
MEND = "Measure the models again (sdmw measure)"
NOTE = "of all nonzero deltas of the models from the base; bins are the high 16 bits of float32 magnitudes"
_LARGEST = 2**62


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of which a store has statistics.

    Attributes:
        name: in the recipe's output.
        shape: its shape.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Store:
    """A statistics store, as its attributes describe it.

    Attributes:
        version: of sdmw, when it was measured.
        path: of its directory.
        models: names in the recipe, in order.
        tensors: in the order of the arrays.
        fingerprints: of the content of each input, by its name in the recipe.
        states: header facts of each input's files, and their times or versions; the tokens too if they were aligned.
        recipe: the recipe that was measured, as JSON.
        decided: whether it holds the decisions of the recipe's own settings.
        warnings: unexpected facts from measuring; empty for a store that was opened.
    """

    version: str
    path: str
    models: tuple[str, ...]
    tensors: tuple[StoredTensor, ...]
    fingerprints: Mapping[str, str]
    states: Mapping[str, str]
    recipe: str
    decided: bool = False
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))

    def attributes(self) -> dict[str, Any]:
        """As the store's directory holds it."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "version": self.version,
            "note": NOTE,
            "models": list(self.models),
            "dtypes": ["bfloat16", "float16"],
            "fingerprints": dict(self.fingerprints),
            "states": dict(self.states),
            "recipe": self.recipe,
            "tensors": [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in self.tensors],
        }

    def histogram(self, tensor: str, model: str) -> NDArray[np.int64]:
        """How many finite deltas of a model lie in each of the 32,640 bins, in one tensor.

        Bin h holds the magnitudes whose float32 patterns begin with the 16 bits h.

        Args:
            tensor: its name.
            model: its name, as in the recipe.

        Raises:
            UsageError: there is no such tensor or model.
            StoreError: the store is damaged.
        """
        from sdmw.stores.reading import StoreReader

        names = [each.name for each in self.tensors]
        for name, given, known in (("tensor", tensor, names), ("model", model, self.models)):
            if given not in known:
                raise UsageError([Problem(name, f"one of the {len(known):,} of the store", quoted(given))])
        found = np.zeros(FIRST_NONFINITE_BIN, np.int64)
        own = StoreReader(self).magnitudes(names.index(tensor))[self.models.index(model)]
        found[own.bins] = own.counts
        return found

    def thresholds(
        self, k: float = 10.0, granularity: str = "tensor"
    ) -> dict[str, tuple[tuple[float, float] | None, ...]]:
        """The lower and upper bound of SDM-W's threshold, for each model in each layer; None without a change.

        Both are equal if the store decides, for example at k = 0 and for magnitudes of bfloat16.

        Args:
            k: percentage of the nonzero deltas dropped.
            granularity: the tensors that form a layer.

        Raises:
            UsageError: k or granularity is not valid.
            StoreError: the store is damaged.
        """
        from sdmw.stores.sweeping import thresholds_of

        return thresholds_of(self, k, granularity)


def read_store(path: str) -> Store:
    """The store in a directory, its attributes checked.

    Raises:
        StoreError: the directory holds no store, a damaged one, or one of another version.
    """
    if not os.path.isdir(path):
        found = "a file" if os.path.exists(path) else "no such directory"
        raise StoreError([Problem(quoted(path), "the directory of a statistics store", found)])
    with trusted(os.path.join(path, ATTRIBUTES)):
        node = parse(read_bounded(path, ATTRIBUTES, MOST_ATTRIBUTES))
        return _store(path, node)


@contextmanager
def trusted(where: str) -> Iterator[None]:
    """Makes a StoreError of whatever is wrong with a store while it is read."""
    expected = "a statistics store, as sdmw measure writes it"
    try:
        yield
    except CheckpointError as error:
        raise StoreError([replace(problem, mend=MEND) for problem in error.problems]) from error
    except ArchiveError as error:
        raise StoreError([replace(each, expected=expected, mend=MEND) for each in error.problems]) from error
    except StoreError:
        raise
    # zarr and its codecs raise nearly anything for data that are not what they should be.
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:300]
        raise StoreError([Problem(where, expected, said, MEND)]) from error


def _store(path: str, node: Any) -> Store:
    attributes = node.get("attributes") if isinstance(node, dict) else None
    if not isinstance(attributes, dict) or attributes.get("kind") != KIND:
        raise ValueError("something else")
    if attributes.get("schema") != SCHEMA:
        raise ValueError(f"schema {quoted(attributes.get('schema'))}; sdmw {__version__} reads schema {SCHEMA}")
    models, tensors = attributes.get("models"), attributes.get("tensors")
    version, recipe = attributes.get("version"), attributes.get("recipe")
    fingerprints, states = attributes.get("fingerprints"), attributes.get("states")
    if not isinstance(models, list) or not 1 <= len(models) <= MOST_MODELS or not _are_texts(models):
        raise ValueError(f"models are {quoted(models)}")
    if not isinstance(version, str) or not isinstance(recipe, str):
        raise ValueError("neither version nor recipe")
    if not isinstance(json.loads(recipe), dict):
        raise ValueError("no recipe")
    if not isinstance(fingerprints, dict) or not _are_texts(fingerprints.values()):
        raise ValueError(f"fingerprints are {quoted(fingerprints)}")
    if not isinstance(states, dict) or not _are_texts(states.values()):
        raise ValueError(f"states are {quoted(states)}")
    if not isinstance(tensors, list):
        raise ValueError("no tensors")
    found = tuple(map(_tensor, tensors))
    if len({tensor.name for tensor in found}) < len(found):
        raise ValueError("a tensor appears twice")
    decided = os.path.exists(os.path.join(path, DECISIONS))
    return Store(version, path, tuple(models), found, fingerprints, states, recipe, decided)


def _tensor(entry: Any) -> StoredTensor:
    if not isinstance(entry, dict) or entry.keys() != {"name", "shape"} or not isinstance(entry["name"], str):
        raise ValueError(f"a tensor is {quoted(entry)}")
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"tensor {quoted(entry['name'])} has the shape {quoted(shape)}")
    if math.prod(shape) > _LARGEST:
        raise ValueError(f"tensor {quoted(entry['name'])} has {math.prod(shape):,} elements")
    return StoredTensor(entry["name"], tuple(shape))


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)
