"""Each model under the base's names: what the recipe says of them, then what is found by rule."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, quoted, some
from sdmw.planning.misnamed import ambiguous, unlike_experts
from sdmw.recipes.recipe import ModelEntry, Recipe, Rename
from sdmw.sizes import are, counted
from sdmw.views.aliases import named_as
from sdmw.views.buffers import with_computed_as_in
from sdmw.views.experts import reformed
from sdmw.views.experts import told as experts_told
from sdmw.views.part import filled, fitting, part_of, prefixes_of
from sdmw.views.renamed import renaming, told, under


@dataclass(frozen=True, slots=True)
class Named:
    """A model, and what is said of its names.

    Attributes:
        model: under the base's names.
        own: names that it has itself, by the base's, of those that differ.
        notes: for people.
        warnings: likewise.
    """

    model: Checkpoint
    own: Mapping[str, str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def named(recipe: Recipe, base: Checkpoint, name: str, model: Checkpoint) -> Named | list[Problem]:
    """A model under the base's names, or all that is wrong with them.

    Args:
        recipe: as loaded.
        base: whose names the output has.
        name: the model's in the recipe.
        model: as it is stored, an adapter put on it.
    """
    entry = next((each for each in recipe.models if str(each.model) == name), None)
    notes: list[str] = []
    if entry is not None and (entry.into or entry.part):
        parts = _parts(base, name, model, entry)
        if isinstance(parts, list):
            return parts
        whole, (within, part) = model, parts
        if entry.part:
            notes.append(_left_out(name, whole, part, entry.part))
    else:
        within, part = base, model
    by_rule = _by_rules(name, part, [each for each in recipe.rename if each.model == name])
    if isinstance(by_rule, list):
        return by_rule
    before = {new: old for old, new in by_rule.names.items()}
    agreed = _agreed(name, within, under(part, by_rule.names), before)
    if isinstance(agreed, list):
        return agreed
    result = agreed.model
    if entry is not None and entry.into:
        notes.append(_outside(name, base, within, entry.into))
        result = filled(base, within, result)
    alike = with_computed_as_in(base, result)
    if changed := len(result.tensors.keys() ^ alike.tensors.keys()):
        computed = f"{counted(changed, 'tensor')} that loaders compute {are(changed)} stored or left out as in the base"
        notes.append(f"model {quoted(name)}: {computed}")
    return Named(alike, agreed.own, (*by_rule.notes, *agreed.notes, *notes), by_rule.warnings)


def _agreed(name: str, base: Checkpoint, model: Checkpoint, before: Mapping[str, str]) -> Named | list[Problem]:
    """A model with its experts in the base's form and under the base's names, as far as rules can tell.

    Args:
        name: the model's in the recipe.
        base: the part of the base that it is merged into.
        model: the part that is merged, renamed as the recipe says.
        before: names that it had before that, by those that it has.
    """
    formed = reformed(base, model)
    if formed.unlike:
        return [unlike_experts(name, formed.unlike)]
    found = renaming(base, formed.model)
    if found.candidates:
        return [ambiguous(name, found.candidates)]
    said = (experts_told(formed.changes), told(formed.model, found.names) if found.names else "")
    own = {**before, **{new: _listed([before.get(old, old) for old in names]) for new, names in formed.stored.items()}}
    own |= {new: own.get(old, old) for old, new in found.names.items()}
    notes = tuple(f"model {quoted(name)}: {each}" for each in said if each)
    return Named(named_as(base, under(formed.model, found.names)), own, notes)


def _listed(names: list[str]) -> str:
    return some(names) if len(names) > 1 else names[0]


def _parts(
    base: Checkpoint, name: str, model: Checkpoint, entry: ModelEntry
) -> tuple[Checkpoint, Checkpoint] | list[Problem]:
    """The part of the base that a model is merged into, and the part of the model that is."""
    within = part_of(base, entry.into) if entry.into else base
    part = part_of(model, entry.part) if entry.part else model
    problems = []
    for field, prefix, whole, found, other in (
        ("into", entry.into, base, within, part),
        ("part", entry.part, model, part, within),
    ):
        if found is None:
            fits = fitting(whole, other) if other else None
            mend = f"Write {field}: {fits}" if fits else f"Its layers are below {some(prefixes_of(whole))}"
            where = f"{field} of model {quoted(name)}"
            problems.append(Problem(where, f"tensors of {whole.path} below {quoted(prefix)}", "none", mend))
    if within is None or part is None:
        return problems
    return within, part


@dataclass(frozen=True, slots=True)
class _Ruled:
    names: Mapping[str, str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _by_rules(name: str, model: Checkpoint, rules: Iterable[Rename]) -> _Ruled | list[Problem]:
    """The recipe's rules: of each name the first that matches the whole of it."""
    compiled = [(rule, re.compile(rule.pattern)) for rule in rules]
    names: dict[str, str] = {}
    used: dict[str, Rename] = {}
    for old in model.tensors:
        for rule, pattern in compiled:
            if match := pattern.fullmatch(old):
                names[old] = match.expand(rule.to)
                used[old] = rule
                break
    if problems := list(_twice(name, model, names, used)):
        return problems
    idle = tuple(
        f"rename: {quoted(rule.pattern)} matches no tensor of model {quoted(name)}"
        for rule, _ in compiled
        if rule not in used.values()
    )
    count = counted(len(names), "tensor")
    return _Ruled(names, (f"model {quoted(name)}: {count} renamed as the recipe says",) if names else (), idle)


def _twice(name: str, model: Checkpoint, names: Mapping[str, str], rules: Mapping[str, Rename]) -> Iterator[Problem]:
    """One problem for each rule by which tensors get the name of another."""
    first: dict[str, str] = {}
    clashes: dict[Rename, list[tuple[str, str, str]]] = {}
    for old in sorted(model.tensors, key=lambda each: each in rules):  # what no rule renames was there before
        new = names.get(old, old)
        if (other := first.setdefault(new, old)) != old:
            clashes.setdefault(rules[old], []).append((other, old, new))
    for (other, old, new), *others in clashes.values():
        more = f"; the same for {counted(len(others), 'other tensor')}" if others else ""
        found = f"{quoted(other)} and {quoted(old)} both become {quoted(new)}{more}"
        yield Problem(f"rename of model {quoted(name)}", "a different name for each tensor", found)


def _left_out(name: str, whole: Checkpoint, part: Checkpoint, prefix: str) -> str:
    count = len(whole.tensors) - len(part.tensors)
    return f"model {quoted(name)}: {counted(count, 'tensor')} outside of {quoted(prefix)} left out, as the recipe says"


def _outside(name: str, base: Checkpoint, within: Checkpoint, prefix: str) -> str:
    count = len(base.tensors) - len(within.tensors)
    outside = f"{counted(count, 'tensor')} outside it {are(count)} the base's"
    return f"model {quoted(name)} is merged into {quoted(prefix)}: {outside}"
