"""What the model card calls an input: its Hub id, or its name in the recipe without the folders of this machine."""

import os
from collections.abc import Iterable

from sdmw.recipes.model_ref import ModelRef, expanded
from sdmw.storage import hub_address, hub_cache
from sdmw.storage.locate import hub_id


def id_of(part: ModelRef) -> str | None:
    """The Hub id of a model or adapter, also where the recipe names its folder in the Hub cache."""
    if part.directory is not None:
        return hub_cache.repository_of(part.directory)
    return hub_address.repository_of(part.path) or hub_id(part)


def public_name(reference: ModelRef) -> str:
    """A name in the recipe; of an absolute path the last part; of what is the Hub's, the Hub id."""
    return "+".join(map(_name_of, reference.parts))


def public_names(references: Iterable[ModelRef]) -> dict[str, str]:
    """The public name of each, by its name in the recipe; where two would be alike, the later has a number."""
    found: dict[str, str] = {}
    for reference in references:
        if str(reference) not in found:
            name = public_name(reference)
            same = sum(other == name or other.startswith(f"{name} (") for other in found.values())
            found[str(reference)] = f"{name} ({same + 1})" if same else name
    return found


def _name_of(part: ModelRef) -> str:
    path = expanded(part.path)
    if hub_address.repository_of(path):
        return id_of(part) or path
    if not os.path.isabs(path):
        return str(part)
    return id_of(part) or os.path.basename(path.rstrip("/")) or str(part)
