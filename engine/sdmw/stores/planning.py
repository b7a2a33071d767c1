"""What measuring takes, and what prevents it; from headers alone."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from sdmw.archives.planning import ZARR
from sdmw.archives.shards import CHUNK
from sdmw.checkpoints.checkpoint import input_folders
from sdmw.errors import Problem, quoted
from sdmw.methods import all_methods
from sdmw.planning import budget, build, memory
from sdmw.planning.plan import Plan
from sdmw.statistics.survey import SurveyLook
from sdmw.stores.forms import forms
from sdmw.stores.store import DECISIONS
from sdmw.writing.target import check_target, replaced

KERNELS = ("survey", "dots")
ENTRY = 42  # bytes of an occupied bin
BINS = 4096  # occupied bins of a tensor and model, for the room on disk: most have fewer, and they are compressed
_OTHERS = "Choose a method that merges deltas from a base, such as sdm_w, ties or task_arithmetic"


def kernels_of(plan: Plan) -> tuple[str, ...]:
    """The groups of kernels that measuring needs, beside those that every run does."""
    return tuple(dict.fromkeys((*build.kernels_of(plan), *KERNELS)))


def plan_measuring(plan: Plan, options: build.Options) -> Plan:
    """The plan of a merge made one of measuring its inputs, with every problem that headers, disk and memory can tell.

    Args:
        plan: of a recipe, without an output.
        options: the store's directory, memory and threads.
    """
    problems = [*plan.problems, *_unfit(plan)]
    if plan.base is None or problems:
        return replace(plan, problems=tuple(problems))
    assert options.target is not None
    measured = tuple(replace(t, whole_rows=False) for t in plan.tensors if t.action == "merge" and t.elements)
    size = len(measured) * len(plan.models) * BINS * ENTRY
    problems = check_target(options.target, input_folders(plan.checkpoints), size, options.overwrite)
    warnings = replaced(options.target, {"zarr.json", DECISIONS, *(f"{name}/" for name in forms(len(plan.models)))})
    plan = replace(
        plan,
        tensors=measured,
        layers=(),  # they number the tensors of a merge, and a survey of a tensor asks for none
        target=options.target,
        problems=tuple(problems),
        warnings=(*plan.warnings, *(warnings if options.overwrite else ())),
    )
    return plan if problems else _fitted(plan, options)


def _unfit(plan: Plan) -> Iterator[Problem]:
    recipe = plan.recipe
    method = all_methods()[recipe.merge_method]
    if method.takes != "deltas" or recipe.base_model is None or plan.makes_adapter:
        found = f"{quoted(recipe.merge_method)}, which does not do so"
        yield Problem("recipe: merge_method", "a method that merges deltas into a base", found, _OTHERS)


def _fitted(plan: Plan, options: build.Options) -> Plan:
    """Threads and tile within the budget."""
    resident = memory.resident()
    method = all_methods()[plan.recipe.merge_method]
    demand = budget.demand_of(plan, method, resident)
    kernels = budget.kernels_to_load(kernels_of(plan))
    imported = 0 if "zarr" in sys.modules else ZARR
    entries = sum(int(form.dtype[-1]) * max(CHUNK, form.size) for form in forms(len(plan.models)).values())
    spooled = (
        2 * SurveyLook.memory.result * len(plan.models)
    )  # the survey of a tensor as bytes, and as it is read again
    demand = replace(
        demand,
        # Of each array a chunk that is begun and one that is on its way.
        reserved=resident + kernels.stay + imported + budget.PIECE * len(plan.tensors) + 2 * entries + spooled,
        loading=resident + kernels.most,
        output=0,
        models=len(plan.models),
        components=1,
        looks=SurveyLook.memory,
    )
    found = budget.fit(demand, options.limits.allowed(resident), options.limits.most_threads())
    if isinstance(found, Problem):
        return replace(plan, problems=(found,))
    return replace(plan, threads=found.threads, tile=found.tile, peak_bytes=found.peak)
