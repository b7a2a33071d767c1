"""What several commands take."""

from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file in mergekit's recipe language.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of worker threads; default: one per core.")]
ExtractThreads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Number of worker threads; default: 1, as BLAS has its own.")
]
Budget = Annotated[str | None, typer.Option(help="Limit of resident memory, for instance 1GiB.")]
ShardSize = Annotated[str, typer.Option(help="Bytes of tensors in one output file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
RandomSeed = Annotated[int | None, typer.Option(min=0, help="Seed of random methods; default: the recipe's.")]
IgnoreUnknown = Annotated[bool, typer.Option("--ignore-unknown", help="Report unknown recipe fields and continue.")]
Download = Annotated[bool, typer.Option("--download", help="Download models not in the local Hub cache.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow links out of a model's directory.")]
IntermediateDir = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder for documents that other documents use, each as DIR/NAME.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Discard an interrupted run and start over.")]
Dask = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Compute on the workers of this dask scheduler.")]
Statistics = Annotated[
    str | None, typer.Option(metavar="STORE", help="Statistics store of the same models: they are not measured again.")
]
HeaderLimit = Annotated[str, typer.Option(help="Largest header of an input file.")]
