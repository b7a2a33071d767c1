"""What a store spares a merge, and what it does not: by its decisions, else by its histograms."""

from dataclasses import dataclass

from sdmw.methods import all_methods
from sdmw.planning.plan import Plan
from sdmw.running.measuring import Known
from sdmw.running.work import Decided
from sdmw.statistics.look import Measured
from sdmw.stores.decisions import decisions_of
from sdmw.stores.known import known_of
from sdmw.stores.store import Store


def known_or_decided(plan: Plan, store: Store, *, sampled: bool) -> Known:
    """What is known of each layer of a plan before it is measured.

    Args:
        plan: of a merge by SDM-W.
        store: of the same inputs.
        sampled: samples of all inputs are compared; else of those alone that headers and times do not tell apart.

    Raises:
        PlanError: it is another method, or the store is of other inputs.
        StoreError: the store is damaged.
    """
    known, decided = known_of(plan, store, sampled=sampled), decisions_of(plan, store)

    def told(number: int) -> Measured | Decided:
        return Decided(decided[number]) if number in decided else known(number)

    return told


@dataclass(frozen=True, slots=True)
class Spared:
    """What measuring costs with a store.

    Attributes:
        spared: bytes that need not be read to measure.
        again: bytes of layers that are read all the same, since bins do not decide them.
    """

    spared: int
    again: int


def spared_of(plan: Plan, known: Known) -> Spared:
    """What is spared of a plan's measuring, further looks counted.

    Args:
        plan: of a merge by SDM-W.
        known: as `known_or_decided` gives it.

    Raises:
        StoreError: the store is damaged.
    """
    method, spared, again = all_methods()[plan.recipe.merge_method], 0, 0
    for number, layer in enumerate(plan.layers):
        have = known(number)
        size = plan.bytes_of(layer.tensors)
        if isinstance(have, Decided):
            spared += size
        elif have.looks:
            spared += size
            if method.needs(plan.tensors[layer.tensors[0]].params, have) is not None:
                again += size
    return Spared(spared, again)
