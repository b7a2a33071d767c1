"""One model more in a store: base and new model are read, and what the store has of the others is taken over."""

from collections.abc import Iterator
from dataclasses import replace

from sdmw.errors import PlanError, Problem
from sdmw.planning.plan import Plan
from sdmw.running.context import Context
from sdmw.statistics.survey import Survey
from sdmw.stores.measuring import measure
from sdmw.stores.reading import StoreReader
from sdmw.stores.rows import Row, row_of, with_model
from sdmw.stores.store import MEND, Store, StoredTensor
from sdmw.stores.writing import StoreWriter


def extend(plan: Plan, store: Store, writer: StoreWriter, context: Context) -> None:
    """Write the statistics of a store's models and of one more. Nothing is known of its pairs with the others.

    Args:
        plan: of measuring all models, the new one last; as `check_extension` has it.
        store: of the others.
        writer: of a store without tensors.
        context: of the run.

    Raises:
        RunError: the data or the machine.
        StoreError: the store is damaged.
    """
    reader = StoreReader(store)

    def row(tensor: int, survey: Survey) -> Row:
        return with_model(reader.row(tensor), row_of(survey))

    measure(_of_the_last(plan), writer, context, row)


def _of_the_last(plan: Plan) -> Plan:
    """The plan of measuring base and last model alone."""
    tensors = tuple(
        replace(tensor, inputs=(tensor.inputs[0], tensor.inputs[-1]), among=(0,)) for tensor in plan.tensors
    )
    return replace(plan, tensors=tensors, models=plan.models[-1:])


def check_extension(plan: Plan, store: Store) -> None:
    """Refuse what needs all models to be measured.

    Args:
        plan: of measuring all models, the new one last.
        store: of the others.

    Raises:
        PlanError: the models have other tensors together, or some take part in a few tensors alone.
    """
    if problems := list(_unfit(plan, store)):
        raise PlanError(problems)


def _unfit(plan: Plan, store: Store) -> Iterator[Problem]:
    tensors = tuple(StoredTensor(tensor.name, tensor.output.shape) for tensor in plan.tensors)
    if tensors != store.tensors:
        yield Problem("add", "a model with the tensors of the store", "one that changes the tensors of the merge", MEND)
    if any(len(tensor.among) < len(plan.models) for tensor in plan.tensors):
        yield Problem("add", "a recipe whose models take part in every tensor", "one in which some do not", MEND)
