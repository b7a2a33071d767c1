"""Adapters of single experts, put on a model that stores its experts fused."""

from collections.abc import Iterable

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem
from sdmw.recipes.model_ref import ModelRef
from sdmw.views.adapter import adapted
from sdmw.views.expert_forms import Form, alternates, experts_of, spellings_of
from sdmw.views.experts import in_forms, reformed
from sdmw.views.renamed import keys_of


def adapted_with_experts(
    adapter: Checkpoint, on: Checkpoint, called: ModelRef, *, deltas: bool
) -> Checkpoint | list[Problem]:
    """As `adapted`. Where the adapter changes experts that the model has in one tensor, they are values, not deltas."""
    apart = _apart(on, adapter.tensors)
    if apart is on:
        return adapted(adapter, on, called, deltas=deltas)
    found = adapted(adapter, apart, called, deltas=False)
    return found if isinstance(found, list) else reformed(on, found).model


def _apart(on: Checkpoint, names: Iterable[str]) -> Checkpoint:
    """A model with each of the experts that an adapter changes by itself, as the adapter calls them."""
    spellings = spellings_of(names)
    if not spellings:
        return on
    key_of = keys_of(on)
    wanted = {key_of(f"{at}.weight"): Form(spelling) for at, spelling in spellings.items()}
    fused = (each for each in experts_of(on, alternate=alternates(on.config)).values() if not each.form.apart)
    changed = [(each, wanted[key]) for each in fused if (key := key_of(f"{each.at}.weight")) in wanted]
    return in_forms(on, changed).model if changed else on
