"""Two checkpoints compared."""

import os
from typing import TYPE_CHECKING

from sdmw.api.arguments import Path, ProgressLike, Size, access_of, check_progress, limits_of, receiver
from sdmw.recipes.model_ref import ModelRef
from sdmw.storage.files import HEADER_LIMIT

if TYPE_CHECKING:
    from sdmw.reporting.comparison import Comparison


def compare(
    a: Path,
    b: Path,
    *,
    sort: str = "name",
    only: str | None = None,
    filter: str | None = None,  # noqa: A002  the word of recipes
    top: int | None = None,
    budget: Size | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
) -> "Comparison":
    """Compare B with A, tensor by tensor: each is read once, in bounded memory.

    Sums are exact, so nothing depends on threads or budget. A tensor that only one of them has, or that has another
    shape or dtype in B, is listed and not compared.

    Args:
        a: a model as in recipes: a directory, an id in the Hub cache, `path@revision`, `model+adapter`.
        b: another one. An adapter alone is put on the other model; of two adapters the matrices are compared.
        sort: changed, sum, largest or ratio, the largest first; or name.
        only: show only tensors that are `changed`, `equal` or `missing`. None for all.
        filter: a part of the names of tensors that are compared, as in recipes; `*`, `?` and `[]` are wildcards.
        top: the number of rows in the result. None for all.
        budget: as for `merge`.
        threads: number of worker threads; default: one per core.
        progress: as for `merge`.
        header_limit: the largest header of an input file, in bytes.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.

    Raises:
        UsageError: an argument is wrong, or no tensor's name contains the filter.
        CheckpointError: all problems of a checkpoint.
        PlanError: an adapter does not fit its model, or the comparison does not fit into the budget.
        InputChangedError: a checkpoint changed while it was read.
        StoppedError: a signal stopped it.
    """
    from sdmw.reporting.comparison import Choice, comparison

    choice = Choice(sort, only, top)
    check_progress(progress)
    limits, access = limits_of(budget, threads), access_of(header_limit, download, follow_links)
    from sdmw.planning.comparison import KERNELS, plan_comparison
    from sdmw.planning.pair import open_pair
    from sdmw.running import comparison as running
    from sdmw.running.context import working

    names = os.fspath(a), os.fspath(b)
    below, above = open_pair(ModelRef.parse(names[0]), ModelRef.parse(names[1]), access)
    planned = plan_comparison(below, above, filter, limits)
    with receiver(progress) as tell, working(tell, planned.threads, kernels=KERNELS, inputs=[below, above]) as context:
        compared = running.compare(planned, context)
    return comparison(names, planned, compared, choice)
