"""What to say of a model whose tensors have names that cannot be the base's."""

from collections.abc import Sequence

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, quoted, some
from sdmw.sizes import counted
from sdmw.views.expert_forms import Experts
from sdmw.views.experts import Unlike
from sdmw.views.renamed import Prefixes
from sdmw.views.spellings import unmerged


def unmerged_adapter(where: str, base: Checkpoint, model: Checkpoint) -> list[Problem]:
    """What to say of a PEFT model that was saved as a whole."""
    if not (names := unmerged(model.tensors, base.tensors)):
        return []
    found = f"tensors of a PEFT model with an adapter that is not merged: {some(names)}"
    mend = "Load it into the PEFT model that it was saved from, call merge_and_unload, then save_pretrained"
    return [Problem(where, "tensors of a plain model", found, mend)]


def unlike_experts(model: str, unlike: Unlike) -> Problem:
    """What to say of a model whose experts are stored in another form than the base's, and are not as many or as large.

    Args:
        model: its name in the recipe.
        unlike: which.
    """
    others = f"; the same in {counted(unlike.others, 'other layer')}" if unlike.others else ""
    where = f"model {quoted(model)}: experts {quoted(unlike.model.at)}"
    found = f"{_experts(unlike.model)}{others}"
    return Problem(where, f"{_experts(unlike.base)} as in the base", found, "Merge models with the same experts")


def _experts(experts: Experts) -> str:
    sizes = experts.sizes
    return (
        f"{counted(sizes['e'], 'expert')} of {sizes['i']} by {sizes['h']}{'' if sizes['g'] == 2 else ', without gates'}"
    )


def ambiguous(model: str, candidates: Sequence[Prefixes]) -> Problem:
    """What to say of a model whose names agree with the base's by one prefix as well as by another.

    Args:
        model: its name in the recipe.
        candidates: the prefixes.
    """
    changes = " as after ".join(change_of(each) for each in candidates[:3])
    found = f"as many matches after {changes}"
    expected = "one way to match its names with the base's"
    return Problem(f"model {quoted(model)}", expected, found, rename_so(model, candidates[0]))


def change_of(prefixes: Prefixes) -> str:
    """In words."""
    off, on = map(quoted, prefixes)
    if all(prefixes):
        return f"replacing the prefix {off} by {on}"
    return f"removing the prefix {off}" if prefixes[0] else f"adding the prefix {on}"


def rename_so(model: str, prefixes: Prefixes) -> str:
    """The lines of a recipe that make the change."""
    off, on = prefixes
    pattern = off.replace(".", r"\.")
    return f"Write `rename: [{{model: {quoted(model)}, from: '{pattern}(.+)', to: '{on}\\1'}}]` in the recipe"
