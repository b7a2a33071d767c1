"""Compares heads that are stored with the embeddings that they may be tied to, before anything is laid out."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from sdmw.checkpoints.heads import is_shared
from sdmw.errors import DisagreementError, PlanError, Problem, quoted
from sdmw.planning.plan import Plan
from sdmw.planning.prepared import Prepared
from sdmw.running import work
from sdmw.running.context import Context
from sdmw.running.pool import Task
from sdmw.views.tied import TiedHead


def settled(prepared: Prepared, plan: Plan, context: Context) -> Plan:
    """The plan once it is known which heads are written, with a warning for each.

    Raises:
        PlanError: the plan with those heads has problems.
        DisagreementError, RunError: as for `differing`.
    """
    untie = differing(plan, context)
    plan = prepared.plan(untie) if untie else plan
    if plan.problems:
        raise PlanError(plan.problems)
    return replace(plan, warnings=(*plan.warnings, *said(plan, untie)))


def differing(plan: Plan, context: Context) -> frozenset[str]:
    """Names of the heads of which an input's is not its embedding.

    Raises:
        DisagreementError: encoder and decoder have other embeddings than the shared one, and the config ties them.
        RunError: inputs changed or cannot be read.
    """
    found: set[str] = set()

    def take(tied: TiedHead, same: bool) -> None:
        if not same:
            found.add(tied.head.name)
            if is_shared(tied.head.name) and not tied.read:
                raise DisagreementError([_unread(tied)])

    alike = [tied for tied in plan.heads if tied.head.dtype is tied.embedding.dtype]
    found |= {tied.head.name for tied in plan.heads if tied not in alike}
    tasks = (
        Task(work.equal, (tied.head, tied.embedding, plan.tile, context.pool.given_up.check), partial(take, tied))
        for tied in alike
    )
    context.pool.run(lambda: next(tasks, None))
    return frozenset(found)


def said(plan: Plan, differing: Collection[str]) -> tuple[str, ...]:
    """What to tell of heads, once they are compared: one sentence each."""
    equal = dict.fromkeys((tied.head.name, tied.embedding.name) for tied in plan.heads)
    with_others = {head for head in plan.untied if is_shared(head) or (differing and head not in differing)}
    return (
        *(f"{quoted(head)} equals {quoted(embedding)}, to which it is tied: it is not written"
          for head, embedding in equal),
        *(f"{quoted(head)} is written too, as the output ties no heads" if head in with_others
          else f"{quoted(head)} differs from the embedding: it is written and not tied"
          for head in plan.untied),
    )  # fmt: skip


def _unread(tied: TiedHead) -> Problem:
    expected = f"the same values as {quoted(tied.embedding.name)}, which loaders use instead"
    return Problem(tied.head.where, expected, "other values", f"Remove {quoted(tied.head.name)} from this model")
