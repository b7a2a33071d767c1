"""Statistics stores: measured, opened, asked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

from sdmw.api.arguments import (
    Path,
    ProgressLike,
    RecipeLike,
    Size,
    access_of,
    check_progress,
    folder_of,
    limits_of,
    path_of,
    receiver,
    sound,
    with_warnings,
)
from sdmw.api.merging import prepared_of
from sdmw.errors import Problem, UsageError
from sdmw.planning.build import Options
from sdmw.planning.prepared import Prepared
from sdmw.recipes.extended import extended
from sdmw.storage.files import HEADER_LIMIT

if TYPE_CHECKING:
    from sdmw.reporting.diagnosis import Diagnosis
    from sdmw.reporting.sweep import Sweep
    from sdmw.stores.store import Store

T = TypeVar("T")


def measure(
    recipe: RecipeLike,
    store: Path,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    overwrite: bool = False,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    ignore_unknown: bool = False,
    add: str | None = None,
    pairs: bool = True,
    resume: bool = True,
) -> "Store":
    """Read the models of a recipe once, and store the statistics of their changes (zarr v3).

    An interrupted run of the same measuring is resumed.

    `sweep` shows from the store what other settings would decide, without the models. Equal models give equal bytes.
    For `sdm_w` the store also holds what the recipe's own settings decide, so that a merge with them need not measure.
    Layers that bins do not decide are read once more for that: hardly any of bfloat16 models, most of float32 models.

    Args:
        recipe: as for `merge`, with a method that merges deltas into a base; its parameters do not change the
            statistics.
        store: the directory to create, complete or not at all.
        budget: as for `merge`.
        threads: number of worker threads; default: one per core.
        progress: as for `merge`.
        overwrite: replace an existing directory.
        header_limit: the largest header of an input file, in bytes.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.
        ignore_unknown: report unknown recipe fields and continue.
        add: a model to add to the recipe and to the existing store of the recipe's other models, which is
            replaced at the end. Then merge with a recipe that has it as its last model.
        pairs: False reads only the base and the new model. Its pairs with the others are then unknown, as are the
            elements that models share, and nothing is decided.
        resume: False starts over instead of resuming an interrupted run.

    Returns:
        The store, as `open_store` opens it.

    Raises:
        RecipeError, UsageError: as for `merge`.
        PlanError: all problems of inputs, disk and memory that are known in advance.
        ResumeError: an interrupted run is kept, but recipe, inputs, plan or version have changed since.
        RunError: an error of the data or the machine. Finished work is kept beside the store if neither recipe nor
            inputs are at fault (`resumable`); otherwise nothing is kept.
    """
    check_progress(progress)
    limits, access, target = limits_of(budget, threads), access_of(header_limit, download, follow_links), path_of(store)
    prepared = prepared_of(recipe, access, budget=budget, threads=threads, ignore_unknown=ignore_unknown)
    before = None
    if add is not None:
        from sdmw.stores.known import check_inputs

        before = open_store(target)
        check_inputs(sound(prepared.plan()), before, sampled=True)
        prepared = prepared_of(extended(prepared.recipe, add), access, budget=budget, threads=threads)
    elif not pairs:
        raise UsageError([Problem("pairs", "True without `add`", "False")])
    options = Options(target, overwrite or add is not None, 0, limits)
    return _measured(prepared, options, progress, None if pairs else before, resume=resume)


def _measured(
    prepared: Prepared, options: Options, progress: ProgressLike, before: "Store | None", *, resume: bool
) -> "Store":
    """Measure all models; or the last one alone, beside what a store has of those before it."""
    from sdmw.stores.extending import check_extension, extend
    from sdmw.stores.planning import kernels_of, plan_measuring

    target = options.target
    assert target is not None
    merging = sound(prepared.plan())
    planned = sound(plan_measuring(merging, options))
    planned = replace(planned, threads=min(merging.threads, planned.threads))
    if before is not None:
        check_extension(planned, before)
    from sdmw.running.context import publishing, working
    from sdmw.running.documents import settled_with_documents
    from sdmw.running.identity import identity_of
    from sdmw.stores.decisions import decide
    from sdmw.stores.measuring import measure as measured
    from sdmw.stores.sources import store_of
    from sdmw.stores.spool import SurveyNotes
    from sdmw.stores.store import DECISIONS, read_store
    from sdmw.stores.writing import StoreWriter

    with (
        receiver(progress) as tell,
        working(tell, planned.threads, None, kernels_of(planned), planned.checkpoints) as context,
    ):
        merging = settled_with_documents(prepared, sound(prepared.plan()), context)
        merging = replace(merging, threads=planned.threads)
        planned = replace(sound(plan_measuring(merging, options)), threads=planned.threads)
        identity = None if before else identity_of(planned)
        with (
            publishing(
                context, target, (), planned.checkpoints,
                overwrite=options.overwrite, identity=identity, resume=resume,
            ) as publication,
            SurveyNotes(publication, planned.checkpoints) as notes,
            notes.kept(),
        ):  # fmt: skip
            with StoreWriter(publication.path, len(planned.models)) as writer:
                if before is None:
                    measured(planned, writer, context, notes=notes)
                else:
                    check_extension(planned, before)
                    extend(planned, before, writer, context)
                writer.close(store_of(planned, target).attributes())
            if before is None and merging.recipe.merge_method == "sdm_w":
                publication.add(DECISIONS, decide(merging, read_store(publication.path), context))
            publication.finish()
    return with_warnings(read_store(target), publication, *planned.warnings)


def open_store(path: Path) -> "Store":
    """Open a store that `measure` made. It is a zarr group, which other programs can read too.

    Args:
        path: its directory.

    Raises:
        StoreError: the directory holds no store, a damaged one, or one of another version.
    """
    from sdmw.stores.store import read_store

    return read_store(folder_of(path, "path"))


def sweep(
    store: "Store | Path",
    *,
    k: float | Sequence[float] = (10.0,),
    power: float | Sequence[float] = (1.0,),
    norm: int | Sequence[int] = (1,),
    granularity: str | Sequence[str] = ("tensor",),
    lambda_: float | str | Sequence[float | str] = (1.0,),
    scope: str | Sequence[str] = ("model",),
) -> "Sweep":
    """Show what SDM-W would decide at every combination of settings, from a store. It takes seconds and reads no model.

    Args:
        store: what `measure` or `open_store` gave, or its directory.
        k: percentage of the nonzero deltas dropped, 0 to 100.
        power: p of the weights; 1 is linear, 2 square, 0 the average.
        norm: q of the weights: W_i is proportional to (the sum of |delta|**q that is kept)**(p/q); 1 or 2.
        granularity: the tensors that share a threshold.
        lambda_: the scale of the merged delta; `preserve_norm` scales it to the norm of the deltas.
        scope: `model`, or `layer`, where each layer has its own weights.

    Returns:
        A row for each setting. A number that the store's bins do not decide has a lower and an upper bound.

    Raises:
        UsageError: the grid has more than 10,000 settings, or values that are not valid.
        StoreError: the store is damaged.
    """
    from sdmw.reporting.sweep import sweep_of
    from sdmw.stores.grid import Grid
    from sdmw.stores.sweeping import sweep_rows

    opened = _opened(store)
    grid = Grid(_listed(k), _listed(power), _listed(norm), _listed(granularity), _listed(lambda_), _listed(scope))
    return sweep_of(opened.models, sweep_rows(opened, grid))


def doctor(
    recipe: RecipeLike,
    *,
    statistics: "Store | Path | None" = None,
    budget: Size | None = None,
    threads: int | None = None,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    ignore_unknown: bool = False,
) -> "Diagnosis":
    """Check a merge before hours are spent on it; no tensor data are read.

    Headers show problems, warnings and notes, as in `plan`. A store adds evidence: the norm of each model's delta and
    its share of the merge, how the models agree, and findings with advice. There is no score, as
    known measures of parameters do not predict whether a merge works (arXiv:2603.09463).

    Args:
        recipe: as for `merge`.
        statistics: a store that `measure` made of the same inputs, or its directory.
        budget: as for `merge`.
        threads: as for `merge`.
        header_limit: the largest header of an input file, in bytes.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.
        ignore_unknown: report unknown recipe fields and continue.

    Returns:
        What was found. Problems of the plan are part of it, not raised; if there are any, the store is not read.

    Raises:
        RecipeError, UsageError: as for `merge`.
        StoreError: the store is damaged, or there is none.
        PlanError: the store is of other inputs.
    """
    from sdmw.reporting.diagnosis import diagnosis_of
    from sdmw.stores.known import check_inputs

    access = access_of(header_limit, download, follow_links)
    store = None if statistics is None else _opened(statistics)
    planned = prepared_of(recipe, access, budget=budget, threads=threads, ignore_unknown=ignore_unknown).plan()
    if store is None or planned.problems:
        return diagnosis_of(planned, None)
    check_inputs(planned, store, sampled=False)
    return diagnosis_of(planned, store)


def _opened(store: "Store | Path") -> "Store":
    from sdmw.stores.store import Store

    return store if isinstance(store, Store) else open_store(store)


def _listed(given: T | Sequence[T]) -> Sequence[T]:
    """A single value is a list of one."""
    return (given,) if isinstance(given, str | int | float) else cast("Sequence[T]", given)
