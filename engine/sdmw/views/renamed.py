"""A model under the base's names: tensors that are the same under another name.

Three rules, each on what the one before has left. Names that are one in memory: without the modules that wrap others,
as today's versions spell them, and wherever transformers puts a language model (views/in_memory.py and spellings.py).
Then one prefix more or less, where it makes most names agree. Layers beyond the base's last follow those before.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import quoted
from sdmw.tensors.tensor import Tensor
from sdmw.views.in_memory import Rename, in_memory, unwrapped
from sdmw.views.layers import place_in_stack, with_index
from sdmw.views.spellings import plainly_spelled

_TRIED = 5  # names of a model that suggest a prefix
_MOST = 64  # prefixes that are tried
_TOLD = 3  # kinds of change that are named
Prefixes = tuple[str, str]  # what is taken off, what is put before


@dataclass(frozen=True, slots=True)
class Renaming:
    """How the names of a model become the base's.

    Attributes:
        names: of each tensor that the base calls otherwise, the base's name by the model's.
        candidates: several prefixes that fit equally well, so that none was taken.
    """

    names: Mapping[str, str]
    candidates: tuple[Prefixes, ...] = ()


def renaming(base: Checkpoint, model: Checkpoint) -> Renaming:
    """Which tensors of a model are the base's under another name."""
    if model.tensors.keys() == base.tensors.keys():
        return Renaming({})
    names = _in_memory(base, model)
    reached = set(names.values())
    wanted = [name for name in base.tensors if name not in model.tensors and name not in reached]
    found = [name for name in model.tensors if name not in base.tensors and name not in names]
    best = _best_prefixes(base, model, wanted, found)
    if len(best) == 1:
        known = set(wanted)
        names |= {name: new for name in found if (new := with_prefix(name, best[0])) in known and new}
    rest = [name for name in found if name not in names]
    return Renaming(names | dict(_beyond(rest, names)), tuple(best) if len(best) > 1 else ())


def under(model: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    """A model under other names."""
    if not names:
        return model
    tensors = dict(_called(tensor, names.get(name, name)) for name, tensor in model.tensors.items())
    aliases = {names.get(alias, alias): names.get(name, name) for alias, name in model.aliases.items()}
    return replace(model, tensors=tensors, aliases=aliases)


def _called(tensor: Tensor, name: str) -> tuple[str, Tensor]:
    return name, tensor if tensor.name == name else replace(tensor, name=name)


def told(model: Checkpoint, names: Mapping[str, str]) -> str:
    """By what the names agree, for people."""
    counts = Counter(_change(name, new) for name, new in names.items())
    most = len(model.tensors)
    if len(counts) == 1:
        said = f"all {most:,} names agree" if len(names) == most else f"{len(names):,} of {most:,} names agree"
        return f"{said} {next(iter(counts))}"
    parts = [f"{count:,} {change}" for change, count in counts.most_common(_TOLD)]
    more = ", and others" if len(counts) > _TOLD else ""
    return f"{len(names):,} of {most:,} names agree: {', '.join(parts)}{more}"


def with_prefix(name: str, prefixes: Prefixes) -> str | None:
    """A name with one prefix in the place of another; None where it does not begin with it."""
    off, on = prefixes
    return on + name[len(off) :] if name.startswith(off) else None


def prefix_between(wanted: Collection[str], found: Collection[str]) -> Prefixes | None:
    """The prefix to take off the names found, and the one to put before them, so that most of them are wanted.

    Args:
        wanted: names of the base.
        found: names of a model.

    Returns:
        Two prefixes, of which one may be empty; None where no prefix makes more than half of the names agree.
    """
    known = frozenset(wanted)
    new = [name for name in found if name not in known]
    for prefixes in dict.fromkeys((*_more_or_less(known, new), *_in_place(known, new))):
        if 2 * sum(with_prefix(name, prefixes) in known for name in new) > len(found):
            return prefixes
    return None


def _in_memory(base: Checkpoint, model: Checkpoint) -> dict[str, str]:
    """The names that are one in memory, where that is one name of each."""
    ours, theirs = _by_memory(base), _by_memory(model)
    return {
        theirs[key][0]: names[0]
        for key, names in ours.items()
        if len(names) == 1 == len(theirs.get(key, ()))
        and names[0] not in model.tensors and theirs[key][0] not in base.tensors
    }  # fmt: skip


def _by_memory(checkpoint: Checkpoint) -> dict[str, list[str]]:
    key_of, found = keys_of(checkpoint), dict[str, list[str]]()
    for name in checkpoint.tensors:
        found.setdefault(key_of(name), []).append(name)
    return found


def keys_of(checkpoint: Checkpoint) -> Rename:
    """What turns a name of a checkpoint into one that the same tensor has in all checkpoints, if by rule it can."""
    memory = in_memory(checkpoint.config, checkpoint.tensors)
    return lambda name: unwrapped(plainly_spelled(memory(name)))


def _best_prefixes(
    base: Checkpoint, model: Checkpoint, wanted: Collection[str], found: Collection[str]
) -> list[Prefixes]:
    """One prefix more or less by which most of the model's tensors have names that are wanted; several if they tie.

    Tensors of other shapes do not count.
    """
    known = frozenset(wanted)
    counts: dict[Prefixes, int] = {}
    for prefixes in islice(dict.fromkeys(_more_or_less(known, found)), _MOST):
        pairs = ((name, with_prefix(name, prefixes)) for name in found)
        counts[prefixes] = sum(
            model.tensors[name].shape == base.tensors[new].shape for name, new in pairs if new in known and new
        )
    most = max(counts.values(), default=0)
    return [each for each, count in counts.items() if count == most] if 2 * most > len(model.tensors) else []


def _more_or_less(wanted: Collection[str], found: Collection[str]) -> Iterator[Prefixes]:
    # Long names first: a short one, such as `weight`, is the end of many.
    for name in islice(sorted(found, key=len, reverse=True), _TRIED):
        for other in wanted:
            if other.endswith(f".{name}"):
                yield "", other[: -len(name)]
        parts = name.split(".")
        for place in range(1, len(parts)):
            if ".".join(parts[place:]) in wanted:
                yield ".".join([*parts[:place], ""]), ""


def _in_place(wanted: Collection[str], found: Collection[str]) -> Iterator[Prefixes]:
    """One prefix in the place of another; the end of a single word would suggest too many."""
    for name in islice(sorted(found, key=len, reverse=True), _TRIED):
        parts = name.split(".")
        for place in range(1, len(parts) - 1):
            rest = ".".join(parts[place:])
            ends = (other[: -len(rest)] for other in wanted if other.endswith(f".{rest}"))
            yield from ((".".join([*parts[:place], ""]), on) for on in islice(ends, _TRIED))


def _beyond(rest: Collection[str], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Layers that the base does not have, renamed as the layer is that has the same parts."""
    places = {name: place for name in rest if (place := place_in_stack(name)) is not None}
    like = {_numbered(name): new for name, new in names.items() if place_in_stack(name)} if places else {}
    for name, place in places.items():
        if new := like.get(_numbered(name)):
            yield name, with_index(new, place[1])


def _numbered(name: str) -> str:
    return with_index(name, 0)


def _change(name: str, new: str) -> str:
    """What differs between two names: their beginnings, or modules in the middle that are left out."""
    old, now = name.split("."), new.split(".")
    while old and now and old[-1] == now[-1]:
        del old[-1], now[-1]
    inside = bool(old and now and old[0] == now[0])
    while old and now and old[0] == now[0]:
        del old[0], now[0]
    off, on = (quoted(".".join([*each, ""])) for each in (old, now))
    if not now:
        return f"once {off} is left out"
    if not old:
        return f"once {on} is put {'in' if inside else 'before them'}"
    if [part for part in old if part in now] == now:
        gone = dict.fromkeys(quoted(f"{part}.") for part in old if part not in now)
        return f"once {' and '.join(gone)} are left out"
    return f"once {on} is written for {off}"
