"""The decisions of the recipe that a store was measured for: a merge with the same settings measures nothing."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sdmw import codec
from sdmw.errors import quoted
from sdmw.methods import all_methods
from sdmw.methods.method import decision_type
from sdmw.planning.plan import Plan
from sdmw.running.context import Context
from sdmw.running.driver import Run, decide_model
from sdmw.running.events import Event, Progress
from sdmw.running.identity import hash_of
from sdmw.storage.files import read_bounded
from sdmw.stores.known import known_of
from sdmw.stores.sources import recipe_of
from sdmw.stores.store import DECISIONS, Store, trusted
from sdmw.version import __version__

MOST = 256 * 2**20  # bytes
# Fields of a recipe that change no decision.
NOT_DECIDING = {"dtype", "out_dtype", "random_seed", "name", "chat_template", "generation_config"}


def decide(plan: Plan, store: Store, context: Context) -> bytes:
    """Decide all layers of a merge by SDM-W, and put the decisions into a file's form.

    Layers that the bins of the store do not decide are read once more.

    Args:
        plan: of the merge, without problems.
        store: of the same inputs.
        context: of the run.

    Raises:
        RunError: the data or the machine.
    """

    def tell(event: Event) -> None:
        context.tell(replace(event, stage="decide") if isinstance(event, Progress) else event)

    found = Run(plan, replace(context, tell=tell), known_of(plan, store, sampled=False)).decide()
    layers = [
        {"layer": layer.name, "decision": codec.encode(decision)}
        for layer, decision in zip(plan.layers, found.layers, strict=True)
    ]
    return _compact({"version": __version__, "checksum": _checksum(store, layers), "layers": layers}).encode()


def decisions_of(plan: Plan, store: Store) -> Mapping[int, object]:
    """What a store holds for the layers of a plan, by their numbers; nothing where it was measured for other settings.

    Args:
        plan: of a merge by SDM-W.
        store: of the same inputs.

    Raises:
        StoreError: the file is damaged.
    """
    if not store.decided or store.version != __version__:
        return {}
    if _settings(store.recipe) != _settings(recipe_of(plan)):
        return {}
    method = all_methods()[plan.recipe.merge_method]
    with trusted(os.path.join(store.path, DECISIONS)):
        node: Any = json.loads(read_bounded(store.path, DECISIONS, MOST))
        entries = node["layers"]
        if node["version"] != __version__ or [entry["layer"] for entry in entries] != [e.name for e in plan.layers]:
            raise ValueError("decisions of other layers")
        if node["checksum"] != _checksum(store, entries):
            raise ValueError("decisions with another checksum: they were changed, or come from another store")
        layers = [codec.decode(decision_type(method), entry["decision"]) for entry in entries]
        model = decide_model(plan, method, layers)
        for each, layer in zip(plan.layers, layers, strict=True):
            models = len(plan.tensors[each.tensors[0]].among)
            if len(method.layer_facts(layer, model)) != models:
                raise ValueError(f"layer {quoted(each.name)}: a decision on other models")
    return {number: layer for number, layer in enumerate(layers) if plan.layers[number].measured}


def _checksum(store: Store, layers: Any) -> str:
    """Of decisions and of what they were made from: bins have checksums of their own."""
    return hash_of(each.encode() for each in (store.recipe, _compact(dict(store.fingerprints)), _compact(layers)))


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _settings(recipe: str) -> Any:
    """What a store's recipe says of decisions."""
    return {name: value for name, value in json.loads(recipe).items() if name not in NOT_DECIDING}
