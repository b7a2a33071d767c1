"""Documents of a recipe that others use: decided, and opened without being written."""

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import PlanError
from sdmw.planning.plan import Plan
from sdmw.planning.prepared import Prepared, made
from sdmw.running.context import Context
from sdmw.running.driver import Run
from sdmw.running.heads import settled
from sdmw.running.job import Job
from sdmw.running.merged import opened


def settled_with_documents(prepared: Prepared, plan: Plan, context: Context) -> Plan:
    """The plan once its documents are decided, and it is known which heads are written.

    Raises:
        PlanError: all that is wrong then.
        RunError: the data or the machine.
    """
    if prepared.recipe.documents:
        prepared = decided(prepared, context)
        plan = prepared.plan()
        if plan.problems:
            raise PlanError(plan.problems)
    return settled(prepared, plan, context)


def decided(prepared: Prepared, context: Context) -> Prepared:
    """The same with its documents decided, one after the other; a recipe that uses none stays as it is.

    Raises:
        PlanError: all that is wrong with a document.
        RunError: the data or the machine.
    """
    if not prepared.recipe.documents:
        return prepared

    def make(document: Prepared) -> Checkpoint:
        plan = document.plan()
        if plan.problems:
            raise PlanError(plan.problems)
        plan = settled(document, plan, context)
        return opened(Job(plan, Run(plan, context).decide()))

    return made(prepared.recipe, prepared.options, prepared.access, make)
