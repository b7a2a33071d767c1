"""Tensors that are the same under another name: one prefix more, less, or in the place of another."""

from collections.abc import Collection, Iterator
from itertools import islice

_TRIED = 5  # names of a model that suggest a prefix


def prefix_between(wanted: Collection[str], found: Collection[str]) -> tuple[str, str] | None:
    """The prefix to take off the names found, and the one to put before them, so that most of them are wanted.

    Args:
        wanted: names of the base.
        found: names of a model.

    Returns:
        Two prefixes, of which one may be empty; None where no prefix makes more than half of the names agree.
    """
    known = frozenset(wanted)
    new = [name for name in found if name not in known]
    for off, on in dict.fromkeys(_suggested(known, new)):
        agreeing = sum(name.startswith(off) and on + name[len(off) :] in known for name in new)
        if 2 * agreeing > len(found):
            return off, on
    return None


def _suggested(wanted: Collection[str], found: Collection[str]) -> Iterator[tuple[str, str]]:
    # Long names first: a short one, such as `weight`, is the end of many.
    for name in islice(sorted(found, key=len, reverse=True), _TRIED):
        for other in wanted:
            if other.endswith(f".{name}"):
                yield "", other[: -len(name)]
        parts = name.split(".")
        for place in range(1, len(parts)):
            if ".".join(parts[place:]) in wanted:
                yield ".".join([*parts[:place], ""]), ""
        # One prefix in the place of another; the end of a single word would suggest too many.
        for place in range(1, len(parts) - 1):
            rest = ".".join(parts[place:])
            ends = (other[: -len(rest)] for other in wanted if other.endswith(f".{rest}"))
            yield from ((".".join([*parts[:place], ""]), on) for on in islice(ends, _TRIED))
