"""What to say of a model that has the base's tensors under other names."""

from collections.abc import Collection, Mapping

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, quoted, some
from sdmw.views.spellings import respelled, unmerged

RENAME = "Rename its tensors so, and merge then"


def spelled_otherwise(base: Checkpoint, model: Checkpoint, ignored: Collection[str] = ()) -> dict[str, str]:
    """Tensors of the base that a model has under another spelling, each with its name there.

    Args:
        base: whose names count.
        model: what may have others.
        ignored: names that are not compared.
    """
    missing = {name: tensor for name, tensor in base.tensors.items() if name not in model.tensors}
    extra = {name: tensor for name, tensor in model.tensors.items() if name not in base.tensors}
    wanted, found = ({n: t for n, t in each.items() if n not in ignored} for each in (missing, extra))
    return respelled(wanted, found)


def unmerged_adapter(where: str, base: Checkpoint, model: Checkpoint) -> list[Problem]:
    """What to say of a PEFT model that was saved as a whole."""
    if not (names := unmerged(model.tensors, base.tensors)):
        return []
    found = f"those of a PEFT model whose adapter is not merged: {some(names)}"
    mend = "Load it into the PEFT model that it was saved from, then merge_and_unload and save_pretrained"
    return [Problem(where, "tensors of a model alone", found, mend)]


def other_spellings(where: str, base: Checkpoint, spelled: Mapping[str, str]) -> list[Problem]:
    """What to say of tensors that a model has under another spelling of the base's names."""
    if not spelled:
        return []
    name, other = next(iter(spelled.items()))
    found = f"{len(spelled):,} of them spelled otherwise, such as {quoted(other)} for {quoted(name)}"
    return [Problem(where, f"tensors named as in {base.path}", found, RENAME)]
