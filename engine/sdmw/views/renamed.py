"""A model under the base's names: tensors that are the same under another name.

Three rules, each on what the one before has left. Names that are one in memory: without the modules that wrap others,
as today's versions spell them, and wherever transformers puts a language model (views/in_memory.py and spellings.py).
Then one prefix more or less, where it makes most names agree. What the base lacks follows the tensors around it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.tied_names import tied_names
from sdmw.checkpoints.wrappers import bare
from sdmw.errors import quoted
from sdmw.tensors.tensor import Tensor
from sdmw.views.in_memory import Rename, in_memory, unwrapped
from sdmw.views.layers import place_in_stack, with_index
from sdmw.views.spellings import plainly_spelled, spelled_today

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
    """Which tensors of a model are the base's under another name.

    What the base lacks follows: a head that its embedding stands for, layers beyond its last, and all that lies within
    the same wrappers.
    """
    if model.tensors.keys() == base.tensors.keys():
        return Renaming({})
    key_of = keys_of(base)
    ours, theirs = _each_once(base.tensors, key_of), _each_once(model.tensors, keys_of(model))
    heads = {name: tensor for name, tensor in _heads(base).items() if key_of(name) not in ours}
    whole = replace(base, tensors={**base.tensors, **heads})
    ours |= {key_of(name): name for name in heads}
    pairs = ((theirs.get(key), name) for key, name in ours.items() if name and name not in model.tensors)
    names = {name: new for name, new in pairs if name and name not in whole.tensors}
    best = _best_prefixes(whole, model, names)
    prefixes = best[0] if len(best) == 1 else None
    if prefixes:
        wanted, found = _left(whole, model, names)
        renamed = ((name, with_prefix(plain, prefixes)) for plain, name in found.items())
        names |= {name: wanted[new] for name, new in renamed if new in wanted}
    for follow in (_beyond, _around):
        rest = [name for name in model.tensors if name not in whole.tensors and name not in names]
        taken = {*whole.tensors, *model.tensors, *names.values()} if rest else set()
        for name, new in follow(rest, names, base, prefixes):
            if new not in taken:
                names[name] = new
                taken.add(new)
    return Renaming(names, tuple(best) if len(best) > 1 else ())


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
    said = f"all {most:,} names agree" if len(names) == most else f"{len(names):,} of {most:,} names agree"
    if len(counts) == 1:
        return f"{said} {next(iter(counts))}"
    parts = [f"{count:,} {change}" for change, count in counts.most_common(_TOLD)]
    if others := sum(count for _, count in counts.most_common()[_TOLD:]):
        parts.append(f"{others:,} otherwise")
    return f"{said}: {', '.join(parts)}"


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


def _each_once(names: Iterable[str], key_of: Rename) -> dict[str, str]:
    """By its key each name; empty where several have one key, so that nobody can tell which is meant."""
    found: dict[str, str] = {}
    for name in names:
        key = key_of(name)
        found[key] = "" if key in found else name
    return found


def keys_of(checkpoint: Checkpoint) -> Rename:
    """What turns a name of a checkpoint into one that the same tensor has in all checkpoints, if by rule it can."""
    memory = in_memory(checkpoint.config, checkpoint.tensors)
    return lambda name: unwrapped(spelled_today(memory(name)))


def _heads(base: Checkpoint) -> dict[str, Tensor]:
    """What the base does not store because something stands for it: under the name that it would have."""
    tied = tied_names(base.config, base.tensors.keys()).sources
    return {
        head: replace(base.tensors[source], name=head)
        for head, source in tied.items()
        if source in base.tensors and head not in base.tensors
    }


def _left(base: Checkpoint, model: Checkpoint, names: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The names of base and model that are no pair yet, by how they are plainly spelled."""
    reached = set(names.values())
    wanted = (name for name in base.tensors if name not in model.tensors and name not in reached)
    found = (name for name in model.tensors if name not in base.tensors and name not in names)
    ours, theirs = (_each_once(each, plainly_spelled) for each in (wanted, found))
    return {key: name for key, name in ours.items() if name}, {key: name for key, name in theirs.items() if name}


def _best_prefixes(base: Checkpoint, model: Checkpoint, names: Mapping[str, str]) -> list[Prefixes]:
    """One prefix more or less by which most of the model's tensors have names that are wanted; several if they tie.

    Tensors of other shapes do not count.
    """
    if 2 * (len(model.tensors) - len(names)) <= len(model.tensors):
        return []
    wanted, found = _left(base, model, names)
    counts: dict[Prefixes, int] = {}
    for prefixes in islice(dict.fromkeys(_more_or_less(wanted.keys(), found.keys())), _MOST):
        pairs = ((name, wanted.get(with_prefix(plain, prefixes) or "")) for plain, name in found.items())
        counts[prefixes] = sum(
            model.tensors[name].shape == base.tensors[new].shape for name, new in pairs if new is not None
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


def _beyond(
    rest: Collection[str], names: Mapping[str, str], base: Checkpoint, prefixes: Prefixes | None
) -> Iterator[tuple[str, str]]:
    """Layers that the base does not have, renamed as the layer is that has the same parts."""
    places = {name: place for name in rest if (place := place_in_stack(name)) is not None}
    like = {_numbered(name): new for name, new in names.items() if place_in_stack(name)} if places else {}
    for name, place in places.items():
        if new := like.get(_numbered(name)):
            yield name, with_index(new, place[1])


def _numbered(name: str) -> str:
    return with_index(name, 0)


def _around(
    rest: Collection[str], names: Mapping[str, str], base: Checkpoint, prefixes: Prefixes | None
) -> Iterator[tuple[str, str]]:
    """What nothing is like in the base: within its wrappers, and without the prefix that others have too many."""
    wrappers = {name.removesuffix(bare(name)) for name in base.tensors} if rest else set()
    if len(wrappers) != 1:
        return  # some lie within others than the rest: nobody can tell in which
    off, within = prefixes[0] if prefixes else "", wrappers.pop()
    for name in rest:
        if (new := within + bare(name).removeprefix(off)) != name:
            yield name, new


def _change(name: str, new: str) -> str:
    """What differs between two names: their beginnings, modules in the middle that are left out, or their ends."""
    if name.endswith(f".{new}"):  # as most are, of 100,000
        return f"once {_left_out(name[: -len(new)])}"
    before, old = name.rpartition(".")[::2]
    beginning, now = new.rpartition(".")[::2]
    if old == now:
        return f"once {_changed(before, beginning)}"
    end = f"{quoted(now)} replaces {quoted(old)}"
    return f"once {end}" if before == beginning else f"once {_changed(before, beginning)} and {end}"


def _left_out(off: str) -> str:
    return f"{quoted(off)} is left out"


def _changed(name: str, new: str) -> str:
    old, now = (each.split(".") if each else [] for each in (name, new))
    while old and now and old[-1] == now[-1]:
        del old[-1], now[-1]
    inside = bool(old and now and old[0] == now[0])
    while old and now and old[0] == now[0]:
        del old[0], now[0]
    off, on = (quoted(".".join([*each, ""])) for each in (old, now))
    if not now:
        return _left_out(".".join([*old, ""]))
    if not old:
        return f"{on} is {'inserted' if inside else 'put before them'}"
    if [part for part in old if part in now] == now:
        gone = dict.fromkeys(quoted(f"{part}.") for part in old if part not in now)
        return f"{' and '.join(gone)} are left out"
    return f"{on} replaces {off}"
