"""What several commands take."""

from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file; mergekit's language.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of worker threads; default: one per core.")]
ExtractThreads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Number of worker threads; default: 1, as BLAS has its own.")
]
Budget = Annotated[str | None, typer.Option(help="Limit of resident memory, for instance 1GiB.")]
ShardSize = Annotated[str, typer.Option(help="Bytes of tensors in one output file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
RandomSeed = Annotated[
    int | None, typer.Option(min=0, help="What is left to chance draws from it; the recipe's if absent.")
]
IgnoreUnknown = Annotated[bool, typer.Option("--ignore-unknown", help="Report unknown recipe fields and go on.")]
Download = Annotated[bool, typer.Option("--download", help="Download models not in the local Hub cache.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow links out of a model's directory.")]
IntermediateDir = Annotated[
    str | None, typer.Option(metavar="DIR", help="Where documents are written that others use, each as DIR/NAME.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Drop what an interrupted run left; start anew.")]
Dask = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Compute on the workers of this dask scheduler.")]
Statistics = Annotated[
    str | None, typer.Option(metavar="STORE", help="What sdmw measure made of the same models: it is not read again.")
]
HeaderLimit = Annotated[str, typer.Option(help="Largest header of an input file.")]
