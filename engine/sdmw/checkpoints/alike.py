"""Tensors whose names are alike: but for their numbers, or as those of experts. Of many, one is named, and counted."""

import re
from collections.abc import Iterable
from dataclasses import replace

from sdmw.errors import MOST_NAMES, Problem, quoted, some
from sdmw.sizes import counted

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")  # a whole part between dots
_EXPERTS = ".experts."  # what lies below is missing, or more, as a whole


def alike(names: Iterable[str]) -> list[list[str]]:
    """Names in groups, as they come: all in one where there are more kinds than one message names."""
    groups = _kinds(names)
    return groups if len(groups) <= MOST_NAMES else [[name for group in groups for name in group]]


def _kinds(names: Iterable[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_kind(name), []).append(name)
    return list(groups.values())


def _kind(name: str) -> str:
    before, experts, _ = name.partition(_EXPERTS)
    return _NUMBER.sub("*", before) + experts


def such_as(names: list[str]) -> str:
    """A group of them, in words."""
    if len(names) == 1:
        return f"tensor {quoted(names[0])}"
    return f"{len(names):,} tensors such as {some([kind[0] for kind in _kinds(names)])}"


def once(problems: Iterable[tuple[str, Problem]]) -> list[Problem]:
    """Of problems that say the same of tensors with names alike, the first, and how many there are.

    Args:
        problems: each with the name of its tensor.
    """
    groups: dict[tuple[str, str, str, str], list[Problem]] = {}
    for name, each in problems:
        groups.setdefault((_kind(name), each.expected, each.found, each.mend), []).append(each)
    return [
        replace(first, found=f"{first.found}; the same for {counted(len(others), 'other tensor')} with such names")
        if others
        else first
        for first, *others in groups.values()
    ]
