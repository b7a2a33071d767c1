"""Two models as names in a recipe mean them, opened to be compared."""

from collections.abc import Iterable, Mapping

from sdmw.checkpoints import formats
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats import adapter
from sdmw.errors import CheckpointError, PlanError, Problem
from sdmw.planning.inputs import put_on
from sdmw.recipes.model_ref import ModelRef
from sdmw.storage.access import Access
from sdmw.storage.locate import locate
from sdmw.views.aliases import with_aliases

Read = Mapping[ModelRef, Checkpoint]


def open_pair(a: ModelRef, b: ModelRef, access: Access) -> tuple[Checkpoint, Checkpoint]:
    """Both models, with their adapters on them.

    An adapter that is named alone is put on the other name's model. Of two such adapters the matrices are compared.

    Raises:
        CheckpointError: all that is wrong with any of them.
        PlanError: an adapter does not fit its model.
        MissingExtraError: as for `locate`.
    """
    read = _read((*a.parts, *b.parts), access)
    if all(_is_adapter(each, read) for each in (a, b)):
        one, other = (adapter.read_matrices(read[each].path, access) for each in (a, b))
        return one, other
    return _opened(a, b, read), _opened(b, a, read)


def _read(parts: Iterable[ModelRef], access: Access) -> Read:
    found: dict[ModelRef, Checkpoint] = {}
    problems: list[Problem] = []
    for part in dict.fromkeys(parts):
        try:
            place = locate(part, download=access.download, folder=access.folder)
            found[part] = with_aliases(formats.read(place, access))
        except CheckpointError as error:
            problems += error.problems
    if problems:
        raise CheckpointError(problems)
    return found


def _is_adapter(reference: ModelRef, read: Read) -> bool:
    return reference.adapter is None and read[reference].adapts is not None


def _opened(reference: ModelRef, other: ModelRef, read: Read) -> Checkpoint:
    alone = _is_adapter(reference, read)
    if reference.adapter is None and not alone:
        return read[reference]
    model = other.alone if alone else reference.alone
    found = put_on(read[reference.adapter or reference], read[model], model, meant=not alone, deltas=False)
    if isinstance(found, list):
        raise PlanError(found)
    return found
