"""Several recipes in one file: each but perhaps one has a name, by which the others use its result as a model.

Source: METHODS.md, section 9.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from sdmw.errors import Problem, quoted
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import ModelEntry, Recipe, Slice, Vocabulary

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

    Where all have names, the last that no other uses, with all others.

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
            problems.append(
                Problem(f"{where}: name", "a different name for each document", f"{quoted(each.name)} twice")
            )
    if len(last) > 1:
        found = f"{len(last)} of {len(documents)}"
        mend = "Give each of the others a name: its result can be used as a model by that name"
        problems.append(Problem(where, "at most one document without a name", found, mend))
    if problems:
        return problems
    order: dict[str, Recipe] = {}
    for each in last or documents:
        if (cycle := _visit(each, named, order, (each.name,) if each.name else ())) is not None:
            return [Problem(f"{where}: documents", "no circle", " uses ".join(map(quoted, cycle)))]
    if not last:
        order |= named
        used = {name for each in documents for name in _used(each, named)}
        final = next(each for each in reversed(documents) if each.name not in used)
        return replace(final, documents=tuple(each for each in order.values() if each is not final))
    notes = [f"document {quoted(name)} is left out: no other document uses it" for name in named if name not in order]
    return replace(last[0], documents=tuple(order.values()), notes=(*last[0].notes, *notes))


def reading(recipe: Recipe, places: Mapping[str, str]) -> Recipe:
    """A recipe by itself that reads other documents' results from the folders where they lie, by their names."""

    def placed(reference: ModelRef) -> ModelRef:
        path, adapter = places.get(str(reference.alone)), reference.adapter
        own = reference.alone if path is None else ModelRef(path)
        return replace(own, adapter=placed(adapter) if adapter else None)

    def entry(one: ModelEntry) -> ModelEntry:
        return replace(one, model=placed(one.model))

    def part(one: Slice) -> Slice:
        own = one.base_model
        return replace(
            one, sources=tuple(map(entry, one.sources)), base=entry(one.base) if one.base else None,
            base_model=placed(own) if own else None,
        )  # fmt: skip

    def vocabulary(one: Vocabulary) -> Vocabulary:
        tokens = tuple(replace(each, model=places.get(each.model, each.model)) for each in one.tokens)
        return replace(one, source=places.get(one.source, one.source), tokens=tokens)

    return replace(
        recipe,
        models=tuple(map(entry, recipe.models)),
        slices=tuple(map(part, recipe.slices)),
        base_model=placed(recipe.base_model) if recipe.base_model else None,
        rename=tuple(replace(rule, model=str(placed(ModelRef.parse(rule.model)))) for rule in recipe.rename),
        tokenizer=vocabulary(recipe.tokenizer) if recipe.tokenizer else None,
        chat_template=places.get(recipe.chat_template, recipe.chat_template),
        generation_config=places.get(recipe.generation_config, recipe.generation_config),
        documents=(),
        text="",
    )


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
    tokenizer = recipe.tokenizer_of
    everyone = (*recipe.references, *((tokenizer,) if tokenizer else ()))
    references = (part for reference in everyone for part in reference.parts)
    yield from (name for name in dict.fromkeys(map(str, references)) if name in named)
