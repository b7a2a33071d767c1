"""Several recipes in one file: each but one has a name, by which the others use its result as a model.

Source: METHODS.md, section 9.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from sdmw.errors import Problem, quoted
from sdmw.recipes.recipe import Recipe

MOST = 64  # documents in a file
_BORDER = re.compile(r"---(?:\s|$)")


def parts(text: str) -> list[str]:
    """The documents of a text, each with blank lines in the place of the others, so that lines keep their numbers.

    A text of one document is left as it is, and so is one of more than `MOST`, which YAML's reader refuses.
    """
    lines = text.split("\n")
    borders = [number for number, line in enumerate(lines) if _BORDER.match(line)]
    edges = [0, *borders, len(lines)]
    runs = [(start, stop) for start, stop in pairwise(edges) if _holds(lines[start:stop])]
    if not 1 < len(runs) <= MOST:
        return [text]
    return ["\n" * start + "\n".join(lines[start:stop]) for start, stop in runs]


def _holds(lines: Sequence[str]) -> bool:
    """Whether there is anything but remarks and directives."""
    said = (line.removeprefix("---").strip() for line in lines)
    return any(line and not line.startswith(("#", "%")) and line != "..." for line in said)


def joined(texts: Sequence[str]) -> str:
    """Recipes as one text."""
    return "---\n".join(texts)


def linked(documents: Sequence[Recipe], where: str) -> Recipe | list[Problem]:
    """The one without a name, with those that it needs in an order in which each comes after what it uses.

    Args:
        documents: of one file.
        where: the file, for a message.
    """
    named: dict[str, Recipe] = {}
    last: list[Recipe] = []
    problems = []
    for each in documents:
        if not each.name:
            last.append(each)
        elif named.setdefault(each.name, each) is not each:
            problems.append(Problem(f"{where}: name", "another name for each document", f"{quoted(each.name)} twice"))
    if len(last) != 1:
        found = f"{len(last)} of {len(documents)}"
        mend = "Give the others a name each: its result can be used as a model by that"
        problems.append(Problem(where, "one document without a name, whose result is written", found, mend))
    if problems:
        return problems
    order: dict[str, Recipe] = {}
    if (cycle := _visit(last[0], named, order, ())) is not None:
        return [Problem(f"{where}: documents", "no circle", " uses ".join(map(quoted, cycle)))]
    unused = [name for name in named if name not in order]
    notes = [f"document {quoted(name)} is computed wherever it is read, and not written" for name in order]
    notes += [f"document {quoted(name)} is used by none, and is left out" for name in unused]
    return replace(last[0], documents=tuple(order.values()), notes=(*last[0].notes, *notes))


def _visit(
    recipe: Recipe, named: Mapping[str, Recipe], order: dict[str, Recipe], above: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Put what a recipe uses in order; the names of a circle, if there is one."""
    for name in _used(recipe, named):
        if name in above:
            return (*above[above.index(name) :], name)
        if name not in order:
            if (cycle := _visit(named[name], named, order, (*above, name))) is not None:
                return cycle
            order[name] = named[name]
    return None


def _used(recipe: Recipe, named: Mapping[str, Recipe]) -> Iterator[str]:
    references = (part for reference in recipe.references for part in reference.parts)
    yield from (name for name in dict.fromkeys(map(str, references)) if name in named)
