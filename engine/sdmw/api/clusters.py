"""Clusters that a merge may run on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmw.running.dask_cluster import DaskCluster


def dask_cluster(address: str) -> "DaskCluster":
    """A dask cluster as an executor: `merge(recipe, out, executor=dask_cluster("tcp://10.0.0.1:8786"))`.

    Its workers must have this version of sdmw and see inputs and output under the same paths. Placement, retries and
    scaling are dask's own.

    Args:
        address: of the scheduler.

    Returns:
        A function without arguments that connects and returns an executor; `merge`, `plan`, `open`, `verify` and
        `extract` take it.

    Raises:
        MissingExtraError: dask.distributed is not installed (`pip install 'sdmw[dask]'`).
        LostWorkerError: no scheduler answers, or it has no workers.
    """
    from sdmw.running.dask_cluster import look_at

    return look_at(address)
