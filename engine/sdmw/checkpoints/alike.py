"""Tensors whose names are alike but for their numbers: of many such, one is named, with their number."""

import re
from collections.abc import Iterable
from dataclasses import replace

from sdmw.errors import Problem, quoted
from sdmw.sizes import counted

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")  # a whole part between dots


def alike(names: Iterable[str]) -> list[list[str]]:
    """Names in groups, as they come."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_NUMBER.sub("*", name), []).append(name)
    return list(groups.values())


def such_as(names: list[str]) -> str:
    """A group of them, in words."""
    return f"tensor {quoted(names[0])}" if len(names) == 1 else f"{len(names):,} tensors such as {quoted(names[0])}"


def once(problems: Iterable[tuple[str, Problem]]) -> list[Problem]:
    """Of problems that say the same of tensors with names alike, the first, and how many there are.

    Args:
        problems: each with the name of its tensor.
    """
    groups: dict[tuple[str, str, str, str], list[Problem]] = {}
    for name, each in problems:
        groups.setdefault((_NUMBER.sub("*", name), each.expected, each.found, each.mend), []).append(each)
    return [
        replace(first, found=f"{first.found}; likewise {counted(len(others), 'other tensor')} with such names")
        if others
        else first
        for first, *others in groups.values()
    ]
